"""The rollout engine at the 135M shape, float32: ragged lengths, shared prompts, compilation.

    python benchmarks/rollouts.py --spine=PATH     # 256 ragged requests, against the static batch it replaced
    python benchmarks/rollouts.py --shared         # 8 prompts x 8 samples, against prompts that share nothing
    python benchmarks/rollouts.py --compile        # seconds until the first token, in a process of its own
    python benchmarks/rollouts.py --bfloat16       # log-probs of sampler and scorer in bfloat16

`--spine` takes a checkout of commit e061176, the last one with the static batch, which ran a batch of rows
until its last one ended. It does not know beforehand how long rows get, so its buffers hold the longest
possible one. Our time includes all of the engine's bookkeeping; compilation is not in it (a short first run).
"""

import argparse
import os
import sys
import time
from collections.abc import Callable

import pairs

SLOTS, RAGGED_REQUESTS, RAGGED_PROMPT, MEAN_LENGTH, LONGEST = 8, 256, 64, 64, 512
SHARED_PROMPTS, SAMPLES, SHARED_PROMPT, SHARED_NEW, SHARED_SLOTS = 8, 8, 512, 64, 32


def model(dtype: str = "float32"):
    """Random weights, drawn array by array in the decoding layout."""
    import jax
    import numpy as np

    from promptcot_jax.models import causal_lm, config

    lm = causal_lm.CausalLM(
        config.DecoderConfig(**pairs.SHAPE_135M, tie_embeddings=True, dtype=dtype, param_dtype=dtype)
    )
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: lm.decoding_layout(lm.init(key)), jax.random.key(0))
    params = jax.tree.map(
        lambda array: jax.device_put((0.02 * rng.standard_normal(array.shape)).astype(array.dtype)), shapes
    )
    return lm, params


def ragged_lengths() -> list[int]:
    """Log-normal with sigma 1, cut: many short completions and a few long ones."""
    import numpy as np

    lengths = np.random.default_rng(1).lognormal(np.log(MEAN_LENGTH) - 0.5, 1.0, RAGGED_REQUESTS)
    return np.clip(np.ceil(lengths), 1, LONGEST).astype(int).tolist()


def run_engine(made, params, prompts, budgets) -> float:
    """Seconds for one iteration."""
    import jax

    from promptcot_jax.sampling import completions, token_choice

    requests = [
        completions.Request(
            id=i, prompt_ids=tuple(prompt), sampling=token_choice.SamplingConfig(max_new_tokens=budget)
        )
        for i, (prompt, budget) in enumerate(zip(prompts, budgets, strict=True))
    ]
    start = time.perf_counter()
    results = list(made.stream(params, requests, jax.random.key(0)))
    seconds = time.perf_counter() - start
    if any(len(completion.token_ids) != budgets[request.id] for request, completion in results):
        raise SystemExit("A row ended before its budget.")
    return seconds


def ragged_engine() -> Callable[[], float]:
    """The engine refills a slot as soon as its row has ended."""
    import numpy as np

    from promptcot_jax.sampling import engine, metrics

    lm, params = model()
    rng = np.random.default_rng(2)
    prompts = rng.integers(0, lm.config.vocab_size, (RAGGED_REQUESTS, RAGGED_PROMPT)).tolist()
    made = engine.Engine(lm, engine.EngineConfig(num_slots=SLOTS), max_tokens=RAGGED_PROMPT + LONGEST)

    run_engine(made, params, prompts[:SLOTS], [2] * SLOTS)

    def work() -> float:
        made.metrics = metrics.Metrics()
        seconds = run_engine(made, params, prompts, ragged_lengths())
        print(f"    {made.metrics.text()}", file=sys.stderr)
        return seconds

    return work


def ragged_static() -> Callable[[], float]:
    """The static batch of the checkout: rows in their order, eight at a time."""
    import jax
    import numpy as np

    from promptcot_jax.sampling import batching, decode_loop, token_choice

    lm, params = model()
    rng = np.random.default_rng(2)
    prompts = rng.integers(0, lm.config.vocab_size, (RAGGED_REQUESTS, RAGGED_PROMPT)).astype(np.int32)
    lengths = ragged_lengths()

    def work(num_requests: int = RAGGED_REQUESTS) -> float:
        start = time.perf_counter()
        for first in range(0, num_requests, SLOTS):
            rows = slice(first, first + SLOTS)
            sampled = decode_loop.sample_rows(
                lm,
                params,
                prompts[rows],
                np.ones((SLOTS, RAGGED_PROMPT), bool),
                np.arange(first, first + SLOTS, dtype=np.uint32),
                jax.random.key(0),
                token_choice.SamplingConfig().numbers(),
                np.full(8, -1, np.int32),
                np.int32(0),
                np.int32(max(lengths[rows])),
                num_slots=batching.bucket(LONGEST),
            )
            jax.device_get(sampled)
        return time.perf_counter() - start

    work(SLOTS)
    return work


def shared_prompts(is_shared: bool) -> Callable[[], float]:
    """8 samples of each of 8 prompts; without sharing, the first token of every request is another one."""
    import numpy as np

    from promptcot_jax.sampling import engine

    lm, params = model()
    rng = np.random.default_rng(3)
    prompts = np.repeat(
        rng.integers(0, lm.config.vocab_size, (SHARED_PROMPTS, SHARED_PROMPT)), SAMPLES, axis=0
    )
    if not is_shared:
        prompts[:, 0] = np.arange(len(prompts))
    made = engine.Engine(
        lm, engine.EngineConfig(num_slots=SHARED_SLOTS), max_tokens=SHARED_PROMPT + SHARED_NEW
    )
    run_engine(made, params, prompts[:SAMPLES].tolist(), [2] * SAMPLES)
    return lambda: run_engine(made, params, prompts.tolist(), [SHARED_NEW] * len(prompts))


def compilation() -> None:
    """Seconds of the first iteration of an engine, which compiles everything, and of the second."""
    import numpy as np

    from promptcot_jax.sampling import engine

    lm, params = model()
    prompts = np.random.default_rng(0).integers(0, lm.config.vocab_size, (SLOTS, 100)).tolist()
    made = engine.Engine(lm, engine.EngineConfig(num_slots=SLOTS), max_tokens=612)
    seconds = [run_engine(made, params, prompts, [1] * SLOTS) for _ in range(2)]
    first, second = seconds
    print(f"first iteration {first:.1f} s, second {second:.2f} s: compilation {first - second:.1f} s")


def bfloat16_gap() -> None:
    """How far the engine's log-probs are from the scorer's on the same tokens."""
    import jax
    import numpy as np

    from promptcot_jax.models import causal_lm, config
    from promptcot_jax.sampling import generation, scoring, token_choice

    for dtype in ("float32", "bfloat16"):
        lm = causal_lm.CausalLM(
            config.DecoderConfig(**pairs.SHAPE_135M, tie_embeddings=True, dtype=dtype, param_dtype=dtype)
        )
        params = lm.init(jax.random.key(0))
        prompts = np.random.default_rng(0).integers(0, lm.config.vocab_size, (8, 64)).tolist()
        sampled = generation.generate(
            lm,
            lm.decoding_layout(params),
            prompts,
            sampling=token_choice.SamplingConfig(max_new_tokens=64),
            stop_ids=(),
            key=jax.random.key(0),
        )
        scores = scoring.score(lm, params, prompts, [row.token_ids for row in sampled])
        gaps = np.abs(np.concatenate([row.log_probs for row in sampled]) - np.concatenate(scores))
        print(
            f"{dtype}: {len(gaps)} tokens, |log p engine - log p scorer| mean {gaps.mean():.2e}, "
            f"99 % below {np.quantile(gaps, 0.99):.2e}, max {gaps.max():.2e}",
            flush=True,
        )


WORKERS = {
    "engine": ragged_engine,
    "static batch": ragged_static,
    "shared": lambda: shared_prompts(True),
    "not shared": lambda: shared_prompts(False),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spine", help="checkout of commit e061176")
    parser.add_argument("--shared", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--worker", choices=tuple(WORKERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        pairs.serve(WORKERS[options.worker]())
        return

    def command(side: str) -> list[str]:
        return [sys.executable, __file__, f"--worker={side}"]

    if options.spine:
        old = ["env", f"PYTHONPATH={os.path.abspath(options.spine)}", *command("static batch")]
        sides = {"engine": command("engine"), "static batch": old}
        tokens = sum(ragged_lengths())
        title = f"{RAGGED_REQUESTS} requests of log-normal lengths, {tokens} tokens"
        pairs.report(title, tokens, pairs.alternate(sides, options.pairs, warm_ups=0))
    if options.shared:
        sides = {side: command(side) for side in ("shared", "not shared")}
        title = f"{SHARED_PROMPTS} prompts of {SHARED_PROMPT} tokens x {SAMPLES} samples x {SHARED_NEW} new"
        tokens = SHARED_PROMPTS * SAMPLES * SHARED_NEW
        pairs.report(title, tokens, pairs.alternate(sides, options.pairs, warm_ups=0))
    if options.compile:
        compilation()
    if options.bfloat16:
        bfloat16_gap()


if __name__ == "__main__":
    main()
