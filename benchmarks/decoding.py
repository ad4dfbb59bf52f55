"""Greedy decoding at the 135M shape, float32: ours against `transformers`, and what choosing a token costs.

    python benchmarks/decoding.py --torch_python=PATH        # an interpreter with torch and transformers
    python benchmarks/decoding.py --temperature=1            # without it, ours alone
    python benchmarks/decoding.py --token_choice

64 prompt and 128 new tokens a row. Our time includes prefill and the way back to the host, not the change of
layout (once per set of parameters) nor compilation (once per shape; the warm-up run).
"""

import argparse
import sys
import time
from collections.abc import Callable

import pairs


def ours(rows: int, prompt_tokens: int, new_tokens: int, temperature: float) -> Callable[[], float]:
    import jax
    import numpy as np

    from promptcot_jax.models import causal_lm, config
    from promptcot_jax.sampling import generation, token_choice

    lm = causal_lm.CausalLM(config.DecoderConfig(**pairs.SHAPE_135M, tie_embeddings=True))
    # Drawn array by array, so that the peak of memory is decoding's and not that of changing layouts.
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: lm.decoding_layout(lm.init(key)), jax.random.key(0))
    params = jax.tree.map(
        lambda array: jax.device_put(0.02 * rng.standard_normal(array.shape, np.float32)), shapes
    )
    prompts = rng.integers(0, lm.config.vocab_size, (rows, prompt_tokens)).tolist()
    sampling = token_choice.SamplingConfig(temperature=temperature, max_new_tokens=new_tokens)

    def work() -> float:
        start = time.perf_counter()
        completions = generation.generate(
            lm,
            params,
            prompts,
            sampling=sampling,
            stop_ids=(),
            key=jax.random.key(0),
            batch_size=rows,
            is_decoding_layout=True,
        )
        seconds = time.perf_counter() - start
        if any(len(completion.token_ids) != new_tokens for completion in completions):
            raise SystemExit("A row ended before its budget.")
        return seconds

    return work


def theirs(rows: int, prompt_tokens: int, new_tokens: int, temperature: float) -> Callable[[], float]:
    import torch

    model = pairs.torch_model()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    prompts = torch.randint(0, pairs.SHAPE_135M["vocab_size"], (rows, prompt_tokens))
    settings = {"do_sample": False}
    if temperature:
        settings = {"do_sample": True, "temperature": temperature, "top_k": 0}

    def work() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new_tokens, **settings
            )
        seconds = time.perf_counter() - start
        if out.shape[1] != prompt_tokens + new_tokens:
            raise SystemExit("A row ended before its budget.")
        return seconds

    return work


def token_choice_costs() -> None:
    """Milliseconds per call: our draw and truncations beside Gumbel noise and a full sort."""
    import jax
    import jax.numpy as jnp

    from promptcot_jax.sampling import token_choice

    def gumbel(logits, keys):
        token_ids = jax.vmap(jax.random.categorical)(keys, logits)
        return token_ids, jnp.take_along_axis(jax.nn.log_softmax(logits), token_ids[:, None], axis=-1)

    for rows in (1, 8, 32):
        logits = 3.0 * jax.random.normal(jax.random.key(0), (rows, pairs.SHAPE_135M["vocab_size"]))
        keys = jax.random.split(jax.random.key(1), rows)
        cases = {
            "gumbel": (gumbel, (logits, keys)),
            "argsort": (lambda x: jnp.argsort(-x, axis=-1), (logits,)),
        }
        for name, settings in {
            "ours": {},
            "ours, greedy": {"temperature": 0.0},
            "ours, top_p": {"top_p": 0.9},
            "ours, top_k": {"top_k": 50},
            "ours, min_p": {"min_p": 0.05},
        }.items():
            numbers = token_choice.SamplingConfig(**settings).numbers()
            cases[name] = (token_choice.choose_tokens, (logits, keys, numbers))
        print(f"{rows} rows, ms per step:", end="")
        for name, (function, arguments) in cases.items():
            compiled = jax.jit(function)
            jax.block_until_ready(compiled(*arguments))
            times = []
            for _ in range(10):
                start = time.perf_counter()
                jax.block_until_ready(compiled(*arguments))
                times.append(time.perf_counter() - start)
            print(f"  {name} {1e3 * sorted(times)[5]:.2f}", end="")
        print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--torch_python", help="interpreter with torch and transformers; without it, ours alone"
    )
    parser.add_argument("--rows", default="1,8,32", help="batch sizes, comma-separated")
    parser.add_argument("--prompt_tokens", type=int, default=64)
    parser.add_argument("--new_tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--token_choice", action="store_true", help="measure the choice of a token instead")
    parser.add_argument("--worker", choices=("ours", "transformers"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.token_choice:
        token_choice_costs()
        return
    shape = {"prompt_tokens": options.prompt_tokens, "new_tokens": options.new_tokens}
    if options.worker:
        side = {"ours": ours, "transformers": theirs}[options.worker]
        pairs.serve(side(int(options.rows), temperature=options.temperature, **shape))
        return
    pythons = {"ours": sys.executable} | (
        {"transformers": options.torch_python} if options.torch_python else {}
    )
    settings = [f"--{name}={value}" for name, value in (shape | {"temperature": options.temperature}).items()]
    for rows in map(int, options.rows.split(",")):
        commands = {
            side: [python, __file__, f"--worker={side}", f"--rows={rows}", *settings]
            for side, python in pythons.items()
        }
        title = (
            f"{rows} rows, {' + '.join(map(str, shape.values()))} tokens, temperature {options.temperature}"
        )
        pairs.report(title, rows * options.new_tokens, pairs.alternate(commands, options.pairs))


if __name__ == "__main__":
    main()
