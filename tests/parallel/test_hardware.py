import jax

from promptcot_jax.parallel import hardware


def test_the_kinds_of_cloud_tpu_are_known_by_both_names():
    for kind, teraflops in {"TPU v4": 275, "TPU v5 lite": 197, "TPU v5": 459, "TPU v6 lite": 918}.items():
        assert hardware.hardware_of(kind).bf16_flops == teraflops * 1e12
    assert hardware.HARDWARE["TPU v5e"] is hardware.HARDWARE["TPU v5 lite"]
    assert hardware.HARDWARE["TPU v6e"] is hardware.HARDWARE["TPU v6 lite"]


def test_nothing_is_invented_for_a_cpu():
    assert hardware.hardware_of(jax.devices()[0].device_kind) is None


def test_every_entry_is_a_device_and_not_a_pod_or_a_unit_mistaken():
    for kind, peaks in hardware.HARDWARE.items():
        assert 1e14 < peaks.bf16_flops < 1e15, kind
        assert 15e9 < peaks.hbm_bytes < 150e9, kind
        assert 100 < peaks.bf16_flops / peaks.hbm_bandwidth < 700, kind  # FLOPs per byte at the ridge
        assert 1 < peaks.hbm_bandwidth / peaks.link_bandwidth < 6, kind
