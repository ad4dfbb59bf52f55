"""What a stage samples: how often for each row, by which settings, in which batches and shards.

Requests are numbered through the whole stage and a request's noise is keyed by its number, so that the shard
and the batch it falls into change nothing.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, Generic, TypeVar

from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.sampling import completions, generation, token_choice

Row = TypeVar("Row")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How many samples of each row, and how they are drawn."""

    HOW_ONLY: ClassVar = frozenset({"batch_size"})

    sampling: token_choice.SamplingConfig
    samples_per_row: int = 1
    batch_size: int = 32
    requests_per_shard: int = 128  # a killed run loses at most the samples of one shard
    seed: int = 0

    def __post_init__(self):
        for name in ("samples_per_row", "batch_size", "requests_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.sampling.temperature == 0 and self.samples_per_row > 1:
            raise ValueError(
                f"samples_per_row is {self.samples_per_row} at temperature 0, where all samples of a row are "
                "the same; set it to 1 or raise the temperature."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Generic[Row]):
    """One sample to draw; `index` numbers it within the stage and keys its noise."""

    index: int
    row: Row
    sample: int  # 0 .. samples_per_row - 1


def requests_of(rows: Sequence[Row], samples_per_row: int) -> list[Request[Row]]:
    """All requests, the samples of a row side by side."""
    return [
        Request(index=i * samples_per_row + sample, row=row, sample=sample)
        for i, row in enumerate(rows)
        for sample in range(samples_per_row)
    ]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A model with its decoding layout made once, drawing from one noise stream."""

    lm: CausalLM
    decoding_params: Params
    tokenizer: Tokenizer
    config: RolloutConfig
    stream: str

    def complete(
        self, requests: Sequence[Request[Row]], prompt_ids: Callable[[Row], Sequence[int]]
    ) -> list[completions.Completion]:
        """One completion for each request, in order.

        Raises:
            WrongUse: a prompt and the budget exceed the model's positions.
        """
        prompts = [prompt_ids(request.row) for request in requests]
        budget, limit = self.config.sampling.max_new_tokens, self.lm.config.max_positions
        longest = max(map(len, prompts), default=0)
        if longest + budget > limit:
            raise WrongUse(
                f"A prompt of {longest} tokens and max_new_tokens={budget} exceed the model's {limit} "
                f"positions; lower max_new_tokens to {limit - longest} or less, or leave out long rows."
            )
        return generation.generate(
            self.lm,
            self.decoding_params,
            prompts,
            sampling=self.config.sampling,
            stop_ids=self.tokenizer.stop_ids,
            key=prng.stream_key(self.config.seed, self.stream),
            request_ids=[request.index for request in requests],
            num_slots=self.config.batch_size,
        )


def make_sampler(
    lm: CausalLM, params: Params, tokenizer: Tokenizer, config: RolloutConfig, stream: str
) -> Sampler:
    """A sampler for parameters in training layout."""
    return Sampler(lm, lm.decoding_layout(params), tokenizer, config, stream)
