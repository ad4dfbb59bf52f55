"""Compiles the engine's programs for a TPU topology and prints facts about them as JSON.

    python tests/sampling/compile_for_tpu.py v5p:2x2x1

`test_tpu_programs.py` runs it in a process of its own; by hand it wants the root in PYTHONPATH.
Sizes: Qwen2.5 7B in bfloat16, 64 slots, a cache of 64 * 4096 tokens.
"""

import contextlib
import dataclasses
import functools
import json
import os
import re
import sys
import time
from unittest import mock

from tests import tpu_compiler

os.environ |= tpu_compiler.SETTINGS

import jax
import numpy as np
from jax import lax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from promptcot_jax.models import causal_lm, page_layouts
from promptcot_jax.models import config as config_lib
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.sampling import slots

QWEN2_5_7B = config_lib.DecoderConfig(
    family="qwen2",
    vocab_size=152064,
    embed_dim=3584,
    mlp_dim=18944,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    rope_theta=1e6,
    qkv_bias=True,
    dtype="bfloat16",
    param_dtype="bfloat16",
)
# The bias between product and split happens to keep the compiler from moving the weights of the 7B.
SMALL = dataclasses.replace(
    QWEN2_5_7B, family="llama", qkv_bias=False, vocab_size=1024, embed_dim=1024, mlp_dim=2048, num_layers=4
)
NUM_SLOTS, PAGE_SIZE, WIDTH = 64, 64, 64
NUM_PAGES = NUM_SLOTS * WIDTH
MOVES = "copy|copy-start|transpose|convert|all-gather|all-gather-start|all-to-all|collective-permute"


@dataclasses.dataclass(frozen=True)
class Machine:
    """Chips of a topology, and the arguments of the programs as they would lie on them."""

    topology: str
    data: int = 1
    tensor: int = 1

    @functools.cached_property
    def mesh(self) -> Mesh:
        chips = topologies.get_topology_desc(self.topology, platform="tpu").devices
        return mesh_lib.make_mesh(mesh_lib.MeshConfig(data=self.data, tensor=self.tensor), chips)

    @property
    def rules(self) -> rules_lib.LogicalRules:
        """One chip runs without rules, as the engine does on one device."""
        return rules_lib.DEFAULT_RULES if self.data * self.tensor > 1 else ()

    def entered(self):
        return jax.set_mesh(self.mesh) if self.rules else contextlib.nullcontext()

    def place(self, arrays, shardings=None):
        """Shapes with their shardings; None: rows over the data axes."""
        if shardings is None:
            shardings = jax.tree.map(lambda _: rules_lib.batch_sharding(self.mesh), arrays)
        return jax.tree.map(
            lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
            arrays,
            shardings,
        )

    def params(self, lm):
        shapes = jax.eval_shape(lm.init, jax.random.key(0))
        return self.place(shapes, rules_lib.sharding_tree(self.mesh, lm.logical_axes(), shapes))

    def cache(self, lm):
        unsharded = dataclasses.replace(lm, rules=())
        cache = jax.eval_shape(lambda: unsharded.init_cache(NUM_PAGES, PAGE_SIZE, "tpu"))
        spec = rules_lib.partition_spec(self.mesh, cache.axes, cache.keys.shape, rules_lib.DEFAULT_RULES)
        return self.place(cache, jax.tree.map(lambda _: NamedSharding(self.mesh, spec), cache))

    def key(self):
        key = jax.eval_shape(lambda: jax.random.key(0))
        return self.place(key, NamedSharding(self.mesh, PartitionSpec()))


def lowering(program: str, machine: Machine, lm: causal_lm.CausalLM):
    """Lowers one of the engine's programs when called, inside the mesh; its arguments are made outside."""
    if program == "empty_cache":
        empty = jax.jit(lm.init_cache, static_argnums=(0, 1, 2))
        return functools.partial(empty.lower, NUM_PAGES, PAGE_SIZE, "tpu")
    cache = machine.cache(lm)
    if program == "copy_pages":
        copies = machine.place(slots.no_copies(NUM_SLOTS))
        return functools.partial(slots.copy_pages.lower, lm, cache, copies)
    params = machine.params(lm)
    if program == "read_blocks":
        blocks = machine.place(slots.no_blocks(machine.data, PAGE_SIZE, WIDTH))
        return functools.partial(slots.read_blocks.lower, lm, params, cache, blocks)
    batch = machine.place(slots.idle_slots(NUM_SLOTS, WIDTH))
    limits = (np.int32(64), np.int32(4))  # of steps, and of rows that end before the burst does
    arguments = (lm, params, cache, batch, machine.key(), *limits)
    return functools.partial(slots.decode_burst.lower, *arguments, max_steps=64)


def facts(program: str, machine: Machine, config: config_lib.DecoderConfig) -> dict:
    """What the compiler says about a program, for one chip."""
    start = time.perf_counter()
    lm = causal_lm.CausalLM(config, machine.rules)
    lower = lowering(program, machine, lm)
    with machine.entered():
        compiled = lower().compile()
    memory, text = compiled.memory_analysis(), compiled.as_text()
    pages = NUM_PAGES * config.num_layers // machine.data
    pool = (config.num_kv_heads // machine.tensor, pages, PAGE_SIZE, config.head_dim)
    return {
        "pool_bytes": 2 * 2 * int(np.prod(pool)),
        "logits_bytes": 4 * NUM_SLOTS * config.vocab_size // (machine.data * machine.tensor),
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "moves_of_the_pool": moves(text, ",".join(map(str, pool)) + r"\]"),
        "moves_of_stacked_weights": moves(text, f"{config.num_layers},{config.embed_dim},"),
        "has_kernel": "paged_attention" in text,
        "seconds": round(time.perf_counter() - start, 1),
    }


def moves(text: str, sizes: str) -> list[str]:
    """The instructions that make an array of such sizes anew, alone or in a tuple."""
    pattern = re.compile(rf"= \(?(?:\w+\[[^=]*, )?\w+\[{sizes}[^=]*? (?:{MOVES})\(")
    return [line.strip()[:160] for line in text.splitlines() if pattern.search(line)]


def write_heads_as_a_slice(self, keys, values, places, first_page):
    """What `TpuPages.write` must not do."""
    pages, offsets = places.first(self.page_size)

    def put(array, new):
        return array.at[:, first_page + pages, offsets].set(new[:, 0].swapaxes(0, 1).astype(array.dtype))

    return page_layouts.TpuPages(put(self.keys, keys), put(self.values, values))


def main(topology: str) -> None:
    found = {}
    for machine in (Machine(topology), Machine(topology, data=2, tensor=2)):
        for program in ("decode_burst", "read_blocks", "copy_pages", "empty_cache"):
            name = f"{program} {machine.data}x{machine.tensor}"
            if machine.rules or program != "empty_cache":  # which needs arguments or a mesh to know its place
                found[name] = facts(program, machine, QWEN2_5_7B)
    small = functools.partial(facts, "decode_burst", Machine(topology), SMALL)
    found["small decode_burst"] = small()
    jax.clear_caches()
    with mock.patch.object(page_layouts.TpuPages, "write", write_heads_as_a_slice):
        found["small decode_burst, heads as a slice of the write"] = small()
    jax.clear_caches()
    with mock.patch.object(lax, "optimization_barrier", lambda arrays: arrays):
        found["small decode_burst, no barrier after the projections"] = small()
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main(sys.argv[1])
