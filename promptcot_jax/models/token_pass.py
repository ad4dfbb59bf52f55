"""What the layers of a user's module see of one pass over tokens: whole rows, or what comes after a cache.

A module written against it is trained, scored and sampled from by one definition: `attend` looks back within
the rows in the one case and over the cache's pages in the other, and is where the kernels of a platform and
the split over a mesh are chosen.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from promptcot_jax.core.arrays import Array, Bool, Float, Int
from promptcot_jax.models import decoder, paged_cache, platforms, rope
from promptcot_jax.models import scores as scores_lib
from promptcot_jax.parallel import rules as rules_lib


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Setting:
    """What is known of a pass when it is traced."""

    num_layers: int
    rules: rules_lib.LogicalRules
    platform: platforms.Platform


class TokenPass(NamedTuple):
    """One pass: a pytree, broadcast to all layers.

    Attributes:
        positions: of every token in its own sequence, for rotary or absolute embeddings.
        segment_ids: of whole rows; 0 is padding.
        mask: of whole rows on the platform "plain", made once for all layers.
        places: of a pass over a cache.
    """

    setting: Setting
    positions: Int[Array, "B T"]
    segment_ids: Int[Array, "B T"] | None = None
    mask: Bool[Array, "B T S"] | None = None
    places: paged_cache.Places | None = None

    def attend(
        self,
        queries: Float[Array, "B T N H"],
        keys: Float[Array, "B T K H"],
        values: Float[Array, "B T K H"],
        cache: paged_cache.PagedCache | None,
        layer: paged_cache.Index,
        *,
        scale: float | None = None,
        soft_cap: float | None = None,
        window: int | None = None,
        sinks: Float[Array, " N"] | None = None,
    ) -> tuple[Float[Array, "B T N H"], paged_cache.PagedCache | None]:
        """Causal softmax attention of one layer, and the cache with this layer's keys and values in it.

        Args:
            keys: rotated already, where the model does; K divides N.
            cache: as the last layer left it; None where whole rows are read, and then None comes back.
            layer: its number, from 0.
            scale: scores are multiplied by it; None: 1 / sqrt(H).
            soft_cap: scores are then cap * tanh(scores / cap).
            window: a query sees so many tokens, itself included; None: all before it.
            sinks: a score of each head that takes its share of the softmax and mixes in nothing.
        """
        rule = scores_lib.ScoreRule(
            scale=queries.shape[-1] ** -0.5 if scale is None else scale,
            soft_cap=soft_cap,
            reach=None if window is None else jnp.int32(window),
            sinks=sinks,
        )
        if self.places is None:
            return self._attend_in_rows(queries, keys, values, rule, window), None
        assert cache is not None
        mixed, cache = paged_cache.write_and_attend(
            queries,
            keys,
            values,
            cache,
            self.places,
            layer,
            rule=rule,
            num_layers=self.setting.num_layers,
            rules=self.setting.rules,
        )
        return mixed.reshape(queries.shape), cache

    def _attend_in_rows(
        self,
        queries: Float[Array, "B T N H"],
        keys: Float[Array, "B T K H"],
        values: Float[Array, "B T K H"],
        rule: scores_lib.ScoreRule,
        window: int | None,
    ) -> Float[Array, "B T N H"]:
        keys, values = jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2)  # [B, K, T, H]
        return decoder.attend_in_rows(
            queries,
            keys,
            values,
            mask=self.mask,
            segment_ids=self.segment_ids,
            rule=rule,
            window=window,
            rules=self.setting.rules,
        )


def over_rows(
    setting: Setting,
    token_ids: Int[Array, "B T"],
    segment_ids: Int[Array, "B T"] | None,
    positions: Int[Array, "B T"] | None,
) -> TokenPass:
    """Of whole rows; by default each row is one segment, and positions count from 0 in each."""
    segment_ids = jnp.ones_like(token_ids) if segment_ids is None else segment_ids
    positions = rope.positions_in_segments(segment_ids) if positions is None else positions
    mask = decoder.segment_mask(segment_ids, setting.rules) if setting.platform == "plain" else None
    return TokenPass(setting, positions, segment_ids, mask)


def over_cache(setting: Setting, places: paged_cache.Places) -> TokenPass:
    """Of the tokens that go to `places`."""
    return TokenPass(setting, places.positions, places=places)
