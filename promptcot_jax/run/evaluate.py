"""`promptcot evaluate`: a policy's accuracy on problems with known answers or tests, every attempt kept."""

import collections
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import (
    AttemptedProblem,
    AttemptRecord,
    MathPrompt,
    ProgramPrompt,
    Prompt,
)
from promptcot_jax.core.workdir import InputPath, in_workdir
from promptcot_jax.data import rows
from promptcot_jax.evaluation import (
    accuracy,
    benchmark_sets,
    benchmarks,
    codeforces,
    codeforces_attempts,
    contest_cache,
)
from promptcot_jax.evaluation.codeforces import RatingConfig
from promptcot_jax.evaluation.solver_prompts import SolverPrompts
from promptcot_jax.parallel import hosts
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
    problems: tuple[InputPath, ...] = (
        "{workdir}/triples_heldout.jsonl",
        "{workdir}/triples_novel.jsonl",
    ),
    attempts: int = 1,
    max_problems: int = 0,
    benchmarks_dir: InputPath | None = None,
    windows: dict[str, tuple[str, str]] | None = None,
    standings: InputPath | None = None,
    rating: RatingConfig = codeforces.DEFAULT,
    bad_rows: rows.BadRows = benchmarks.BAD_ROWS,
) -> stage.StageResult:
    """Writes `evaluate/` (problems, replies, attempts), and `results.json` with an entry for each set.

    Args:
        programs: how programs are run; where no sandbox works, programming problems are left out and counted.
        problems: files, directories or short names of sets, see `evaluation.benchmarks`.
        attempts: at each problem; the k of avg@k.
        max_problems: of each set take at most so many, from its beginning; 0 takes all.
        benchmarks_dir: where sets are that `problems` name for short.
        windows: contest dates of a set's problems by its name, see `evaluation.benchmarks`.
        standings: directory of saved standings, see `evaluation.contest_cache`; sets whose rows are of
            contests get a Codeforces rating.

    Raises:
        WrongUse: a set or the solver is missing, the solver's price is above its limit, all attempts would be
            the same, there are no problems, two sets share a name or two problems an id, or a contest's
            standings are missing or damaged.
    """
    _check_numbers(solver, attempts, max_problems)
    resolved = functools.partial(in_workdir, workdir=workdir)
    directory = None if benchmarks_dir is None else resolved(benchmarks_dir)
    read = functools.partial(benchmarks.read, benchmarks_dir=directory, limit=max_problems, bad_rows=bad_rows)
    sets = _read_sets(list(map(resolved, problems)), windows or {}, read, has_places=standings is not None)
    ratings = {}
    if standings is not None:  # read before hours of attempts
        ratings = {one.name: _rater(one.placed, resolved(standings), rating) for one in sets}
    everything = [problem for one in sets for problem in one.problems]
    if not everything:
        raise WrongUse(f"There are no problems to attempt in {', '.join(problems) or 'no files'}.")
    _check_ids(everything)
    has_programs = any(isinstance(problem, ProgramPrompt) for problem in everything)
    sandbox, why_not = hosts.decided_by_first("sandbox", lambda: _sandbox(programs, has_programs))
    asked = [p for p in everything if sandbox != "none" or isinstance(p, MathPrompt)]
    kept, names = os.path.join(workdir, "evaluate", "problems.jsonl"), {problem.id for problem in asked}
    hosts.wait_for_first("write problems", lambda: jsonl.write_records(kept, _attempted(sets, names)))
    requests = accuracy.requests(asked, prompts, attempts)
    text_models.check_costs("evaluate", [(solver, requests)], workdir)
    with text_models.opened(solver, workdir) as policy:
        made = accuracy.attempt_all(
            asked,
            policy,
            os.path.join(workdir, "evaluate"),
            prompts=prompts,
            attempts_per_problem=attempts,
            run_programs=functools.partial(program_pool.run_many, settings=programs),
        )
    lineage = _lineage(solver, prompts, programs, sandbox)

    def write() -> None:
        results = {one.name: _result(made, one, why_not, ratings.get(one.name)) | lineage for one in sets}
        accuracy.write_results(os.path.join(workdir, "results.json"), results)
        for name, result in results.items():
            log.info("evaluate: %s: %s", name, _line(result))

    hosts.wait_for_first("write results", write)
    return stage.StageResult(counts=_counts(len(everything), len(asked), made, sandbox))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Set:
    """A set of `problems` under its name in `results.json`, and what else its rows say.

    Attributes:
        families: by the problem's id, where rows say it (the project's own corpus does).
        placed: contest and index by the problem's id, where a rating is wanted and rows are of contests.
    """

    name: str
    problems: Sequence[Prompt]
    families: Mapping[str, str]
    placed: Mapping[str, codeforces_attempts.Place]


def _read_sets(
    paths: Sequence[str],
    windows: Mapping[str, tuple[str, str]],
    read: Callable[..., Sequence[Prompt]],
    *,
    has_places: bool,
) -> list[_Set]:
    named = _paths_by_name(paths)
    if unknown := windows.keys() - named.keys():
        raise WrongUse(
            f"WINDOWS names {sorted(unknown)}, which PROBLEMS does not; there are {sorted(named)}."
        )
    sets = []
    for name, path in named.items():
        notes = _Notes(has_places)
        own = read(path, window=windows.get(name), note=notes.note)
        sets.append(_Set(name=name, problems=own, families=notes.families, placed=notes.placements.found()))
    return sets


class _Notes:
    """What rows say beside the problem, taken up while they are read."""

    def __init__(self, has_places: bool):
        self._has_places = has_places
        self.families: dict[str, str] = {}
        self.placements = codeforces_attempts.Placements()

    def note(self, problem_id: str, row: rows.Row) -> None:
        if isinstance(family := row.fields.get("family"), str) and family:
            self.families[problem_id] = family
        if self._has_places:
            self.placements.note(problem_id, row)


def _attempted(sets: Sequence[_Set], asked: set[str]) -> list[AttemptedProblem]:
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
        sampling = {"sampling": {"sampling": dataclasses.asdict(solver.sampling)}}
        further = {"extra_body": dict(solver.extra_body)}
    else:
        sampling = {"sampling": dataclasses.asdict(solver.config)}
        further = {"chat": dataclasses.asdict(solver.chat)}
    return {
        "solver": text_models.name_of(solver),
        **sampling,
        **further,
        "prompts": dataclasses.asdict(prompts),
        "sandbox": sandbox,
        "programs": dataclasses.asdict(programs),
    }


def _counts(num_problems: int, num_asked: int, made: Sequence[AttemptRecord], sandbox: str) -> dict[str, int]:
    by_status = collections.Counter(attempt.status for attempt in made)
    return {
        "problems": num_problems,
        "attempts": len(made),
        "correct": sum(attempt.correct for attempt in made),
        "cut_off": sum(attempt.finish_reason == "length" for attempt in made),
        "not_graded": num_problems - num_asked,
        "sandbox_errors": by_status["sandbox_error"],
        "grader_errors": by_status["error"],
        **{reason: by_status[reason] for reason in ("filtered", "too_long", "malformed")},
        "weak_sandbox": int(sandbox == "weak"),
    }


def _check_numbers(solver: TextModelSource, attempts: int, max_problems: int) -> None:
    if max_problems < 0:
        raise WrongUse(f"max_problems must be 0 (all) or more, got {max_problems}.")
    if attempts < 1:
        raise WrongUse(f"attempts must be at least 1, got {attempts}.")
    sampling = solver.sampling if isinstance(solver, EndpointConfig) else solver.config.sampling
    if attempts > 1 and sampling.temperature == 0:
        raise WrongUse(
            f"ATTEMPTS is {attempts} at temperature 0, where all attempts at a problem are the same; raise "
            "ATTEMPT_TEMPERATURE (the released scripts have 0.6), or set ATTEMPTS to 1."
        )


Rate = Callable[[Sequence[AttemptRecord]], dict[str, Any]]


def _rater(
    placed: Mapping[str, codeforces_attempts.Place], standings: str, config: RatingConfig
) -> Rate | None:
    """What rates attempts by standings of their contests; None where no problem is of a contest."""
    if not placed:
        return None
    contests = contest_cache.read_contests(standings, {contest for contest, _ in placed.values()})
    users = contest_cache.read_user_ratings(standings)
    return lambda attempts: codeforces_attempts.rate_attempts(attempts, placed, contests, users, config)


def _result(
    made: Sequence[AttemptRecord], one: _Set, why_not_graded: str, rate: Rate | None
) -> dict[str, Any]:
    """The figures of one set."""
    ids = {problem.id for problem in one.problems}
    attempts = [attempt for attempt in made if attempt.problem_id in ids]
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


def _paths_by_name(paths: Sequence[str]) -> dict[str, str]:
    """The sets under their names in `results.json`."""
    named: dict[str, str] = {}
    for path in paths:
        name = benchmark_sets.name_of(path)
        if name in named:
            raise WrongUse(
                f"{named[name]} and {path} would both be '{name}' in results.json; rename one of the files."
            )
        named[name] = path
    return named


def _check_ids(problems: Sequence[Prompt]) -> None:
    counts = collections.Counter(problem.id for problem in problems)
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise WrongUse(
            f"{len(repeated)} problem ids occur twice, e.g. {repeated[0]!r}; give each its own id."
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
