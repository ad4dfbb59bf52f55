"""Greedy decoding at the 135M shape, float32: ours against others, and what choosing a token costs.

    python benchmarks/decoding.py                            # against a plain JAX loop
    python benchmarks/decoding.py --torch_python=PATH        # against `transformers`, under that interpreter
    python benchmarks/decoding.py --tunix_python=PATH        # against an interpreter with google-tunix
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
    from promptcot_jax.sampling import completions, engine, token_choice

    lm = causal_lm.CausalLM(config.DecoderConfig(**pairs.SHAPE_135M, tie_embeddings=True))
    # Drawn array by array, so that the peak of memory is decoding's and not that of changing layouts.
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: lm.decoding_layout(lm.init(key)), jax.random.key(0))
    params = jax.tree.map(
        lambda array: jax.device_put(0.02 * rng.standard_normal(array.shape, np.float32)), shapes
    )
    prompts = rng.integers(0, lm.config.vocab_size, (rows, prompt_tokens)).tolist()
    sampling = token_choice.SamplingConfig(temperature=temperature, max_new_tokens=new_tokens)
    requests = [
        completions.Request(id=i, prompt_ids=tuple(prompt), sampling=sampling)
        for i, prompt in enumerate(prompts)
    ]
    made = engine.Engine(lm, engine.EngineConfig(num_slots=rows), max_tokens=prompt_tokens + new_tokens)

    def work() -> float:
        start = time.perf_counter()
        results = list(made.stream(params, requests, jax.random.key(0)))
        seconds = time.perf_counter() - start
        if any(len(completion.token_ids) != new_tokens for _, completion in results):
            raise SystemExit("A row ended before its budget.")
        return seconds

    return work


def plain(rows: int, prompt_tokens: int, new_tokens: int, temperature: float) -> Callable[[], float]:
    """As one writes it by hand: layers unrolled, one array each; no padding, stop ids or log-probs."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    if temperature:
        raise SystemExit("The plain loop is greedy; leave out --temperature.")
    shape = pairs.SHAPE_135M
    dim, heads, kv_heads, head_dim = (
        shape[name] for name in ("embed_dim", "num_heads", "num_kv_heads", "head_dim")
    )
    rng = np.random.default_rng(0)

    def matrix(*size: int) -> jax.Array:
        return jax.device_put(0.02 * rng.standard_normal(size, np.float32))

    layers = tuple(
        {
            "norms": jnp.ones((2, dim)),
            "qkv": matrix(dim, (heads + 2 * kv_heads) * head_dim),
            "out": matrix(heads * head_dim, dim),
            "gate_up": matrix(dim, 2 * shape["mlp_dim"]),
            "down": matrix(shape["mlp_dim"], dim),
        }
        for _ in range(shape["num_layers"])
    )
    params = {"embed": matrix(shape["vocab_size"], dim), "layers": layers, "norm": jnp.ones(dim)}
    params["unembed"] = jnp.array(params["embed"].T)
    length = prompt_tokens + new_tokens

    def norm(x, scale):
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5) * scale

    def turn(x, positions):  # [B, T, heads, H]
        angles = positions[:, None, None] * 10000.0 ** (-jnp.arange(0, head_dim, 2) / head_dim)
        first, second = jnp.split(x, 2, axis=-1)
        cosine, sine = jnp.cos(angles), jnp.sin(angles)
        return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)

    def read(params, token_ids, first, caches):
        x, positions = params["embed"][token_ids], first + jnp.arange(token_ids.shape[1])
        mask = jnp.arange(length) <= positions[:, None]
        new_caches = []
        for layer, (keys, values) in zip(params["layers"], caches, strict=True):
            qkv = (norm(x, layer["norms"][0]) @ layer["qkv"]).reshape(*token_ids.shape, -1, head_dim)
            q, k, v = jnp.split(qkv, [heads, heads + kv_heads], axis=2)
            keys = jax.lax.dynamic_update_slice(keys, turn(k, positions), (0, first, 0, 0))
            values = jax.lax.dynamic_update_slice(values, v, (0, first, 0, 0))
            q = turn(q, positions).reshape(*token_ids.shape, kv_heads, -1, head_dim)
            scores = jnp.einsum("btkgh,bskh->bkgts", q, keys) * head_dim**-0.5
            weights = jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1)
            mixed = jnp.einsum("bkgts,bskh->btkgh", weights, values).reshape(*token_ids.shape, -1)
            x = x + mixed @ layer["out"]
            gate, up = jnp.split(norm(x, layer["norms"][1]) @ layer["gate_up"], 2, axis=-1)
            x = x + (jax.nn.silu(gate) * up) @ layer["down"]
            new_caches.append((keys, values))
        logits = norm(x[:, -1], params["norm"]) @ params["unembed"]
        return jnp.argmax(logits, axis=-1), tuple(new_caches)

    @jax.jit
    def decode(params, prompts):
        empty = jnp.zeros((rows, length, kv_heads, head_dim))
        last, caches = read(params, prompts, 0, ((empty, empty),) * len(layers))

        def step(i, carry):
            out, last, caches = carry
            last, caches = read(params, last[:, None], prompt_tokens + i - 1, caches)
            return out.at[:, i].set(last), last, caches

        out = jnp.zeros((rows, new_tokens), jnp.int32).at[:, 0].set(last)
        return jax.lax.fori_loop(1, new_tokens, step, (out, last, caches))[0]

    prompts = rng.integers(0, shape["vocab_size"], (rows, prompt_tokens))

    def work() -> float:
        start = time.perf_counter()
        jax.device_get(decode(params, prompts))
        return time.perf_counter() - start

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


def tunix(rows: int, prompt_tokens: int, new_tokens: int, temperature: float) -> Callable[[], float]:
    import tunix_decoding

    return tunix_decoding.tunix_side(rows, prompt_tokens, new_tokens, temperature)


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
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--torch_python", help="interpreter with torch and transformers")
    others.add_argument("--tunix_python", help="interpreter with google-tunix")
    parser.add_argument("--rows", default="1,8,32", help="batch sizes, comma-separated")
    parser.add_argument("--prompt_tokens", type=int, default=64)
    parser.add_argument("--new_tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--token_choice", action="store_true", help="measure the choice of a token instead")
    sides = {"ours": ours, "plain loop": plain, "transformers": theirs, "tunix": tunix}
    parser.add_argument("--worker", choices=tuple(sides), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.token_choice:
        token_choice_costs()
        return
    shape = {"prompt_tokens": options.prompt_tokens, "new_tokens": options.new_tokens}
    if options.worker:
        side = sides[options.worker]
        pairs.serve(side(int(options.rows), temperature=options.temperature, **shape))
        return
    pythons = {"ours": sys.executable}
    if options.torch_python:
        pythons["transformers"] = options.torch_python
    elif options.tunix_python:
        pythons["tunix"] = options.tunix_python
    elif not options.temperature:
        pythons["plain loop"] = sys.executable
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
