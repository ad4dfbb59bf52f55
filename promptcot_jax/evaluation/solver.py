"""Solutions from a real model: the solver's prompt, sampled by the compiled decode loop."""

from collections.abc import Sequence

from promptcot_jax.checkpoints import load
from promptcot_jax.core.records import SolvedMathProblem
from promptcot_jax.data import examples
from promptcot_jax.evaluation import accuracy
from promptcot_jax.sampling import rollouts


def solution_sampler(model: load.LoadedModel, config: rollouts.RolloutConfig) -> accuracy.Solve:
    """A function that solves problems with `model`; the decoding layout is made once."""
    tokenizer = model.tokenizer
    sampler = rollouts.make_sampler(model.lm, model.params, tokenizer, config, "rollout")

    def prompt_ids(problem: accuracy.Problem) -> Sequence[int]:
        domain = "math" if isinstance(problem, SolvedMathProblem) else "code"
        return examples.solver_prompt_ids(tokenizer, problem.problem, domain)

    def solve(requests: Sequence[rollouts.Request[accuracy.Problem]]) -> list[accuracy.Solution]:
        completions = sampler.complete(requests, prompt_ids)
        return [
            accuracy.Solution(
                text=tokenizer.decode(completion.ids_without_end),
                finish_reason=completion.finish_reason,
                num_tokens=len(completion.token_ids),
            )
            for completion in completions
        ]

    return solve
