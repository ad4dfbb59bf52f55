"""`promptcot evaluate`: a policy's accuracy on problems with known answers or tests, every attempt kept."""

import collections
import dataclasses
import functools
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptedProblem, AttemptRecord, MathPrompt, ProgramPrompt
from promptcot_jax.core.workdir import as_given
from promptcot_jax.evaluation import accuracy, benchmarks, contest_files
from promptcot_jax.evaluation.benchmarks import EvaluateConfig, EvaluationSet
from promptcot_jax.evaluation.solver_prompts import SolverPrompts
from promptcot_jax.parallel import hosts
from promptcot_jax.parallel.programs import Program
from promptcot_jax.planning.target import Target
from promptcot_jax.run import stage
from promptcot_jax.sources import text_models
from promptcot_jax.sources.text_models import EndpointConfig, TextModelSource
from promptcot_jax.verify import program_pool, sandbox_host
from promptcot_jax.verify.programs import ProgramSettings

log = logging.getLogger(__name__)


def evaluate(
    *,
    workdir: str,
    solver: TextModelSource,
    programs: ProgramSettings,
    prompts: SolverPrompts,
    config: EvaluateConfig,
) -> stage.StageResult:
    """Writes `evaluate/` (problems, replies, attempts), and `results.json` with an entry for each set.

    Args:
        programs: how programs are run; where no sandbox works, programming problems are left out and counted.

    Raises:
        WrongUse: a set or the solver is missing, the solver's price is above its limit, all attempts would be
            the same, there are no problems, two sets share a name or two problems an id, or a contest's
            standings are missing or damaged.
    """
    if config.attempts > 1 and text_models.draws_of(solver).sampling.temperature == 0:
        raise WrongUse(
            f"ATTEMPTS is {config.attempts} at temperature 0, where all attempts at a problem are the same; "
            "raise ATTEMPT_TEMPERATURE (the released scripts have 0.6), or set ATTEMPTS to 1."
        )
    sets, raters = benchmarks.read_sets(config), {}
    if config.standings is not None:  # read before hours of attempts
        raters = {one.name: contest_files.rater(one.slots, config.standings, config.rating) for one in sets}
    everything = [problem for one in sets for problem in one.problems]
    if not everything:
        raise WrongUse(
            f"There are no problems to attempt in {', '.join(map(as_given, config.problems)) or 'no files'}."
        )
    has_programs = any(isinstance(problem, ProgramPrompt) for problem in everything)
    sandbox, why_not = hosts.decided_by_first("sandbox", lambda: _sandbox(programs, has_programs))
    asked = [p for p in everything if sandbox != "none" or isinstance(p, MathPrompt)]
    directory, ids = os.path.join(workdir, "evaluate"), {problem.id for problem in asked}
    kept = os.path.join(directory, "problems.jsonl")
    hosts.wait_for_first("write problems", lambda: jsonl.write_records(kept, _attempted(sets, ids)))
    requests = accuracy.requests(asked, prompts, config.attempts)
    text_models.check_costs("evaluate", [(solver, requests)], workdir)
    with text_models.opened(solver, workdir) as policy:
        graded = accuracy.attempt_all(
            asked,
            policy,
            directory,
            prompts=prompts,
            attempts_per_problem=config.attempts,
            run_programs=functools.partial(program_pool.run_many, settings=programs),
        )
    lineage = _lineage(solver, prompts, programs, sandbox)

    def write() -> None:
        results = {one.name: _result(graded, one, why_not, raters.get(one.name)) | lineage for one in sets}
        jsonl.write_json(os.path.join(workdir, "results.json"), {"results": results})
        for name, result in results.items():
            log.info("evaluate: %s: %s", name, _line(result))

    hosts.wait_for_first("write results", write)
    return stage.StageResult(counts=_counts(len(everything), len(asked), graded, sandbox))


def programs(target: Target, arguments: Mapping[str, Any]) -> list[Program]:
    """What the solver runs, for `promptcot plan`."""
    return target.programs_of_text_model(arguments["solver"])


def _attempted(sets: Sequence[EvaluationSet], asked: set[str]) -> list[AttemptedProblem]:
    return [
        AttemptedProblem(
            id=problem.id,
            set=one.name,
            domain=problem.domain,
            level=problem.level,
            concepts=tuple(problem.concepts),
            problem=problem.problem,
            answer=problem.answer if isinstance(problem, MathPrompt) else "",
        )
        for one in sets
        for problem in one.problems
        if problem.id in asked
    ]


def _lineage(
    solver: TextModelSource, prompts: SolverPrompts, programs: ProgramSettings, sandbox: str
) -> dict[str, Any]:
    """What each set's figures were measured with."""
    if isinstance(solver, EndpointConfig):
        drawn = {"sampling": dataclasses.asdict(solver.sampling)}
        further = {"extra_body": dict(solver.extra_body)}
    else:
        drawn, further = dataclasses.asdict(solver.config), {"chat": dataclasses.asdict(solver.chat)}
    return {
        "solver": text_models.name_of(solver),
        "sampling": drawn,
        **further,
        "prompts": dataclasses.asdict(prompts),
        "sandbox": sandbox,
        "programs": dataclasses.asdict(programs),
    }


def _counts(
    num_problems: int, num_asked: int, graded: Sequence[AttemptRecord], sandbox: str
) -> dict[str, int]:
    by_status = collections.Counter(attempt.status for attempt in graded)
    return {
        "problems": num_problems,
        "attempts": len(graded),
        "correct": sum(attempt.correct for attempt in graded),
        "cut_off": sum(attempt.finish_reason == "length" for attempt in graded),
        "not_graded": num_problems - num_asked,
        "sandbox_errors": by_status["sandbox_error"],
        "grader_errors": by_status["error"],
        **{reason: by_status[reason] for reason in ("filtered", "too_long", "malformed")},
        "weak_sandbox": int(sandbox == "weak"),
    }


def _result(
    graded: Sequence[AttemptRecord], one: EvaluationSet, why_not_graded: str, rate: contest_files.Rater | None
) -> dict[str, Any]:
    ids = {problem.id for problem in one.problems}
    attempts = [attempt for attempt in graded if attempt.problem_id in ids]
    figures = accuracy.summary(
        attempts,
        one.problems,
        why_not_graded=why_not_graded,
        splits={"family": one.families} if one.families else None,
    )
    return figures if rate is None else figures | {"codeforces": rate(attempts)}


def _line(result: Mapping[str, Any]) -> str:
    """A set's figures for the log."""
    if result["accuracy"] is None:
        return f"nothing graded ({result['not_graded_reason'] or 'no attempts'})"
    low, high = result["interval"]
    majority = "" if result["maj_at_k"] is None else f", maj@k {result['maj_at_k']:.3f}"
    rating = result.get("codeforces", {}).get("rating")
    elo = "" if rating is None else f", Codeforces rating {rating:.0f}"
    return (
        f"avg@{result['attempts_per_problem']} {result['accuracy']:.3f} (95 %: {low:.3f} to {high:.3f}, over "
        f"{result['problems']} problems){majority}{elo}, {result['mean_tokens']:.0f} tokens, "
        f"{result['cut_off_share']:.1%} cut off"
    )


def _sandbox(
    settings: ProgramSettings, has_programs: bool
) -> tuple[Literal["bubblewrap", "weak", "none", "not needed"], str]:
    """What programs can be run in here, and why in nothing."""
    if not has_programs:
        return "not needed", ""
    try:
        host = sandbox_host.find_host(settings.allow_weak_sandbox)
    except sandbox_host.SandboxUnavailable as reason:
        log.warning("evaluate: %s", reason)
        return "none", str(reason).rstrip(".")
    if host.is_weak:
        log.warning("evaluate: programs run without isolation, as allow_weak_sandbox says")
    return ("weak" if host.is_weak else "bubblewrap"), ""
