"""GGUF files written here the way llama.cpp's converter writes them, read back as what they were."""

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from promptcot_jax.checkpoints import gguf_reader, load
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import hf_mapping
from tests.checkpoints import conftest

QuantType = gguf.GGMLQuantizationType
MERGES = [("t", "h"), ("th", "e"), ("\u0120", "the"), ("1", "2")]
SPECIALS = ["<|endoftext|>", "<|im_end|>", "<think>", "<|pad|>"]
TOKENS = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in MERGES), *SPECIALS]
EOS, TURN_END, THINK, PAD = range(len(TOKENS) - 4, len(TOKENS))


def permuted(weights: np.ndarray, num_heads: int) -> np.ndarray:
    """The reordering of q and k rows in llama.cpp's convert_hf_to_gguf.py."""
    halves = weights.reshape(num_heads, 2, weights.shape[0] // num_heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def write(
    path, model: conftest.ToyModel, quantisation=QuantType.F32, fields=(), tensors=(), pre="smollm"
) -> None:
    """Writes a model; `fields` (key -> int, float or str; None leaves out) and `tensors` go over its own."""
    config, arch = model.lm.config, model.lm.config.family
    metadata = {
        "general.architecture": arch,
        f"{arch}.block_count": config.num_layers,
        f"{arch}.context_length": config.max_positions,
        f"{arch}.embedding_length": config.embed_dim,
        f"{arch}.feed_forward_length": config.mlp_dim,
        f"{arch}.attention.head_count": config.num_heads,
        f"{arch}.attention.head_count_kv": config.num_kv_heads,
        f"{arch}.attention.key_length": config.head_dim,
        f"{arch}.rope.freq_base": config.rope_theta,
        f"{arch}.attention.layer_norm_rms_epsilon": config.norm_epsilon,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.ggml.padding_token_id": PAD,
        "tokenizer.chat_template": "{{ messages[0]['content'] }}<|im_end|>",
    } | dict(fields)
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture"))
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_string(key, value)
    writer.add_token_list(TOKENS)
    writer.add_token_merges([" ".join(merge) for merge in MERGES])
    writer.add_token_types([1] * EOS + [3, 3, 4, 3])
    content, names = {}, gguf_reader.gguf_names(arch, config)
    for name, tensor in hf_mapping.to_hf_tensors(model.params, config):
        if arch == "llama" and "q_proj" in name:
            tensor = permuted(tensor, config.num_heads)
        if arch == "llama" and "k_proj" in name:
            tensor = permuted(tensor, config.num_kv_heads)
        content[names[name]] = (tensor, quantisation if tensor.ndim == 2 else QuantType.F32)
    for name, (tensor, kind) in (content | dict(tensors)).items():
        if tensor is not None:
            writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def toy(family: str = "llama", **changes) -> conftest.ToyModel:
    """A model whose rows are whole blocks of 32, as block quantisation needs."""
    return conftest.toy_model(family, vocab_size=len(TOKENS), mlp_dim=64, head_dim=16, **changes)


def assert_bit_equal(left, right) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back_bit_equal(tmp_path, family, tied):
    model = toy(family, tie_embeddings=tied, rope_theta=1e6, norm_epsilon=1e-5)
    write(tmp_path / "m.gguf", model)
    loaded = load.load_model(tmp_path / "m.gguf")
    assert loaded.lm == model.lm
    assert_bit_equal(loaded.params, model.params)


@pytest.mark.parametrize(
    ("quantisation", "error"),
    [
        ("F16", 2**-11),
        ("BF16", 2**-8),
        ("Q8_0", 0.5 / 127 + 1e-3),
        ("Q4_0", 1 / 8 + 1e-3),
        ("Q4_1", 1 / 15 + 1e-3),
    ],
)
def test_each_quantisation_is_undone_to_within_its_step(tmp_path, quantisation, error):
    """The step is relative to the largest number of a block of 32 (of twice that, for the range of Q4_1)."""
    model = toy()
    write(tmp_path / "m.gguf", model, QuantType[quantisation])
    loaded = load.load_model(tmp_path / "m.gguf")
    for name, tensor in hf_mapping.to_hf_tensors(model.params, model.lm.config):
        is_permuted = "q_proj" in name or "k_proj" in name  # before it was quantised
        if tensor.ndim == 2 and not is_permuted:
            found = dict(hf_mapping.to_hf_tensors(loaded.params, model.lm.config))[name]
            blocks, found_blocks = tensor.reshape(-1, 32), found.reshape(-1, 32)
            limit = np.abs(blocks).max(axis=1, keepdims=True) * error
            assert (np.abs(blocks - found_blocks) <= limit).all()
            assert not np.array_equal(blocks, found_blocks)


def test_bfloat16_parameters_are_rounded_from_the_dequantised_ones(tmp_path):
    write(tmp_path / "m.gguf", toy(), QuantType.Q8_0)
    exact = load.load_model(tmp_path / "m.gguf").params
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), exact)
    assert_bit_equal(load.load_model(tmp_path / "m.gguf", dtype="bfloat16").params, rounded)


def test_tokenizer_and_chat_template_come_from_the_metadata(tmp_path):
    write(tmp_path / "m.gguf", toy())
    tokenizer = load.load_model(tmp_path / "m.gguf").tokenizer
    assert tokenizer.encode("the<|im_end|>") == [TOKENS.index("the"), TURN_END]
    assert [TOKENS[i] for i in tokenizer.encode("e the")] == ["e", "\u0120the"]
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id) == (EOS, PAD, None)
    assert set(tokenizer.stop_ids) == {EOS, TURN_END}
    assert tokenizer.render_chat([{"role": "user", "content": "hi"}]) == "hi<|im_end|>"
    text = "th\u00e9 \u6570\u5b66 12\n <think>x<|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text), skip_special=True) == text.removesuffix("<|im_end|>")


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "a  12", ["a", "\u0120", "\u0120", "12"]),
        ("smollm", "a  12", ["a", "\u0120", "\u0120", "1", "2"]),
        ("qwen2", "a12\n\nthe", ["a", "1", "2", "\u010a", "\u010a", "the"]),
        ("llama-bpe", "a12\n\nthe", ["a", "12", "\u010a", "\u010a", "the"]),
    ],
)
def test_digits_split_as_the_named_rule_says(tmp_path, pre, text, pieces):
    write(tmp_path / "m.gguf", toy(), pre=pre, fields={"tokenizer.ggml.add_bos_token": False})
    tokenizer = gguf_reader.GgufFile(tmp_path / "m.gguf").tokenizer()
    assert [TOKENS[i] for i in tokenizer.encode(text)] == pieces


def test_qwen2_composes_accents_first(tmp_path):
    write(tmp_path / "m.gguf", toy(), pre="qwen2")
    tokenizer = gguf_reader.GgufFile(tmp_path / "m.gguf").tokenizer()
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")


def test_a_bos_begins_prompts_where_the_metadata_say_so(tmp_path):
    fields = {"tokenizer.ggml.bos_token_id": THINK, "tokenizer.ggml.add_bos_token": True}
    write(tmp_path / "m.gguf", toy(), fields=fields)
    assert gguf_reader.GgufFile(tmp_path / "m.gguf").tokenizer().prompt_ids("e") == [THINK, TOKENS.index("e")]


ARRAY = np.ones((32, 64), np.float32)
BAD_FILES = {
    "architecture": (
        {"fields": {"general.architecture": "gemma3"}},
        "general.architecture 'gemma3' is not supported",
    ),
    "scaled rotary": ({"fields": {"llama.rope.scaling.type": "yarn"}}, r"rope\.scaling\.type = 'yarn'"),
    "experts": ({"fields": {"llama.expert_count": 8}}, r"llama\.expert_count = 8 is not supported"),
    "rotary tensor": (
        {"tensors": {"rope_freqs.weight": (np.ones(8, np.float32), QuantType.F32)}},
        r"'rope_freqs\.weight': scaled rotary embeddings are not supported",
    ),
    "missing field": (
        {"fields": {"llama.block_count": None}},
        r"metadata field 'llama\.block_count' is missing",
    ),
    "missing tensor": (
        {"tensors": {"blk.1.ffn_down.weight": (None, None)}},
        r"tensor 'blk\.1\.ffn_down\.weight' is missing; expected with shape \[32, 64\]",
    ),
    "misshaped tensor": (
        {"tensors": {"blk.1.ffn_up.weight": (ARRAY, QuantType.F32)}},
        r"tensor 'blk\.1\.ffn_up\.weight' has shape \[32, 64\]; its metadata ask for \[64, 32\]",
    ),
    "unknown tensor": (
        {"tensors": {"blk.0.attn_q.bias": (np.ones(64, np.float32), QuantType.F32)}},
        r"tensor 'blk\.0\.attn_q\.bias': it has no place in a llama decoder",
    ),
    "quantisation": (
        {"tensors": {"blk.0.ffn_down.weight": (ARRAY, QuantType.Q5_0)}},
        r"tensor 'blk\.0\.ffn_down\.weight' is stored as Q5_0; only F32, F16, BF16, Q8_0, Q4_0, Q4_1",
    ),
    "tokenizer kind": (
        {"fields": {"tokenizer.ggml.model": "llama"}},
        r"tokenizer\.ggml\.model 'llama' is not",
    ),
    "splitting rule": (
        {"pre": "tekken"},
        r"tokenizer\.ggml\.pre 'tekken' is not a splitting rule known here",
    ),
    "no end": ({"fields": {"tokenizer.ggml.eos_token_id": None}}, r"eos_token_id is missing"),
    "wild end": ({"fields": {"tokenizer.ggml.eos_token_id": 9999}}, r"eos_token_id 9999 is not a token"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_what_is_not_supported_is_refused_by_name(tmp_path, kind):
    changes, message = BAD_FILES[kind]
    write(tmp_path / "m.gguf", toy(), **changes)
    with pytest.raises(WrongUse, match=r"m\.gguf: .*" + message):
        load.load_model(tmp_path / "m.gguf")


@pytest.mark.parametrize("share", [0.0, 1e-5, 0.01, 0.05, 0.5, 0.999])
def test_a_truncated_file_is_named(tmp_path, share):
    write(tmp_path / "m.gguf", toy())
    content = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WrongUse, match=r"m\.gguf: truncated, or not a GGUF file"):
        load.load_model(tmp_path / "m.gguf")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WrongUse, match=r"none\.gguf: no such file"):
        load.load_model(tmp_path / "none.gguf")
