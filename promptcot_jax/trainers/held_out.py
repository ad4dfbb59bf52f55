"""Held-out accuracy during self-play: the policy between two iterations on problems it never trains on.

Each evaluation is a file of attempts, `evaluations/step_WWWWW.jsonl` after W iterations, drawn and judged as
rollouts are: what a killed run has of it is kept. The noise is that of the problem and the sample, the same
in every evaluation, and of a stream of its own: a run with evaluations makes the iterations of one without.

A completion with a log-probability that is no number counts as wrong here, since that is the policy's fault.
"""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.records import AttemptRecord, MathPrompt, Rollout
from promptcot_jax.core.settings import NonNegativeInt, PositiveInt, settings
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.data.prompt_stream import Task
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling import rollouts
from promptcot_jax.sampling.completions import Completion
from promptcot_jax.sampling.rollouts import Draw, RolloutConfig
from promptcot_jax.trainers import goals, grading
from promptcot_jax.trainers.grading import Grader
from promptcot_jax.verify import problem_accuracy
from promptcot_jax.verify.rewards import UNGRADED

DIRECTORY = "evaluations"
METRICS = (
    *("eval/avg_at_k", "eval/standard_error", "eval/pass_at_k", "eval/mean_length", "eval/clipped_ratio"),
    *("eval/ungraded", "eval/num_problems"),
)


@settings
class HeldOutConfig:
    """Which problems are attempted, how, and how often."""

    # The samples, k of them a problem; unlike rollouts to train on they may be cut by top-p, or be one greedy
    # completion.
    rollouts: RolloutConfig
    prompts: InputPath | None = None  # file of the problems; None: there are no evaluations
    # Iterations from one evaluation to the next; the policy to begin with and the last one are evaluated too.
    every: PositiveInt = 10
    max_problems: NonNegativeInt = 0  # the first so many of the file that are not trained on; 0: all
    # Metric by which the best of the evaluated policies is what the run ends with, instead of the last.
    keep_best: goals.BestBy | None = None

    def __post_init__(self):
        if self.keep_best is not None and self.prompts is None:
            raise ValueError("keep_best needs evaluations; set prompts, the file of their problems.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The evaluations of one run.

    Attributes:
        tasks: the problems, with ids of their own.
        directory: of the files of attempts.
    """

    lm: LanguageModel
    tokenizer: Tokenizer
    grader: Grader
    tasks: Sequence[Task]
    config: HeldOutConfig
    directory: epath.Path

    def measure(self, step: int, params: Params) -> dict[str, float]:
        """Figures of the policy after `step` iterations, from its file of attempts where there is one."""
        began = time.monotonic()
        settings, name = self.config.rollouts, f"evaluation after iteration {step}"
        shared = hosts.Shared(f"verdicts of {name}")

        def grade(some: Sequence[Draw[Task]], completions: Sequence[Completion]) -> list[AttemptRecord]:
            graded = self.grader.rollouts(
                some,
                completions,
                shared=shared,
                iteration=step,
                group_size=settings.group_size,
                seed=settings.seed,
                policy_digest="",
            )
            pairs = zip(some, graded, strict=hosts.is_first())  # others have none
            return [_attempt(draw, rollout) for draw, rollout in pairs]

        attempts = rollouts.map_draws(
            self._file(step),
            rollouts.draws_of(self.tasks, settings.group_size),
            grade,
            AttemptRecord,
            sampler=lambda: rollouts.make_sampler(self.lm, params, self.tokenizer, settings, "evaluation"),
            prompt_ids=lambda task: task.prompt_ids,
            shard_size=settings.requests_per_shard,
            name=name,
            beside=True,
            on_error=shared.give_up,
        )
        return figures_of(attempts) | {"seconds/evaluation": round(time.monotonic() - began, 4)}

    def stored(self, step: int) -> dict[str, float]:
        """Figures of an evaluation that was made before."""
        return figures_of(jsonl.read_file(self._file(step), AttemptRecord))

    def _file(self, step: int) -> epath.Path:
        return self.directory / f"step_{step:05d}.jsonl"


def figures_of(attempts: Sequence[AttemptRecord]) -> dict[str, float]:
    """Metrics of one evaluation; what is undefined is no number."""
    accuracy = problem_accuracy.over_problems(attempts)
    figures = (
        accuracy["accuracy"],
        accuracy["standard_error"],
        problem_accuracy.pass_at_k(attempts),
        float(np.mean([attempt.num_tokens for attempt in attempts])),
        float(np.mean([attempt.finish_reason == "length" for attempt in attempts])),
        float(np.mean([attempt.status in UNGRADED for attempt in attempts])),
        float(len({attempt.problem_id for attempt in attempts})),
    )
    pairs = zip(METRICS, figures, strict=True)
    return {name: float("nan") if value is None else value for name, value in pairs}


def _attempt(draw: Draw[Task], rollout: Rollout) -> AttemptRecord:
    prompt = draw.row.prompt
    return AttemptRecord(
        problem_id=prompt.id,
        sample=draw.sample,
        completion=rollout.completion,
        answer=grading.answer_of(prompt, rollout.completion),
        reference=prompt.answer if isinstance(prompt, MathPrompt) else "",
        correct=rollout.correct,
        status=_status(rollout),
        finish_reason=rollout.finish_reason,
        num_tokens=len(rollout.token_ids),
    )


def _status(rollout: Rollout) -> str:
    """The verdict's; `error`, which no accuracy counts, where a grader gave none for another reason.

    An attempt without a token, or with a log-probability that is no number, is the policy's own fault.
    """
    if rollout.graded or rollout.status in (grading.EMPTY, grading.NOT_FINITE, *UNGRADED):
        return rollout.status
    return "error"
