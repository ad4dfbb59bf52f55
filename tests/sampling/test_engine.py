"""The engine: what a request gets, whatever it is served with, and how slots and pages are spent.

Engines of one shape share compiled programs, so the tests use few shapes: the tight one, whose pages just
hold the longest request, and the roomy one.
"""

import collections
import copy
import dataclasses
import functools
import gc
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from promptcot_jax.models import causal_lm
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.sampling import engine as engine_lib
from promptcot_jax.sampling import metrics as metrics_lib
from promptcot_jax.sampling import scoring, slots
from promptcot_jax.sampling.completions import Completion, PartialCompletion, Request
from promptcot_jax.sampling.token_choice import SamplingConfig
from tests import toys

LM = causal_lm.CausalLM(toys.toy_config())
VOCAB = LM.config.vocab_size
KEY = jax.random.key(7)
PAGE = 8
NEAR = 1e-3  # of probability, or between logits: closer calls than this may fall otherwise where sums do

# 4 slots of 12 pages together, which is what the longest request (88 tokens) may need for itself.
TIGHT = engine_lib.EngineConfig(
    num_slots=4, page_size=PAGE, prefill_blocks=2, blocks_per_turn=4, burst_steps=8, cache_tokens=96
)
ROOMY = engine_lib.EngineConfig(num_slots=8, page_size=PAGE, burst_steps=32)


@pytest.fixture(scope="module")
def scanned():
    """Weights wide enough for what is before a token to matter."""
    noise = np.random.default_rng(1)
    narrow = LM.init(jax.random.key(0))
    return jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf) + 0.2 * noise.normal(size=leaf.shape), jnp.float32), narrow
    )


@pytest.fixture(scope="module")
def params(scanned):
    return LM.decoding_layout(scanned)


@pytest.fixture
def tight():
    return engine_lib.Engine(LM, TIGHT, max_tokens=88)


@pytest.fixture
def roomy():
    return engine_lib.Engine(LM, ROOMY, max_tokens=88)


def some_ids(seed: int, length: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng([seed, length]).integers(0, VOCAB, length).tolist())


def request(number, prompt=(5,), *, stop_ids=(), stop_texts=(), partial=None, **settings) -> Request:
    sampling = SamplingConfig(**{"max_new_tokens": 10, **settings})
    more = {} if partial is None else {"partial": partial}
    return Request(
        id=number, prompt_ids=prompt, sampling=sampling, stop_ids=stop_ids, stop_texts=stop_texts, **more
    )


def serve(engine, params, requests, decode_text=None, key=KEY) -> list[Completion]:
    """Completions in the order of the requests, each of which comes back exactly once."""
    returned = list(engine.stream(params, requests, key, decode_text))
    assert sorted(id(one) for one, _ in returned) == sorted(id(one) for one in requests)
    of_request = {id(one): completion for one, completion in returned}
    return [of_request[id(one)] for one in requests]


def serve_alone(engine, params, requests, decode_text=None) -> list[Completion]:
    return [completion for one in requests for completion in serve(engine, params, [one], decode_text)]


def assert_same(one: Completion, other: Completion) -> None:
    """To the last bit."""
    assert one.token_ids == other.token_ids
    np.testing.assert_array_equal(one.log_probs, other.log_probs)
    np.testing.assert_array_equal(one.sampler_log_probs, other.sampler_log_probs)
    assert (one.finish_reason, one.has_end) == (other.finish_reason, other.has_end)


# The same choices from logits of a full forward pass, by sorting and summing in float64


@functools.partial(jax.jit, static_argnums=0)
def padded_logits(lm, params, token_ids):
    return lm.hidden_states(params, token_ids) @ lm.output_embedding(params)


def logits_of_choices(scanned, served: list[tuple[Request, Completion]]) -> list[np.ndarray]:
    """For each request [n, V]: the logits that its n tokens were chosen from, of one causal pass."""
    all_logits = []
    for start in range(0, len(served), 64):
        rows = np.zeros((64, 96), np.int32)
        piece = served[start : start + 64]
        for row, (one, completion) in zip(rows, piece, strict=False):
            ids = (*one.prompt_ids, *completion.token_ids)
            row[: len(ids)] = ids
        logits = np.asarray(padded_logits(LM, scanned, rows))
        for of_row, (one, completion) in zip(logits, piece, strict=False):
            first = len(one.prompt_ids) - 1
            all_logits.append(of_row[first : first + len(completion.token_ids)].astype(np.float64))
    return all_logits


@dataclasses.dataclass
class Choice:
    token_id: int
    margin: float  # how far the closest call was from falling otherwise
    log_prob: np.ndarray  # [V]
    sampler_log_prob: np.ndarray  # [V]


@functools.cache
def uniforms(request_id: int) -> np.ndarray:
    """The two uniforms of each step of a request."""
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.fold_in(KEY, np.uint32(request_id))))(
        jnp.arange(88)
    )
    return np.asarray(jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys), np.float64)


def choice(logits: np.ndarray, sampling: SamplingConfig, draws: np.ndarray) -> Choice:
    """What is chosen from logits [V], and by how much it was."""
    scores = (logits - logits.max()) / (sampling.temperature or 1.0)
    order = np.argsort(-scores, kind="stable")
    weights = np.exp(scores[order])
    log_prob = scores - np.log(weights.sum())
    margins = []
    if sampling.top_k:
        margins.append(scores[order[sampling.top_k - 1]] - scores[order[sampling.top_k]])
        weights[sampling.top_k :] = 0.0
    if sampling.top_p < 1.0:
        before = (np.cumsum(weights) - weights) / weights.sum()
        margins.append(np.abs(before - sampling.top_p)[weights > 0.0].min())
        weights[before >= sampling.top_p] = 0.0
    if sampling.min_p:
        margins.append(np.abs(weights - sampling.min_p)[weights > 0.0].min())
        weights[weights < sampling.min_p] = 0.0
    kept = np.zeros(384)
    kept[order] = weights
    with np.errstate(divide="ignore"):
        sampler_log_prob = np.log(kept[:VOCAB] / kept.sum())
    if sampling.temperature == 0.0:
        return Choice(int(order[0]), scores[order[0]] - scores[order[1]], log_prob, sampler_log_prob)
    blocks = kept.reshape(3, 128)
    place = 0
    for masses, draw in ((blocks.sum(axis=1), draws[0]), (None, draws[1])):
        masses = blocks[place] if masses is None else masses
        cumulative = np.cumsum(masses) / masses.sum()
        boundaries = cumulative[masses > 0.0][:-1]
        margins.extend(np.abs(boundaries - draw))
        place = place * 128 + int(np.argmax((cumulative > draw) & (masses > 0.0)))
    return Choice(place, min(margins, default=np.inf), log_prob, sampler_log_prob)


def assert_same_but_for_close_calls(scanned, requests, ours, others) -> int:
    """Where two completions part, what was chosen there was a close call; how many part."""
    served = list(zip(requests, ours, strict=True))
    num_apart = 0
    for (one, mine), logits, other in zip(served, logits_of_choices(scanned, served), others, strict=True):
        pairs = zip(mine.token_ids, other.token_ids, strict=False)
        apart = next((t for t, (mine_id, other_id) in enumerate(pairs) if mine_id != other_id), None)
        if apart is None:
            assert len(mine.token_ids) == len(other.token_ids)
            np.testing.assert_allclose(mine.log_probs, other.log_probs, atol=1e-4)
            continue
        assert choice(logits[apart], one.sampling, uniforms(one.id)[apart]).margin < NEAR
        np.testing.assert_allclose(mine.log_probs[:apart], other.log_probs[:apart], atol=1e-4)
        num_apart += 1
    return num_apart


# Request mixes

HEADERS = [(), some_ids(1, 8), some_ids(2, 16), some_ids(3, 11)]
SETTINGS = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.6},
    {"temperature": 1.4, "top_k": 5},
    {"top_p": 0.8},
    {"temperature": 0.6, "min_p": 0.1},
    {"temperature": 1.4, "top_k": 40, "top_p": 0.9, "min_p": 0.01},
    {"temperature": 0.0, "top_k": 3},
]


def random_requests(num_prompts: int, samples: int) -> list[list[Request]]:
    """Some requests of each prompt; the prompts end within pages and at their ends, many begin alike."""
    rng = np.random.default_rng(20)
    groups = []
    for i in range(num_prompts):
        tail = rng.integers(0, VOCAB, rng.choice([1, 2, 5, 8, 9, 16, 17])).tolist()
        shared = SETTINGS[rng.integers(len(SETTINGS))]
        group = []
        for _ in range(samples):
            budget = rng.integers(1, 8) if rng.random() < 0.7 else rng.integers(8, 33)
            group.append(
                request(
                    int(rng.integers(0, 2**32)),
                    (*HEADERS[i % 4], *tail),
                    stop_ids=tuple(rng.integers(0, VOCAB, rng.choice([0, 1, 16])).tolist()),
                    max_new_tokens=int(budget),
                    **(shared if rng.random() < 0.5 else SETTINGS[rng.integers(len(SETTINGS))]),
                )
            )
        groups.append(group)
    return groups


def random_mix(groups: list[list[Request]], seed: int) -> list[Request]:
    """Some of the requests of a few prompts, in any order; half of the mixes have one header throughout."""
    rng = np.random.default_rng([21, seed])
    header, chosen = rng.integers(4), []
    for _ in range(rng.integers(1, 4)):
        i = rng.integers(len(groups) // 4) * 4 + (header if seed % 2 else rng.integers(4))
        group = groups[i]
        chosen += [group[j] for j in rng.permutation(len(group))[: rng.integers(1, len(group) + 1)]]
    chosen = list({id(one): one for one in chosen}.values())
    return [chosen[i] for i in rng.permutation(len(chosen))]


@dataclasses.dataclass
class Served:
    """Requests with what each got by itself and what it got in every mix, all of one engine."""

    alone: list[tuple[Request, Completion]]
    in_mixes: list[tuple[Request, Completion]]
    metrics: metrics_lib.Metrics  # of the mixes


@pytest.fixture(scope="module")
def two_hundred_mixes(params):
    engine = engine_lib.Engine(LM, TIGHT, max_tokens=88)
    groups = random_requests(100, 5)
    requests = [one for group in groups for one in group]
    alone = list(zip(requests, serve_alone(engine, params, requests), strict=True))
    assert engine.metrics.restarts == 0
    engine.metrics = metrics_lib.Metrics()
    in_mixes = []
    for seed in range(200):
        mix = random_mix(groups, seed)
        in_mixes += zip(mix, serve(engine, params, mix), strict=True)
    return Served(alone, in_mixes, copy.deepcopy(engine.metrics))


@pytest.mark.slow
def test_what_a_request_gets_in_a_mix_is_what_it_gets_alone(two_hundred_mixes):
    alone = {id(one): completion for one, completion in two_hundred_mixes.alone}
    for one, completion in two_hundred_mixes.in_mixes:
        assert_same(completion, alone[id(one)])
    # The mixes were worth it.
    metrics, in_mixes = two_hundred_mixes.metrics, two_hundred_mixes.in_mixes
    assert metrics.requests == len(in_mixes) > 800
    assert metrics.new_tokens == sum(len(completion.token_ids) for _, completion in in_mixes)
    assert metrics.restarts > 40
    assert metrics.shared_prompt_tokens > metrics.prompt_tokens // 3
    assert min(metrics.finish_reasons[reason] for reason in ("stop", "length")) > 80
    lengths = {len(one.prompt_ids) for one, _ in in_mixes}
    assert 1 in lengths
    assert {length % PAGE for length in lengths} >= {0, 1}


def test_every_token_is_the_choice_from_a_full_forward_pass(scanned, two_hundred_mixes):
    served = two_hundred_mixes.alone
    num_tokens = num_close = 0
    for (one, completion), logits in zip(served, logits_of_choices(scanned, served), strict=True):
        truncates = one.sampling.top_k > 0 or one.sampling.top_p < 1.0 or one.sampling.min_p > 0.0
        for t, token_id in enumerate(completion.token_ids):
            wanted = choice(logits[t], one.sampling, uniforms(one.id)[t])
            num_tokens += 1
            if wanted.token_id != token_id:
                assert wanted.margin < NEAR
                num_close += 1
                continue
            log_prob, sampler_log_prob = completion.log_probs[t], completion.sampler_log_probs[t]
            np.testing.assert_allclose(log_prob, wanted.log_prob[token_id], atol=1e-4)
            if not truncates:
                assert sampler_log_prob == log_prob
                continue
            assert sampler_log_prob >= log_prob
            if abs(sampler_log_prob - wanted.sampler_log_prob[token_id]) > 1e-4:
                assert wanted.margin < NEAR
                num_close += 1
        ends = completion.token_ids[-1] in one.stop_ids
        assert (completion.finish_reason, completion.has_end) == ("stop" if ends else "length", ends)
        assert ends or len(completion.token_ids) == one.sampling.max_new_tokens
        assert not set(completion.token_ids[:-1]) & set(one.stop_ids)
    print(f"{num_close} close calls among {num_tokens} tokens")
    assert num_close < 1e-3 * num_tokens


def test_log_probs_are_those_of_the_scorer(scanned, two_hundred_mixes):
    short = [(r, c) for r, c in two_hundred_mixes.alone if len(r.prompt_ids) + len(c.token_ids) <= 49]
    for temperature in (1.0, 0.6, 1.4):
        rows = [(r, c) for r, c in short if (r.sampling.temperature or 1.0) == temperature]
        scores = scoring.score(
            LM,
            scanned,
            [one.prompt_ids for one, _ in rows],
            [completion.token_ids for _, completion in rows],
            temperature=temperature,
            batch_tokens=1,  # a row a batch: one program for each of two widths
        )
        for (_, completion), wanted in zip(rows, scores, strict=True):
            np.testing.assert_allclose(completion.log_probs, wanted, atol=1e-4)
        assert len(rows) > 50


@pytest.mark.slow
def test_other_shapes_change_close_calls_alone(scanned, two_hundred_mixes):
    other = engine_lib.Engine(LM, engine_lib.EngineConfig(num_slots=6, page_size=16), max_tokens=80)
    requests, ours = zip(*two_hundred_mixes.alone[:300], strict=True)
    others = serve(other, scanned, requests)  # in the other layout too
    num_apart = assert_same_but_for_close_calls(scanned, requests, ours, others)
    print(f"{num_apart} of {len(requests)} completions part at a close call")
    assert num_apart < 0.01 * len(requests)


# Sharing


def test_first_tokens_behind_a_copied_page_come_out_as_often_as_the_model_says(scanned, params, roomy):
    prompt = some_ids(4, 14)  # 13 tokens are read: a page and the part of one from which each sample starts
    requests = [request(i, prompt, max_new_tokens=1) for i in range(3000)]
    completions = serve(roomy, params, requests)
    counts = np.bincount([completion.token_ids[0] for completion in completions], minlength=VOCAB)
    [logits] = logits_of_choices(scanned, [(requests[0], completions[0])])
    expected = 3000 * np.asarray(jax.nn.softmax(logits[0]), np.float64)
    often = expected > 10.0
    observed = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum())
    assert len(wanted) > 20
    assert scipy.stats.chi2.sf(np.sum((observed - wanted) ** 2 / wanted), len(wanted) - 1) > 1e-3
    assert roomy.metrics.shared_prompt_tokens == 2999 * 13


def test_common_beginnings_are_read_once_and_change_no_bit(params, roomy):
    header = some_ids(5, 20)
    prompts = [
        (*header, *some_ids(6, 9)),  # 28 tokens to read: 8 + 8 of the header, 4 of it and 4 others, 4
        (*header, *some_ids(7, 3)),  # 22: 8 + 8 + 6
        (*header, *some_ids(8, 5)),  # 24: 8 + 8 + 8
        header[:17],  # 16: 8 + 8
    ]
    requests = [request(8 * i + g, prompt) for i, prompt in enumerate(prompts) for g in range(8)]
    requests = [requests[i] for i in np.random.default_rng(0).permutation(32)]
    completions = serve(roomy, params, requests)
    assert roomy.metrics.prompt_tokens == 8 * (28 + 22 + 24 + 16)
    assert roomy.metrics.prompt_tokens - roomy.metrics.shared_prompt_tokens == (8 + 8) + (8 + 4) + 6 + 8
    for together, alone in zip(completions, serve_alone(roomy, params, requests), strict=True):
        assert_same(together, alone)
    assert len({completion.token_ids for completion in completions}) == 32


def test_a_burst_writes_only_pages_that_no_other_row_reads(params, tight, monkeypatch):
    decode_burst, num_shared = slots.decode_burst, []

    def watched(lm, params, cache, rows, *rest, **kwargs):
        before = jax.tree.map(np.array, cache)
        burst, cache = decode_burst(lm, params, cache, rows, *rest, **kwargs)
        is_changed = np.zeros(len(before.keys), bool)
        for old, new in zip(before, cache, strict=True):
            is_changed |= (old != np.asarray(new)).any(axis=(1, 2, 3))
        changed = set((np.flatnonzero(is_changed) % (len(is_changed) // LM.config.num_layers)).tolist())
        live = np.flatnonzero(rows.budgets)
        last_pages = (rows.positions + np.asarray(burst.num_new)) // PAGE
        reads = {i: set(rows.page_table[i, : last_pages[i] + 1].tolist()) - {0} for i in live}
        writes = {
            i: set(rows.page_table[i, rows.positions[i] // PAGE : last_pages[i] + 1].tolist()) - {0}
            for i in live
        }
        assert changed <= set.union({0}, *writes.values())
        for i in live:
            assert not writes[i] & set.union(set(), *(reads[j] for j in live if j != i))
        num_shared.append(sum(map(len, reads.values())) - len(set.union(*reads.values())))
        return burst, cache

    monkeypatch.setattr(slots, "decode_burst", watched)
    groups = random_requests(20, 5)
    for seed in range(12):
        serve(tight, params, random_mix(groups, seed))
    assert tight.metrics.restarts > 0
    assert sum(num_shared) > 20


# Slots and turns


def test_slots_are_kept_full_while_requests_wait(params, roomy):
    rng = np.random.default_rng(4)
    budgets = np.clip(rng.lognormal(2.2, 0.9, 150).astype(int), 1, 60).tolist()
    requests = [request(i, some_ids(i, 1 + i % 20), max_new_tokens=n) for i, n in enumerate(budgets)]
    completions = serve(roomy, params, requests)
    assert [len(completion.token_ids) for completion in completions] == budgets
    summary = roomy.metrics.summary()
    assert summary["slot_occupancy_while_queued"] > 0.95
    assert roomy.metrics.busy_slot_steps == roomy.metrics.new_tokens == sum(budgets)
    # No schedule needs fewer than total / 8 steps; what the last ones need alone comes on top.
    assert roomy.metrics.steps < sum(budgets) / 8 / 0.95 + max(budgets)
    assert roomy.metrics.restarts == 0


def test_a_pool_for_all_slots_at_their_longest_never_leaves_a_slot_idle(params):
    config = dataclasses.replace(ROOMY, blocks_per_turn=64)  # all prompts that wait
    roomy = engine_lib.Engine(LM, config, max_tokens=88)
    requests = [request(i, some_ids(i, 60), max_new_tokens=28 - i % 3) for i in range(24)]
    serve(roomy, params, requests)
    assert roomy.metrics.queued_busy_slot_steps == roomy.metrics.queued_slot_steps > 0
    assert roomy.metrics.restarts == 0
    assert roomy.metrics.most_pages_used <= roomy.metrics.pages == 8 * 12  # 11 of its own, and one


def test_samples_of_a_prompt_need_room_for_it_once(params, tight):
    """Of 12 pages the prompt takes 7, which leaves one for each of four samples."""
    requests = [request(i, some_ids(9, 57), max_new_tokens=8) for i in range(4)]
    serve(tight, params, requests)
    assert tight.metrics.steps == 8
    assert tight.metrics.restarts == 0
    assert tight.metrics.most_pages_used == 7 + 4


def test_a_long_prompt_lets_the_rows_under_way_go_on(params, monkeypatch):
    config = dataclasses.replace(ROOMY, blocks_per_turn=2)  # of the same shape
    engine = engine_lib.Engine(LM, config, max_tokens=88)
    turns: list[tuple[str, int]] = []
    read_blocks, decode_burst = slots.read_blocks, slots.decode_burst

    def read(lm, params, cache, blocks):
        turns.append(("read", int((blocks.page_table[:, 0] > 0).sum())))
        return read_blocks(lm, params, cache, blocks)

    def decode(lm, params, cache, rows, *rest, **kwargs):
        burst, cache = decode_burst(lm, params, cache, rows, *rest, **kwargs)
        turns.append(("decode", int(burst.num_steps)))
        return burst, cache

    monkeypatch.setattr(slots, "read_blocks", read)
    monkeypatch.setattr(slots, "decode_burst", decode)
    short = [request(i, (7,), max_new_tokens=60) for i in range(7)]
    long = request(7, some_ids(10, 81), max_new_tokens=5)
    completions = serve(engine, params, [*short, long])
    assert [len(completion.token_ids) for completion in completions] == [60] * 7 + [5]
    # Ten blocks, two before each burst, and bursts of no more than four steps until all are read.
    assert turns[:15] == [("read", 1), ("read", 1), ("decode", 4)] * 4 + [("read", 1)] * 2 + turns[14:15]
    assert {kind for kind, _ in turns[14:]} == {"decode"}
    assert engine.metrics.steps == 60
    for together, alone in zip(completions, serve_alone(engine, params, [*short, long]), strict=True):
        assert_same(together, alone)


def test_few_rows_do_not_step_while_most_wait_for_their_prompts(params, monkeypatch):
    engine = engine_lib.Engine(LM, dataclasses.replace(ROOMY, blocks_per_turn=2), max_tokens=88)
    num_live: list[int] = []
    decode_burst = slots.decode_burst

    def decode(lm, params, cache, rows, *rest, **kwargs):
        num_live.append(int((rows.budgets > 0).sum()))
        return decode_burst(lm, params, cache, rows, *rest, **kwargs)

    monkeypatch.setattr(slots, "decode_burst", decode)
    serve(engine, params, [request(i, some_ids(i, 41), max_new_tokens=47) for i in range(8)])
    assert num_live[0] == 4  # of 8 slots, whose prompts of 5 blocks are read two blocks at a time
    assert max(num_live) == 8


# Compilations and memory


def compilations(caplog, run) -> list[str]:
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        run()
    messages = [record.getMessage() for record in caplog.records]
    return sorted(message.split()[1] for message in messages if message.startswith("Compiling "))


EACH_ONCE = [f"jit({name})" for name in ("copy_pages", "decode_burst", "empty_cache", "read_blocks")]


def test_one_stream_compiles_each_program_once_and_the_next_ones_nothing(params, caplog):
    lm = causal_lm.CausalLM(dataclasses.replace(LM.config, norm_epsilon=1e-5))  # no other test compiled it
    engine = engine_lib.Engine(lm, TIGHT, max_tokens=88)
    groups = random_requests(12, 5)
    assert compilations(caplog, lambda: serve(engine, params, random_mix(groups, 1))) == EACH_ONCE
    for seed in range(2, 6):
        others = jax.tree.map(lambda leaf, seed=seed: leaf * (1.0 + seed / 100.0), params)
        key = jax.random.key(seed)
        again = functools.partial(serve, engine, others, random_mix(groups, seed), key=key)
        assert not compilations(caplog, again)


@pytest.fixture
def quick_collections():
    """Objects from before a test are none of its garbage; there are a million of them after other tests."""
    gc.collect()
    gc.freeze()


def num_live(shape: tuple[int, ...]) -> int:
    gc.collect()
    return sum(array.shape == shape for array in jax.live_arrays())


TIGHT_CACHE = (13 * 2, 2, 8, 8)  # pages of two layers, heads, page, head dim: keys and values alike


@pytest.mark.usefixtures("quick_collections")
def test_the_cache_is_updated_in_place_and_goes_with_its_wave(params, tight, monkeypatch):
    pointers = set()

    def watch(name):
        program = getattr(slots, name)

        def watched(*args, **kwargs):
            before = next(arg for arg in args if hasattr(arg, "keys") and hasattr(arg, "page_size"))
            results = program(*args, **kwargs)
            assert before.keys.is_deleted()
            after = results[1] if name == "decode_burst" else results
            pointers.add((after.keys.unsafe_buffer_pointer(), after.values.unsafe_buffer_pointer()))
            return results

        monkeypatch.setattr(slots, name, watched)

    for name in ("read_blocks", "decode_burst", "copy_pages"):
        watch(name)
    requests = [request(i, some_ids(i % 2, 13), max_new_tokens=20) for i in range(8)]
    assert num_live(TIGHT_CACHE) == 0
    for _ in tight.stream(params, requests, KEY):
        assert num_live(TIGHT_CACHE) == 2
    assert num_live(TIGHT_CACHE) == 0
    assert len(pointers) == 1


@pytest.mark.usefixtures("quick_collections")
def test_no_parameters_outlive_their_wave(params, tight):
    requests = [request(i, some_ids(i, 13)) for i in range(3)]
    serve(tight, params, requests)
    kernel = params["lm_head"]["kernel"].shape
    num_before, num_arrays = num_live(kernel), len(jax.live_arrays())
    for scale in (1.1, 1.2, 1.3):
        others = jax.tree.map(lambda leaf, scale=scale: leaf * scale, params)
        for _ in tight.stream(others, requests, KEY):
            assert num_live(kernel) == num_before + 1
        del others, _
        assert num_live(kernel) == num_before
    assert len(jax.live_arrays()) == num_arrays


# Streams


def test_requests_are_taken_as_slots_become_free_and_nothing_runs_while_a_result_is_held(
    params, tight, monkeypatch
):
    num_taken, calls = 0, collections.Counter()

    def count(name):
        program = getattr(slots, name)

        def counted(*args, **kwargs):
            calls[name] += 1
            return program(*args, **kwargs)

        monkeypatch.setattr(slots, name, counted)

    count("read_blocks")
    count("decode_burst")

    def source():
        nonlocal num_taken
        for i in range(40):
            num_taken += 1
            yield request(i, some_ids(i, 9), max_new_tokens=1 + i % 7)

    stream = tight.stream(params, source(), KEY)
    assert num_taken == 0
    for num_done, _ in enumerate(stream):
        assert num_taken <= num_done + 4 + 4 + 1  # done before, up to four with this one, in slots, looked at
        before = calls.copy()
        [*range(1000)]
        assert calls == before
    assert (num_taken, num_done) == (40, 39)


def test_a_stream_closed_early_leaves_the_engine_as_it_was(params, tight):
    requests = [request(i, some_ids(i % 3, 13), max_new_tokens=20) for i in range(12)]
    wanted = serve(tight, params, requests)
    for num_taken in (0, 1, 5):
        stream = tight.stream(params, requests, KEY)
        for _ in range(num_taken):
            next(stream)
        stream.close()
        assert num_live(TIGHT_CACHE) == 0
        for again, completion in zip(serve(tight, params, requests), wanted, strict=True):
            assert_same(again, completion)


def test_two_streams_side_by_side_do_not_meet(params, tight):
    first = [request(i, some_ids(i % 3, 13), max_new_tokens=20) for i in range(8)]
    second = [request(i, some_ids(i % 3, 15), max_new_tokens=11) for i in range(8)]
    wanted = [serve(tight, params, first), serve(tight, params, second)]
    pairs = zip(tight.stream(params, first, KEY), tight.stream(params, second, KEY), strict=True)
    for (one, completion), (other, other_completion) in pairs:
        assert_same(completion, wanted[0][one.id])
        assert_same(other_completion, wanted[1][other.id])


def test_no_requests_give_nothing(params, tight):
    assert serve(tight, params, []) == []


# Stop texts


def free_run(engine, params) -> tuple[Request, Completion]:
    """A completion of 40 different tokens, decoded in bursts of 8."""
    for number in range(1000):
        one = request(number, some_ids(11, 13), max_new_tokens=24)
        [completion] = serve(engine, params, [one])
        if len(set(completion.token_ids)) == 24:
            return one, completion
    raise AssertionError("no such completion")


def spelled(completion: Completion, pieces: dict[int, bytes]):
    """A decoder for which token t of a completion stands for `pieces[t]`, every other token for a dot."""
    by_id = {completion.token_ids[t]: piece for t, piece in pieces.items()}
    return lambda ids: b"".join(by_id.get(i, b".") for i in ids).decode(errors="replace")


@pytest.mark.parametrize(
    ("pieces", "texts", "length"),
    [
        ({3: b"E"}, ("E",), 4),
        ({7: b"E", 8: b"N", 9: b"D"}, ("END",), 10),  # over the end of a burst
        ({7: b"\xe2", 8: b"\x99", 9: b"\xa0"}, ("never", "\u2660"), 10),  # the bytes of one character
        ({6: b"x\xc3", 9: b"\xa9E"}, ("\u00e9",), None),  # other tokens between its bytes
        ({6: b"x\xc3", 7: b"\xa9E"}, ("\u00e9",), 8),
        ({5: b"a", 6: b"b", 7: b"c"}, ("bc", "ab"), 7),  # the first to be complete
        ({15: b"ab", 16: b"ab"}, ("abab", "bab."), 17),
        (dict.fromkeys(range(4, 22), b"o"), ("o" * 18,), 22),  # longer than two bursts
        ({7: b"E", **dict.fromkeys(range(8, 20), b""), 20: b"D"}, ("ED",), 21),  # tokens that are no text
        ({0: b"E"}, ("E",), 1),
        ({23: b"E"}, ("E",), 24),
        ({}, ("never",), None),
    ],
)
def test_a_stop_text_ends_a_completion_with_the_token_that_completes_it(params, tight, pieces, texts, length):
    one, free = free_run(tight, params)
    tight.metrics = metrics_lib.Metrics()
    stopping = dataclasses.replace(one, stop_texts=texts)
    neighbour = request(9, some_ids(12, 9), max_new_tokens=20)
    stopped, beside = serve(tight, params, [stopping, neighbour], spelled(free, pieces))
    num_tokens = length or 24
    assert stopped.token_ids == free.token_ids[:num_tokens]
    np.testing.assert_array_equal(stopped.log_probs, free.log_probs[:num_tokens])
    np.testing.assert_array_equal(stopped.sampler_log_probs, free.sampler_log_probs[:num_tokens])
    assert (stopped.finish_reason, stopped.has_end) == ("stop" if length else "length", False)
    assert tight.metrics.finish_reasons["stop_text"] == (1 if length else 0)
    assert tight.metrics.wasted_tokens == -num_tokens % 8  # to the end of the burst
    assert tight.metrics.new_tokens == num_tokens + 20
    assert_same(beside, serve(tight, params, [neighbour])[0])


def test_of_a_stop_id_and_a_stop_text_the_first_ends_a_completion(params, tight):
    one, free = free_run(tight, params)
    decode_text = spelled(free, {3: b"E", 6: b"F"})
    tight.metrics = metrics_lib.Metrics()

    def ends(stop_at: int, text: str) -> tuple[int, str, bool]:
        stopping = dataclasses.replace(one, stop_ids=(free.token_ids[stop_at],), stop_texts=(text,))
        [completion] = serve(tight, params, [stopping], decode_text)
        assert completion.token_ids == free.token_ids[: len(completion.token_ids)]
        return len(completion.token_ids), completion.finish_reason, completion.has_end

    assert ends(5, "F") == (6, "stop", True)
    assert tight.metrics.wasted_tokens == 0
    assert ends(5, "E") == (4, "stop", False)
    assert tight.metrics.wasted_tokens == 2
    assert ends(3, "E") == (4, "stop", True)  # a stop id is no text
    assert tight.metrics.finish_reasons == {"stop": 2, "stop_text": 1}


# Partial completions


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}, {"temperature": 0.6, "top_k": 20}])
def test_a_completion_goes_on_from_a_partial_one(scanned, params, tight, settings):
    one = request(3, some_ids(13, 11), max_new_tokens=24, **settings)
    [whole] = serve(tight, params, [one])
    partial_requests = []
    for length in (1, 5, 6, 8, 23):  # 5: a page is full; 6: the next one begins
        arrays = (whole.log_probs[:length], whole.sampler_log_probs[:length])
        partial_requests.append(
            dataclasses.replace(one, partial=PartialCompletion(whole.token_ids[:length], *arrays))
        )
    tight.metrics = metrics_lib.Metrics()
    completions = serve(tight, params, partial_requests)
    for request_, completion in zip(partial_requests, completions, strict=True):
        length = len(request_.partial.token_ids)
        assert completion.num_continued == length
        assert completion.token_ids[:length] == whole.token_ids[:length]
        np.testing.assert_array_equal(completion.log_probs[:length], whole.log_probs[:length])
        np.testing.assert_array_equal(completion.sampler_log_probs[:length], whole.sampler_log_probs[:length])
        [scores] = scoring.score(
            LM,
            scanned,
            [one.prompt_ids],
            [completion.token_ids],
            temperature=one.sampling.temperature or 1.0,
            batch_tokens=1,
        )
        assert len(completion.log_probs) == len(completion.token_ids) == 24
        np.testing.assert_allclose(completion.log_probs, scores, atol=1e-4)
    assert_same_but_for_close_calls(scanned, [one] * 5, [whole] * 5, completions)
    assert tight.metrics.new_tokens == 5 * 24 - (1 + 5 + 6 + 8 + 23)
    assert [completion.num_continued for completion in serve(tight, params, [one])] == [0]


def test_a_stop_text_may_start_before_the_interruption(params, tight):
    one, free = free_run(tight, params)
    partial = PartialCompletion(free.token_ids[:6], free.log_probs[:6], free.sampler_log_probs[:6])
    stopping = dataclasses.replace(one, partial=partial, stop_texts=("ED",))
    [stopped] = serve(tight, params, [stopping], spelled(free, {5: b"E", 6: b"D"}))
    assert stopped.token_ids == free.token_ids[:7]


def test_a_partial_completion_needs_its_log_probs():
    with pytest.raises(ValueError, match="A partial completion needs log-probabilities of each token"):
        PartialCompletion((1, 2), np.zeros(2, np.float32), np.zeros(1, np.float32))


# Wrong input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_slots": 0}, "num_slots must be at least 1, got 0"),
        ({"prefill_blocks": 0}, "prefill_blocks must be at least 1, got 0"),
        ({"blocks_per_turn": -1}, "blocks_per_turn must be at least 1, got -1"),
        ({"burst_steps": 0}, "burst_steps must be at least 1, got 0"),
        ({"page_size": 1}, "page_size must be at least 2, got 1"),
        ({"cache_tokens": -1}, "cache_tokens must be 0"),
        ({"prefill_blocks": 3, "blocks_per_turn": 2}, "prefill_blocks=3 are read by one call, more than"),
    ],
)
def test_a_wrong_shape_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        engine_lib.EngineConfig(**settings)


def test_a_cache_that_cannot_hold_one_request_is_refused():
    with pytest.raises(ValueError, match="cache_tokens=96 holds 12 pages of 8 tokens .* may need 13"):
        engine_lib.Engine(LM, TIGHT, max_tokens=89)


PARTIAL_5 = PartialCompletion((1,) * 5, np.zeros(5, np.float32), np.zeros(5, np.float32))
WRONG_REQUESTS = [
    (request(77, ()), "Request 77 has an empty prompt"),
    (request(-1), "ids must lie in"),
    (request(2**32), "ids must lie in"),
    (request(77, (1,) * 80), "a prompt of 80 tokens and max_new_tokens=10 exceed 88"),
    (request(77, max_new_tokens=5, partial=PARTIAL_5), "Request 77 goes on from 5 tokens, all it may have"),
    (request(77, (1, VOCAB)), "Request 77, prompt 0 holds token id 270"),
    (request(77, partial=PartialCompletion((-3,), *[np.zeros(1, np.float32)] * 2)), "holds token id -3"),
    (request(77, stop_ids=(VOCAB,)), "Request 77, list of stop ids 0 holds token id 270"),
    (request(77, stop_ids=tuple(range(17))), "Request 77 has 17 stop ids, 16 at most"),
    (request(77, stop_texts=("a", "")), "Request 77 has an empty stop text"),
    (request(77, stop_texts=("a",)), "Request 77 has stop texts, which need `decode_text`"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_REQUESTS, ids=[message for _, message in WRONG_REQUESTS])
def test_a_wrong_request_is_refused_by_name_and_the_engine_lives_on(params, tight, wrong, message):
    requests = [request(i, some_ids(i, 9), max_new_tokens=1 + i) for i in range(6)]
    wanted = serve(tight, params, requests)
    stream = tight.stream(params, [*requests, wrong], KEY)
    next(stream)  # it is refused when its turn comes
    with pytest.raises(ValueError, match=message):
        collections.deque(stream, maxlen=0)
    for again, completion in zip(serve(tight, params, requests), wanted, strict=True):
        assert_same(again, completion)


# A cache that is too small


def test_requests_that_fill_the_cache_each_by_itself_start_again_and_change_no_bit(params, tight):
    requests = [request(i, some_ids(i % 2, 6 + i), max_new_tokens=82 - i) for i in range(6)]
    completions = serve(tight, params, requests)
    metrics = copy.deepcopy(tight.metrics)
    assert metrics.restarts > 3
    assert metrics.wasted_tokens > 0
    assert metrics.busy_slot_steps == metrics.new_tokens + metrics.wasted_tokens
    assert metrics.most_pages_used <= metrics.pages == 12
    assert metrics.steps <= metrics.new_tokens  # the row that started first goes on in every step
    for together, alone in zip(completions, serve_alone(tight, params, requests), strict=True):
        assert_same(together, alone)
    assert tight.metrics.restarts == metrics.restarts
    assert [len(completion.token_ids) for completion in completions] == [82 - i for i in range(6)]


# Over a mesh


def test_what_a_burst_was_given_never_changes(params, tight, monkeypatch):
    """JAX may use a host's array in place, and of several devices one may still be at the last step."""
    given, decode_burst = [], slots.decode_burst

    def watched(lm, params, cache, rows, *args, **settings):
        given.append((rows, jax.tree.map(np.array, rows)))
        return decode_burst(lm, params, cache, rows, *args, **settings)

    monkeypatch.setattr(slots, "decode_burst", watched)
    serve(tight, params, [request(i, max_new_tokens=3 + i) for i in range(6)])
    assert len(given) > 1
    for rows, as_given in given:
        jax.tree.map(np.testing.assert_array_equal, rows, as_given)


@pytest.mark.slow
def test_a_mesh_changes_close_calls_alone(scanned, params, tight, caplog):
    lm = dataclasses.replace(LM, rules=rules_lib.DEFAULT_RULES)
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2))
    groups = random_requests(12, 5)
    requests = [one for group in groups for one in group]
    pairs = [request(i, some_ids(14 + i // 2, 14), max_new_tokens=4) for i in range(8)]
    made_outside = engine_lib.Engine(lm, TIGHT, max_tokens=88)
    with jax.set_mesh(mesh):
        with pytest.raises(ValueError, match="was made for 1 data shards, but there are 4 here"):
            next(made_outside.stream(scanned, requests, KEY))
        sharded = jax.device_put(scanned, rules_lib.sharding_tree(mesh, lm.logical_axes(), scanned))
        config = engine_lib.EngineConfig(num_slots=8, page_size=PAGE, cache_tokens=4 * 9 * PAGE)
        engine = engine_lib.Engine(lm, config, max_tokens=64)  # four schedulers of two slots and nine pages
        served = []
        assert compilations(caplog, lambda: served.extend(serve(engine, sharded, requests))) == EACH_ONCE
        assert engine.metrics.restarts > 0
        cache = slots.empty_cache(lm, 4 * 10, PAGE)
        assert {shard.data.shape for shard in cache.keys.addressable_shards} == {(2 * 10, 1, 8, 8)}
        engine.metrics = metrics_lib.Metrics()
        assert not compilations(caplog, lambda: served.extend(serve(engine, sharded, pairs)))
    # Both samples of a prompt go to the same scheduler, where its 13 tokens are read once.
    assert engine.metrics.prompt_tokens == 8 * 13
    assert engine.metrics.shared_prompt_tokens == 4 * 13
    requests += pairs
    ours = serve(tight, params, requests)
    num_apart = assert_same_but_for_close_calls(scanned, requests, ours, served)
    print(f"{num_apart} of {len(requests)} completions part at a close call")
    assert num_apart <= 1
