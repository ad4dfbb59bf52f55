"""In what families of decoders differ: one entry a family, read by config, import, export and checks.

All families are one definition with switches (`config.DecoderConfig`). A family's name says which switches
its `config.json` implies; a family that differs from Llama by switches that are there is one more entry here.
A new switch is a field of `DecoderConfig`, the line of `decoder` or `layers` that obeys it, and if it brings
a weight a line of `hf_mapping`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Family = Literal["llama", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3", "gpt_oss"]
RoutingOrder = Literal["softmax_then_top_k", "top_k_then_softmax"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FamilyTraits:
    """One family; of switches see `SWITCHES`, of fields a `config.json`."""

    architecture: str  # in `config.json`
    model_type: str = ""  # there; "": the family's name
    implied: frozenset[str] = frozenset()  # switches that the name turns on; the others are off
    free: frozenset[str] = frozenset()  # switches that `config.json` can turn on or off
    fields: frozenset[str]  # that are read besides those of all families
    defaults: Mapping[str, Any]  # of transformers, where the file says nothing
    activation: Literal["silu", "gelu_tanh", "clamped_swiglu"] = "silu"
    routing_order: RoutingOrder | None = None  # where there are experts
    # Layers with a window where `layer_types` is absent; "if_used" is Qwen's: from `max_window_layers` on.
    windows: Literal["none", "if_used", "every_second", "by_pattern"] = "none"

    @property
    def is_moe(self) -> bool:
        return "experts" in self.implied


# Switches of `DecoderConfig`, some of which are on where a field is not None.
SWITCHES = (
    *("qkv_bias", "output_bias", "mlp_bias", "qk_norm", "sandwich_norms", "zero_centered_norms"),
    *("scale_embeddings", "attention_sinks", "attention_soft_cap", "logit_soft_cap", "query_pre_attn_scalar"),
    *("experts", "window", "local_rope"),
)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BIASES = _names("qkv_bias output_bias")
_USUAL = _names("hidden_act head_dim attention_bias")
_QWEN_WINDOW = _names("use_sliding_window sliding_window max_window_layers")
_MOE = _names("num_experts num_local_experts num_experts_per_tok")
_GEMMA = _names("sandwich_norms zero_centered_norms scale_embeddings query_pre_attn_scalar")
_GEMMA_FIELDS = _USUAL | _names(
    "hidden_activation sliding_window layer_types query_pre_attn_scalar final_logit_softcapping "
    "attn_logit_softcapping"
)

FAMILIES: Mapping[Family, FamilyTraits] = {
    "llama": FamilyTraits(
        architecture="LlamaForCausalLM",
        free=_BIASES | {"mlp_bias"},
        fields=_USUAL | {"mlp_bias"},
        defaults={"max_position_embeddings": 2048},
    ),
    "qwen2": FamilyTraits(
        architecture="Qwen2ForCausalLM",
        implied=_names("qkv_bias"),
        free=_names("window"),
        fields=_names("hidden_act head_dim layer_types") | _QWEN_WINDOW,
        defaults={"max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28},
        windows="if_used",
    ),
    "qwen3": FamilyTraits(
        architecture="Qwen3ForCausalLM",
        implied=_names("qk_norm"),
        free=_BIASES | {"window"},
        fields=_USUAL | {"layer_types"} | _QWEN_WINDOW,
        defaults={
            "max_position_embeddings": 32768,
            "sliding_window": 4096,
            "max_window_layers": 28,
            "head_dim": 128,
        },
        windows="if_used",
    ),
    "qwen3_moe": FamilyTraits(
        architecture="Qwen3MoeForCausalLM",
        implied=_names("qk_norm experts"),
        free=_BIASES | {"window"},
        fields=_USUAL | _names("moe_intermediate_size norm_topk_prob mlp_only_layers") | _QWEN_WINDOW | _MOE,
        defaults={
            "max_position_embeddings": 32768,
            "sliding_window": 4096,
            "num_experts_per_tok": 8,
            "num_experts": 128,
            "moe_intermediate_size": 768,
        },
        routing_order="softmax_then_top_k",
        windows="if_used",
    ),
    "gemma2": FamilyTraits(
        architecture="Gemma2ForCausalLM",
        implied=_GEMMA,
        free=_BIASES | _names("attention_soft_cap logit_soft_cap window"),
        fields=_GEMMA_FIELDS | {"sliding_window_size"},
        defaults={
            "max_position_embeddings": 8192,
            "sliding_window": 4096,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "tie_word_embeddings": True,
        },
        activation="gelu_tanh",
        windows="every_second",
    ),
    "gemma3": FamilyTraits(
        architecture="Gemma3ForCausalLM",
        model_type="gemma3_text",
        implied=_GEMMA | {"qk_norm"},
        free=_BIASES | _names("logit_soft_cap window local_rope"),
        fields=_GEMMA_FIELDS | _names("sliding_window_pattern _sliding_window_pattern rope_local_base_freq"),
        defaults={
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
        activation="gelu_tanh",
        windows="by_pattern",
    ),
    "gpt_oss": FamilyTraits(
        architecture="GptOssForCausalLM",
        implied=_names("mlp_bias attention_sinks experts"),
        free=_BIASES | {"window"},
        fields=_USUAL
        | _MOE
        | _names("sliding_window layer_types swiglu_alpha swiglu_limit experts_per_token")
        | _names("initial_context_length quantization_config"),
        defaults={
            "max_position_embeddings": 131072,
            "sliding_window": 128,
            "head_dim": 64,
            "rms_norm_eps": 1e-5,
            "num_experts_per_tok": 4,
            "num_local_experts": 128,
            "attention_bias": True,
            "rope_theta": 150000.0,
        },
        activation="clamped_swiglu",
        routing_order="top_k_then_softmax",
        windows="every_second",
    ),
}
