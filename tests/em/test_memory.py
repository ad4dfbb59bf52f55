"""What lies on the devices while EM runs, in bytes a parameter, beside what a program makes for itself.

`docs/design.md` has the figures as a table, and `promptcot plan` counts with them.
"""

import collections
import contextlib
import dataclasses
import gc
from unittest import mock

import jax
import pytest

from promptcot_jax.data import tokenizer_training
from promptcot_jax.em import generators, pairs, rounds
from promptcot_jax.models import language_model
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.parallel import rules
from promptcot_jax.sampling import scoring, slots
from promptcot_jax.trainers import train_step
from tests import toys
from tests.em import toy_em

SMALL = 0.3  # batches, slots and noise keys beside a toy's parameters


def live_bytes():
    """Memory behind JAX's arrays: it also lists views of others, and those given up but still referred to.

    EM runs on one device here; arrays on several are another test's.
    """
    listed = [array for array in jax.live_arrays() if not array.is_deleted()]
    held = [array for array in listed if len(array.sharding.device_set) == 1]
    return sum({array.unsafe_buffer_pointer(): array.nbytes for array in held}.values())


@contextlib.contextmanager
def measured():
    """Live bytes where programs are called, the most of each phase; of decoding without its cache."""
    most, phase = collections.Counter(), [""]

    def look(name, function):
        def call(*arguments, **settings):
            caches = [x for x in arguments if hasattr(x, "page_size")]
            of_cache = sum(leaf.nbytes for leaf in jax.tree.leaves(caches))
            if caches:
                most[f"{phase[0]}: cache"] = max(most[f"{phase[0]}: cache"], of_cache)
            live = live_bytes() - of_cache
            most[f"{phase[0]}: {name}"] = max(most[f"{phase[0]}: {name}"], live)
            return function(*arguments, **settings)

        return call

    def enter(name, function):
        def call(*arguments, **settings):
            phase[0] = name
            return function(*arguments, **settings)

        return call

    wrapped = (
        (slots, "decode_burst", look, "decode"),
        (scoring, "score", look, "score"),
        (train_step.TrainStep, "place", look, "step"),
        (rounds, "e_step", enter, "E-step"),
        (rounds, "m_step", enter, "M-step"),
        (rounds, "held_out", enter, "held out"),
        (generators.Generator, "fit", enter, "fit"),
    )
    with contextlib.ExitStack() as stack:
        for owner, name, how, label in wrapped:
            stack.enter_context(mock.patch.object(owner, name, how(label, getattr(owner, name))))
        yield most


def usable(tokenizer, pair, completion):
    """A rationale of an untrained model, taken for a good one that ended."""
    return dataclasses.replace(
        pairs.to_rationale(tokenizer, pair, completion), valid=True, finish_reason="stop"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("between_rounds", "num_cold"), [("reset", 0), ("keep", 0), ("reset", 1)])
def test_a_role_trains_beside_the_others_parameters_and_nothing_old(tmp_path, between_rounds, num_cold):
    texts = [toy_em.text_of(triple) for triple in toy_em.TRIPLES]
    tokenizer = tokenizer_training.train_tokenizer(texts, 400)
    masters = CausalLM(toys.toy_config(vocab_size=400, embed_dim=128, mlp_dim=256), rules.DEFAULT_RULES)
    lm = language_model.in_types(masters, dtype="bfloat16")
    em = toy_em.make_em(
        toy_em.ColdStarted(tmp_path, tokenizer, lm),
        tmp_path,
        e_step_config=dataclasses.replace(toy_em.E_STEP, num_cold_samples=num_cold),
        optimizer_between_rounds=between_rounds,
    )
    em = dataclasses.replace(em, cold_phi=lambda: masters.init(jax.random.key(1)))
    gc.collect()  # what other tests left
    before = live_bytes()
    with jax.set_mesh(toy_em.MESH), mock.patch.object(generators, "to_rationale", usable), measured() as most:
        theta, phi = (masters.init(jax.random.key(seed)) for seed in (0, 1))
        count = sum(leaf.size for leaf in jax.tree.leaves(theta))
        rounds.run(em, theta, phi)
    caches = {name: most.pop(f"{name}: cache") / count for name in ("held out", "E-step", "M-step")}
    found = {name: (live - before) / count for name, live in most.items()}
    expected = {
        "held out: decode": 8 + 2,  # both roles, and a copy of one in the compute type
        "held out: score": 8 + 4,  # and the cold-started q_phi
        "E-step: decode": 8 + 2 + 4 * num_cold,  # and the cold-started q_phi
        "E-step: score": 8 + 2 + 4 * num_cold + caches["E-step"],  # the engine is between two bursts
        "fit: step": 4 + 12,  # the other role; parameters and two moments
        "M-step: decode": 8 + 2,
    }
    assert found.keys() == expected.keys()
    for name, figure in expected.items():
        assert figure - SMALL <= found[name] <= figure + SMALL, found
