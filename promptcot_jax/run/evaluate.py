"""`promptcot evaluate`: a solver's accuracy on problems with known answers or tests, every attempt kept."""

import collections
import dataclasses
import functools
import itertools
import logging
import os
from collections.abc import Sequence
from typing import Literal

import jax

from promptcot_jax.checkpoints import load, store
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import VerifiedMathPrompt, VerifiedProgramPrompt
from promptcot_jax.data import rows
from promptcot_jax.evaluation import accuracy
from promptcot_jax.evaluation import solver as solver_lib
from promptcot_jax.models.config import FloatType
from promptcot_jax.parallel import hosts
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.run import configuration, stage
from promptcot_jax.sampling.rollouts import RolloutConfig
from promptcot_jax.verify import program_pool, sandbox_host
from promptcot_jax.verify.programs import ProgramSettings

log = logging.getLogger(__name__)


def evaluate(
    *,
    workdir: str,
    config: RolloutConfig,
    programs: ProgramSettings,
    mesh: mesh_lib.MeshConfig,
    solver: configuration.InputPath = "{workdir}/policy",
    problems: tuple[configuration.InputPath, ...] = (
        "{workdir}/triples_heldout.jsonl",
        "{workdir}/triples_novel.jsonl",
    ),
    max_problems: int = 0,
    dtype: FloatType = "float32",
) -> stage.StageResult:
    """Writes `evaluate/attempts.jsonl`, and `results.json` with one entry for each file of `problems`.

    Args:
        programs: how programs are run; where no sandbox works, programming problems are left out and counted.
        max_problems: of each file take at most so many, from its beginning; 0 takes all.

    Raises:
        WrongUse: a file or the solver is missing, there are no problems, or two files share a name or two
            problems an id.
    """
    if max_problems < 0:
        raise WrongUse(f"max_problems must be 0 (all) or more, got {max_problems}.")
    paths = _paths_by_name(problems)
    sets = {
        name: _checked_problems(configuration.in_workdir(path, workdir), max_problems)
        for name, path in paths.items()
    }
    everything = [problem for some in sets.values() for problem in some]
    if not everything:
        raise WrongUse(f"There are no problems to attempt in {', '.join(problems) or 'no files'}.")
    _check_ids(everything)
    sandbox, why_not_graded = _sandbox(programs)
    run_programs = functools.partial(program_pool.run_many, settings=programs)
    source = configuration.in_workdir(solver, workdir)
    devices = mesh_lib.make_mesh(mesh)
    model = load.load_model(source, dtype=dtype, mesh=devices)
    with jax.set_mesh(devices):
        attempts = accuracy.attempt_all(
            everything,
            solve=solver_lib.solution_sampler(model, config),
            run_programs=None if sandbox == "none" else run_programs,
            attempts_per_problem=config.samples_per_row,
            attempts_path=os.path.join(workdir, "evaluate", "attempts.jsonl"),
        )
    lineage = {
        "solver": source,
        "params_digest": store.params_digest(model.params),
        "sampling": dataclasses.asdict(config),
        "sandbox": sandbox,
        "programs": dataclasses.asdict(programs),
    }
    results = {}
    for name, problems_of_set in sets.items():
        ids = {problem.id for problem in problems_of_set}
        own = [attempt for attempt in attempts if attempt.problem_id in ids]
        families = _families(configuration.in_workdir(paths[name], workdir))
        results[name] = (
            accuracy.summary(
                own,
                problems_of_set,
                why_not_graded=why_not_graded,
                splits={"family": families} if families else None,
            )
            | lineage
        )
    path = os.path.join(workdir, "results.json")
    hosts.wait_for_first("write results", lambda: accuracy.write_results(path, results))
    return stage.StageResult(
        counts={
            "problems": len(everything),
            "attempts": len(attempts),
            "correct": sum(attempt.correct for attempt in attempts),
            "not_graded": sum(result["not_graded"] for result in results.values()),
            "sandbox_errors": sum(attempt.status == "sandbox_error" for attempt in attempts),
            "weak_sandbox": int(sandbox == "weak"),
        }
    )


def _paths_by_name(paths: Sequence[str]) -> dict[str, str]:
    """The files under their names in `results.json`."""
    named: dict[str, str] = {}
    for path in paths:
        name = os.path.basename(path).partition(".")[0]
        if name in named:
            raise WrongUse(
                f"{named[name]} and {path} would both be '{name}' in results.json; rename one of the files."
            )
        named[name] = path
    return named


def _check_ids(problems: Sequence[accuracy.Problem]) -> None:
    counts = collections.Counter(problem.id for problem in problems)
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise WrongUse(
            f"{len(repeated)} problem ids occur twice, e.g. {repeated[0]!r}; give each its own id."
        )


def _sandbox(settings: ProgramSettings) -> tuple[Literal["bubblewrap", "weak", "none"], str]:
    """What programs can be run in here, and why in nothing."""
    try:
        host = sandbox_host.find_host(settings.allow_weak_sandbox)
    except sandbox_host.SandboxUnavailable as reason:
        log.warning("evaluate: %s", reason)
        return "none", str(reason).rstrip(".")
    if host.is_weak:
        log.warning("evaluate: programs run without isolation, as allow_weak_sandbox says")
    return ("weak" if host.is_weak else "bubblewrap"), ""


def _checked_problems(path: str, limit: int) -> list[accuracy.Problem]:
    found = rows.iter_records(path, VerifiedMathPrompt | VerifiedProgramPrompt)
    return list(itertools.islice(found, limit or None))


def _families(path: str) -> dict[str, str]:
    """Family of each problem, where the rows say it (the project's own corpus does)."""
    every = (row.fields for row in rows.iter_rows(path))
    return {fields["id"]: fields["family"] for fields in every if {"family", "id"} <= fields.keys()}
