"""A fit of a tiny decoder in a second or two. As a program, it is the victim of the kill -9 tests:

python -m tests.trainers.toy_fit DIRECTORY [STEP]    # STEP: kill itself when asked for that batch
"""

import dataclasses
import os
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np

from promptcot_jax.data import example_sets, examples, packing
from promptcot_jax.models import causal_lm
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.trainers import loop, optimizer, sft, train_step
from tests import toys

VOCAB_SIZE = 16
END, SEPARATOR = 1, 2
OPTIMIZER = optimizer.OptimizerConfig(
    learning_rate=1e-2, warmup_steps=3, schedule="cosine", weight_decay=0.1, clip_norm=1.0
)
CONFIG = loop.LoopConfig(log_every=3, checkpoint_every=4, eval_every=6, tensorboard=False)


@dataclasses.dataclass(frozen=True)
class BigramModel(causal_lm.CausalLM):
    """Logits are a row of a table, chosen by the token read: a likelihood to work out with a pencil."""

    def hidden_states(self, params, token_ids, segment_ids=None, positions=None, *, remat="projections"):
        return params["table"][token_ids]

    def output_embedding(self, params):
        return jnp.eye(params["table"].shape[0])


BIGRAM = BigramModel(toys.toy_config())
TABLE = jnp.log(jnp.array([[4.0, 2.0, 2.0], [1.0, 1.0, 6.0], [5.0, 2.0, 1.0]]))  # eighths


def toy_lm(**changes) -> causal_lm.CausalLM:
    settings = {
        "vocab_size": VOCAB_SIZE,
        "embed_dim": 16,
        "mlp_dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 2,
    }
    return causal_lm.CausalLM(toys.toy_config(**(settings | changes)))


def toy_examples(number: int = 21, seed: int = 0) -> list[examples.TokenExample]:
    """Prompts of 1-4 letters and a separator, completed by the letters backwards and the end."""
    rng = np.random.default_rng(seed)
    words = [tuple(rng.integers(3, VOCAB_SIZE, rng.integers(1, 5)).tolist()) for _ in range(number)]
    return [examples.TokenExample(prompt_ids=(*w, SEPARATOR), completion_ids=(*w[::-1], END)) for w in words]


def toy_batches(num_epochs: int = 3, **changes) -> packing.PackedEpochs:
    """Unless changed, 12 steps."""
    settings = {"row_length": 12, "rows_per_batch": 4, "num_epochs": num_epochs, "seed": 0}
    return packing.PackedEpochs(example_sets.Listed(toy_examples()), **(settings | changes))


class Fixed:
    """A source of the batches given."""

    def __init__(self, batches):
        self._batches = list(batches)
        self.num_steps = len(self._batches)
        self.rows_per_batch = len(self._batches[0].token_ids)
        self.own_rows = range(self.rows_per_batch)

    def batch(self, step: int) -> packing.PackedBatch:
        return self._batches[step]


class FailingAt(Fixed):
    """Calls `fail` when a step's batch is asked for."""

    def __init__(self, batches: packing.PackedEpochs, step: int, fail):
        super().__init__(batches.batch(i) for i in range(batches.num_steps))
        self._step, self._fail = step, fail

    def batch(self, step: int) -> packing.PackedBatch:
        if step == self._step:
            self._fail()
        return super().batch(step)


def fit(directory, batches=None, *, lm=None, mesh=None, params=None, **changes):
    """The toy's fit with held-out NLL; `changes` are arguments of `loop.fit` and `StepConfig`."""
    lm = lm or toy_lm()
    held_out = packing.PackedEpochs(
        example_sets.Listed(toy_examples(seed=1)), row_length=12, rows_per_batch=4, num_epochs=1, seed=0
    )

    def evaluate(params):
        total, count = sft.nll(lm, params, held_out)
        return {"nll": total / count}

    settings = {
        "loss": sft.SftLoss(),
        "optimizer": OPTIMIZER,
        "config": CONFIG,
        "evaluate": evaluate,
    } | changes
    config = settings.pop("config")
    step = train_step.StepConfig(
        loss=settings.pop("loss"),
        optimizer=settings.pop("optimizer"),
        micro_batches=config.micro_batches,
        remat=config.remat,
    )
    return loop.fit(
        lm,
        train_step.Trainable.of(lm.init(jax.random.key(0)) if params is None else params),
        batches or toy_batches(),
        step=step,
        config=config,
        mesh=mesh or mesh_lib.make_mesh(mesh_lib.MeshConfig()),
        directory=directory,
        **settings,
    )


def named_leaves(state) -> dict[str, np.ndarray]:
    """The arrays of a state by their path in it."""
    return {
        jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)
    }


if __name__ == "__main__":
    chosen = toy_batches()
    if len(sys.argv) > 2:
        chosen = FailingAt(chosen, int(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL))
    state = fit(sys.argv[1], chosen)
    np.savez(os.path.join(sys.argv[1], "final.npz"), **named_leaves(state))
