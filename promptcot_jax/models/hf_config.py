"""Hugging Face's `config.json` to `DecoderConfig` and back; what differs by family is in `families`.

On import every field is one of three: read, known to be without effect on what is computed here
(`WITHOUT_EFFECT`), or required to have the value that this decoder implements. A field that is none of these
is refused by name, since ignoring it might give plausible, wrong numbers. Read are the files of transformers
4 (rotary settings at the top) and 5 (in `rope_parameters`, for Gemma 3 by kind of layer); what is absent has
the default that transformers gives it.
"""

import dataclasses
import math
from typing import Any

from promptcot_jax.core import errors
from promptcot_jax.models import config as config_lib
from promptcot_jax.models.families import FAMILIES, SWITCHES, Family, FamilyTraits

_MULTIMODAL = "Gemma3ForConditionalGeneration"  # its text part is read, under `text_config`
_BY_ARCHITECTURE: dict[str, Family] = {traits.architecture: family for family, traits in FAMILIES.items()}

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


# Switches that the family's name alone decides.
_BY_NAME = [field.name for field in dataclasses.fields(config_lib.DecoderConfig) if field.type is bool]
_BY_NAME = [name for name in _BY_NAME if name in SWITCHES and not name.endswith("_bias")]


class _Fields:
    """The fields of one file, with defaults, and errors that name the file."""

    def __init__(self, fields: dict[str, Any], family: Family, where: str):
        self.given, self.where = fields, where
        self.family: Family = family
        self.traits = FAMILIES[family]

    def get(self, name: str, default: Any = None) -> Any:
        """A field, or its default where it is absent or null."""
        value = self.given.get(name)
        return self.traits.defaults.get(name, default) if value is None else value

    def number(self, name: str) -> float | None:
        """A number, or None where null says that a feature is off, as absence may not."""
        value = self.given[name] if name in self.given else self.traits.defaults.get(name)
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
    if len(architectures) != 1 or architectures[0] not in _BY_ARCHITECTURE:
        raise errors.WrongUse(
            f"{where}: architectures={architectures} is not supported; use a checkpoint of one of "
            f"{sorted([*_BY_ARCHITECTURE, _MULTIMODAL])}."
        )
    return _Fields(config, _BY_ARCHITECTURE[architectures[0]], where)


def _check_fields(fields: _Fields) -> None:
    """Refuses what is neither read, nor without effect, nor of the one value that is implemented."""
    activation = _hidden_act(fields.traits)
    read = _READ | fields.traits.fields
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
    mlp = "moe_intermediate_size"
    mlp = mlp if mlp in fields.traits.fields else "intermediate_size"
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
    implied = fields.traits.implied
    attention_bias = bool(fields.get("attention_bias", False))
    has_scalar = "query_pre_attn_scalar" in implied
    return {name: name in implied for name in _BY_NAME} | {
        "qkv_bias": "qkv_bias" in implied or attention_bias,
        "output_bias": attention_bias,
        "mlp_bias": "mlp_bias" in implied or bool(fields.get("mlp_bias", False)),
        "attention_soft_cap": fields.number("attn_logit_softcapping"),
        "logit_soft_cap": fields.number("final_logit_softcapping"),
        "query_pre_attn_scalar": fields.size("query_pre_attn_scalar") if has_scalar else None,
        "activation": _activation(fields),
    }


def _activation(fields: _Fields) -> config_lib.Activation:
    activation = fields.traits.activation
    if activation != "clamped_swiglu":
        return activation
    return config_lib.ClampedSwiglu(
        alpha=float(fields.get("swiglu_alpha", 1.702)), limit=float(fields.get("swiglu_limit", 7.0))
    )


def _hidden_act(traits: FamilyTraits) -> str:
    """The activation's name in a `config.json`; gpt-oss calls its own one silu."""
    return "gelu_pytorch_tanh" if traits.activation == "gelu_tanh" else "silu"


def _experts(fields: _Fields) -> config_lib.Experts | None:
    order = fields.traits.routing_order
    if order is None:
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
        order=order,
        renormalize=bool(fields.get("norm_topk_prob", False)),
    )


def _window(fields: _Fields) -> config_lib.SlidingWindow | None:
    is_local = _local_layers(fields)
    if not any(is_local):
        return None
    size = fields.size("sliding_window")
    fields.require("sliding_window_size", (size, None))
    theta = _local_rope_theta(fields) if "local_rope" in fields.traits.free else None
    return config_lib.SlidingWindow(size=size, pattern=_shortest_pattern(is_local), rope_theta=theta)


def _local_layers(fields: _Fields) -> tuple[bool, ...]:
    """Of each layer, whether it has a window."""
    count, windows = fields.size("num_hidden_layers"), fields.traits.windows
    by_default = [False] * count
    is_used = bool(fields.get("use_sliding_window", False))
    if windows == "if_used" and is_used:
        first = 0 if fields.traits.is_moe else fields.size("max_window_layers")
        by_default = [i >= first for i in range(count)]
    elif windows == "every_second":
        by_default = [i % 2 == 0 for i in range(count)]
    elif windows == "by_pattern":
        pattern = fields.get("sliding_window_pattern", fields.get("_sliding_window_pattern", 6))
        by_default = [(i + 1) % pattern != 0 for i in range(count)]
    is_local = _stated_layers(fields, count) or tuple(by_default)
    if any(is_local) and windows == "if_used" and not is_used:
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


# The way back.


def to_hf(
    config: config_lib.DecoderConfig, eos_id: int | None, bos_id: int | None, pad_id: int | None
) -> dict[str, Any]:
    """The `config.json` of a checkpoint; written so that transformers 4 (from 4.57) and 5 both read it."""
    traits = FAMILIES[config.family]
    fields = {
        "architectures": [traits.architecture],
        "model_type": traits.model_type or config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_scaling": _scaling_to_hf(config),
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_positions,
        "torch_dtype": config.param_dtype,
        "eos_token_id": eos_id,
        "bos_token_id": bos_id,
        "pad_token_id": pad_id,
    }
    return fields | _switches_to_hf(config) | _window_to_hf(config) | _experts_to_hf(config)


def _switches_to_hf(config: config_lib.DecoderConfig) -> dict[str, Any]:
    traits = FAMILIES[config.family]
    fields: dict[str, Any] = {"hidden_act": _hidden_act(traits)}
    if "attention_bias" in traits.fields:
        fields["attention_bias"] = config.output_bias
    if "mlp_bias" in traits.fields:
        fields["mlp_bias"] = config.mlp_bias
    if isinstance(config.activation, config_lib.ClampedSwiglu):
        fields |= {"swiglu_alpha": config.activation.alpha, "swiglu_limit": config.activation.limit}
    if "hidden_activation" in traits.fields:  # Gemma's
        fields |= {
            "hidden_activation": _hidden_act(traits),
            "query_pre_attn_scalar": config.query_pre_attn_scalar,
            "attn_logit_softcapping": config.attention_soft_cap,
            "final_logit_softcapping": config.logit_soft_cap,
        }
    return fields


def _window_to_hf(config: config_lib.DecoderConfig) -> dict[str, Any]:
    window, fields, traits = config.window, {}, FAMILIES[config.family]
    if "use_sliding_window" in traits.fields:
        fields["use_sliding_window"] = window is not None
    if window is not None:
        fields["sliding_window"] = window.size
    if window is not None and window.rope_theta is not None:
        fields["rope_local_base_freq"] = window.rope_theta
    if "layer_types" in traits.fields:  # Qwen3-MoE knows windows for all layers or for none
        names = {True: "sliding_attention", False: "full_attention"}
        fields["layer_types"] = [names[is_local] for is_local in config.local_layers]
    return fields


def _experts_to_hf(config: config_lib.DecoderConfig) -> dict[str, Any]:
    experts = config.experts
    if experts is None:
        return {}
    fields: dict[str, Any] = {"num_experts_per_tok": experts.num_selected}
    if "moe_intermediate_size" not in FAMILIES[config.family].fields:  # gpt-oss
        return fields | {"num_local_experts": experts.num_experts}
    return fields | {
        "num_experts": experts.num_experts,
        "moe_intermediate_size": config.mlp_dim,
        "norm_topk_prob": experts.renormalize,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _scaling_to_hf(config: config_lib.DecoderConfig) -> dict[str, Any] | None:
    match scaling := config.rope_scaling:
        case None:  # written for gpt-oss, since absence means one that is scaled
            return {"rope_type": "default"} if config.family == "gpt_oss" else None
        case config_lib.LinearScaling():
            return {"rope_type": "linear", "factor": scaling.factor}
        case config_lib.Llama3Scaling():
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
                "original_max_position_embeddings": scaling.original_max_positions,
            }
        case config_lib.YarnScaling():
            fields = {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_max_positions,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "truncate": scaling.truncate,
            }
            stated = scaling.attention_factor
            return fields if stated is None else fields | {"attention_factor": stated}
