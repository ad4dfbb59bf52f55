"""How scores of queries and keys become attention weights: the same rule for whole rows and for pages."""

import dataclasses

import jax.numpy as jnp

from promptcot_jax.core.arrays import Array, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreRule:
    """One layer's rule; scale and cap are known when a program is traced, reach and sinks are arrays.

    Attributes:
        scale: scores are multiplied by it.
        soft_cap: scores are then cap * tanh(scores / cap).
        reach: how many tokens a query sees, itself and those before it; None: all. A layer of a scan says
            so by a reach beyond every row (`EVERYTHING`).
        sinks: a score of each query head that takes its share of the softmax and mixes in nothing.
    """

    scale: float
    soft_cap: float | None = None
    reach: Int[Array, ""] | None = None
    sinks: Float[Array, " N"] | None = None

    def capped(self, scores: Float[Array, "..."]) -> Float[Array, "..."]:
        """Scores after the soft cap; masks come after it."""
        if self.soft_cap is None:
            return scores
        return self.soft_cap * jnp.tanh(scores / self.soft_cap)

    def sees(self, distance: Int[Array, "..."]) -> Array:
        """Whether a query sees a key so many tokens before it."""
        if self.reach is None:
            return distance >= 0
        return (distance >= 0) & (distance < self.reach)


EVERYTHING = jnp.iinfo(jnp.int32).max
