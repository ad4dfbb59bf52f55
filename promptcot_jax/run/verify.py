"""`promptcot verify`: problems with a checked answer or cross-checked tests (paper section 3.4)."""

import collections
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.workdir import InputPath, in_workdir
from promptcot_jax.data import rows
from promptcot_jax.parallel import hosts
from promptcot_jax.run import stage
from promptcot_jax.sampling.text_model import Reply
from promptcot_jax.sources import text_models
from promptcot_jax.sources.text_models import EndpointConfig, TextModelSource
from promptcot_jax.synthesis import (
    answer_votes,
    input_proposals,
    judging,
    open_problems,
    program_tests,
    solutions,
    verifying,
)
from promptcot_jax.synthesis.answer_votes import Ballot
from promptcot_jax.synthesis.input_proposals import Proposals
from promptcot_jax.synthesis.open_problems import Entry, OpenProblem
from promptcot_jax.synthesis.program_tests import Material
from promptcot_jax.synthesis.program_trials import Trial
from promptcot_jax.synthesis.solutions import Solution
from promptcot_jax.synthesis.verifying import Reject, VerifyConfig
from promptcot_jax.verify import sandbox_host
from promptcot_jax.verify.programs import ProgramSettings

log = logging.getLogger(__name__)


def verify(
    *,
    workdir: str,
    solver: TextModelSource,
    config: VerifyConfig,
    programs: ProgramSettings,
    bad_rows: rows.BadRows,
    judge: TextModelSource | None = None,
    test_writer: TextModelSource | None = None,
    problems: InputPath = "{workdir}/problems.jsonl",
) -> stage.StageResult:
    """Writes `verified_prompts.jsonl` and `verify/`: replies, votes, trials, rejects, report.

    Args:
        judge: reads statements; None: rules alone.
        test_writer: proposes inputs for programs; None: those of the rows' own tests alone.

    Raises:
        WrongUse: the problems cannot be read, a model cannot be had or its price is above its limit, programs
            cannot be run in isolation, or all solutions would be the same.
    """
    _check_draws(solver, config)
    counts: collections.Counter[str] = collections.Counter()
    path = in_workdir(problems, workdir)
    entries = open_problems.read(path, domain=config.domain, bad_rows=bad_rows, counts=counts)
    directory = os.path.join(workdir, "verify")
    sound, rejects = verifying.by_rules(entries, config)
    if any(entry.problem.domain == "code" for entry in sound):
        sandbox_host.find_host(programs.allow_weak_sandbox)
    _check_costs(workdir, solver, judge, test_writer, [entry.problem for entry in sound], config)

    replies: dict[str, Sequence[Reply]] = {}
    judgements = None
    if judge is not None and sound:
        with text_models.opened(judge, workdir) as model:
            read = [entry.problem for entry in sound]
            judgements, replies["judgings"] = judging.judge(read, model, directory, config.judge)
        sound, refused = verifying.by_judgement(sound, judgements, config)
        rejects += refused
    solved = _solve(sound, solver, workdir, directory, config, replies)
    proposals = _propose(sound, test_writer, workdir, directory, config, replies)
    ballots, trials = _check(sound, solved, proposals, directory, config, programs)

    checks = (*(["statement"] * config.statement_rules), *(["judge"] * (judge is not None)))
    passed = {"solver": text_models.name_of(solver)}
    lines, prompts = [], []
    for entry in sound:
        row_id = entry.problem.id
        if entry.problem.domain == "math":
            outcome = verifying.by_votes(
                entry, ballots[row_id], config, passed | {"checks": (*checks, "votes")}
            )
        else:
            outcome = verifying.by_tests(
                entry, trials[row_id], config, passed | {"checks": (*checks, "tests")}
            )
        if isinstance(outcome, Reject):
            rejects.append(outcome)
        else:
            prompts.append(outcome)
            lines.append(open_problems.line(entry, outcome))
    order = {entry.problem.id: number for number, entry in enumerate(entries)}
    rejects.sort(key=lambda reject: order[reject.id])
    report = verifying.report(
        num_in=len(entries),
        prompts=prompts,
        rejects=rejects,
        judgements=judgements,
        ballots=list(ballots.values()),
        trials=list(trials.values()),
        replies=replies,
    )
    hosts.wait_for_first("write verified prompts", lambda: _write(workdir, lines, rejects, report))
    for text in verifying.lines(report):
        log.info("verify: %s", text)
    return stage.StageResult(counts=_counts(counts, report))


def _check_draws(solver: TextModelSource, config: VerifyConfig) -> None:
    sampling = solver.sampling if isinstance(solver, EndpointConfig) else solver.config.sampling
    if sampling.temperature == 0:
        raise WrongUse(
            f"The solver's temperature is 0, and all of its {config.solve.num_solutions} solutions of a "
            "problem would be the same; raise SOLVER_TEMPERATURE."
        )


def _check_costs(
    workdir: str,
    solver: TextModelSource,
    judge: TextModelSource | None,
    test_writer: TextModelSource | None,
    problems: Sequence[OpenProblem],
    config: VerifyConfig,
) -> None:
    """Looks at all keys and prices before the first reply, as if the judge refused nothing."""
    code = [problem for problem in problems if problem.domain == "code"]
    asked = [
        (judge, judging.requests(problems, config.judge)),
        (solver, solutions.requests(problems, config.solve.num_solutions)),
        (test_writer, sum(input_proposals.requests(code, config.proposals).values(), [])),
    ]
    text_models.check_costs("verify", asked, workdir)


def _solve(
    entries: Sequence[Entry],
    solver: TextModelSource,
    workdir: str,
    directory: str,
    config: VerifyConfig,
    replies: dict[str, Sequence[Reply]],
) -> dict[str, tuple[Solution, ...]]:
    """The solutions of each problem, by its id."""
    if not entries:
        return {}
    problems = [entry.problem for entry in entries]
    with text_models.opened(solver, workdir) as model:
        solved, replies["solutions"] = solutions.solve(problems, model, directory, config.solve)
    return {problem.id: own for problem, own in zip(problems, solved, strict=True)}


def _propose(
    entries: Sequence[Entry],
    test_writer: TextModelSource | None,
    workdir: str,
    directory: str,
    config: VerifyConfig,
    replies: dict[str, Sequence[Reply]],
) -> dict[str, Proposals]:
    """What the writer of tests proposes for each programming problem, by its id."""
    code = [entry.problem for entry in entries if entry.problem.domain == "code"]
    if test_writer is None or not code:
        return {problem.id: Proposals() for problem in code}
    with text_models.opened(test_writer, workdir) as model:
        proposals, own_replies = input_proposals.propose(code, model, directory, config.proposals)
    replies |= own_replies
    return {problem.id: own for problem, own in zip(code, proposals, strict=True)}


def _check(
    entries: Sequence[Entry],
    solved: Mapping[str, tuple[Solution, ...]],
    proposals: Mapping[str, Proposals],
    directory: str,
    config: VerifyConfig,
    programs: ProgramSettings,
) -> tuple[dict[str, Ballot], dict[str, Trial]]:
    """Votes and trials by problem: made by the first host, since clocks differ, and read by all."""
    math = [entry.problem for entry in entries if entry.problem.domain == "math"]
    code = [entry.problem for entry in entries if entry.problem.domain == "code"]
    votes_path, trials_path = (os.path.join(directory, f"{name}.jsonl") for name in ("votes", "trials"))
    materials = [
        Material(problem=problem, solutions=solved[problem.id], proposals=proposals[problem.id])
        for problem in code
    ]
    hosts.wait_for_first(
        "count votes", lambda: answer_votes.count(math, [solved[problem.id] for problem in math], votes_path)
    )
    hosts.wait_for_first(
        "try programs",
        lambda: program_tests.try_all(materials, trials_path, config.tests, programs),
    )
    ballots = jsonl.read_file(votes_path, Ballot)
    trials = jsonl.read_file(trials_path, Trial)
    return {ballot.id: ballot for ballot in ballots}, {trial.id: trial for trial in trials}


def _write(
    workdir: str,
    lines: Sequence[Mapping[str, Any]],
    rejects: Sequence[Reject],
    report: Mapping[str, Any],
) -> None:
    jsonl.write_records(os.path.join(workdir, "verify", "rejects.jsonl"), rejects)
    jsonl.write_json(os.path.join(workdir, "verify", "report.json"), report)
    jsonl.write_records(os.path.join(workdir, "verified_prompts.jsonl"), lines)


def _counts(read: Mapping[str, int], report: Mapping[str, Any]) -> dict[str, int]:
    """What the manifest holds: rows in and out, what was dropped by reason, pools, tokens."""
    bad = {name: count for name, count in read.items() if name.startswith("bad_")}
    rows_read, replies = report["rows"], report["replies"].values()
    return (
        {name: rows_read[name] for name in ("in", "out", "out_math", "out_code")}
        | {"in": rows_read["in"] + sum(bad.values())}
        | {f"dropped_{name}": count for name, count in bad.items()}
        | {f"dropped_{name}": count for name, count in report["rejected_by_reason"].items()}
        | {f"pool_{name}": count for name, count in report["pools"].items()}
        | {name: sum(own[name] for own in replies) for name in ("prompt_tokens", "completion_tokens")}
    )
