"""Paired differences of held-out likelihoods: what two rounds, or two models, differ by."""

from collections.abc import Iterable

import numpy as np

CONFIDENT = 2.0  # standard errors beyond which two rounds differ: about 95 %


def difference(
    nats: Iterable[float | None], other: Iterable[float | None], tokens: Iterable[int]
) -> tuple[float, float]:
    """Mean of `nats - other` per token, and its standard error over pairs; (nan, inf) of less than two pairs.

    Pairs that either side has no finite value of are left out. The mean is a ratio of sums over pairs, so the
    standard error is that of a ratio estimator: of each pair's distance from the mean times its tokens.

    Args:
        nats: by pair, of the first model; `tokens`: of the pairs' x, of which more may be given.
    """
    both = [
        (a - b, n)
        for a, b, n in zip(nats, other, tokens, strict=False)
        if a is not None and b is not None and np.isfinite(a - b)
    ]
    if len(both) < 2:
        return np.nan, np.inf
    changes, counts = np.array(both, np.float64).T
    mean = changes.sum() / counts.sum()
    spread = ((changes - mean * counts) ** 2).sum() * len(both) / (len(both) - 1)
    return float(mean), float(np.sqrt(spread) / counts.sum())
