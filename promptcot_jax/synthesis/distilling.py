"""Traces of a teacher for SFT (paper section 3.5): which prompts it gets, and which of its replies are kept.

A reply is kept if it ended by itself and has a boxed answer, or a program, to show. That it is right is not
asked, as in the paper, where nothing else than the teacher knows the answer; prompts that come with an answer
or with tests can be held to them (`DistillConfig.verification`). The paper has one trace of each prompt.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from etils import epath

from promptcot_jax.core import prng, shards, thinking
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import DistilledTrace, Domain, MathPrompt, ProgramPrompt, Prompt
from promptcot_jax.core.settings import PositiveInt, ShareBelowOne, settings
from promptcot_jax.data import decontamination, validity
from promptcot_jax.data.validity import Validity
from promptcot_jax.sampling.text_model import Reply
from promptcot_jax.synthesis import outcomes, teacher_replies
from promptcot_jax.synthesis.outcomes import Reject, counted, spread
from promptcot_jax.synthesis.problem_files import OpenProblem
from promptcot_jax.synthesis.teacher_replies import Unusable
from promptcot_jax.trainers import grading
from promptcot_jax.verify import program_pool
from promptcot_jax.verify.programs import ProgramSettings
from promptcot_jax.verify.rewards import Reward, RewardConfig, Ungraded

Verification = Literal["none", "flag", "only"]
Verified = Literal["yes", "no", "unknown"]

_SHARD = 64  # traces that are graded between two writes


@settings
class DistillConfig:
    """What the teacher is asked, and which of its replies become traces."""

    domain: Domain = "math"  # of rows that do not say
    group_size: PositiveInt = 1  # replies to each prompt
    max_traces: PositiveInt | None = None  # of a prompt; the first that can be kept. None: all
    # Whose rules a trace must keep, see `read_trace` and `data.validity`; "release" has some for prompts too.
    validity: Validity = "paper"
    # Of traces by their prompt's answer or tests. "none": there is none; "flag": the trace says what came
    # out; "only": what is not right is left out, and prompts without either are not asked.
    verification: Verification = "none"
    heldout_share: ShareBelowOne  # of the prompts, whose traces are kept apart to measure a fit by
    seed: int = 0  # of the choice of these prompts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grade:
    """What a prompt's answer or tests say of a trace, a row of `distill/grades.jsonl`."""

    id: str  # of the trace
    verified: Verified
    status: str  # of the verdict, see `verify.rewards`


def check_draws(temperature: float, config: DistillConfig) -> None:
    """Refuses samples that would all be the same.

    Raises:
        WrongUse: says what to set.
    """
    if temperature == 0 and config.group_size > 1:
        raise WrongUse(
            f"The teacher's temperature is 0, and all of its {config.group_size} replies to a prompt would "
            "be the same; raise TRACE_TEMPERATURE, or set DISTILL_GROUP_SIZE to 1."
        )


def worth_asking(
    problems: Sequence[OpenProblem], config: DistillConfig, benchmarks: decontamination.Index | None
) -> tuple[list[OpenProblem], list[Reject]]:
    """The prompts that the teacher gets, and the others."""
    kept, rejects = [], []
    firsts: dict[str, str] = {}  # a prompt's text -> the id of the first that has it
    for problem, source in _with_benchmarks(problems, benchmarks):
        first = firsts.setdefault(problem.problem.strip(), problem.id)
        fault = (
            ("repeated_prompt", f"has the text of {first}")
            if first != problem.id
            else ("contaminated", f"overlaps with {source}")
            if source
            else _fault(problem, config)
        )
        if fault:
            rejects.append(_reject(problem.id, -1, *fault))  # -1: the prompt was not asked
        else:
            kept.append(problem)
    return kept, rejects


def _with_benchmarks(
    problems: Sequence[OpenProblem], benchmarks: decontamination.Index | None
) -> Iterable[tuple[OpenProblem, str]]:
    """Each prompt with the first benchmark row that it overlaps with, or an empty text."""
    if benchmarks is None:
        return ((problem, "") for problem in problems)
    found = decontamination.with_overlaps(problems, benchmarks, lambda problem: (problem.problem,))
    return ((problem, str(overlaps[0].source) if overlaps else "") for problem, overlaps in found)


def _fault(problem: OpenProblem, config: DistillConfig) -> tuple[str, str] | None:
    """Why a prompt is not fit for the settings."""
    stated = MathPrompt(problem=problem.problem, answer=problem.answer)  # tests break no such rule
    if fault := validity.fault_of(stated, config.validity):
        return fault, "breaks a rule of the released scripts for problems"
    if config.verification == "only" and not _can_be_graded(problem):
        return "nothing_to_verify_by", "has no answer, or no tests, to hold a trace to"
    return None


def _can_be_graded(problem: OpenProblem) -> bool:
    return bool(problem.answer.strip() if problem.domain == "math" else problem.tests)


def runs_programs(problems: Sequence[OpenProblem], config: DistillConfig) -> bool:
    """Whether a sandbox is needed."""
    return config.verification != "none" and any(p.domain == "code" and p.tests for p in problems)


def read(
    problems: Sequence[OpenProblem],
    replies: Sequence[Reply],
    config: DistillConfig,
    *,
    teacher: str,
    seed: int,
) -> tuple[list[DistilledTrace], list[Reject]]:
    """The replies that have the form of a trace, none graded yet, and the others.

    Args:
        seed: of the replies.
    """
    candidates, rejects = [], []
    by_id = {problem.id: problem for problem in problems}
    seen: set[tuple[str, str]] = set()
    for reply in replies:
        problem = by_id[reply.id]
        completion = teacher_replies.read(
            reply, functools.partial(teacher_replies.read_trace, domain=problem.domain, rules=config.validity)
        )
        if not isinstance(completion, Unusable) and (problem.id, completion) in seen:
            completion = Unusable("repeated_trace", "an earlier sample has the same text")
        if isinstance(completion, Unusable):
            rejects.append(_reject(problem.id, reply.sample, completion.reason, str(completion)))
            continue
        seen.add((problem.id, completion))
        candidates.append(
            DistilledTrace(
                id=f"{problem.id}-{reply.sample}",
                domain=problem.domain,
                prompt=problem.problem,
                completion=completion,
                prompt_id=problem.id,
                teacher=teacher,
                sample=reply.sample,
                seed=seed,
                verified="unknown",
                completion_tokens=reply.completion_tokens,
            )
        )
    return candidates, rejects


def grade(
    candidates: Sequence[DistilledTrace],
    problems: Sequence[OpenProblem],
    path: epath.PathLike,
    settings: ProgramSettings,
) -> list[Grade]:
    """Holds traces to their prompts' answers or tests and writes what came of it to `path`, shard by shard.

    Raises:
        SandboxUnavailable: there are programs, and none can be run here.
    """
    prompts = {problem.id: _prompt(problem) for problem in problems if _can_be_graded(problem)}

    def work(traces: Sequence[DistilledTrace]) -> list[Grade]:
        verdicts = grading.graded(
            [prompts[trace.prompt_id] for trace in traces],
            [trace.completion for trace in traces],
            [0] * len(traces),
            RewardConfig(),
            functools.partial(program_pool.run_many, settings=settings),
        )
        return [_grade(trace.id, verdict) for trace, verdict in zip(traces, verdicts, strict=True)]

    gradable = [trace for trace in candidates if trace.prompt_id in prompts]
    return shards.map_in_shards(path, gradable, work, Grade, shard_size=_SHARD, name="grades")


def _prompt(problem: OpenProblem) -> Prompt:
    if problem.domain == "math":
        return MathPrompt(problem=problem.problem, answer=problem.answer)
    return ProgramPrompt(problem=problem.problem, tests=problem.tests)


def _grade(trace_id: str, reward: Reward | Ungraded) -> Grade:
    verified: Verified = "unknown"
    if isinstance(reward, Reward):
        verified = "yes" if reward.correct else "no"
    return Grade(id=trace_id, verified=verified, status=reward.status)


def keep(
    candidates: Sequence[DistilledTrace], grades: Sequence[Grade], config: DistillConfig
) -> tuple[list[DistilledTrace], list[Reject]]:
    """The traces that stay, each with its verdict, and the others."""
    by_id = {grade.id: grade for grade in grades}
    kept, rejects = [], []
    of_prompt: collections.Counter[str] = collections.Counter()
    for trace in candidates:
        if (found := by_id.get(trace.id)) is not None:
            trace = dataclasses.replace(trace, verified=found.verified)
        if config.verification == "only" and trace.verified != "yes":
            reason = "not_graded" if found is None else found.status
            message = (
                "could not be graded" if trace.verified == "unknown" else "does not agree with the prompt"
            )
            fault = reason, f"{message} ({reason})"
        elif config.max_traces is not None and of_prompt[trace.prompt_id] >= config.max_traces:
            fault = "spare", f"the prompt has {config.max_traces} already"
        else:
            of_prompt[trace.prompt_id] += 1
            kept.append(trace)
            continue
        rejects.append(_reject(trace.prompt_id, trace.sample, *fault))
    return kept, rejects


def _reject(prompt_id: str, sample: int, reason: str, message: str) -> Reject:
    return Reject({"id": prompt_id, "sample": sample}, reason, {"message": message})


def is_held_out(trace: DistilledTrace, config: DistillConfig) -> bool:
    """Whether a trace goes to the held-out file: by its prompt, whose traces stay together."""
    return prng.row_draw("heldout_traces", trace.prompt_id, config.seed) < config.heldout_share


def report(
    *,
    num_in: int,
    asked: Sequence[OpenProblem],
    replies: Sequence[Reply],
    kept: Sequence[DistilledTrace],
    rejects: Sequence[Reject],
    config: DistillConfig,
) -> dict[str, Any]:
    """All figures, as JSON has them."""
    by_domain = collections.Counter(trace.domain for trace in kept)
    return {
        "prompts": {
            "in": num_in,
            "asked": len(asked),
            "with_traces": len({trace.prompt_id for trace in kept}),
        },
        "traces": {
            "out": len(kept),
            **{f"out_{domain}": by_domain[domain] for domain in get_args(Domain)},
            "held_out": sum(is_held_out(trace, config) for trace in kept),
            "with_thinking": sum("</think>" in trace.completion for trace in kept),
            "verified": counted(trace.verified for trace in kept),
        },
        "rejected_by_reason": outcomes.by_reason(rejects),
        "replies": outcomes.of_replies(replies),
        "tokens_of_a_trace": spread([trace.completion_tokens for trace in kept]),
        "characters": {
            "prompt": spread([len(trace.prompt) for trace in kept]),
            "completion": spread([len(trace.completion) for trace in kept]),
            "answer_part": spread([len(thinking.answer_part(trace.completion)) for trace in kept]),
        },
    }


def lines(figures: Mapping[str, Any]) -> list[str]:
    """The report in a few lines for the log."""
    prompts, found, replies = figures["prompts"], figures["traces"], figures["replies"]
    text = [
        f"{found['out']:,} traces ({found['out_math']:,} of mathematics, {found['out_code']:,} of "
        f"programming) of {prompts['with_traces']:,} of {prompts['in']:,} prompts; "
        f"{found['with_thinking']:,} with thinking, {found['verified'].get('yes', 0):,} verified, "
        f"{found['held_out']:,} held out"
    ]
    if refused := figures["rejected_by_reason"]:
        text.append(f"rejected: {outcomes.listed(refused)}")
    if tokens := figures["tokens_of_a_trace"]:
        text.append(
            f"{tokens['mean']:,.0f} tokens a trace (the paper's: 7,351), 95 % below {tokens['p95']:,.0f}; "
            f"{replies['completion_tokens']:,} tokens were written for them"
        )
    return text
