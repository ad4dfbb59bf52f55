"""One SFT step at the 135M shape, float32, 8 x 256 tokens: ours against `transformers` with torch's AdamW.

    python benchmarks/sft_step.py --torch_python=PATH        # an interpreter with torch and transformers

A step is loss, gradient, clipping by global norm and AdamW; every token is trained, all numbers are float32.
The warm-up run (compilation, first allocation of the moments) is not timed. Both sides check that they learn.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable

import pairs

LEARNING_RATE = 1e-4


def ours(rows: int, length: int, remat: bool) -> Callable[[], float]:
    import jax

    from promptcot_jax.models import causal_lm, config
    from promptcot_jax.parallel import mesh as mesh_lib
    from promptcot_jax.parallel import rules
    from promptcot_jax.trainers import optimizer, sft, train_step

    model_config = config.DecoderConfig(**pairs.SHAPE_135M, tie_embeddings=True)
    lm, mesh = (
        causal_lm.CausalLM(model_config, rules.DEFAULT_RULES),
        mesh_lib.make_mesh(mesh_lib.MeshConfig()),
    )
    batch = pairs.random_batch(rows, length, model_config.vocab_size)
    settings = optimizer.OptimizerConfig(learning_rate=LEARNING_RATE)
    with jax.set_mesh(mesh):
        step = train_step.make_train_step(
            lm,
            train_step.StepConfig(
                loss=sft.SftLoss(), optimizer=settings, remat="full" if remat else "projections"
            ),
            mesh,
        )
        state = step.start(lm.init(jax.random.key(0)))
    losses = []

    def work() -> float:
        nonlocal state
        start = time.perf_counter()
        with jax.set_mesh(mesh):
            state, metrics = jax.block_until_ready(step.run(state, batch, 1, {}))
        seconds = time.perf_counter() - start
        losses.append(float(metrics["total"] / metrics["count"]))
        check_learning(losses)
        return seconds

    return work


def theirs(rows: int, length: int, remat: bool) -> Callable[[], float]:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = pairs.torch_model().train()
    if remat:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0
    )
    token_ids = torch.randint(0, pairs.SHAPE_135M["vocab_size"], (rows, length))
    losses = []

    def work() -> float:
        start = time.perf_counter()
        loss = model(token_ids, labels=token_ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - start
        losses.append(loss.item())
        check_learning(losses)
        return seconds

    return work


def check_learning(losses: list[float]) -> None:
    """Refuses to time a step that does not begin near the uniform loss or does not lower it."""
    if abs(losses[0] - math.log(pairs.SHAPE_135M["vocab_size"])) > 1.0 or losses[-1] > losses[0]:
        raise SystemExit(f"This step does not train: losses {losses}.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--torch_python", help="interpreter with torch and transformers; without it, ours alone"
    )
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument(
        "--remat", action="store_true", help="both sides recompute each layer in the backward pass"
    )
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--worker", choices=("ours", "transformers"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        side = {"ours": ours, "transformers": theirs}[options.worker]
        pairs.serve(side(options.rows, options.length, options.remat))
        return
    pythons = {"ours": sys.executable} | (
        {"transformers": options.torch_python} if options.torch_python else {}
    )
    settings = [f"--rows={options.rows}", f"--length={options.length}"] + ["--remat"] * options.remat
    commands = {side: [python, __file__, f"--worker={side}", *settings] for side, python in pythons.items()}
    title = f"SFT step, {options.rows} x {options.length} tokens" + ", layers recomputed" * options.remat
    pairs.report(title, options.rows * options.length, pairs.alternate(commands, options.pairs))


if __name__ == "__main__":
    main()
