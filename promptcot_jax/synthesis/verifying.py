"""From problems to verified prompts: rules, a judge, then answers by vote or tests by several programs.

The cheap comes first: what its own text refutes is shown to no model, and what a judge refuses is not solved.
A problem is rejected at the first check that it does not pass, with the reason and the figures; one that
passes all carries its votes or tests, its difficulty and its whole lineage.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from promptcot_jax.core.records import Domain, Pool, VerifiedMathPrompt, VerifiedProgramPrompt
from promptcot_jax.core.settings import Share, settings
from promptcot_jax.data import statement_rules
from promptcot_jax.sampling.text_model import Reply
from promptcot_jax.synthesis import answer_votes, judging, outcomes, program_trials
from promptcot_jax.synthesis.answer_votes import VoteConfig, VoteTally
from promptcot_jax.synthesis.input_proposals import ProposalConfig
from promptcot_jax.synthesis.judging import JudgeConfig, Judgement
from promptcot_jax.synthesis.outcomes import Reject, counted, listed
from promptcot_jax.synthesis.problem_files import Entry, OpenProblem
from promptcot_jax.synthesis.program_trials import TestConfig, Trial
from promptcot_jax.synthesis.solutions import SolveConfig

_SHARES = (0.5, 0.625, 0.75, 0.875, 1.0)  # of the report: how many problems agree at least so far


@settings
class PoolConfig:
    """Pools by the share of solutions that are right: easy from `easy_from` on, hard up to `hard_to`.

    They are relative to the solver that voted. Self-play drops what its own policy solves in half of its
    tries, and finds that out by itself; a policy like the solver has least to drop in the hard pool.
    """

    easy_from: Share = 0.875
    hard_to: Share = 0.625

    def __post_init__(self):
        if self.hard_to >= self.easy_from:
            raise ValueError(f"hard_to must be below easy_from, got {self.hard_to} and {self.easy_from}.")

    def pool(self, pass_share: float) -> Pool:
        """The pool of a problem."""
        return "easy" if pass_share >= self.easy_from else "hard" if pass_share <= self.hard_to else "medium"


@settings
class VerifyConfig:
    """What a problem must pass, check by check."""

    domain: Domain = "math"  # of rows that do not say
    statement_rules: bool = True  # whether statements are held to `statement_rules.WELL_POSED`
    judge: JudgeConfig = JudgeConfig()
    solve: SolveConfig = SolveConfig()
    votes: VoteConfig = VoteConfig()
    proposals: ProposalConfig = ProposalConfig()
    tests: TestConfig = TestConfig()
    pools: PoolConfig = PoolConfig()


def _reject(problem: OpenProblem, check: str, reason: str, message: str, figures: dict) -> Reject:
    """A problem that did not pass a check (statement, judge, votes or tests), and what that measured."""
    subject = {"id": problem.id, "domain": problem.domain, "check": check}
    return Reject(subject, reason, {"message": message, "figures": figures, "problem": problem.problem})


def by_rules(entries: Sequence[Entry], config: VerifyConfig) -> tuple[list[Entry], list[Reject]]:
    """The problems whose text shows no fault, and the others."""
    kept, rejects = [], []
    for entry in entries:
        problem = entry.problem
        rules = statement_rules.WELL_POSED if config.statement_rules else {}
        fault = statement_rules.first_fault(problem.problem, problem.domain, rules)
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
    entry: Entry, tally: VoteTally, config: VerifyConfig, passed: Mapping[str, Any]
) -> VerifiedMathPrompt | Reject:
    """A mathematics problem with its answer, or why it has none.

    Args:
        passed: `solver` and `checks` of the prompt.
    """
    if fault := answer_votes.fault(tally, config.votes):
        figures = {
            "agreement": tally.agreement,
            "votes": [dataclasses.asdict(group) for group in tally.votes],
            "endings": counted(tally.endings),
            "mean_tokens": tally.mean_tokens,
        }
        return _reject(entry.problem, "votes", *fault, figures)
    found = answer_votes.found(tally)
    found |= {"pool": config.pools.pool(found["pass_share"]), **passed}
    return entry.prompt(VerifiedMathPrompt, found)


def by_tests(
    entry: Entry, trial: Trial, config: VerifyConfig, passed: Mapping[str, Any]
) -> VerifiedProgramPrompt | Reject:
    """A programming problem with its tests, or why it has none; see `by_votes`.

    `mutants` is one of the prompt's checks only where some could be made and judged.
    """
    if fault := program_trials.fault(trial, config.tests):
        figures = {
            "inputs": counted(tried.verdict for tried in trial.inputs),
            "solutions": counted(trial.solutions),
            "mutants": trial.num_mutants,
            "killed": trial.num_killed,
            "lost_runs": trial.num_lost,
            "mean_tokens": trial.mean_tokens,
        }
        return _reject(entry.problem, "tests", *fault, figures)
    found = program_trials.found(trial)
    found |= {"pool": config.pools.pool(found["pass_share"]), **passed}
    found["checks"] = (*passed["checks"], *(["mutants"] * (trial.num_mutants > 0)))
    return entry.prompt(VerifiedProgramPrompt, found)


def report(
    *,
    num_in: int,
    prompts: Sequence[VerifiedMathPrompt | VerifiedProgramPrompt],
    rejects: Sequence[Reject],
    judgements: Sequence[Judgement] | None,
    tallies: Sequence[VoteTally],
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
        "rejected_by_reason": outcomes.by_reason(rejects, "check"),
        "pools": counted(prompt.pool for prompt in prompts),
        "judge": None if judgements is None else judging.report(judgements),
        "votes": _votes_report(tallies),
        "tests": _tests_report(trials),
        "replies": {name: outcomes.of_replies(some) for name, some in replies.items() if some},
    }


def _votes_report(tallies: Sequence[VoteTally]) -> dict[str, Any]:
    """Of all mathematics problems that were solved, those that were then rejected included."""
    return {
        "problems": len(tallies),
        "agreeing": {str(share): sum(b.agreement >= share for b in tallies) for share in _SHARES},
        "tied": sum(tally.is_tied for tally in tallies),
        "mean_agreement": outcomes.mean([tally.agreement for tally in tallies]),
        "solutions": counted(ending for tally in tallies for ending in tally.endings),
        "given_answer": counted(tally.given_answer for tally in tallies),
    }


def _tests_report(trials: Sequence[Trial]) -> dict[str, Any]:
    """Of all programming problems that were solved, those that were then rejected included."""
    tried = [one for trial in trials for one in trial.inputs]
    return {
        "problems": len(trials),
        "inputs": counted(one.verdict for one in tried),
        "inputs_by_origin": counted(one.origin for one in tried),
        "tests_of_a_problem": outcomes.mean([len(trial.tests) for trial in trials]),
        "solutions": counted(verdict for trial in trials for verdict in trial.solutions),
        "validators": counted(trial.validator for trial in trials),
        "mutants": sum(trial.num_mutants for trial in trials),
        "killed": sum(trial.num_killed for trial in trials),
        "lost_runs": sum(trial.num_lost for trial in trials),
        "given_tests": counted(verdict for trial in trials for verdict in trial.given),
    }


def lines(figures: Mapping[str, Any]) -> list[str]:
    """The report in a few lines for the log."""
    rows, votes, tests = figures["rows"], figures["votes"], figures["tests"]
    text = [
        f"{rows['out']:,} verified prompts ({rows['out_math']:,} of mathematics, {rows['out_code']:,} of "
        f"programming) of {rows['in']:,} problems; pools: {listed(figures['pools'])}"
    ]
    if figures["rejected_by_reason"]:
        text.append(f"rejected: {listed(figures['rejected_by_reason'])}")
    if judge := figures["judge"]:
        own = judge["agreement"]["well_posed"]
        text.append(
            f"judge: {judge['well_posed_share']} of the verdicts well posed; equal in {own['equal_share']} "
            f"of pairs, kappa {own['kappa']}; unreadable: {listed(judge['unreadable'])}"
        )
    if votes["problems"]:
        text.append(
            f"votes: mean agreement {votes['mean_agreement']}; solutions: {listed(votes['solutions'])}"
        )
    if tests["problems"]:
        text.append(
            f"tests: inputs {listed(tests['inputs'])}; solutions {listed(tests['solutions'])}; "
            f"{tests['killed']:,} of {tests['mutants']:,} mutants killed"
        )
    if tests["lost_runs"]:
        text.append(
            f"the sandbox failed in {tests['lost_runs']:,} runs of programs; their problems are rejected as "
            "tests_sandbox_failed, which says nothing of them"
        )
    return text
