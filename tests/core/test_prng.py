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
