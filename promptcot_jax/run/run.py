"""`promptcot run`: a list of stages in one process, under one lock; what is complete is skipped."""

import contextlib
import logging
import os
from collections.abc import Sequence

from promptcot_jax.analyses import em_study
from promptcot_jax.core import jsonl
from promptcot_jax.parallel import hosts
from promptcot_jax.run import configuration, lock, stage

logger = logging.getLogger(__name__)


def run(
    *, workdir: str, stages: list[str] | tuple[str, ...], seeds: list[int] | tuple[int, ...] = ()
) -> stage.StageResult:
    """Does the stages in the order given.

    Args:
        seeds: do them once for each of these values of the macro SEED, in `seed_N/`; where `em` is among the
            stages, `em_study_METRIC.{svg,png,csv}` then hold the paper's figure of held-out NLL over rounds,
            with bands over seeds, for the NLL given q_phi's greedy rationale and for the bound.

    Raises:
        WrongUse: another run is at work in the workdir of one of the seeds.
    """
    if not seeds:
        _do(workdir, stages)
        return stage.StageResult()
    with contextlib.ExitStack() as locks:
        for seed in dict.fromkeys(seeds):  # somebody may be at work in one of them by itself
            place = os.path.join(workdir, f"seed_{seed}")
            hosts.decided_by_first("lock", lambda place=place: locks.enter_context(lock.hold(place, "run")))
        for seed in seeds:
            with configuration.macro("SEED", seed):
                _do(os.path.join(workdir, f"seed_{seed}"), stages)
    if "em" in stages and hosts.is_first():
        _draw_study(workdir, seeds)
    return stage.StageResult()


def _draw_study(workdir: str, seeds: Sequence[int]) -> None:
    """The paper's figure of held-out NLL, over the seeds."""
    rows = [row for seed in seeds for row in _nll_rows(os.path.join(workdir, f"seed_{seed}", "em"))]
    for metric in ("nll_x_given_q", "nll_bound"):
        path = os.path.join(workdir, f"em_study_{metric}")
        em_study.nll_study_figure(em_study.with_flat_variants(rows, metric), path, metric=metric)
        logger.info("figure and numbers over %d seeds: %s.{svg,png,csv}", len(seeds), path)


def _do(workdir: str, stages: list[str] | tuple[str, ...]) -> None:
    for name in stages:
        stage.perform_locked(name, workdir)


def _nll_rows(directory: str) -> list[dict]:
    """Rows of `nll.jsonl` of an EM run and, where it was made too, of its variant without E-step."""
    paths = [os.path.join(directory, name) for name in ("nll.jsonl", "without_e_step/nll.jsonl")]
    return [row for path in paths if os.path.exists(path) for _, _, row in jsonl.iter_rows(path)]
