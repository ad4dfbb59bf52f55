"""`DecoderConfig` to a Hugging Face `config.json`; `hf_config` reads it back as the same."""

from typing import Any

from promptcot_jax.models import config as config_lib
from promptcot_jax.models import hf_config


def to_hf(
    config: config_lib.DecoderConfig, eos_id: int | None, bos_id: int | None, pad_id: int | None
) -> dict[str, Any]:
    """The `config.json` of a checkpoint; written so that transformers 4 (from 4.57) and 5 both read it."""
    architecture = next(name for name, family in hf_config.ARCHITECTURES.items() if family == config.family)
    fields = {
        "architectures": [architecture],
        "model_type": hf_config.MODEL_TYPES.get(config.family, config.family),
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
    fields: dict[str, Any] = {"hidden_act": "silu"}
    if config.family != "qwen2":
        fields["attention_bias"] = config.output_bias
    if config.family == "llama":
        fields["mlp_bias"] = config.mlp_bias
    if isinstance(config.activation, config_lib.ClampedSwiglu):
        fields |= {"swiglu_alpha": config.activation.alpha, "swiglu_limit": config.activation.limit}
    if config.family in ("gemma2", "gemma3"):
        fields |= {
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": config.query_pre_attn_scalar,
            "attn_logit_softcapping": config.attention_soft_cap,
            "final_logit_softcapping": config.logit_soft_cap,
        }
    return fields


def _window_to_hf(config: config_lib.DecoderConfig) -> dict[str, Any]:
    window, fields = config.window, {}
    if config.family == "llama":
        return fields
    if config.family.startswith("qwen"):
        fields["use_sliding_window"] = window is not None
    if window is not None:
        fields["sliding_window"] = window.size
    if window is not None and window.rope_theta is not None:
        fields["rope_local_base_freq"] = window.rope_theta
    if config.family != "qwen3_moe":  # which knows windows for all layers or for none
        names = {True: "sliding_attention", False: "full_attention"}
        fields["layer_types"] = [names[is_local] for is_local in config.local_layers]
    return fields


def _experts_to_hf(config: config_lib.DecoderConfig) -> dict[str, Any]:
    experts = config.experts
    if experts is None:
        return {}
    fields: dict[str, Any] = {"num_experts_per_tok": experts.num_selected}
    if config.family == "gpt_oss":
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
        case None:  # for gpt-oss said aloud, since absence means one that is scaled
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
