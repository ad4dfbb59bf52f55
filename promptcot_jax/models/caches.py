"""The empty cache of a model, in the layout of a platform."""

import jax

from promptcot_jax.models import paged_cache, plain_pages, platforms, tpu_pages
from promptcot_jax.parallel import rules as rules_lib

_LAYOUTS = {"plain": plain_pages.empty, "tpu": tpu_pages.empty}


def empty(
    shape: paged_cache.CacheShape,
    num_pages: int,
    page_size: int,
    layout: platforms.Platform,
    rules: rules_lib.LogicalRules,
) -> paged_cache.PagedCache:
    """A cache of `num_pages` pages, page 0 included, split over the mesh by the rules.

    Raises:
        ValueError: the layout cannot have pages of that size.
    """
    cache = _LAYOUTS[layout](shape, num_pages, page_size)
    return jax.tree.map(lambda pages: rules_lib.constrain(pages, cache.axes, rules), cache)
