"""`promptcot verify`: problems with a checked answer or cross-checked tests (paper section 3.4)."""

import collections
import os
from collections.abc import Mapping, Sequence
from typing import Any

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.data import rows
from promptcot_jax.parallel import hosts
from promptcot_jax.run import stage
from promptcot_jax.sampling.text_model import Reply, TextRequest
from promptcot_jax.sources import text_models
from promptcot_jax.sources.text_models import TextModelSource
from promptcot_jax.synthesis import (
    answer_votes,
    input_proposals,
    judging,
    outcomes,
    problem_files,
    program_tests,
    solutions,
    verifying,
)
from promptcot_jax.synthesis.answer_votes import VoteTally
from promptcot_jax.synthesis.input_proposals import Proposals
from promptcot_jax.synthesis.outcomes import Reject
from promptcot_jax.synthesis.problem_files import OpenProblem
from promptcot_jax.synthesis.program_tests import Material
from promptcot_jax.synthesis.program_trials import Trial
from promptcot_jax.synthesis.solutions import Solution
from promptcot_jax.synthesis.verifying import VerifyConfig
from promptcot_jax.verify import sandbox_host
from promptcot_jax.verify.programs import ProgramSettings


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
    if text_models.draws_of(solver).sampling.temperature == 0:
        raise WrongUse(
            f"The solver's temperature is 0, and all of its {config.solve.num_solutions} solutions of a "
            "problem would be the same; raise VOTE_TEMPERATURE."
        )
    counts: collections.Counter[str] = collections.Counter()
    entries = problem_files.read_open(problems, domain=config.domain, bad_rows=bad_rows, counts=counts)
    directory = os.path.join(workdir, "verify")
    sound, rejects = verifying.by_rules(entries, config)
    if any(entry.problem.domain == "code" for entry in sound):
        sandbox_host.find_host(programs.allow_weak_sandbox)
    _check_costs(workdir, solver, judge, test_writer, [entry.problem for entry in sound], config)

    def ask(source: TextModelSource | None, asked: Mapping[str, Sequence[TextRequest]]) -> None:
        replies.update(text_models.ask(source, asked, directory, workdir))

    replies: dict[str, Sequence[Reply]] = {}
    judgements = None
    if judge is not None and sound:
        ask(judge, {"judgings": judging.requests([entry.problem for entry in sound], config.judge)})
        judgements = judging.judgements_of(replies["judgings"], config.judge)
        sound, refused = verifying.by_judgement(sound, judgements, config)
        rejects += refused
    asked = [entry.problem for entry in sound]
    code = [problem for problem in asked if problem.domain == "code"]
    ask(solver, {"solutions": solutions.requests(asked, config.solve.num_solutions)})
    ask(test_writer, input_proposals.requests(code, config.proposals))
    solved = solutions.read(asked, replies["solutions"], config.solve)
    proposals = input_proposals.read(code, replies, config.proposals)
    tallies, trials = _check(asked, solved, proposals, directory, config, programs)
    checks = (*(["statement"] * config.statement_rules), *(["judge"] * (judge is not None)))
    solver_name = text_models.name_of(solver)
    lines, prompts = [], []
    for entry in sound:
        if entry.problem.domain == "math":
            passed = {"solver": solver_name, "checks": (*checks, "votes")}
            outcome = verifying.by_votes(entry, tallies[entry.id], config, passed)
        else:
            passed = {"solver": solver_name, "checks": (*checks, "tests")}
            outcome = verifying.by_tests(entry, trials[entry.id], config, passed)
        if isinstance(outcome, Reject):
            rejects.append(outcome)
        else:
            prompts.append(outcome)
            lines.append(entry.row_of(outcome))
    rejects = outcomes.in_order(rejects, (entry.id for entry in entries))
    report = verifying.report(
        num_in=len(entries),
        prompts=prompts,
        rejects=rejects,
        judgements=judgements,
        tallies=list(tallies.values()),
        trials=list(trials.values()),
        replies=replies,
    )
    outcomes.publish(
        "verify",
        workdir,
        files={"verified_prompts.jsonl": lines},
        rejects=rejects,
        report=report,
        lines=verifying.lines(report),
    )
    return stage.StageResult(counts=_counts(counts, report))


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


def _check(
    problems: Sequence[OpenProblem],
    solved: Sequence[tuple[Solution, ...]],
    proposals: Sequence[Proposals],
    directory: str,
    config: VerifyConfig,
    programs: ProgramSettings,
) -> tuple[dict[str, VoteTally], dict[str, Trial]]:
    """Votes and trials by problem: by the first host, since clocks differ, and read by all.

    Args:
        solved: solutions of each problem; `proposals`: inputs of each programming problem.
    """
    pairs = list(zip(problems, solved, strict=True))
    math = [pair for pair in pairs if pair[0].domain == "math"]
    code = [pair for pair in pairs if pair[0].domain == "code"]
    materials = [
        Material(problem=problem, solutions=own, proposals=proposed)
        for (problem, own), proposed in zip(code, proposals, strict=True)
    ]
    votes_path, trials_path = (os.path.join(directory, f"{name}.jsonl") for name in ("votes", "trials"))
    hosts.wait_for_first(
        "count votes",
        lambda: answer_votes.count([problem for problem, _ in math], [own for _, own in math], votes_path),
    )
    hosts.wait_for_first(
        "try programs", lambda: program_tests.try_all(materials, trials_path, config.tests, programs)
    )
    tallies = jsonl.read_file(votes_path, VoteTally)
    trials = jsonl.read_file(trials_path, Trial)
    return {tally.id: tally for tally in tallies}, {trial.id: trial for trial in trials}


def _counts(read: Mapping[str, int], report: Mapping[str, Any]) -> dict[str, int]:
    """What the manifest holds: rows in and out, what was dropped by reason, pools, tokens."""
    bad = rows.bad(read)
    rows_read, replies = report["rows"], report["replies"].values()
    return (
        {name: rows_read[name] for name in ("in", "out", "out_math", "out_code")}
        | {"in": rows_read["in"] + sum(bad.values())}
        | outcomes.dropped(bad, report["rejected_by_reason"])
        | {f"pool_{name}": count for name, count in report["pools"].items()}
        | {name: sum(own[name] for own in replies) for name in ("prompt_tokens", "completion_tokens")}
    )
