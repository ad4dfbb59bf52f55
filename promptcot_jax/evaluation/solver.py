"""Solutions from a real model: the solver's prompt, sampled by the rollout engine, graded shard by shard."""

from collections.abc import Sequence

from etils import epath

from promptcot_jax.checkpoints import load
from promptcot_jax.core.records import AttemptRecord, VerifiedMathPrompt
from promptcot_jax.data import examples
from promptcot_jax.evaluation import accuracy
from promptcot_jax.sampling import completions, rollouts


def solution_sampler(model: load.LoadedModel, config: rollouts.RolloutConfig) -> accuracy.Solve:
    """A function that solves problems with `model`; the decoding layout is made once."""
    tokenizer = model.tokenizer
    sampler = rollouts.make_sampler(model.lm, model.params, tokenizer, config, "rollout")

    def prompt_ids(problem: accuracy.Problem) -> Sequence[int]:
        domain = "math" if isinstance(problem, VerifiedMathPrompt) else "code"
        tests = examples.tests_of(problem)
        return tokenizer.prompt_ids(examples.solver_prompt(tokenizer, problem.problem, domain, tests))

    def to_solution(completion: completions.Completion) -> accuracy.Solution:
        return accuracy.Solution(
            text=tokenizer.decode(completion.ids_without_end),
            finish_reason=completion.finish_reason,
            num_tokens=len(completion.token_ids),
        )

    def solve(
        path: epath.PathLike, draws: Sequence[rollouts.Draw[accuracy.Problem]], grade: accuracy.Grade
    ) -> list[AttemptRecord]:
        return rollouts.map_draws(
            path,
            draws,
            lambda some, drawn: grade(some, [to_solution(completion) for completion in drawn]),
            AttemptRecord,
            sampler=sampler,
            prompt_ids=prompt_ids,
            shard_size=config.requests_per_shard,
            name="evaluate",
        )

    return solve
