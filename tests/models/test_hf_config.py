"""Published configs are read to their published sizes; features the decoder lacks are refused by name."""

import dataclasses
import json
import math
import pathlib

import jax
import pytest

from promptcot_jax.core import errors
from promptcot_jax.models import causal_lm, hf_config
from promptcot_jax.models import config as config_lib

# What the hub's config.json files say, as transformers 4 wrote them.
SMOLLM2_135M = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 49152,
}
QWEN2_5_7B = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


LLAMA3_1_8B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}
QWEN3_30B_A3B = {
    **{key: value for key, value in QWEN3_8B.items() if key != "sliding_window"},
    "architectures": ["Qwen3MoeForCausalLM"],
    "decoder_sparse_step": 1,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 262144,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "output_router_logits": False,
    "rope_theta": 10000000,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
}
GEMMA2_2B = {
    "architectures": ["Gemma2ForCausalLM"],
    "attention_bias": False,
    "attn_logit_softcapping": 50.0,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "vocab_size": 256000,
}
GEMMA3_4B = {  # also sees; most of its text model is the class's defaults
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
}
GPT_OSS_20B = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "output_router_logits": False,
    "quantization_config": {"modules_to_not_convert": ["lm_head"], "quant_method": "mxfp4"},
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "vocab_size": 201088,
}
PUBLISHED = (
    *(SMOLLM2_135M, QWEN2_5_7B, QWEN3_8B, LLAMA3_1_8B, QWEN3_30B_A3B, GEMMA2_2B, GEMMA3_4B, GPT_OSS_20B),
)
DEFAULTS = json.loads((pathlib.Path(__file__).parents[1] / "fixtures" / "default_configs.json").read_text())


# As the hub counts the parameters of the checkpoints; of Gemma 3, without what sees (420 million).
@pytest.mark.parametrize(
    ("fields", "count"),
    list(
        zip(
            (*PUBLISHED, DEFAULTS["GptOssForCausalLM"]),  # whose defaults are the 120b's
            (
                *(134_515_008, 7_615_616_512, 8_190_735_360, 8_030_261_248, 30_532_122_624),
                *(2_614_341_888, 3_880_263_168, 20_914_757_184, 116_829_156_672),
            ),
            strict=True,
        )
    ),
    ids=lambda value: value["architectures"][0] if isinstance(value, dict) else None,
)
def test_published_sizes(fields, count):
    config = hf_config.from_hf(fields, "config.json")
    shapes = jax.eval_shape(causal_lm.CausalLM(config).init, jax.random.key(0))
    assert config.parameter_count() == sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize(
    "fields", [*PUBLISHED, *DEFAULTS.values()], ids=lambda fields: fields["architectures"][0]
)
def test_an_exported_config_is_read_as_the_same(fields):
    config = hf_config.from_hf(fields, "f")
    assert hf_config.from_hf(hf_config.to_hf(config, 1, 2, 0), "f") == config


@pytest.mark.parametrize("architecture", DEFAULTS)
def test_no_field_that_transformers_writes_is_ignored_in_silence(architecture):
    """Each field, given a strange value, is refused, or changes the model, or is listed as without effect."""
    fields = DEFAULTS[architecture]
    config = hf_config.from_hf(fields, "f")
    # Read together with others only: a window where there are windows, a rule where no list of layers is.
    dependent = {"sliding_window", "max_window_layers", "_sliding_window_pattern", "use_sliding_window"}
    dependent |= {"intermediate_size"} if architecture == "Qwen3MoeForCausalLM" else set()
    for name in fields.keys() - hf_config.WITHOUT_EFFECT - dependent:
        assert differs(fields | {name: strange(fields[name])}, config), name


def differs(fields, config) -> bool:
    """Whether fields are refused, or make another model."""
    try:
        return hf_config.from_hf(fields, "f") != config
    except errors.WrongUse:
        return True


def strange(value):
    """A value of the same kind that a program would notice."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 2
        case list():
            return ["odd"]
        case dict():
            return {"rope_type": "odd"}
        case _:
            return "odd"


def test_an_unknown_field_is_refused_by_name_and_an_empty_one_is_not():
    with pytest.raises(errors.WrongUse, match="some/config.json: logit_scale=2.0"):
        hf_config.from_hf(LLAMA3_1_8B | {"logit_scale": 2.0}, "some/config.json")
    assert hf_config.from_hf(LLAMA3_1_8B | {"logit_scale": None}, "f") == hf_config.from_hf(LLAMA3_1_8B, "f")


def test_scaled_rotations_are_read_in_both_spellings():
    old = hf_config.from_hf(LLAMA3_1_8B, "f")
    new = {key: value for key, value in LLAMA3_1_8B.items() if not key.startswith("rope_")}
    new["rope_parameters"] = LLAMA3_1_8B["rope_scaling"] | {"rope_theta": 500000.0}
    assert hf_config.from_hf(new, "f") == old
    assert old.rope_scaling == config_lib.Llama3Scaling(
        factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_max_positions=8192
    )
    text = GEMMA3_4B["text_config"] | {"architectures": ["Gemma3ForCausalLM"]}
    del text["rope_scaling"]
    text["rope_parameters"] = {
        "full_attention": {"factor": 8.0, "rope_theta": 1e6, "rope_type": "linear"},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }
    assert hf_config.from_hf(text, "f") == hf_config.from_hf(GEMMA3_4B, "f")


def test_yarn_is_read_with_its_variations():
    def scaling(**fields):
        rope = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
        return hf_config.from_hf(QWEN3_8B | {"rope_scaling": rope | fields}, "f").rope_scaling

    plain = config_lib.YarnScaling(factor=4.0, original_max_positions=32768)
    assert scaling() == plain
    assert scaling(attention_factor=1.5) == dataclasses.replace(plain, attention_factor=1.5)
    ratio = (0.1 * 2.0 * math.log(4.0) + 1.0) / (0.1 * 0.5 * math.log(4.0) + 1.0)
    assert scaling(mscale=2.0, mscale_all_dim=0.5).attention_factor == pytest.approx(ratio)
    assert scaling(truncate=False, beta_fast=16) == dataclasses.replace(plain, truncate=False, beta_fast=16.0)
    with pytest.raises(errors.WrongUse, match="rope_scaling.*finetuned"):
        scaling(finetuned=True)


def test_windows_follow_layer_types_or_each_familys_rule():
    def pattern(fields, **changes):
        window = hf_config.from_hf(fields | changes, "f").window
        return window and (window.size, window.pattern)

    windowed = {"use_sliding_window": True, "sliding_window": 7}
    assert pattern(QWEN2_5_7B) is None
    assert pattern(QWEN2_5_7B, **windowed) is None  # max_window_layers is all of them
    assert pattern(QWEN2_5_7B, **windowed, max_window_layers=26) == (7, (False,) * 26 + (True,) * 2)
    assert pattern(QWEN3_30B_A3B, **windowed) == (7, (True,))
    assert pattern(GEMMA2_2B) == (4096, (True, False))
    assert pattern(GEMMA3_4B) == (1024, (True,) * 5 + (False,))
    text = GEMMA3_4B["text_config"] | {"architectures": ["Gemma3ForCausalLM"]}
    assert pattern(text, sliding_window_pattern=2) == (1024, (True, False))
    assert pattern(GPT_OSS_20B, layer_types=None) == pattern(GPT_OSS_20B) == (128, (True, False))
    assert pattern(GEMMA2_2B, layer_types=["full_attention"] * 26) is None


def test_rotary_base_is_read_in_both_spellings():
    assert hf_config.from_hf(SMOLLM2_135M, "f").rope_theta == 100_000.0
    new = {key: value for key, value in SMOLLM2_135M.items() if key not in ("rope_theta", "rope_scaling")}
    new["rope_parameters"] = {"rope_theta": 100000, "rope_type": "default"}
    assert hf_config.from_hf(new, "f") == hf_config.from_hf(SMOLLM2_135M, "f")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM"),
        ({"architectures": None}, "architectures"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling.*llama3.*low_freq_factor"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_scaling.*dynamic"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0, "beta": 1.0}}, "rope_scaling.*beta"),
        (
            {"rope_parameters": {"rope_type": "longrope", "factor": 2.0, "rope_theta": 1e4}},
            "rope_parameters.*longrope",
        ),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"hidden_size": None}, "hidden_size"),
        ({"vocab_size": "49152"}, "vocab_size"),
        ({"num_key_value_heads": 4}, "num_kv_heads=4"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(change, named):
    with pytest.raises(errors.WrongUse, match=f"some/config.json: .*{named}"):
        hf_config.from_hf(SMOLLM2_135M | change, "some/config.json")


@pytest.mark.parametrize(
    ("fields", "change", "named"),
    [
        (QWEN2_5_7B, {"attention_bias": True}, "attention_bias"),
        (QWEN2_5_7B, {"use_mrope": True}, "use_mrope"),
        (QWEN2_5_7B, {"layer_types": ["sliding_attention"] * 28}, "use_sliding_window"),
        (QWEN3_30B_A3B, {"mlp_only_layers": [3]}, "mlp_only_layers"),
        (QWEN3_30B_A3B, {"decoder_sparse_step": 2}, "decoder_sparse_step"),
        (GEMMA2_2B, {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (GEMMA2_2B, {"hidden_activation": "gelu"}, "hidden_activation"),
        (GEMMA3_4B | {"architectures": ["Gemma3ForCausalLM"]}, {}, "text_config"),
        (GEMMA3_4B, {"text_config": None}, "text_config"),
        (GPT_OSS_20B, {"quantization_config": {"quant_method": "fp8"}}, "quantization_config.*fp8"),
        (GPT_OSS_20B, {"rope_scaling": None}, "rope_scaling is absent"),
        (GPT_OSS_20B, {"experts_per_token": 2}, "experts_per_token"),
        (GPT_OSS_20B, {"initial_context_length": 8192}, "initial_context_length"),
        (GPT_OSS_20B, {"layer_types": ["full_attention"]}, "layer_types"),
    ],
    ids=str,
)
def test_what_a_family_does_not_have_is_refused_by_name(fields, change, named):
    with pytest.raises(errors.WrongUse, match=f"some/config.json: .*{named}"):
        hf_config.from_hf(fields | change, "some/config.json")
