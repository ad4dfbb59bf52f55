"""Plans with the TPU's own compiler, each in a process of its own, as a user starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("stages/cold_start.gin", "models/qwen2_5_1_5b.gin", "meshes/fsdp.gin", "stages/plan.gin")
MATMUL = """
import os
from promptcot_jax.parallel import topologies
os.environ |= topologies.ENVIRONMENT
import jax, jax.numpy as jnp
chip = jax.sharding.SingleDeviceSharding(topologies.devices(topologies.named("v5p-8"))[0])
square = jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16, sharding=chip)
program = jax.jit(lambda a, b: (a @ b) @ a).lower(square, square).compile()
print(program.memory_analysis().peak_memory_in_bytes)
"""


def finished(*arguments: str) -> subprocess.CompletedProcess:
    pytest.importorskip("libtpu")
    settings = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PYTHONPATH")}
    return subprocess.run(
        [sys.executable, *arguments],
        env=settings | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


def plan(workdir: Path, *bindings: str) -> tuple[int, dict, str]:
    """Exit code, record and last line of a plan."""
    done = finished(
        *("-m", "promptcot_jax", "plan"),
        *(f"--gin_file={file}" for file in FILES),
        *(f"--gin.{binding}" for binding in ("TOPOLOGY='v5e-8'", "MODEL_PATH='none'", *bindings)),
        f"--workdir={workdir}",
    )
    record = workdir / "plan.json"
    assert record.exists(), done.stderr
    return done.returncode, json.loads(record.read_text()), done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_peak_of_two_matrix_products_is_known():
    done = finished("-c", MATMUL)
    two_read, one_between, one_out = 2 * 32, 32, 32
    assert abs(int(done.stdout) / 2**20 - (two_read + one_between + one_out)) < 1


@pytest.mark.slow
def test_qwen_1_5b_cold_starts_on_eight_chips_of_v5e(tmp_path: Path):
    code, record, _ = plan(tmp_path)
    (phase,) = record["stages"][0]["phases"]
    assert code == 0
    assert record["label"] == "compiled only, not run"
    parameters = 1_543_714_304 * 4 / 8
    assert parameters <= phase["parts"]["parameters"] < 1.001 * parameters
    assert phase["parts"]["activations"] > 2e9
    # Weights go around three times in bfloat16; the output matrix is gathered once, its gradient summed once.
    layers, head = 1_310_000_000, 151_936 * 1536
    sent = {kind: one["bytes"] for kind, one in phase["traffic"].items()}
    assert 1.5 * 2 * layers < sent["collective-permute"] < 3.2 * 2 * layers
    assert sent["all-gather"] < 1.2 * 2 * head
    assert sum(sent[kind] for kind in ("all-reduce", "reduce-scatter") if kind in sent) < 2.2 * 4 * head


@pytest.mark.slow
def test_what_is_too_large_ends_with_3_and_the_advice_fits(tmp_path: Path):
    large = ("config.DecoderConfig.num_layers=4", "COLD_START_BATCH=512")
    code, record, last = plan(tmp_path / "large", *large)
    assert code == 3
    assert "does not fit on v5litepod-8" in last
    advice = record["stages"][0]["fits_with"]["settings"]
    assert advice["cold_start/loop.LoopConfig.micro_batches"] > 1
    code, _, _ = plan(tmp_path / "advised", *large, *(f"{name}={value!r}" for name, value in advice.items()))
    assert code == 0


@pytest.mark.slow
def test_two_slices_share_rows_and_send_gradients_between_them(tmp_path: Path):
    shape = ("config.DecoderConfig.num_layers=2", "mesh.MeshConfig.num_slices=2", "mesh.MeshConfig.data=2")
    code, record, _ = plan(tmp_path, *shape)
    assert code == 0
    topology = record["topology"]
    assert (topology["name"], topology["slices"], topology["chips"]) == ("v5litepod-8", 2, 16)
    (phase,) = record["stages"][0]["phases"]
    # Each slice holds all parameters, and the float32 gradients of a chip's share are added up over two.
    parameters = phase["parts"]["parameters"]
    assert parameters == pytest.approx(4 * (2 * 46_797_824 + 151_936 * 1536) / 8, rel=0.01)
    assert phase["traffic"]["all-reduce"]["bytes"] > 0.9 * parameters
