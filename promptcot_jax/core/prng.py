"""Randomness derived from (seed, stream, step), so that a resumed run draws what the first run would have."""

import hashlib

import jax
import numpy as np

STREAMS = {
    "init": 0,
    "order": 1,  # data order of an epoch
    "propose": 2,  # rationales of the E-step
    "rollout": 3,  # solver samples
    "synthesize": 4,  # concept lists and problems
    "held_out": 5,  # rationales for the held-out bounds (step 0), problems of held-out concepts (step 1)
    "fixed": 6,  # rationales of the EM variant without E-step
    "pairs": 7,  # which pairs an EM round takes
    "rows": 8,  # order of an epoch's packed rows
    "adapter": 9,  # new LoRA matrices
    "text": 10,  # replies to conversations
    "samples": 11,  # completions of self-play that are picked to be read
    "evaluation": 12,  # attempts at held-out problems between the iterations of self-play
    "propose_cold": 13,  # rationales of the E-step by the cold-started q_phi
}


def stream_key(seed: int, stream: str, step: int = 0) -> jax.Array:
    """JAX key of one named stream at one step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), STREAMS[stream]), step)


def stream_generator(seed: int, stream: str, step: int = 0) -> np.random.Generator:
    """NumPy generator of one named stream at one step, for work on the host (data order, draws of text)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, STREAMS[stream], step])))


def derived_seed(seed: int, *labels: int) -> int:
    """A seed of its own for each part of a run (a role, a round); sums of seeds would meet each other's."""
    return int(np.random.SeedSequence([seed, *labels]).generate_state(1)[0])


ROW_DRAWS = {
    "annotator": 0,  # who of the annotators gets a problem
    "heldout_triples": 1,
    # These two share a number: of the same ids, seed and share both hold out the same rows.
    "heldout_traces": 2,  # by prompt
    "heldout_export": 2,
}


def row_draw(draw: str, row_id: str, seed: int) -> float:
    """A number in [0, 1) for a row, by its id alone: rows that join later change nothing for the others."""
    of_id = int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:4], "little")
    return derived_seed(seed, ROW_DRAWS[draw], of_id) / 2**32
