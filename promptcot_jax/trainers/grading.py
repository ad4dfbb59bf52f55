"""Completions of verified prompts become `Rollout`s: verdict, reward and its terms, all by themselves.

Mathematics by the boxed answer, programs by their tests (`verify.rewards`), or both by a user's own
function (`verify.user_rewards`). What could not be graded for a reason that is not the completion's is marked
so and has no part in anything that follows.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from promptcot_jax.core import thinking
from promptcot_jax.core.records import MathPrompt, ProgramPrompt, Prompt, Rollout
from promptcot_jax.data import templates, validity
from promptcot_jax.data.prompt_stream import Task
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling import journal
from promptcot_jax.sampling.completions import Completion
from promptcot_jax.sampling.rollouts import Draw
from promptcot_jax.verify import math_answers, programs, rewards, user_rewards
from promptcot_jax.verify.rewards import Reward, RewardConfig, RunMany, Ungraded

# Statuses of completions that nothing can be learned from, whatever their verdict.
NOT_FINITE = "not_finite"  # a log-probability or a term of the reward is no number
EMPTY = "empty"  # there is no token


def answer_of(prompt: Prompt, text: str) -> str:
    """What of a completion is graded: the boxed answer or the last program; empty where there is none."""
    if isinstance(prompt, MathPrompt):
        return math_answers.extract_answer(text) or ""
    return templates.last_code_fence(thinking.answer_part(text)) or ""


def _program_of(prompt: ProgramPrompt, text: str) -> str | None:
    """What is run of a completion; None where it has no program."""
    program = templates.last_code_fence(thinking.answer_part(text))
    return None if program is None else programs.with_prelude(prompt.prelude, program)


def graded(
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    num_tokens: Sequence[int],
    config: RewardConfig,
    run_many: RunMany,
) -> list[Reward | Ungraded]:
    """The verdict on a completion of each prompt; `run_many` as in `Grader`.

    One that breaks a rule of `config.validity` has the rule's name as status and is graded no further; where
    it only lacks an answer, the graders say so.
    """
    faults: dict[int, str] = {}
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        if config.validity != "off":
            fault = validity.trace_fault(text, prompt.domain, config.validity)
            if fault is not None and fault != "no_answer":
                faults[i] = fault
    rest = [(i, prompt) for i, prompt in enumerate(prompts) if i not in faults]
    own = rest if config.function is not None else []
    math = [] if own else [(i, prompt) for i, prompt in rest if isinstance(prompt, MathPrompt)]
    code = [] if own else [(i, prompt) for i, prompt in rest if isinstance(prompt, ProgramPrompt)]
    of_own = user_rewards.user_rewards(
        [prompt for _, prompt in own], [texts[i] for i, _ in own], [num_tokens[i] for i, _ in own], config
    )
    of_math = rewards.math_rewards(
        [prompt.answer for _, prompt in math],
        [texts[i] for i, _ in math],
        [num_tokens[i] for i, _ in math],
        config,
    )
    of_code = rewards.program_rewards(
        [_program_of(prompt, texts[i]) for i, prompt in code],
        [prompt.tests for _, prompt in code],
        [num_tokens[i] for i, _ in code],
        config,
        run_many=run_many,
    )
    found = zip((*own, *math, *code), (*of_own, *of_math, *of_code), strict=True)
    verdicts = {i: verdict for (i, _), verdict in found}
    for i, fault in faults.items():
        length = rewards.length_term(num_tokens[i], config)
        verdicts[i] = Reward(correct=0.0, format=0.0, length=length, status=fault)
    return [verdicts[i] for i in range(len(prompts))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grader:
    """How completions are graded; uses no devices, so that it may run beside decoding."""

    tokenizer: Tokenizer
    config: RewardConfig
    run_many: RunMany  # see `program_pool.run_many`, with its settings filled in

    def rollouts(
        self,
        draws: Sequence[Draw[Task]],
        completions: Sequence[Completion],
        *,
        shared: hosts.Shared,
        iteration: int,
        group_size: int,
        seed: int,
        policy_digest: str,
    ) -> list[Rollout]:
        """The records of consecutive draws, in order; draw `index` is of group `index // group_size`.

        Of several hosts one has the verdicts, as time limits could make those of two differ, and the first
        makes the records; on the others there are none.

        Args:
            shared: of which this is a part.
        """
        texts = self._texts(draws, completions)

        def verdicts() -> list[dict[str, Any]]:
            num_tokens = [len(completion.token_ids) for completion in completions]
            return [*map(dataclasses.asdict, self._verdicts(draws, texts, num_tokens))]

        found = shared.part(draws[0].index // len(draws), verdicts)
        if found is None:
            return []
        return [
            Rollout(
                iteration=iteration,
                group=draw.index // group_size,
                seed=seed,
                policy_digest=policy_digest,
                **self._facts(draw, completion, text, Reward(**own) if "correct" in own else Ungraded(**own)),
            )
            for draw, completion, text, own in zip(draws, completions, texts, found, strict=True)
        ]

    def _texts(self, draws: Sequence[Draw[Task]], completions: Sequence[Completion]) -> list[str]:
        """The completions, with the tag of thinking that their prompts opened."""
        tails = self.tokenizer.decode_many([draw.row.prompt_ids[-thinking.TAIL_TOKENS :] for draw in draws])
        written = self.tokenizer.decode_many([completion.ids_without_end for completion in completions])
        return [thinking.restored(tail, text) for tail, text in zip(tails, written, strict=True)]

    def _verdicts(
        self, draws: Sequence[Draw[Task]], texts: Sequence[str], num_tokens: Sequence[int]
    ) -> list[Reward | Ungraded]:
        prompts = [draw.row.prompt for draw in draws]
        return graded(prompts, texts, num_tokens, self.config, self.run_many)

    def _facts(
        self, draw: Draw[Task], completion: Completion, text: str, verdict: Reward | Ungraded
    ) -> dict[str, Any]:
        if not completion.token_ids:
            verdict = Ungraded(status=EMPTY)
        elif not np.isfinite(completion.sampler_log_probs).all() or not self._is_finite(verdict):
            verdict = Ungraded(status=NOT_FINITE)
        is_graded = isinstance(verdict, Reward)
        return {
            "prompt_id": draw.row.prompt.id,
            "domain": draw.row.prompt.domain,
            "sample": draw.sample,
            "index": draw.index,
            "prompt_ids": draw.row.prompt_ids,
            "token_ids": completion.token_ids,
            "sampler_log_probs": journal.float_text(completion.sampler_log_probs),
            "completion": text,
            "finish_reason": completion.finish_reason,
            "graded": is_graded,
            "correct": is_graded and verdict.correct == 1.0,
            "score": verdict.correct if is_graded else 0.0,
            "reward": verdict.total(self.config) if is_graded else 0.0,
            "format": verdict.format if is_graded else 0.0,
            "length": verdict.length if is_graded else 0.0,
            "status": verdict.status,
        }

    def _is_finite(self, verdict: Reward | Ungraded) -> bool:
        if isinstance(verdict, Ungraded):
            return True
        return bool(np.isfinite([verdict.total(self.config), verdict.format, verdict.length]).all())
