"""Paired comparison of two policies on the same problems: difference, interval, permutation test.

What is compared is avg@k by problem, so that a hard problem is as hard for both. The interval is a bootstrap
of the mean difference over problems (and over runs, where each side has several); the test swaps the two
sides of a problem at random, which changes nothing if they are equally good, and asks how often a difference
as large comes out. Both take the problems as drawn from a source of problems.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptRecord
from promptcot_jax.verify import problem_accuracy

NUM_RESAMPLES = 10_000
_MOST_ENUMERATED = 13  # problems whose swaps are all tried; above, random ones
_PART = 1_000  # resamples at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """How one policy differs from another; shares of right attempts.

    Attributes:
        difference: accuracy of the second less that of the first.
        interval: of the difference, at `problem_accuracy.LEVEL`.
        p_value: of a difference at least as large, if the sides were alike.
        is_within_noise: whether the interval holds 0 or the p-value is not small, so that nothing is shown.
        better, worse: problems where the second is better, or worse.
    """

    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    is_within_noise: bool
    num_problems: int
    num_runs: int
    better: int
    worse: int


def compare(
    first: Sequence[Sequence[AttemptRecord]], second: Sequence[Sequence[AttemptRecord]], *, seed: int = 0
) -> Comparison:
    """Compares two sides, each with the attempts of one run or of several; run i of one is paired with run i.

    Problems that were not graded in every run have no part.

    Args:
        seed: of resamples and swaps.

    Raises:
        WrongUse: the sides have no problem in common or different numbers of runs, or an id stands for
            problems with different answers.
    """
    if len(first) != len(second) or not first:
        raise WrongUse(f"The two sides have {len(first)} and {len(second)} runs; give as many of each.")
    shares = [
        {name: float(np.mean(verdicts)) for name, verdicts in verdicts_of.items()}
        for verdicts_of in map(problem_accuracy.verdicts_by_problem, (*first, *second))
    ]
    names = [name for name in shares[0] if all(name in some for some in shares)]
    if not names:
        raise WrongUse(
            "The two sides have no graded problem in common; compare evaluations of the same problems "
            "(a problem's id is what they share)."
        )
    _check_references((*first, *second), set(names))
    values = np.array([[some[name] for name in names] for some in shares])
    return of_shares(values[: len(first)], values[len(first) :], seed=seed)


def _check_references(runs: Sequence[Sequence[AttemptRecord]], names: set[str]) -> None:
    """Refuses ids that stand for different problems, as numbers do in two files of one name."""
    known: dict[str, str] = {}
    for attempt in (attempt for run in runs for attempt in run if attempt.problem_id in names):
        name, reference = attempt.problem_id, attempt.reference
        if reference and known.setdefault(name, reference) != reference:
            raise WrongUse(
                f"The problem with id {name!r} has the answer {known[name]!r} in one run and {reference!r} "
                "in another, so they are different problems; evaluate all runs on the same file."
            )


def of_shares(first: np.ndarray, second: np.ndarray, *, seed: int = 0) -> Comparison:
    """Compares shares of right attempts, each [runs, problems]."""
    differences = second - first
    interval = bootstrap_interval(differences, seed=seed)
    by_problem = differences.mean(axis=0)
    p_value = permutation_p_value(by_problem, seed=seed)
    return Comparison(
        first=float(first.mean()),
        second=float(second.mean()),
        difference=float(differences.mean()),
        interval=interval,
        p_value=p_value,
        is_within_noise=bool(interval[0] <= 0.0 <= interval[1] or p_value > 1.0 - problem_accuracy.LEVEL),
        num_problems=differences.shape[1],
        num_runs=differences.shape[0],
        better=int((by_problem > 0).sum()),
        worse=int((by_problem < 0).sum()),
    )


def bootstrap_interval(differences: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """Interval of the mean of [runs, problems], both resampled; one run is taken as it is.

    Percentiles, stretched about the mean by sqrt(n / (n - 1)) of the problems, without which a bootstrap's
    spread is too small by that factor. Few runs cannot tell the spread between runs well, whatever is done.
    """
    num_runs, num_problems = differences.shape
    mean, random = differences.mean(), np.random.default_rng(seed)
    means: list[np.ndarray] = []
    for _ in range(NUM_RESAMPLES // _PART):
        weights = random.multinomial(num_problems, np.full(num_problems, 1 / num_problems), size=_PART)
        by_run = weights @ differences.T / num_problems  # [resamples, runs]
        runs = random.integers(num_runs, size=(_PART, num_runs))
        means.append(np.take_along_axis(by_run, runs, axis=1).mean(axis=1))
    edges = np.quantile(
        np.concatenate(means), ((1 - problem_accuracy.LEVEL) / 2, (1 + problem_accuracy.LEVEL) / 2)
    )
    stretch = np.sqrt(num_problems / max(num_problems - 1, 1))
    low, high = mean + stretch * (edges - mean)
    return float(low), float(high)


def permutation_p_value(differences: np.ndarray, *, seed: int = 0) -> float:
    """Two-sided p-value of the mean of paired differences under swaps of the sides of each problem.

    All swaps for few problems; otherwise random ones, the observed among them, so that the test keeps its
    size.
    """
    nonzero = differences[differences != 0.0]  # a swap of equals changes nothing
    if not len(nonzero):
        return 1.0
    observed = abs(nonzero.sum()) * (1 - 1e-12)  # equal sums differ by rounding
    if len(nonzero) <= _MOST_ENUMERATED:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(nonzero))))
        return float((abs(signs @ nonzero) >= observed).mean())
    random = np.random.default_rng(seed)
    as_large = sum(
        int((abs(random.choice((1.0, -1.0), size=(_PART, len(nonzero))) @ nonzero) >= observed).sum())
        for _ in range(NUM_RESAMPLES // _PART)
    )
    return (1 + as_large) / (1 + NUM_RESAMPLES)
