"""A small rollout store for tests."""

from pathlib import Path

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import Rollout
from tests import toys

TOKENIZER = toys.byte_tokenizer()


def rollout(prompt_id: str, text: str, *, correct: bool, index: int = 0, graded: bool = True) -> Rollout:
    """A completion that ended by itself."""
    return Rollout(
        prompt_id=prompt_id,
        domain="math",
        iteration=0,
        group=0,
        sample=0,
        index=index,
        seed=0,
        policy_digest="p",
        prompt_ids=tuple(TOKENIZER.encode(f"{prompt_id}?")),
        token_ids=(*TOKENIZER.encode(text), TOKENIZER.eos_id),
        sampler_log_probs="",
        completion=text,
        finish_reason="stop",
        graded=graded,
        correct=correct,
        score=float(correct),
        reward=float(correct),
        format=1.0,
        length=0.0,
        status="match",
    )


def store(directory: Path, *iterations: list[Rollout]) -> Path:
    """The store of some iterations."""
    for number, iteration in enumerate(iterations):
        jsonl.write_records(directory / f"iteration_{number:05d}.jsonl", iteration)
    return directory
