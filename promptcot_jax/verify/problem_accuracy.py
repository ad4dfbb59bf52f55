"""Accuracy over problems that were attempted several times each: avg@k, pass@k, and how sure they are.

All are means over problems. Two spreads stand beside a mean. The standard error over problems is that of the
mean as an estimate for the source that the problems come from: attempts at one problem are not independent,
so a problem is a cluster of them. The standard error over samples is what another run of the same policy on
the same problems would show. An attempt over which the grader itself failed has no part.
"""

import collections
import math
import statistics
from collections.abc import Sequence

import numpy as np

from promptcot_jax.core.records import AttemptRecord
from promptcot_jax.verify.rewards import UNGRADED

NOT_GRADED = UNGRADED | {"malformed"}  # the server gave nothing that can be read
LEVEL = 0.95  # of all intervals


def over_problems(attempts: Sequence[AttemptRecord]) -> dict[str, float | None]:
    """Mean over problems of the share of right attempts, and its standard error; None where undefined."""
    shares = np.array([np.mean(verdicts) for verdicts in verdicts_by_problem(attempts).values()])
    return {
        "accuracy": float(shares.mean()) if len(shares) else None,
        "standard_error": _error(shares) if len(shares) > 1 else None,
    }


def _error(shares: np.ndarray) -> float:
    return float(shares.std(ddof=1) / math.sqrt(len(shares)))


def error_over_samples(attempts: Sequence[AttemptRecord]) -> float | None:
    """Standard error of avg@k with the problems fixed; None where a problem was attempted once only."""
    verdicts = list(verdicts_by_problem(attempts).values())
    if not verdicts or min(map(len, verdicts)) < 2:
        return None
    variances = [np.var(of_problem, ddof=1) / len(of_problem) for of_problem in verdicts]
    return float(math.sqrt(sum(variances)) / len(verdicts))


def interval(attempts: Sequence[AttemptRecord]) -> tuple[float, float] | None:
    """Interval of avg@k at `LEVEL`, over problems (`interval_of_shares`); None where nothing was graded."""
    verdicts = list(verdicts_by_problem(attempts).values())
    if not verdicts:
        return None
    return interval_of_shares(np.array([np.mean(some) for some in verdicts]), sum(map(len, verdicts)))


def interval_of_shares(shares: np.ndarray, num_attempts: int) -> tuple[float, float]:
    """Wilson's interval of the mean over problems of their shares of right attempts.

    The sample size is the effective one: the number of independent attempts that would have the standard
    error over problems (Korn and Graubard 1998), which lies between the number of problems and that of
    attempts. Unlike the mean plus or minus errors it is sensible for no or few right attempts.
    """
    mean = float(shares.mean())
    error = _error(shares) if len(shares) > 1 else 0.0
    effective = mean * (1 - mean) / error**2 if error else 0.0
    return wilson(mean, min(max(effective, len(shares)), num_attempts))


def wilson(share: float, num_trials: float | int) -> tuple[float, float]:
    """Wilson's score interval at `LEVEL` of a share of so many independent trials."""
    z = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle = share + z**2 / (2 * num_trials)
    reach = z * math.sqrt(share * (1 - share) / num_trials + (z / (2 * num_trials)) ** 2)
    scale = 1 + z**2 / num_trials
    return max((middle - reach) / scale, 0.0), min((middle + reach) / scale, 1.0)


def pass_at_k(attempts: Sequence[AttemptRecord], k: int | None = None) -> float | None:
    """Chance that one of k attempts solves a problem, in the mean over problems, without bias.

    Of n attempts at a problem, c of them right, 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, equation 1).

    Args:
        k: None: all attempts that a problem has.

    Returns:
        None where nothing was graded, or a problem has fewer than k attempts.
    """
    chances = []
    for verdicts in verdicts_by_problem(attempts).values():
        n, c = len(verdicts), sum(verdicts)
        if k is not None and n < k:
            return None
        chances.append(1.0 - math.comb(n - c, k or n) / math.comb(n, k or n))
    return float(np.mean(chances)) if chances else None


def verdicts_by_problem(attempts: Sequence[AttemptRecord]) -> dict[str, list[bool]]:
    """The graded attempts of each problem that has one: whether they are right."""
    verdicts: dict[str, list[bool]] = collections.defaultdict(list)
    for attempt in attempts:
        if attempt.status not in NOT_GRADED:
            verdicts[attempt.problem_id].append(attempt.correct)
    return dict(verdicts)
