"""`promptcot run`: a list of stages in one process, under one lock; what is complete is skipped."""

import contextlib
import logging
import os
from collections.abc import Sequence

from etils import epath

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
    directory = epath.Path(workdir)
    runs = [run for seed in seeds for run in em_study.runs_of(directory / f"seed_{seed}")]
    for figure in em_study.nll_figures(runs):
        for suffix, content in figure.files().items():
            jsonl.write_atomically(directory / f"{figure.name}.{suffix}", content)
        logger.info("figure and numbers over %d seeds: %s/%s.{svg,png,csv}", len(seeds), workdir, figure.name)


def _do(workdir: str, stages: list[str] | tuple[str, ...]) -> None:
    for name in stages:
        stage.perform_locked(name, workdir)
