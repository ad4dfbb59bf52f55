"""Compiles the models' kernels, with their gradients, for a TPU topology and prints facts about them as JSON.

    python tests/models/compile_for_tpu.py v5p:2x2x1

`test_tpu_kernels.py` runs it in a process of its own, since the TPU's compiler wants settings that must be
there before JAX starts. Sizes: one layer of Qwen3 30B-A3B in bfloat16.
"""

import contextlib
import functools
import json
import os
import sys

# The compiler asks for the machine that it is not on.
os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from promptcot_jax.models import experts, grouped_dots

AXES = ("data", "fsdp", "expert", "sequence", "tensor")
RULES = (
    ("batch", ("data", "fsdp", "expert")),
    ("length", "sequence"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("experts", "expert"),
    ("expert_embed", ("fsdp", "sequence")),
    ("expert_mlp", "tensor"),
)
EMBED_DIM, MLP_DIM, NUM_EXPERTS, NUM_SELECTED = 2048, 768, 128, 8


def make_mesh(topology: str, **sizes: int) -> Mesh:
    shape = [sizes.get(axis, 1) for axis in AXES]
    chips = topologies.get_topology_desc(topology, platform="tpu").devices[: int(np.prod(shape))]
    return Mesh(np.array(chips).reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def array(mesh: Mesh, shape: tuple[int, ...], *spec, dtype=jnp.bfloat16) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))


def facts(function, *arguments, mesh: Mesh | None = None) -> dict:
    """What the compiler says about a program, for one chip."""
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
        compiled = jax.jit(function).lower(*arguments).compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return {
        "operations": cost["flops"],
        "temp_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
    }


def grouped_product(topology: str, name: str, *, num_rows: int = 16384) -> dict:
    mesh = make_mesh(topology)
    product = {
        "ragged_dot": lax.ragged_dot,
        "megablox": functools.partial(grouped_dots.grouped_dot, platform="tpu"),
    }[name]
    return facts(
        jax.grad(lambda *arguments: jnp.sum(product(*arguments).astype(jnp.float32) ** 2), (0, 1)),
        array(mesh, (num_rows, EMBED_DIM)),
        array(mesh, (NUM_EXPERTS, EMBED_DIM, MLP_DIM)),
        array(mesh, (NUM_EXPERTS,), dtype=jnp.int32),
    )


def expert_layer(topology: str, *, num_tokens: int, **sizes: int) -> dict:
    """Value and gradients of a layer of experts; with `sizes`, on so many chips."""
    mesh = make_mesh(topology, **sizes)
    rules = RULES if sizes else ()

    def loss(x, logits, weights):
        routing = experts.route(logits, num_selected=NUM_SELECTED, order="softmax_then_top_k")
        y = experts.apply_experts(
            x,
            routing,
            experts.ExpertWeights(*weights),
            activation=lambda gate, up: jax.nn.silu(gate) * up,
            rules=rules,
            platform="tpu",
        )
        return jnp.sum(y.astype(jnp.float32) ** 2)

    tokens = (("data", "fsdp", "expert"), None)
    into = array(mesh, (NUM_EXPERTS, EMBED_DIM, MLP_DIM), "expert", "fsdp", "tensor")
    out = array(mesh, (NUM_EXPERTS, MLP_DIM, EMBED_DIM), "expert", "tensor", "fsdp")
    return facts(
        jax.value_and_grad(loss, (0, 1, 2)),
        array(mesh, (num_tokens, EMBED_DIM), *tokens),
        array(mesh, (num_tokens, NUM_EXPERTS), *tokens, dtype=jnp.float32),
        (into, into, out),
        mesh=mesh if sizes else None,
    )


def main(topology: str) -> None:
    found = {name: grouped_product(topology, name) for name in ("megablox", "ragged_dot")}
    for num_tokens in (8192, 32768):
        found[f"experts {num_tokens}"] = expert_layer(topology, num_tokens=num_tokens)
    found["experts, 4 chips"] = expert_layer(topology, num_tokens=32768, expert=4)
    found["experts, 2 x 2 chips"] = expert_layer(topology, num_tokens=32768, expert=2, fsdp=2)
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main(sys.argv[1])
