"""Figures that a loss reports beside its total: sums and maxima over micro-batches and steps."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from promptcot_jax.core.arrays import Array


class LossFigures(NamedTuple):
    """Scalars by name; a minimum is kept as the maximum of the negative."""

    sums: dict[str, Array]
    maxima: dict[str, Array]


def merged(one: LossFigures, other: LossFigures) -> LossFigures:
    """The figures of two batches together."""
    return LossFigures(
        jax.tree.map(jnp.add, one.sums, other.sums), jax.tree.map(jnp.maximum, one.maxima, other.maxima)
    )


def none_yet(shapes: LossFigures) -> LossFigures:
    """The figures of no batch, to merge others into."""
    return LossFigures(
        jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shapes.sums),
        jax.tree.map(lambda x: jnp.full(x.shape, -jnp.inf, jnp.float32), shapes.maxima),
    )


def over_steps(steps: Sequence[LossFigures]) -> tuple[dict[str, float], dict[str, float]]:
    """Sums and maxima of some steps, whose figures are on the host; sums in float64."""
    sums = {name: float(np.sum([step.sums[name] for step in steps], dtype=float)) for name in steps[0].sums}
    maxima = {name: float(np.max([step.maxima[name] for step in steps])) for name in steps[0].maxima}
    return sums, maxima
