"""How near two cores come to their own limit at the size of promptcot-tiny: a training step and the engine.

    python benchmarks/tiny_speed.py

A matrix product in float32, as the limit; a training step on the quickstart's batches (2 x 512 tokens), with
attention by blocks of queries and over whole rows; 256 samples of one problem by the rollout engine with 128
and with 32 slots. Compilation is not timed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import pairs

ROWS, LENGTH, PRODUCT, NUM_SAMPLES, MAX_NEW_TOKENS = 2, 512, 2048, 256, 256
STEPS, PRODUCTS = 8, 8  # in a run
PROBLEM = "The quadratic equation x^2 - 32x + 11 = 0 has the real roots r and s. How large is r^2 + s^2?"


def product() -> Callable[[], float]:
    import jax
    import numpy as np

    matrix = jax.device_put(np.random.default_rng(0).standard_normal((PRODUCT, PRODUCT)).astype(np.float32))
    multiply = jax.jit(jax.numpy.matmul)

    def work() -> float:
        start = time.perf_counter()
        for _ in range(PRODUCTS):
            multiply(matrix, matrix).block_until_ready()
        return time.perf_counter() - start

    return work


def training(queries_of_block: int) -> Callable[[], float]:
    import jax

    from promptcot_jax import api
    from promptcot_jax.models import attention
    from promptcot_jax.parallel import mesh as mesh_lib
    from promptcot_jax.trainers import optimizer, sft, train_step

    attention._QUERY_BLOCK = queries_of_block
    model, mesh = api.load_model("promptcot-tiny"), mesh_lib.make_mesh(mesh_lib.MeshConfig())
    batch = pairs.random_batch(ROWS, LENGTH, model.config.vocab_size)
    config = train_step.StepConfig(
        loss=sft.SftLoss(), optimizer=optimizer.OptimizerConfig(learning_rate=1e-4)
    )
    with jax.set_mesh(mesh):
        step = train_step.make_train_step(model.lm, config, mesh)
        state = step.start(model.params)

    def work() -> float:
        nonlocal state
        start = time.perf_counter()
        with jax.set_mesh(mesh):
            for _ in range(STEPS):
                state, metrics = step.run(state, batch, 1_000, {})
            jax.block_until_ready(metrics)
        return time.perf_counter() - start

    return work


def decoding(num_slots: int) -> Callable[[], float]:
    """Seconds a token, times a million, so that runs of different samples compare."""
    import jax

    from promptcot_jax import api
    from promptcot_jax.data import templates
    from promptcot_jax.sampling import generation, token_choice

    model = api.load_model("promptcot-tiny")
    prompt = model.tokenizer.encode(templates.solver_prompt(PROBLEM, "math"))

    def work() -> float:
        start = time.perf_counter()
        completions = generation.generate(
            model.lm,
            model.params,
            [prompt] * NUM_SAMPLES,
            sampling=token_choice.SamplingConfig(temperature=1.0, max_new_tokens=MAX_NEW_TOKENS),
            stop_ids=[model.tokenizer.eos_id],
            key=jax.random.key(0),
            num_slots=num_slots,
        )
        seconds = time.perf_counter() - start
        return 1e6 * seconds / sum(len(completion.token_ids) for completion in completions)

    return work


SIDES = {
    "product": product,
    "blocks": lambda: training(128),
    "whole rows": lambda: training(LENGTH),
    "128 slots": lambda: decoding(128),
    "32 slots": lambda: decoding(32),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        pairs.serve(SIDES[options.worker]())
        return

    from promptcot_jax import api

    commands = {side: [sys.executable, __file__, f"--worker={side}"] for side in SIDES}
    found = {side: one.seconds for side, one in pairs.alternate(commands, options.pairs).items()}
    limit = PRODUCTS * 2 * PRODUCT**3 / statistics.median(found["product"])
    print(f"matrix product: {limit / 1e9:.0f} billion operations/s")
    operations = 6 * api.load_model("promptcot-tiny").config.parameter_count()  # of a trained token
    for side in ("blocks", "whole rows"):
        speeds = [STEPS * ROWS * LENGTH / seconds for seconds in found[side]]
        share = statistics.median(speeds) * operations / limit
        print(f"training, {side}: {_spread(speeds)} tokens/s, {share:.0%} of the matrix product's rate")
    for side in ("128 slots", "32 slots"):
        print(f"engine, {side}: {_spread([1e6 / seconds for seconds in found[side]])} tokens/s")


def _spread(speeds: list[float]) -> str:
    return f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})"


if __name__ == "__main__":
    main()
