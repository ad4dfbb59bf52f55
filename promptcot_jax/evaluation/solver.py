"""Solutions from a real model: the solver's prompt, sampled by the compiled decode loop."""

from collections.abc import Sequence

from promptcot_jax.checkpoints import load
from promptcot_jax.core import prng
from promptcot_jax.data import examples
from promptcot_jax.evaluation import accuracy
from promptcot_jax.sampling import generation


def solution_sampler(model: load.LoadedModel, config: accuracy.AccuracyConfig) -> accuracy.Solve:
    """A function that solves problems with `model`; the decoding layout is made once."""
    tokenizer = model.tokenizer
    decoding_params = model.lm.decoding_layout(model.params)
    key = prng.stream_key(config.seed, "rollout")

    def solve(requests: Sequence[accuracy.AttemptRequest]) -> list[accuracy.Solution]:
        completions = generation.generate(
            model.lm,
            decoding_params,
            [examples.solver_prompt_ids(tokenizer, request.problem.problem, "math") for request in requests],
            sampling=config.sampling,
            stop_ids=tokenizer.stop_ids,
            key=key,
            request_ids=[request.index for request in requests],
            batch_size=config.batch_size,
            pad_id=tokenizer.pad_id,
            is_decoding_layout=True,
        )
        return [
            accuracy.Solution(
                text=tokenizer.decode(completion.ids_without_end),
                finish_reason=completion.finish_reason,
                num_tokens=len(completion.token_ids),
            )
            for completion in completions
        ]

    return solve
