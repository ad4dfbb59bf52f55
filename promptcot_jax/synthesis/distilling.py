"""Traces of a teacher for SFT (paper section 3.5): which prompts it gets, and which of its replies are kept.

A reply is kept if it ended by itself and has a boxed answer, or a program, to show. That it is right is not
asked, as in the paper, where nothing else than the teacher knows the answer; prompts that come with an answer
or with tests can be held to them (`DistillConfig.verification`). The paper has one trace of each prompt.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

from etils import epath

from promptcot_jax.core import shards
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import DistilledTrace, Domain, MathPrompt
from promptcot_jax.data import decontamination, validity
from promptcot_jax.data.validity import Validity
from promptcot_jax.sampling.text_model import FinishReason, Reply
from promptcot_jax.synthesis import seed_problems, traces
from promptcot_jax.synthesis.annotation_requests import Unusable
from promptcot_jax.synthesis.open_problems import OpenProblem
from promptcot_jax.verify import program_pool, rewards
from promptcot_jax.verify.programs import ProgramSettings
from promptcot_jax.verify.rewards import Reward, RewardConfig, Ungraded

Verification = Literal["none", "flag", "only"]
Verified = Literal["yes", "no", "unknown"]

_SHARD = 64  # traces that are graded between two writes
_HELD_OUT = 2  # purpose of a prompt's draw; `annotating` has 0 and 1
_NOT_ENDED: Mapping[FinishReason, str] = {
    "length": "the reply was cut off",
    "filtered": "the server held the reply back",
    "too_long": "the prompt leaves no room for a reply",
    "malformed": "the server gave nothing that can be read",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """What the teacher is asked, and which of its replies become traces.

    Attributes:
        domain: of rows that do not say.
        group_size: replies to each prompt.
        max_traces: of a prompt; the first that can be kept. None: all.
        validity: whose rules a trace must keep, see `traces` and `data.validity`; "release" has some for
            prompts too.
        verification: of traces by their prompt's answer or tests. "none": there is none; "flag": the trace
            says what came out; "only": what is not right is left out, and prompts without either are not
            asked.
        heldout_share: of the prompts, whose traces are kept apart to measure a fit by.
        seed: of the choice of these prompts.
    """

    domain: Domain = "math"
    group_size: int = 1
    max_traces: int | None = None
    validity: Validity = "paper"
    verification: Verification = "none"
    heldout_share: float = 0.0
    seed: int = 0

    def __post_init__(self):
        if self.group_size < 1:
            raise ValueError(f"group_size must be at least 1, got {self.group_size}.")
        if self.max_traces is not None and self.max_traces < 1:
            raise ValueError(f"max_traces must be at least 1, or None for all, got {self.max_traces}.")
        for name, known in (("validity", get_args(Validity)), ("verification", get_args(Verification))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {list(known)}, got {getattr(self, name)!r}.")
        if not 0.0 <= self.heldout_share < 1.0:
            raise ValueError(f"heldout_share must lie in [0, 1), got {self.heldout_share}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reject:
    """A prompt that was not asked, or a reply that is no trace; a row of `distill/rejects.jsonl`."""

    id: str  # of the prompt
    sample: int  # -1: the prompt was not asked
    reason: str
    message: str


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
            rejects.append(Reject(id=problem.id, sample=-1, reason=fault[0], message=fault[1]))
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
    made, rejects = [], []
    by_id = {problem.id: problem for problem in problems}
    seen: set[tuple[str, str]] = set()
    for reply in replies:
        problem = by_id[reply.id]
        try:
            if reply.finish_reason != "stop":
                raise Unusable(reply.finish_reason, _NOT_ENDED[reply.finish_reason])
            completion = traces.read(reply.text, problem.domain, config.validity)
            if (problem.id, completion) in seen:
                raise Unusable("repeated_trace", "an earlier sample has the same text")
        except Unusable as fault:
            rejects.append(
                Reject(id=problem.id, sample=reply.sample, reason=fault.reason, message=str(fault))
            )
            continue
        seen.add((problem.id, completion))
        made.append(
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
    return made, rejects


def grade(
    made: Sequence[DistilledTrace],
    problems: Sequence[OpenProblem],
    path: epath.PathLike,
    settings: ProgramSettings,
) -> list[Grade]:
    """Holds traces to their prompts' answers or tests and writes what came of it to `path`, shard by shard.

    Raises:
        SandboxUnavailable: there are programs, and none can be run here.
    """
    by_id = {problem.id: problem for problem in problems}
    pairs = [(trace, by_id[trace.prompt_id]) for trace in made if _can_be_graded(by_id[trace.prompt_id])]

    def work(some: Sequence[tuple[DistilledTrace, OpenProblem]]) -> list[Grade]:
        found: dict[str, Reward | Ungraded] = {}
        for domain in get_args(Domain):
            own = [(trace, problem) for trace, problem in some if trace.domain == domain]
            graded = _math_rewards(own) if domain == "math" else _program_rewards(own, settings)
            found |= {trace.id: reward for (trace, _), reward in zip(own, graded, strict=True)}
        return [_grade(trace.id, found[trace.id]) for trace, _ in some]

    return shards.map_in_shards(path, pairs, work, Grade, shard_size=_SHARD, name="grades")


def _math_rewards(pairs: Sequence[tuple[DistilledTrace, OpenProblem]]) -> list[Reward | Ungraded]:
    answers = [problem.answer for _, problem in pairs]
    completions = [trace.completion for trace, _ in pairs]
    return rewards.math_rewards(answers, completions, [0] * len(pairs), RewardConfig())


def _program_rewards(
    pairs: Sequence[tuple[DistilledTrace, OpenProblem]], settings: ProgramSettings
) -> list[Reward | Ungraded]:
    return rewards.program_rewards(
        [traces.program_of(trace.completion) for trace, _ in pairs],
        [problem.tests for _, problem in pairs],
        [0] * len(pairs),
        RewardConfig(),
        run_many=lambda jobs: program_pool.run_many(jobs, settings),
    )


def _grade(trace_id: str, reward: Reward | Ungraded) -> Grade:
    verified: Verified = "unknown"
    if isinstance(reward, Reward):
        verified = "yes" if reward.correct else "no"
    return Grade(id=trace_id, verified=verified, status=reward.status)


def keep(
    made: Sequence[DistilledTrace], grades: Sequence[Grade], config: DistillConfig
) -> tuple[list[DistilledTrace], list[Reject]]:
    """The traces that stay, each with its verdict, and the others."""
    by_id = {grade.id: grade for grade in grades}
    kept, rejects = [], []
    of_prompt: collections.Counter[str] = collections.Counter()
    for trace in made:
        if (found := by_id.get(trace.id)) is not None:
            trace = dataclasses.replace(trace, verified=found.verified)
        if config.verification == "only" and trace.verified != "yes":
            reason = "not_graded" if found is None else found.status
            said = "could not be graded" if trace.verified == "unknown" else "does not agree with the prompt"
            fault = reason, f"{said} ({reason})"
        elif config.max_traces is not None and of_prompt[trace.prompt_id] >= config.max_traces:
            fault = "spare", f"the prompt has {config.max_traces} already"
        else:
            of_prompt[trace.prompt_id] += 1
            kept.append(trace)
            continue
        rejects.append(Reject(id=trace.prompt_id, sample=trace.sample, reason=fault[0], message=fault[1]))
    return kept, rejects


def is_held_out(trace: DistilledTrace, config: DistillConfig) -> bool:
    """Whether a trace goes to the held-out file: by its prompt, whose traces stay together."""
    return seed_problems.drawn_number(trace.prompt_id, config.seed, _HELD_OUT) < config.heldout_share
