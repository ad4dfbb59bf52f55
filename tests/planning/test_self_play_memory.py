"""What lies on a device while self-play runs is what its plan counts, beside what a program makes itself."""

import collections
import contextlib
import dataclasses
import gc
from unittest import mock

import jax
import pytest

from promptcot_jax.models import language_model
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from promptcot_jax.planning import measures
from promptcot_jax.run import plan
from promptcot_jax.sampling import slots
from promptcot_jax.sources.model_source import FromScratch
from promptcot_jax.trainers import packed_scores
from promptcot_jax.trainers.dpo import Dpo
from promptcot_jax.trainers.grpo import Grpo
from promptcot_jax.trainers.rejection import RejectionSampling
from promptcot_jax.trainers.train_step import TrainStep
from tests import toys
from tests.trainers import toy_self_play

pytestmark = pytest.mark.slow

SMALL = 0.4  # bytes a parameter: batches, slots and noise keys beside a toy's parameters
CONFIG = dataclasses.replace(toy_self_play.CONFIG, num_iterations=2, row_length=64)
KL = Grpo(kl_beta=0.1)
LORA = LoraConfig(rank=4)

# Method, adapter, and bytes a parameter while an iteration is drawn, scored, learned from; w: of the compute
# type. Full: masters 4, moments 8, a copy to decode w, the start w. With an adapter: the base w, on several
# devices a copy of it to decode, and small things.
CASES = {
    "grpo": (Grpo(), None, lambda w, _: {"decode": 12 + w, "score": 12, "update": 12}),
    "grpo with kl": (KL, None, lambda w, _: {"decode": 12 + 2 * w, "score": 12 + w, "update": 12 + w}),
    "dpo": (Dpo(solved_below=0.9), None, lambda w, _: {"decode": 12 + w, "score": 12, "update": 12}),
    "rejection": (RejectionSampling(solved_below=1.01), None, lambda w, _: {"decode": 12 + w, "update": 12}),
    "adapter": (KL, LORA, lambda w, is_split: {"decode": w * (1 + is_split), "score": w, "update": w}),
}


def model(dtype: str) -> CausalLM:
    config = toys.toy_config(vocab_size=272, embed_dim=256, mlp_dim=512, dtype=dtype, param_dtype=dtype)
    return CausalLM(config, rules.DEFAULT_RULES)


def live_bytes() -> int:
    """Behind JAX's arrays on the first device: some of those listed are views of others, or given up."""
    held = {}
    for array in jax.live_arrays():
        for shard in [] if array.is_deleted() else array.addressable_shards:
            if shard.device == jax.devices()[0]:
                held[shard.data.unsafe_buffer_pointer()] = shard.data.nbytes
    return sum(held.values())


@contextlib.contextmanager
def measured():
    """Most live bytes where an iteration is drawn (but for the cache), scored, and learned from.

    Garbage is not collected meanwhile: what only a cycle holds would lie beside the next program.
    """
    most = collections.Counter()

    def look(name, function):
        def call(*arguments, **settings):
            caches = [x for x in arguments if hasattr(x, "page_size")]
            of_cache = measures.bytes_of_chip(caches)
            most[name] = max(most[name], live_bytes() - of_cache)
            return function(*arguments, **settings)

        return call

    wrapped = (
        (slots, "decode_burst", "decode"),
        (packed_scores, "score", "score"),
        (TrainStep, "place", "update"),
    )
    with contextlib.ExitStack() as stack:
        for owner, name, label in wrapped:
            stack.enter_context(mock.patch.object(owner, name, look(label, getattr(owner, name))))
        gc.collect()
        gc.disable()
        stack.callback(gc.enable)
        yield most


def planned(lm, algorithm, adapter, mesh) -> dict[str, list[float]]:
    """Bytes of a chip in each kind of program, caches and batches left out."""
    arguments = {
        "mesh": mesh,
        "model": FromScratch(model=lm),
        "config": CONFIG,
        "algorithm": algorithm,
        "rollouts": toy_self_play.SAMPLING,
        "optimizer": toy_self_play.OPTIMIZER,
        "lora": adapter,
    }
    chips = jax.devices()[: mesh_lib.make_mesh(mesh).size]
    found = collections.defaultdict(list)
    for program in plan.stage_programs(
        "self_play", arguments, chips, model=None, adapter=None, prompt_tokens=2
    ):
        kind = {"self_play: iteration: decode": "decode", "self_play: update": "update"}.get(
            program.name, "score"
        )
        if not program.name.endswith("prefill"):
            parts = [tree for name, tree in program.parts.items() if name not in ("cache", "batch")]
            found[kind].append(measures.bytes_of_chip([*parts, *program.resident.values()]))
    return dict(found)


@pytest.mark.parametrize(
    ("case", "fsdp"), [*((case, 1) for case in CASES), ("grpo with kl", 8), ("adapter", 8)]
)
def test_the_plan_counts_what_lies_there(case, fsdp, tmp_path):
    algorithm, adapter, by_hand = CASES[case]
    # The compiler for CPUs does not sum bfloat16 over devices.
    dtype, width = ("bfloat16", 2) if fsdp == 1 else ("float32", 4)
    lm, mesh = model(dtype), mesh_lib.MeshConfig(fsdp=fsdp)
    devices = mesh_lib.make_mesh(mesh)
    with measured() as most:
        before = live_bytes()
        with jax.set_mesh(devices):
            init = jax.jit(lm.init, out_shardings=language_model.param_shardings(lm, devices))
            params = [init(jax.random.key(0))]
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        toy_self_play.run(
            tmp_path,
            lm=lm,
            params=params.pop(),
            mesh=devices,
            config=CONFIG,
            algorithm=algorithm,
            adapter=adapter,
        )
    found = {name: (live - before) * fsdp / count for name, live in most.items()}
    counted = {
        name: [size * fsdp / count for size in sizes]
        for name, sizes in planned(lm, algorithm, adapter, mesh).items()
    }
    expected = by_hand(width, fsdp > 1)
    assert found.keys() == counted.keys() == expected.keys()
    for name, sizes in counted.items():
        beside = SMALL if adapter is None else 0.8 * width  # the small things, and no second base
        assert expected[name] - SMALL <= found[name] <= expected[name] + beside, found
        for size in sizes:
            assert size == pytest.approx(found[name], abs=SMALL), (found, counted)
