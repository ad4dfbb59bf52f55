"""Streams of randomness: functions of (seed, stream, step) alone, different from one another."""

import itertools

import jax
import numpy as np

from promptcot_jax.core import prng


def test_streams_and_steps_differ_and_reproduce():
    draws = {
        (seed, stream, step): tuple(np.asarray(jax.random.bits(prng.stream_key(seed, stream, step), (4,))))
        for seed, stream, step in itertools.product((0, 1), prng.STREAMS, (0, 1))
    }
    assert len(set(draws.values())) == len(draws)
    again = tuple(np.asarray(jax.random.bits(prng.stream_key(1, "propose", 1), (4,))))
    assert again == draws[1, "propose", 1]


def test_host_generators_are_streams_too():
    draws = [tuple(prng.stream_generator(s, n, t).integers(1 << 30, size=4)) for s, n, t in
             itertools.product((0, 1), prng.STREAMS, (0, 1))]  # fmt: skip
    assert len(set(draws)) == len(draws)


def test_draws_of_a_row_are_named_and_follow_from_its_id_alone():
    draws = {name: [prng.row_draw(name, f"p{i}", 3) for i in range(200)] for name in prng.ROW_DRAWS}
    assert draws["heldout_triples"][7] == prng.row_draw("heldout_triples", "p7", 3)
    assert draws["heldout_traces"] == draws["heldout_export"]  # what one holds out, the other does
    assert len({tuple(of_name) for of_name in draws.values()}) == len(draws) - 1
    assert all(0.4 < np.mean(of_name) < 0.6 for of_name in draws.values())
    assert prng.row_draw("annotator", "p7", 3) != prng.row_draw("annotator", "p7", 4)


def test_draws_of_a_row_stay_what_they_were():
    found = {name: round(prng.row_draw(name, "p7", 3), 6) for name in prng.ROW_DRAWS}
    assert found == {
        "annotator": 0.92543,
        "heldout_triples": 0.50875,
        "heldout_traces": 0.493804,
        "heldout_export": 0.493804,
    }
