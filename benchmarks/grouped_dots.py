"""Times products of groups of rows on this machine: `lax.ragged_dot`, the plain form, one dense product.

python benchmarks/grouped_dots.py
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from promptcot_jax.models import grouped_dots

ROWS, WIDTH, REPEATS = 2048, 256, 5


def milliseconds(function: Callable, *arguments: jax.Array) -> float:
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*arguments))
    start = time.perf_counter()
    for _ in range(REPEATS):
        jax.block_until_ready(compiled(*arguments))
    return (time.perf_counter() - start) / REPEATS * 1e3


def main() -> None:
    noise = np.random.default_rng(0)
    rows = jnp.asarray(noise.normal(size=(ROWS, WIDTH)), jnp.float32)
    print(f"one dense product {milliseconds(jnp.dot, rows, jnp.ones((WIDTH, WIDTH))):.1f} ms")
    for num_groups in (1, 4, 16, 64, 128):
        matrices = jnp.asarray(noise.normal(size=(num_groups, WIDTH, WIDTH)), jnp.float32)
        sizes = jnp.asarray(np.bincount(noise.integers(0, num_groups, ROWS), minlength=num_groups), jnp.int32)
        for name, product in (
            ("ragged_dot", lambda x, w, sizes=sizes: lax.ragged_dot(x, w, sizes)),
            ("plain form", lambda x, w, sizes=sizes: grouped_dots.grouped_dot(x, w, sizes, "plain")),
        ):
            gradient = jax.grad(lambda x, w, product=product: jnp.sum(product(x, w) ** 2), (0, 1))
            forward = milliseconds(product, rows, matrices)
            print(
                f"{num_groups:4} groups, {name}: {forward:6.1f} ms, "
                f"gradient {milliseconds(gradient, rows, matrices):6.1f} ms"
            )


if __name__ == "__main__":
    main()
