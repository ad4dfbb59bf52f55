"""Paired differences of held-out likelihoods: what two rounds, or two models, differ by."""

from collections.abc import Iterable

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
CONFIDENT = 2.0  # standard errors, about the same of many pairs


def half_width(error: float, num_pairs: int, *, comparisons: int = 1) -> float:
    """Of the interval that holds `comparisons` differences with CONFIDENCE, by Student's t and Bonferroni."""
    if num_pairs < 2:
        return np.inf
    return float(error * stats.t.ppf(1.0 - (1.0 - CONFIDENCE) / 2 / comparisons, num_pairs - 1))


def difference(
    nats: Iterable[float | None], other: Iterable[float | None], tokens: Iterable[int]
) -> tuple[float, float, int]:
    """Mean of `nats - other` per token, its standard error, and of how many pairs; nan and inf below two.

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
        return np.nan, np.inf, len(both)
    changes, counts = np.array(both, np.float64).T
    mean = changes.sum() / counts.sum()
    spread = ((changes - mean * counts) ** 2).sum() * len(both) / (len(both) - 1)
    return float(mean), float(np.sqrt(spread) / counts.sum()), len(both)
