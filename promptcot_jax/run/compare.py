"""`promptcot compare A B`: whether one policy is better than another on the problems that both attempted."""

import dataclasses
import logging
import os

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptRecord
from promptcot_jax.core.workdir import InputPath, as_given
from promptcot_jax.evaluation import comparing
from promptcot_jax.evaluation.comparing import Comparison
from promptcot_jax.run import stage
from promptcot_jax.verify import problem_accuracy

log = logging.getLogger(__name__)


def compare(
    *,
    workdir: str,
    baseline: tuple[InputPath, ...] | InputPath,
    other: tuple[InputPath, ...] | InputPath,
    seed: int = 0,
) -> stage.StageResult:
    """Prints how `other` differs from `baseline`, and writes it to `comparisons/BASELINE.json`.

    Args:
        baseline, other: workdirs of `evaluate`, or files of attempts; several are runs of one recipe by other
            seeds, and the i-th of one side is paired with the i-th of the other.
        seed: of resamples and swaps.

    Raises:
        WrongUse: one of them has no attempts, or they have no problem in common.
    """
    sides = [_listed(baseline), _listed(other)]
    attempts = [[_attempts(path) for path in side] for side in sides]
    found = comparing.compare(attempts[0], attempts[1], seed=seed)
    rows = {"baseline": [*map(as_given, sides[0])], "other": [*map(as_given, sides[1])]}
    rows |= dataclasses.asdict(found)
    name = os.path.basename(os.path.normpath(sides[0][0])).removesuffix(".jsonl") or "baseline"
    jsonl.write_json(epath.Path(workdir) / "comparisons" / f"{name}.json", rows)
    for line in lines(found):
        log.info("compare: %s", line)
    return stage.StageResult(counts={"problems": found.num_problems, "runs": found.num_runs})


def _listed(paths: tuple[str, ...] | str) -> tuple[str, ...]:
    return (paths,) if isinstance(paths, str) else tuple(paths)


def _attempts(path: str) -> list[AttemptRecord]:
    place = epath.Path(path)
    file = place / "evaluate" / "attempts.jsonl" if place.is_dir() else place
    if not file.exists():
        raise WrongUse(
            f"{path} has no attempts ({os.fspath(file)} is not there); name a workdir in which 'evaluate' "
            "was done, or a file of attempts."
        )
    return jsonl.read_records(file, AttemptRecord)


def lines(found: Comparison) -> list[str]:
    """A comparison in words."""
    low, high = found.interval
    runs = f" in {found.num_runs} runs of each side" if found.num_runs > 1 else ""
    verdict = (
        "within noise: these problems and attempts show no difference"
        if found.is_within_noise
        else f"{'better' if found.difference > 0 else 'worse'}, beyond noise"
    )
    return [
        f"{found.first:.4f} -> {found.second:.4f} on {found.num_problems} problems{runs}",
        f"difference {found.difference:+.4f} ({problem_accuracy.LEVEL:.0%} interval {low:+.4f} to "
        f"{high:+.4f}; permutation test p = {found.p_value:.4f})",
        f"better on {found.better} problems, worse on {found.worse}, equal on "
        f"{found.num_problems - found.better - found.worse}",
        verdict,
    ]
