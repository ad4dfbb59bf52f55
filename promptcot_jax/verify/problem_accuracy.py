"""Accuracy over problems that were attempted several times each: avg@k, its standard error, pass@k.

All are means over problems. The standard error is that of this mean: attempts at one problem are not
independent, so a problem is a cluster of them. An attempt over which the grader itself failed has no part.
"""

import collections
import math
from collections.abc import Sequence

import numpy as np

from promptcot_jax.core.records import AttemptRecord
from promptcot_jax.verify.rewards import UNGRADED


def over_problems(attempts: Sequence[AttemptRecord]) -> dict[str, float | None]:
    """Mean over problems of the share of right attempts, and its standard error; None where undefined."""
    shares = np.array([np.mean(verdicts) for verdicts in _by_problem(attempts)])
    return {
        "accuracy": float(shares.mean()) if len(shares) else None,
        "standard_error": float(shares.std(ddof=1) / math.sqrt(len(shares))) if len(shares) > 1 else None,
    }


def pass_at_k(attempts: Sequence[AttemptRecord]) -> float | None:
    """Share of the problems that one of their k attempts solved; None where nothing was graded."""
    solved = [any(verdicts) for verdicts in _by_problem(attempts)]
    return float(np.mean(solved)) if solved else None


def _by_problem(attempts: Sequence[AttemptRecord]) -> list[list[bool]]:
    verdicts: dict[str, list[bool]] = collections.defaultdict(list)
    for attempt in attempts:
        if attempt.status not in UNGRADED:
            verdicts[attempt.problem_id].append(attempt.correct)
    return list(verdicts.values())
