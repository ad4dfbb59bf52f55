"""What is asked of a sampler and what comes back, shared by the engine and everything that samples."""

import dataclasses
from typing import Literal

import numpy as np

from promptcot_jax.sampling.token_choice import SamplingConfig


@dataclasses.dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt; an end token that it wrote is part of it, and scored."""

    token_ids: tuple[int, ...]
    log_probs: np.ndarray  # [n] float32, under the model at the sampling temperature (greedy: at 1)
    sampler_log_probs: np.ndarray  # [n] float32, under what top-k, top-p and min-p left of it
    finish_reason: Literal["stop", "length"]
    has_end: bool  # the last id is a stop id; False too where a stop text ended it
    num_continued: int = 0  # leading tokens that an interrupted run had drawn (see `Request.partial`)

    @property
    def ids_without_end(self) -> tuple[int, ...]:
        """The ids of what was written, without the end token."""
        return self.token_ids[:-1] if self.has_end else self.token_ids


@dataclasses.dataclass(frozen=True)
class PartialCompletion:
    """The first tokens of a completion that was interrupted."""

    token_ids: tuple[int, ...]
    log_probs: np.ndarray
    sampler_log_probs: np.ndarray

    def __post_init__(self):
        lengths = {len(self.token_ids), len(self.log_probs), len(self.sampler_log_probs)}
        if len(lengths) > 1:
            raise ValueError(
                f"A partial completion needs log-probabilities of each token; got lengths {lengths}."
            )


NOTHING_YET = PartialCompletion((), np.zeros(0, np.float32), np.zeros(0, np.float32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One completion to draw.

    Attributes:
        id: keys the noise, with the stream's key; below 2**32. G samples of one prompt are G requests, with G
            ids; the prompt is read once for all of them.
        stop_ids: end a completion and belong to it.
        stop_texts: end a completion with the token that completes one of them.
        partial: tokens to go on from. They are read like a prompt, which rounds otherwise than decoding them
            did, so what follows has the right distribution but other tokens than in the uninterrupted run.
    """

    id: int
    prompt_ids: tuple[int, ...]
    sampling: SamplingConfig
    stop_ids: tuple[int, ...] = ()
    stop_texts: tuple[str, ...] = ()
    partial: PartialCompletion = NOTHING_YET

    @property
    def known_ids(self) -> tuple[int, ...]:
        """The prompt, and what there is of the completion."""
        return (*self.prompt_ids, *self.partial.token_ids)

    @property
    def most_tokens(self) -> int:
        """Prompt and longest completion."""
        return len(self.prompt_ids) + self.sampling.max_new_tokens
