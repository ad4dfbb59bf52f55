"""Compiles the models' kernels, with their gradients, for a TPU topology and prints facts about them as JSON.

    python tests/models/compile_for_tpu.py v5p:2x2x1

It takes some minutes.

`test_tpu_kernels.py` runs it in a process of its own; by hand it wants the root in PYTHONPATH.
Sizes of kernels: one layer of Qwen3 30B-A3B in bfloat16.
"""

import contextlib
import functools
import json
import math
import os
import sys

from tests import tpu_compiler

os.environ |= tpu_compiler.SETTINGS

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from promptcot_jax.models import causal_lm, experts, grouped_dots, splash
from promptcot_jax.models import config as config_lib
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules as rules_lib

EMBED_DIM, MLP_DIM, NUM_EXPERTS, NUM_SELECTED = 2048, 768, 128, 8
NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 32, 4, 128
RULES = rules_lib.DEFAULT_RULES
# Like Gemma 2: windows in every other layer, and soft caps.
SMALL = config_lib.DecoderConfig(
    family="gemma2",
    vocab_size=1024,
    embed_dim=1024,
    mlp_dim=4096,
    num_layers=4,
    num_heads=8,
    num_kv_heads=4,
    head_dim=128,
    tie_embeddings=True,
    sandwich_norms=True,
    zero_centered_norms=True,
    scale_embeddings=True,
    activation="gelu_tanh",
    attention_soft_cap=50.0,
    logit_soft_cap=30.0,
    query_pre_attn_scalar=128,
    window=config_lib.SlidingWindow(size=512, pattern=(True, False)),
    dtype="bfloat16",
)


def make_mesh(topology: str, **sizes: int) -> Mesh:
    config = mesh_lib.MeshConfig(**sizes)
    chips = topologies.get_topology_desc(topology, platform="tpu").devices
    return mesh_lib.make_mesh(config, chips[: math.prod(config.shape)])


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
        "host_bytes": memory.host_temp_size_in_bytes,
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


def attention(topology: str, *, length: int, window: int | None = None, **sizes: int) -> dict:
    """Value and gradients of attention over one row."""
    mesh = make_mesh(topology, **sizes)

    def loss(queries, keys, values, segment_ids):
        mixed = splash.attend(
            queries,
            keys,
            values,
            segment_ids,
            scale=HEAD_DIM**-0.5,
            window=window,
            rules=RULES if sizes else (),
        )
        return jnp.sum(mixed.astype(jnp.float32) ** 2)

    of_keys = array(mesh, (1, NUM_KV_HEADS, length, HEAD_DIM), None, "tensor", "sequence")
    return facts(
        jax.value_and_grad(loss, (0, 1, 2)),
        array(mesh, (1, length, NUM_HEADS, HEAD_DIM), None, "sequence", "tensor"),
        of_keys,
        of_keys,
        array(mesh, (1, length), None, "sequence", dtype=jnp.int32),
        mesh=mesh if sizes else None,
    )


def decoder(topology: str, config: config_lib.DecoderConfig, remat: causal_lm.Remat, **sizes: int) -> dict:
    """Gradients of a decoder of four layers, on 4 rows of 2,048 tokens."""
    mesh = make_mesh(topology, **sizes)
    lm = causal_lm.CausalLM(config, RULES if sizes else (), platform="tpu")
    shapes = jax.eval_shape(lm.init, jax.random.key(0))
    params = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        rules_lib.sharding_tree(mesh, lm.logical_axes(), shapes),
    )

    def loss(params, token_ids):
        states = lm.hidden_states(params, token_ids, remat=remat)
        return jnp.sum(states.astype(jnp.float32) ** 2)

    token_ids = array(mesh, (4, 2048), ("data", "fsdp", "expert"), dtype=jnp.int32)
    return facts(jax.grad(loss), params, token_ids, mesh=mesh if sizes else None)


def main(topology: str) -> None:
    found = {name: grouped_product(topology, name) for name in ("megablox", "ragged_dot")}
    for num_tokens in (8192, 32768):
        found[f"experts {num_tokens}"] = expert_layer(topology, num_tokens=num_tokens)
    found["experts, 4 chips"] = expert_layer(topology, num_tokens=32768, expert=4)
    found["experts, 2 x 2 chips"] = expert_layer(topology, num_tokens=32768, expert=2, fsdp=2)
    for length in (4096, 16384):
        found[f"attention {length}"] = attention(topology, length=length)
        found[f"window {length}"] = attention(topology, length=length, window=1024)
    found["attention 16384, 2 x 2 chips"] = attention(topology, length=16384, sequence=2, tensor=2)
    for remat in ("projections", "offload", "full"):
        found[f"decoder, {remat}"] = decoder(topology, SMALL, remat)
    found["decoder, offload, 2 x 2 chips"] = decoder(topology, SMALL, "offload", sequence=2, tensor=2)
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main(sys.argv[1])
