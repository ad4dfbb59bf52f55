"""From problems to verified prompts: rules, a judge, then answers by vote or tests by several programs.

The cheap comes first: what its own text refutes is shown to no model, and what a judge refuses is not solved.
A problem leaves at the first check that it does not pass, with the reason and the figures; one that passes
all carries its votes or tests, its difficulty and its whole lineage.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from promptcot_jax.core.records import Domain, Pool, VerifiedMathPrompt, VerifiedProgramPrompt
from promptcot_jax.sampling.text_model import Reply, reasons
from promptcot_jax.synthesis import answer_votes, judging, open_problems, program_trials, statement_checks
from promptcot_jax.synthesis.answer_votes import Ballot, VoteConfig
from promptcot_jax.synthesis.input_proposals import ProposalConfig
from promptcot_jax.synthesis.judging import JudgeConfig, Judgement
from promptcot_jax.synthesis.open_problems import Entry, OpenProblem
from promptcot_jax.synthesis.program_trials import TestConfig, Trial
from promptcot_jax.synthesis.solutions import SolveConfig

_SHARES = (0.5, 0.625, 0.75, 0.875, 1.0)  # of the report: how many problems agree at least so far


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Pools by the share of solutions that are right: easy from `easy_from` on, hard up to `hard_to`.

    They are relative to the solver that voted. Self-play drops what its own policy solves in half of its
    tries, and finds that out by itself; a policy like the solver has least to drop in the hard pool.
    """

    easy_from: float = 0.875
    hard_to: float = 0.625

    def __post_init__(self):
        if not 0.0 <= self.hard_to < self.easy_from <= 1.0:
            raise ValueError(
                f"hard_to must be below easy_from, both in [0, 1], got {self.hard_to} and {self.easy_from}."
            )

    def pool(self, pass_share: float) -> Pool:
        """The pool of a problem."""
        return "easy" if pass_share >= self.easy_from else "hard" if pass_share <= self.hard_to else "medium"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """What a problem must pass, check by check.

    Attributes:
        domain: of rows that do not say.
        statement_rules: whether statements are held to the rules of `statement_checks`.
    """

    domain: Domain = "math"
    statement_rules: bool = True
    judge: JudgeConfig = JudgeConfig()
    solve: SolveConfig = SolveConfig()
    votes: VoteConfig = VoteConfig()
    proposals: ProposalConfig = ProposalConfig()
    tests: TestConfig = TestConfig()
    pools: PoolConfig = PoolConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reject:
    """A problem that did not pass a check, a row of `verify/rejects.jsonl`."""

    id: str
    domain: Domain
    check: str  # statement, judge, votes or tests
    reason: str
    message: str
    figures: dict  # what the check measured
    problem: str


def _reject(problem: OpenProblem, check: str, reason: str, message: str, figures: dict) -> Reject:
    return Reject(
        id=problem.id,
        domain=problem.domain,
        check=check,
        reason=reason,
        message=message,
        figures=figures,
        problem=problem.problem,
    )


def by_rules(entries: Sequence[Entry], config: VerifyConfig) -> tuple[list[Entry], list[Reject]]:
    """The problems whose text shows no fault, and the others."""
    kept, rejects = [], []
    for entry in entries:
        problem = entry.problem
        fault = (
            statement_checks.first_fault(problem.problem, problem.domain) if config.statement_rules else None
        )
        if fault is None:
            kept.append(entry)
        else:
            rejects.append(_reject(problem, "statement", fault.reason, fault.detail, {}))
    return kept, rejects


def by_judgement(
    entries: Sequence[Entry], judgements: Sequence[Judgement], config: VerifyConfig
) -> tuple[list[Entry], list[Reject]]:
    """The problems that the judge finds well posed, and the others."""
    kept, rejects = [], []
    for entry, judgement in zip(entries, judgements, strict=True):
        reason = judgement.fault(config.judge)
        if reason is None:
            kept.append(entry)
            continue
        readable = judgement.readable
        figures = {
            "judgings": len(judgement.verdicts),
            "readable": len(readable),
            "sound_share": judgement.sound_share,
        }
        sound = sum(verdict.is_well_posed for verdict in readable)
        message = f"{sound} of {len(readable)} judgings find it well posed"
        rejects.append(_reject(entry.problem, "judge", reason, message, figures))
    return kept, rejects


def by_votes(
    entry: Entry, ballot: Ballot, config: VerifyConfig, passed: Mapping[str, Any]
) -> VerifiedMathPrompt | Reject:
    """A mathematics problem with its answer, or why it has none.

    Args:
        passed: `solver` and `checks` of the prompt.
    """
    if fault := answer_votes.fault(ballot, config.votes):
        figures = {
            "agreement": ballot.agreement,
            "votes": [dataclasses.asdict(group) for group in ballot.votes],
            "endings": dict(sorted(collections.Counter(ballot.endings).items())),
            "mean_tokens": ballot.mean_tokens,
        }
        return _reject(entry.problem, "votes", *fault, figures)
    found = answer_votes.found(ballot)
    found |= {"pool": config.pools.pool(found["pass_share"]), **passed}
    return open_problems.typed(entry, VerifiedMathPrompt, found)


def by_tests(
    entry: Entry, trial: Trial, config: VerifyConfig, passed: Mapping[str, Any]
) -> VerifiedProgramPrompt | Reject:
    """A programming problem with its tests, or why it has none; see `by_votes`.

    `mutants` is one of the prompt's checks only where some could be made and judged.
    """
    if fault := program_trials.fault(trial, config.tests):
        figures = {
            "inputs": dict(sorted(collections.Counter(tried.verdict for tried in trial.inputs).items())),
            "solutions": dict(sorted(collections.Counter(trial.solutions).items())),
            "mutants": trial.num_mutants,
            "killed": trial.num_killed,
            "lost_runs": trial.num_lost,
            "mean_tokens": trial.mean_tokens,
        }
        return _reject(entry.problem, "tests", *fault, figures)
    found = program_trials.found(trial)
    found |= {"pool": config.pools.pool(found["pass_share"]), **passed}
    found["checks"] = (*passed["checks"], *(["mutants"] * (trial.num_mutants > 0)))
    return open_problems.typed(entry, VerifiedProgramPrompt, found)


def report(
    *,
    num_in: int,
    prompts: Sequence[VerifiedMathPrompt | VerifiedProgramPrompt],
    rejects: Sequence[Reject],
    judgements: Sequence[Judgement] | None,
    ballots: Sequence[Ballot],
    trials: Sequence[Trial],
    replies: Mapping[str, Sequence[Reply]],
) -> dict[str, Any]:
    """All figures, as JSON has them."""
    return {
        "rows": {
            "in": num_in,
            "out": len(prompts),
            "out_math": sum(isinstance(prompt, VerifiedMathPrompt) for prompt in prompts),
            "out_code": sum(isinstance(prompt, VerifiedProgramPrompt) for prompt in prompts),
            "rejected": len(rejects),
        },
        "rejected_by_reason": _counted(f"{reject.check}_{reject.reason}" for reject in rejects),
        "pools": _counted(prompt.pool for prompt in prompts),
        "judge": None if judgements is None else judging.report(judgements),
        "votes": _votes_report(ballots),
        "tests": _tests_report(trials),
        "replies": {name: _replies_report(some) for name, some in replies.items() if some},
    }


def _votes_report(ballots: Sequence[Ballot]) -> dict[str, Any]:
    """Of all mathematics problems that were solved, those that were then rejected included."""
    return {
        "problems": len(ballots),
        "agreeing": {str(share): sum(b.agreement >= share for b in ballots) for share in _SHARES},
        "tied": sum(ballot.is_tied for ballot in ballots),
        "mean_agreement": _mean([ballot.agreement for ballot in ballots]),
        "solutions": _counted(ending for ballot in ballots for ending in ballot.endings),
        "given_answer": _counted(ballot.given_answer for ballot in ballots),
    }


def _tests_report(trials: Sequence[Trial]) -> dict[str, Any]:
    """Of all programming problems that were solved, those that were then rejected included."""
    tried = [one for trial in trials for one in trial.inputs]
    return {
        "problems": len(trials),
        "inputs": _counted(one.verdict for one in tried),
        "inputs_by_origin": _counted(one.origin for one in tried),
        "tests_of_a_problem": _mean([len(trial.tests) for trial in trials]),
        "solutions": _counted(verdict for trial in trials for verdict in trial.solutions),
        "validators": _counted(trial.validator for trial in trials),
        "mutants": sum(trial.num_mutants for trial in trials),
        "killed": sum(trial.num_killed for trial in trials),
        "lost_runs": sum(trial.num_lost for trial in trials),
        "given_tests": _counted(verdict for trial in trials for verdict in trial.given),
    }


def _replies_report(replies: Sequence[Reply]) -> dict[str, int]:
    return reasons(replies) | {
        "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
        "completion_tokens": sum(reply.completion_tokens for reply in replies),
    }


def _counted(values: Any) -> dict[str, int]:
    return dict(sorted(collections.Counter(values).items()))


def _mean(values: Sequence[float] | Sequence[int]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def lines(figures: Mapping[str, Any]) -> list[str]:
    """The report in a few lines for the log."""
    rows, votes, tests = figures["rows"], figures["votes"], figures["tests"]
    text = [
        f"{rows['out']:,} verified prompts ({rows['out_math']:,} of mathematics, {rows['out_code']:,} of "
        f"programming) of {rows['in']:,} problems; pools: {_listed(figures['pools'])}"
    ]
    if figures["rejected_by_reason"]:
        text.append(f"rejected: {_listed(figures['rejected_by_reason'])}")
    if judge := figures["judge"]:
        own = judge["agreement"]["well_posed"]
        text.append(
            f"judge: {judge['well_posed_share']} of the verdicts well posed; equal in {own['equal_share']} "
            f"of pairs, kappa {own['kappa']}; unreadable: {_listed(judge['unreadable'])}"
        )
    if votes["problems"]:
        text.append(
            f"votes: mean agreement {votes['mean_agreement']}; solutions: {_listed(votes['solutions'])}"
        )
    if tests["problems"]:
        text.append(
            f"tests: inputs {_listed(tests['inputs'])}; solutions {_listed(tests['solutions'])}; "
            f"{tests['killed']:,} of {tests['mutants']:,} mutants killed"
        )
    if tests["lost_runs"]:
        text.append(
            f"the sandbox failed in {tests['lost_runs']:,} runs of programs; their problems are rejected as "
            "tests_sandbox_failed, which says nothing of them"
        )
    return text


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
