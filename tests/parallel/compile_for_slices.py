"""Compiles the train step for two slices of a TPU topology and prints facts about it as JSON.

    python tests/parallel/compile_for_slices.py v5p:2x2x1

`test_tpu_slices.py` runs it in a process of its own; by hand it wants the root in PYTHONPATH.
"""

import json
import os
import sys

from tests import tpu_compiler

os.environ |= tpu_compiler.SETTINGS

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from promptcot_jax.data.packing import PackedBatch
from promptcot_jax.models import causal_lm
from promptcot_jax.models import config as config_lib
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from promptcot_jax.trainers import optimizer, sft, train_step

SMALL = config_lib.DecoderConfig(
    family="qwen3",
    vocab_size=1024,
    embed_dim=256,
    mlp_dim=512,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=128,
    qk_norm=True,
    dtype="bfloat16",
)


def main(topology: str) -> None:
    chips = topologies.get_topology_desc(topology, platform="tpu", num_slices=2).devices
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2, num_slices=2), chips)
    lm = causal_lm.CausalLM(SMALL, rules.DEFAULT_RULES, platform="tpu")
    step = train_step.make_train_step(
        lm,
        train_step.StepConfig(loss=sft.SftLoss(), optimizer=optimizer.OptimizerConfig(learning_rate=1e-3)),
        mesh,
    )
    state = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(step.start, jax.eval_shape(lm.init, jax.random.key(0))),
        step.shardings,
    )
    ids, mask = (
        jax.ShapeDtypeStruct((8, 256), dtype, sharding=step.batch_sharding)
        for dtype in (jnp.int32, jnp.bool_)
    )
    batch = PackedBatch(token_ids=ids, segment_ids=ids, positions=ids, loss_mask=mask, values={})
    with jax.set_mesh(mesh):
        compiled = step.run.lower(state, batch, np.int32(10), {}).compile()
    of_a_chip = [np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(state)]
    found = {
        "slices": [sorted({chip.slice_index for chip in part.flat}) for part in mesh.devices],
        "state_bytes": int(sum(of_a_chip)),
        "alias_bytes": compiled.memory_analysis().alias_size_in_bytes,
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
