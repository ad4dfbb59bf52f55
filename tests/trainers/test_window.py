import dataclasses
import json

import pytest

from promptcot_jax.parallel import hardware
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.trainers import goodput, metrics
from tests import toys
from tests.trainers import toy_fit


def test_speed_by_hand():
    """3,248 multiply-adds per token and 144 per token seen, as in tests/models/test_flops.py."""
    config = toys.toy_config(
        vocab_size=100, embed_dim=8, mlp_dim=10, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=6
    )
    meter = goodput.Speedometer(config=config, num_devices=4, peak=1e9)
    figures = meter.figures(num_tokens=10_000, num_seen=50_000, seconds=2.0)
    per_device = 6 * (3248 * 10_000 + 144 * 50_000) / 2.0 / 4
    assert figures == {
        "tokens_per_second": 5000.0,
        "tflops_per_device": pytest.approx(per_device / 1e12, abs=1e-6),
        "mfu": round(per_device / 1e9, 4),
    }
    assert figures["mfu"] == 0.0298
    assert "mfu" not in dataclasses.replace(meter, peak=None).figures(1, 1, 1.0)


def test_mfu_is_among_the_metrics_where_the_peak_is_known(tmp_path, monkeypatch):
    def last_row(directory):
        toy_fit.fit(directory, toy_fit.toy_batches(num_epochs=1))
        return json.loads((directory / metrics.FILE).read_text().splitlines()[-1])

    unknown = last_row(tmp_path / "unknown")
    assert "mfu" not in unknown
    assert unknown["tokens_per_second"] > 0
    peaks = hardware.Hardware(bf16_flops=1e9, hbm_bytes=1e9, hbm_bandwidth=1e9, link_bandwidth=1e9)
    monkeypatch.setitem(hardware.HARDWARE, "cpu", peaks)
    known = last_row(tmp_path / "known")
    assert known["mfu"] == pytest.approx(known["tflops_per_device"] * 1e3, abs=2e-3)
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2))
    assert goodput.Speedometer.of(toys.toy_config(), mesh).num_devices == 8
