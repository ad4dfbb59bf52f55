"""Generation: what a row's tokens depend on, what ends it, and what is compiled."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from promptcot_jax.models import causal_lm
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.sampling import generation, scoring, token_choice
from tests import toys

LM = causal_lm.CausalLM(toys.toy_config())
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def params():
    return LM.init(jax.random.key(0))


def some_prompts(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(sum(lengths))
    return [rng.integers(0, LM.config.vocab_size, n).tolist() for n in lengths]


def generate(params, prompts, *, lm=LM, stop_ids=(), key=KEY, request_ids=None, num_slots=4, **settings):
    return generation.generate(
        lm,
        params,
        prompts,
        sampling=token_choice.SamplingConfig(**{"max_new_tokens": 12, **settings}),
        stop_ids=stop_ids,
        key=key,
        request_ids=request_ids,
        num_slots=num_slots,
    )


@jax.jit
def logits_of_64(params, token_ids):
    return LM.hidden_states(params, token_ids) @ LM.output_embedding(params)


def full_logits(params, row: list[int]) -> np.ndarray:
    """Logits at every position of a row, in one pass; a causal model does not see the padding behind."""
    return np.asarray(logits_of_64(params, jnp.array([row + [0] * (64 - len(row))])))[0, : len(row)]


def ids(completions):
    return [completion.token_ids for completion in completions]


def test_greedy_follows_the_argmax_of_the_full_forward_pass(params):
    prompts = some_prompts(3, 1, 40, 9, 17)  # two batches, several widths
    for prompt, completion in zip(prompts, generate(params, prompts, temperature=0.0), strict=True):
        best = np.argmax(full_logits(params, [*prompt, *completion.token_ids]), axis=-1)
        assert completion.token_ids == tuple(best[len(prompt) - 1 : -1].tolist())
        assert completion.finish_reason == "length"


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 0.6},
        {"temperature": 1.5, "top_k": 5, "top_p": 0.9},
    ],
)
def test_log_probs_are_those_of_scoring_whatever_the_truncation(params, settings):
    prompts = some_prompts(3, 1, 20, 9)
    completions = generate(params, prompts, stop_ids=range(0, 270, 20), **settings)
    scores = scoring.score(LM, params, prompts, ids(completions), temperature=settings["temperature"] or 1.0)
    for completion, wanted in zip(completions, scores, strict=True):
        np.testing.assert_allclose(completion.log_probs, wanted, atol=1e-4)
        assert len(completion.log_probs) == len(completion.sampler_log_probs) == len(completion.token_ids)
        if "top_k" in settings:
            assert (completion.sampler_log_probs > completion.log_probs).all()
        else:
            np.testing.assert_array_equal(completion.sampler_log_probs, completion.log_probs)


def test_a_row_depends_on_its_request_id_and_not_on_its_place_or_neighbours(params):
    prompts = some_prompts(5, 9, 30, 2)
    first = ids(generate(params, prompts))
    backwards = ids(generate(params, prompts[::-1], request_ids=[3, 2, 1, 0]))
    assert backwards == first[::-1]
    others = some_prompts(8, 8, 8)  # a batch of the same shape
    among_others = ids(generate(params, [*others, prompts[2]], request_ids=[10, 11, 12, 2]))
    assert among_others[3] == first[2]
    # Several batches, the last with dummies.
    longer_batch = ids(generate(params, [*prompts, *others, *others]))
    assert longer_batch[:4] == first
    # A neighbour with a longer prompt.
    widened = ids(generate(params, [*some_prompts(40), *prompts[:3]], request_ids=[9, 0, 1, 2]))
    assert widened[1:] == first[:3]


def test_noise_belongs_to_key_request_and_step(params):
    prompts = some_prompts(6) * 4
    same = ids(generate(params, prompts, request_ids=[5, 5, 6, 2**32 - 1]))
    assert same[0] == same[1]
    assert len(set(same)) == 3
    assert ids(generate(params, prompts, request_ids=[5, 5, 6, 2**32 - 1])) == same
    assert not set(same) & set(
        ids(generate(params, prompts, key=jax.random.key(8), request_ids=[5, 5, 6, 7]))
    )


def test_tokens_come_out_as_often_as_the_model_says_at_every_step(params):
    prompt = some_prompts(6)[0]
    many = {"prompts": [prompt] * 3000, "num_slots": 1000, "max_new_tokens": 2}
    counts = np.bincount([first for first, _ in ids(generate(params, **many))], minlength=270)
    expected = 3000 * np.asarray(jax.nn.softmax(full_logits(params, prompt)[-1]), np.float64)
    often = expected > 10.0
    observed = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum())
    assert len(wanted) > 5
    assert scipy.stats.chi2.sf(np.sum((observed - wanted) ** 2 / wanted), len(wanted) - 1) > 1e-3
    # A model without weights writes uniform tokens, each step independent of the one before.
    blank = jax.tree.map(jnp.zeros_like, params)
    pairs = np.array(ids(generate(blank, **many))) * 10 // 270
    table = np.bincount(pairs[:, 0] * 10 + pairs[:, 1], minlength=100)
    assert scipy.stats.chisquare(table).pvalue > 1e-3


def test_stop_ids_end_a_row_and_belong_to_it(params):
    prompts = some_prompts(5, 9, 30, 2)
    free = generate(params, prompts, max_new_tokens=30)
    stop_ids = [free[0].token_ids[4], free[1].token_ids[7]]
    for whole, stopped in zip(
        free, generate(params, prompts, max_new_tokens=30, stop_ids=stop_ids), strict=True
    ):
        ends = [i for i, token in enumerate(whole.token_ids) if token in stop_ids]
        num_tokens = ends[0] + 1 if ends else 30
        assert stopped.token_ids == whole.token_ids[:num_tokens]
        np.testing.assert_array_equal(stopped.log_probs, whole.log_probs[:num_tokens])
        assert stopped.finish_reason == ("stop" if ends else "length")
    # A stop on the very first token, and on the last one of the budget.
    first = free[0].token_ids[0]
    assert generate(params, prompts, stop_ids=[first])[0].token_ids == (first,)
    last = generate(params, prompts, stop_ids=[free[0].token_ids[-1]], max_new_tokens=len(free[0].token_ids))[
        0
    ]
    assert last.finish_reason == "stop"


def test_new_settings_stop_ids_and_seeds_compile_nothing(params, caplog):
    lm = causal_lm.CausalLM(dataclasses.replace(LM.config, norm_epsilon=1e-5))  # no other test compiled it

    def compiled(**settings) -> int:
        caplog.clear()
        prompts = settings.pop("prompts", some_prompts(5, 9, 30, 2))
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            generate(params, prompts, lm=lm, **settings)
        return sum(
            "Compiling" in record.message and "decode_burst" in record.message for record in caplog.records
        )

    assert compiled() == 1  # the count counts
    assert compiled(temperature=0.0) == 0
    assert compiled(temperature=0.3, top_p=0.9, top_k=7, min_p=0.1) == 0
    assert compiled(stop_ids=[1, 2, 3]) == 0
    assert compiled(key=jax.random.key(11), request_ids=[4, 3, 2, 1]) == 0
    assert compiled(max_new_tokens=25) == 0
    assert compiled(prompts=some_prompts(1, 30, 3, 17, 8, 2, 20)) == 0


def test_a_mesh_changes_no_token(params):
    prompts = some_prompts(5, 9, 18, 2, 7)
    settings = {"stop_ids": range(0, 270, 20), "top_p": 0.9}
    alone = generate(params, prompts, **settings)
    lm = dataclasses.replace(LM, rules=rules_lib.DEFAULT_RULES)
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        sharded = jax.device_put(params, rules_lib.sharding_tree(mesh, lm.logical_axes(), params))
        together = generate(sharded, prompts, lm=lm, **settings)
        scores = scoring.score(lm, sharded, prompts, ids(together))
    assert ids(together) == ids(alone)
    for one, other, wanted in zip(alone, together, scores, strict=True):
        assert one.finish_reason == other.finish_reason
        np.testing.assert_allclose(other.log_probs, one.log_probs, atol=1e-4)
        np.testing.assert_allclose(wanted, one.log_probs, atol=1e-4)


def test_no_prompts_give_no_completions(params):
    assert generate(params, []) == []


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ([[1], []], {}, "Request 1 has an empty prompt"),
        ([[1], [2, 270]], {}, "Request 1, prompt 0 holds token id 270"),
        ([[1], [2, -1]], {}, "Request 1, prompt 0 holds token id -1"),
        ([[1] * 510], {}, "exceed 512, the model's max_positions"),
        ([[1]], {"stop_ids": [300]}, "stop ids 0 holds token id 300"),
        ([[1]], {"request_ids": [1, 2]}, "1 prompts need as many request_ids"),
        ([[1]], {"request_ids": [2**32]}, "ids must lie in"),
        ([[1]], {"num_slots": 0}, "num_slots must be at least 1"),
    ],
)
def test_wrong_input_is_refused_by_name(params, prompts, settings, message):
    with pytest.raises(ValueError, match=message):
        generate(params, prompts, **settings)
