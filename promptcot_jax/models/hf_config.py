"""Hugging Face `config.json` to `DecoderConfig` and back.

Every field that would change the computation is either read or required to have the value this decoder
implements: a checkpoint with scaled rotary embeddings or a sliding window is refused by name, since running
it without them would give plausible, wrong numbers.
"""

from typing import Any

from promptcot_jax.core import errors
from promptcot_jax.models import config as config_lib

_ARCHITECTURES: dict[str, config_lib.Family] = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
# Of transformers, where the file says nothing.
_DEFAULT_MAX_POSITIONS = {"llama": 2048, "qwen2": 32768, "qwen3": 32768}

# Field -> the only values implemented; an absent field has the first one.
_REQUIRED_VALUES: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
}


def from_hf(config: dict[str, Any], where: str) -> config_lib.DecoderConfig:
    """Reads the shape of a checkpoint; number formats are the loader's choice and stay at their defaults.

    Args:
        config: the parsed `config.json`, as transformers 4 or 5 writes it.
        where: the file, for messages.

    Raises:
        WrongUse: an architecture or a feature this decoder does not have, or a missing or impossible size.
    """
    family = _family(config, where)
    for field, values in _REQUIRED_VALUES.items():
        if config.get(field, values[0]) not in values:
            raise errors.WrongUse(
                f"{where}: {field}={config[field]!r} is not supported (only {values[0]!r}); "
                "choose another checkpoint."
            )
    other_layers = sorted(set(config.get("layer_types") or ()) - {"full_attention"})
    if other_layers:
        raise errors.WrongUse(
            f"{where}: layer_types has {other_layers}; only 'full_attention' layers are supported."
        )
    embed_dim, num_heads = _size(config, "hidden_size", where), _size(config, "num_attention_heads", where)
    default_head_dim = 128 if family == "qwen3" else embed_dim // num_heads
    try:
        return config_lib.DecoderConfig(
            vocab_size=_size(config, "vocab_size", where),
            embed_dim=embed_dim,
            mlp_dim=_size(config, "intermediate_size", where),
            num_layers=_size(config, "num_hidden_layers", where),
            num_heads=num_heads,
            num_kv_heads=_size(config, "num_key_value_heads", where, default=num_heads),
            head_dim=_size(config, "head_dim", where, default=default_head_dim),
            rope_theta=_rope_theta(config, where),
            norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
            qkv_bias=family == "qwen2",
            qk_norm=family == "qwen3",
            tie_embeddings=bool(config.get("tie_word_embeddings", False)),
            max_positions=_size(
                config, "max_position_embeddings", where, default=_DEFAULT_MAX_POSITIONS[family]
            ),
            family=family,
        )
    except ValueError as error:
        raise errors.WrongUse(f"{where}: {error}") from error


def to_hf(
    config: config_lib.DecoderConfig, eos_id: int | None, bos_id: int | None, pad_id: int | None
) -> dict[str, Any]:
    """The `config.json` of a checkpoint; written so that transformers 4 and 5 both read it."""
    architecture = next(name for name, family in _ARCHITECTURES.items() if family == config.family)
    fields = {
        "architectures": [architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_positions,
        "torch_dtype": config.param_dtype,
        "eos_token_id": eos_id,
        "bos_token_id": bos_id,
        "pad_token_id": pad_id,
    }
    if config.family == "qwen2":
        return fields | {"use_sliding_window": False}
    return fields | {"attention_bias": False}


def _family(config: dict[str, Any], where: str) -> config_lib.Family:
    architectures = config.get("architectures") or []
    if len(architectures) != 1 or architectures[0] not in _ARCHITECTURES:
        raise errors.WrongUse(
            f"{where}: architectures={architectures} is not supported; use a checkpoint of one of "
            f"{sorted(_ARCHITECTURES)}."
        )
    return _ARCHITECTURES[architectures[0]]


def _size(config: dict[str, Any], field: str, where: str, default: int | None = None) -> int:
    value = config.get(field)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool):
        raise errors.WrongUse(f"{where}: field '{field}' must be an integer, got {value!r}.")
    return value


def _rope_theta(config: dict[str, Any], where: str) -> float:
    """Base of the rotary angles: at the top (transformers 4) or inside `rope_parameters` (transformers 5)."""
    for field in ("rope_parameters", "rope_scaling"):
        rope = config.get(field) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        extra = sorted(set(rope) - {"rope_type", "type", "rope_theta"})
        if kind != "default" or extra:
            raise errors.WrongUse(
                f"{where}: {field}={rope} is not supported; only unscaled rotary embeddings "
                "(rope_type 'default') are."
            )
    theta = (config.get("rope_parameters") or {}).get("rope_theta", config.get("rope_theta", 10000.0))
    return float(theta)
