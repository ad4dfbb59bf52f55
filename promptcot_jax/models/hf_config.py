"""Hugging Face `config.json` to `DecoderConfig`; `hf_export` is the way back.

Every field is one of three: read, known to be without effect on what is computed here (`WITHOUT_EFFECT`), or
required to have the value that this decoder implements. A field that is none of these is refused by name,
since ignoring it might give plausible, wrong numbers. Read are the files of transformers 4 (rotary settings
at the top) and 5 (in `rope_parameters`, for Gemma 3 by kind of layer); what is absent has the default that
transformers gives it.
"""

import math
from typing import Any

from promptcot_jax.core import errors
from promptcot_jax.models import config as config_lib

ARCHITECTURES: dict[str, config_lib.Family] = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "GptOssForCausalLM": "gpt_oss",
}
_MULTIMODAL = "Gemma3ForConditionalGeneration"  # its text part is read, under `text_config`
MODEL_TYPES = {"gemma3": "gemma3_text"}  # where it is not the family's name

# Without effect on logits: names, token ids, initial weights, what generation or training would do.
WITHOUT_EFFECT = frozenset(
    """
    architectures model_type _name_or_path transformers_version torch_dtype dtype transformers.js_config
    eos_token_id bos_token_id pad_token_id unk_token_id sep_token_id decoder_start_token_id suppress_tokens
    begin_suppress_tokens boi_token_index eoi_token_index image_token_index mm_tokens_per_image vision_config
    initializer_range initializer_factor use_cache cache_implementation chunk_size_feed_forward
    id2label label2id problem_type finetuning_task task_specific_params tokenizer_class prefix
    return_dict output_attentions output_hidden_states output_router_logits torchscript use_bfloat16
    attn_implementation _attn_implementation _attn_implementation_autoset is_llama_config pretraining_tp
    router_aux_loss_coef is_decoder tie_encoder_decoder pruned_heads tf_legacy_loss
    do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences max_length min_length forced_bos_token_id forced_eos_token_id remove_invalid_values
    exponential_decay_length_penalty return_dict_in_generate output_scores
    """.split()
)
# Field -> the only values implemented; an absent field has the first one.
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "attention_dropout": (0.0, None),
    "partial_rotary_factor": (1.0, None),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "use_bidirectional_attention": (False, None),
    "use_mrope": (False, None),
    "rope_interleaved": (False, None),
    "decoder_sparse_step": (1, None),
    # But where the family reads them:
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "quantization_config": (None,),
}
_READ = frozenset(
    """
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads
    rms_norm_eps tie_word_embeddings max_position_embeddings rope_theta rope_scaling rope_parameters
    """.split()
)
_QWEN_WINDOW = {"use_sliding_window", "sliding_window", "max_window_layers"}
_GEMMA = {"hidden_activation", "hidden_act", "head_dim", "attention_bias", "sliding_window", "layer_types"}
_GEMMA |= {"query_pre_attn_scalar", "final_logit_softcapping", "attn_logit_softcapping"}
_MOE = {"num_experts", "num_local_experts", "num_experts_per_tok"}
_READ_OF_FAMILY: dict[str, set[str]] = {
    "llama": {"hidden_act", "head_dim", "attention_bias", "mlp_bias"},
    "qwen2": {"hidden_act", "head_dim", "layer_types", *_QWEN_WINDOW},
    "qwen3": {"hidden_act", "head_dim", "attention_bias", "layer_types", *_QWEN_WINDOW},
    "qwen3_moe": {
        *("hidden_act", "head_dim", "attention_bias", "moe_intermediate_size", "norm_topk_prob"),
        *("mlp_only_layers", *_QWEN_WINDOW, *_MOE),
    },
    "gemma2": _GEMMA | {"sliding_window_size"},
    "gemma3": _GEMMA | {"sliding_window_pattern", "_sliding_window_pattern", "rope_local_base_freq"},
    "gpt_oss": {
        *("hidden_act", "head_dim", "attention_bias", "sliding_window", "layer_types", "swiglu_alpha"),
        *("swiglu_limit", "experts_per_token", "initial_context_length", "quantization_config", *_MOE),
    },
}
# Of transformers, where the file says nothing.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "qwen2": {"max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28},
    "qwen3": {
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "head_dim": 128,
    },
    "qwen3_moe": {
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "num_experts_per_tok": 8,
        "num_experts": 128,
        "moe_intermediate_size": 768,
    },
    "gemma2": {
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "tie_word_embeddings": True,
    },
    "gemma3": {
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "head_dim": 256,
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "tie_word_embeddings": True,
        "rope_theta": 1e6,
    },
    "gpt_oss": {
        "max_position_embeddings": 131072,
        "sliding_window": 128,
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "num_experts_per_tok": 4,
        "num_local_experts": 128,
        "attention_bias": True,
        "rope_theta": 150000.0,
    },
}


class _Fields:
    """The fields of one file, with defaults, and errors that name the file."""

    def __init__(self, fields: dict[str, Any], family: config_lib.Family, where: str):
        self.given, self.where = fields, where
        self.family: config_lib.Family = family
        self._defaults = _DEFAULTS[family]

    def get(self, name: str, default: Any = None) -> Any:
        """A field, or its default where it is absent or null."""
        value = self.given.get(name)
        return self._defaults.get(name, default) if value is None else value

    def number(self, name: str) -> float | None:
        """A number, or None where null says that a feature is off, as absence may not."""
        value = self.given[name] if name in self.given else self._defaults.get(name)
        if value is not None and (not isinstance(value, (int, float)) or isinstance(value, bool)):
            raise self.wrong(f"field '{name}' must be a number, got {value!r}.")
        return value

    def size(self, name: str, default: int | None = None) -> int:
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(f"field '{name}' must be an integer, got {value!r}.")
        return value

    def require(self, name: str, values: tuple[Any, ...]) -> None:
        if self.given.get(name, values[0]) not in values:
            raise self.wrong(
                f"{name}={self.given[name]!r} is not supported (only {values[0]!r}); "
                "choose another checkpoint."
            )

    def wrong(self, message: str) -> errors.WrongUse:
        return errors.WrongUse(f"{self.where}: {message}")


def from_hf(config: dict[str, Any], where: str) -> config_lib.DecoderConfig:
    """Reads the shape of a checkpoint; number formats are the loader's choice and stay at their defaults.

    Of a checkpoint that also sees (Gemma 3) this is the text model.

    Args:
        config: the parsed `config.json`, as transformers 4 or 5 writes it.
        where: the file, for messages.

    Raises:
        WrongUse: an architecture or a feature this decoder does not have, a field that is not known here, or
            a missing or impossible size.
    """
    fields = _fields(config, where)
    _check_fields(fields)
    try:
        return config_lib.DecoderConfig(
            family=fields.family,
            **_shape(fields),
            **_switches(fields),
            rope_theta=_rope(fields)[0],
            rope_scaling=_rope(fields)[1],
            window=_window(fields),
            experts=_experts(fields),
        )
    except ValueError as error:
        raise errors.WrongUse(f"{where}: {error}") from error


def _fields(config: dict[str, Any], where: str) -> _Fields:
    if config.get("architectures") == [_MULTIMODAL]:
        text = config.get("text_config")
        if not isinstance(text, dict):
            raise errors.WrongUse(f"{where}: field 'text_config' must be an object, got {text!r}.")
        outer = {name: value for name, value in config.items() if name != "text_config"}
        return _Fields(outer | text, "gemma3", where)
    architectures = config.get("architectures") or []
    if len(architectures) != 1 or architectures[0] not in ARCHITECTURES:
        raise errors.WrongUse(
            f"{where}: architectures={architectures} is not supported; use a checkpoint of one of "
            f"{sorted([*ARCHITECTURES, _MULTIMODAL])}."
        )
    return _Fields(config, ARCHITECTURES[architectures[0]], where)


def _check_fields(fields: _Fields) -> None:
    """Refuses what is neither read, nor without effect, nor of the one value that is implemented."""
    activation = "gelu_pytorch_tanh" if fields.family.startswith("gemma") else "silu"
    read = _READ | _READ_OF_FAMILY[fields.family]
    required = {name: values for name, values in _REQUIRED.items() if name not in read}
    required |= {"hidden_act": (activation,), "hidden_activation": (activation, None)}
    for name, values in required.items():
        fields.require(name, values)
    known = WITHOUT_EFFECT | read | required.keys()
    for name, value in fields.given.items():
        if name not in known and value is not None:
            raise fields.wrong(
                f"{name}={value!r} is not a field that is known to leave a {fields.family} decoder as it is; "
                "remove it if it does, or choose another checkpoint."
            )
    method = (fields.get("quantization_config") or {}).get("quant_method", "mxfp4")
    if method != "mxfp4":
        raise fields.wrong(f"quantization_config has quant_method '{method}'; only 'mxfp4' is read.")


def _shape(fields: _Fields) -> dict[str, Any]:
    embed_dim, num_heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    mlp = "moe_intermediate_size" if fields.family == "qwen3_moe" else "intermediate_size"
    return {
        "vocab_size": fields.size("vocab_size"),
        "embed_dim": embed_dim,
        "mlp_dim": fields.size(mlp),
        "num_layers": fields.size("num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": fields.size("num_key_value_heads", default=num_heads),
        "head_dim": fields.size("head_dim", default=embed_dim // num_heads),
        "norm_epsilon": float(fields.get("rms_norm_eps", 1e-6)),
        "tie_embeddings": bool(fields.get("tie_word_embeddings", False)),
        "max_positions": fields.size("max_position_embeddings"),
    }


def _switches(fields: _Fields) -> dict[str, Any]:
    family = fields.family
    is_gemma = family.startswith("gemma")
    attention_bias = bool(fields.get("attention_bias", False))
    return {
        "qkv_bias": family == "qwen2" or attention_bias,
        "output_bias": attention_bias,
        "mlp_bias": family == "gpt_oss" or bool(fields.get("mlp_bias", False)),
        "qk_norm": family in ("qwen3", "qwen3_moe", "gemma3"),
        "sandwich_norms": is_gemma,
        "zero_centered_norms": is_gemma,
        "scale_embeddings": is_gemma,
        "attention_sinks": family == "gpt_oss",
        "attention_soft_cap": fields.number("attn_logit_softcapping"),
        "logit_soft_cap": fields.number("final_logit_softcapping"),
        "query_pre_attn_scalar": fields.size("query_pre_attn_scalar") if is_gemma else None,
        "activation": _activation(fields),
    }


def _activation(fields: _Fields) -> config_lib.Activation:
    if fields.family == "gpt_oss":
        return config_lib.ClampedSwiglu(
            alpha=float(fields.get("swiglu_alpha", 1.702)), limit=float(fields.get("swiglu_limit", 7.0))
        )
    return "gelu_tanh" if fields.family.startswith("gemma") else "silu"


def _experts(fields: _Fields) -> config_lib.Experts | None:
    if fields.family not in ("qwen3_moe", "gpt_oss"):
        return None
    if fields.get("mlp_only_layers"):
        raise fields.wrong(
            f"mlp_only_layers={fields.get('mlp_only_layers')} is refused: every layer must have experts."
        )
    # transformers 5 writes num_local_experts where 4 wrote num_experts.
    default = fields.get("num_experts", fields.get("num_local_experts"))
    num_selected = fields.size("num_experts_per_tok")
    fields.require("experts_per_token", (num_selected, None))
    return config_lib.Experts(
        num_experts=fields.given.get("num_local_experts") or default,
        num_selected=num_selected,
        order="top_k_then_softmax" if fields.family == "gpt_oss" else "softmax_then_top_k",
        renormalize=bool(fields.get("norm_topk_prob", False)),
    )


# Windows.


def _window(fields: _Fields) -> config_lib.SlidingWindow | None:
    is_local = _local_layers(fields)
    if not any(is_local):
        return None
    size = fields.size("sliding_window")
    fields.require("sliding_window_size", (size, None))
    theta = _local_rope_theta(fields) if fields.family == "gemma3" else None
    return config_lib.SlidingWindow(size=size, pattern=_shortest_pattern(is_local), rope_theta=theta)


def _local_layers(fields: _Fields) -> tuple[bool, ...]:
    """Of each layer, whether it has a window."""
    count, family = fields.size("num_hidden_layers"), fields.family
    by_default = [False] * count
    if family.startswith("qwen") and fields.get("use_sliding_window", False):
        first = 0 if family == "qwen3_moe" else fields.size("max_window_layers")
        by_default = [i >= first for i in range(count)]
    elif family in ("gemma2", "gpt_oss"):
        by_default = [i % 2 == 0 for i in range(count)]
    elif family == "gemma3":
        pattern = fields.get("sliding_window_pattern", fields.get("_sliding_window_pattern", 6))
        by_default = [(i + 1) % pattern != 0 for i in range(count)]
    is_local = _stated_layers(fields, count) or tuple(by_default)
    if any(is_local) and family.startswith("qwen") and not fields.get("use_sliding_window", False):
        raise fields.wrong("layer_types has 'sliding_attention' though use_sliding_window is false.")
    return is_local


def _stated_layers(fields: _Fields, count: int) -> tuple[bool, ...]:
    """What `layer_types` says; nothing if it is absent."""
    kinds = fields.get("layer_types") or ()
    others = sorted(set(kinds) - {"full_attention", "sliding_attention"})
    if others or (kinds and len(kinds) != count):
        raise fields.wrong(
            f"layer_types has {others or len(kinds)}; it must name 'full_attention' or 'sliding_attention' "
            f"for each of {count} layers."
        )
    return tuple(kind == "sliding_attention" for kind in kinds)


def _shortest_pattern(flags: tuple[bool, ...]) -> tuple[bool, ...]:
    """The shortest beginning whose repetition gives all flags."""
    for length in range(1, len(flags)):
        if all(flag == flags[i % length] for i, flag in enumerate(flags)):
            return flags[:length]
    return flags


# Rotary embeddings.


def _rope(fields: _Fields) -> tuple[float, config_lib.RopeScaling | None]:
    """Base and scaling of all layers, or of global ones."""
    parameters = fields.given.get("rope_parameters") or {}
    if fields.family == "gpt_oss" and not (parameters or fields.given.get("rope_scaling")):
        raise fields.wrong(
            "rope_scaling is absent, which versions of transformers read differently; write "
            "{'rope_type': 'default'} or the scaling that the weights were trained with."
        )
    if fields.family == "gemma3":
        parameters = parameters.get("full_attention", parameters)
    return _base_and_scaling(fields, parameters, "rope_parameters")


def _base_and_scaling(
    fields: _Fields, parameters: dict[str, Any], source: str
) -> tuple[float, config_lib.RopeScaling | None]:
    """Both spellings: `rope_parameters` with the base inside, or `rope_scaling` with it at the top."""
    if old := fields.given.get("rope_scaling"):
        if parameters:
            raise fields.wrong("rope_scaling and rope_parameters are both there; remove one.")
        parameters, source = old, "rope_scaling"
    rest = dict(parameters)
    theta = rest.pop("rope_theta", None) or fields.get("rope_theta", 10000.0)
    kinds = {rest.pop(name) for name in ("rope_type", "type") if rest.get(name) is not None}
    rest = {name: value for name, value in rest.items() if value is not None}
    if len(kinds) > 1 or rest.pop("partial_rotary_factor", 1.0) != 1.0:
        raise fields.wrong(f"{source}={parameters} is not supported.")
    try:
        scaling = _scaling(fields, kinds.pop() if kinds else "default", rest)
    except (KeyError, ValueError) as error:
        raise fields.wrong(f"{source}={parameters} is not supported: {error}.") from None
    return float(theta), scaling


def _scaling(fields: _Fields, kind: str, rest: dict[str, Any]) -> config_lib.RopeScaling | None:
    """Takes what it knows out of `rest`, which must then be empty."""
    scaling: config_lib.RopeScaling | None = None
    # transformers 5 writes it beside every scaling, used or not.
    original = rest.pop("original_max_position_embeddings", fields.get("max_position_embeddings"))
    if kind == "linear":
        scaling = config_lib.LinearScaling(factor=float(rest.pop("factor")))
    elif kind == "llama3":
        scaling = config_lib.Llama3Scaling(
            factor=float(rest.pop("factor")),
            low_frequency_factor=float(rest.pop("low_freq_factor")),
            high_frequency_factor=float(rest.pop("high_freq_factor")),
            original_max_positions=original,
        )
    elif kind == "yarn":
        fields.require("initial_context_length", (original, None))
        factor = float(rest.pop("factor", None) or fields.size("max_position_embeddings") / original)
        scaling = config_lib.YarnScaling(
            factor=factor,
            original_max_positions=original,
            beta_fast=float(rest.pop("beta_fast", 32.0)),
            beta_slow=float(rest.pop("beta_slow", 1.0)),
            attention_factor=_attention_factor(factor, rest),
            truncate=bool(rest.pop("truncate", True)),
        )
    elif kind != "default":
        raise ValueError(f"rope_type '{kind}'; 'default', 'linear', 'llama3' and 'yarn' are known")
    if rest:
        raise ValueError(f"{sorted(rest)} of rope_type '{kind}'")
    return scaling


def _attention_factor(factor: float, rest: dict[str, Any]) -> float | None:
    """YaRN's, said outright or by DeepSeek's pair of `mscale`s; None: what follows from the factor."""
    stated = rest.pop("attention_factor", None)
    mscale, mscale_all_dim = rest.pop("mscale", None), rest.pop("mscale_all_dim", None)
    if stated is not None or not (mscale and mscale_all_dim):
        return stated

    def of(scale: float) -> float:
        return 1.0 if factor <= 1.0 else 0.1 * scale * math.log(factor) + 1.0

    return of(mscale) / of(mscale_all_dim)


def _local_rope_theta(fields: _Fields) -> float:
    """Gemma 3's base of local layers, whose rotation is never scaled."""
    parameters = (fields.given.get("rope_parameters") or {}).get("sliding_attention") or {}
    extra = {name: value for name, value in parameters.items() if name != "rope_theta" and value is not None}
    if extra.get("rope_type", "default") != "default" or len(extra) > 1:
        raise fields.wrong(
            f"rope_parameters has sliding_attention={parameters}; local layers must be unscaled."
        )
    return float(parameters.get("rope_theta") or fields.get("rope_local_base_freq", 10000.0))
