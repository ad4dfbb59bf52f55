import os
import subprocess
import sys
import types

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


def test_what_is_held_is_counted_in_processors_where_there_are_no_chips():
    jax.devices()
    held = hardware.held(7.25)
    assert held is not None
    assert (held.kind, held.unit, held.hosts, held.wall_seconds) == ("cpu", "processor", 1, 7.25)
    assert held.count == len(os.sched_getaffinity(0))  # of which JAX simulates eight devices here


def test_asking_what_is_held_starts_no_device():
    program = (
        "from jax._src import xla_bridge; from promptcot_jax.parallel import hardware; "
        "print(hardware.held(1.0), xla_bridge.backends_are_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "False"]


def test_two_cores_of_one_chip_are_one_chip():
    def core(place, part=0, piece=0):
        return types.SimpleNamespace(id=part, coords=place, core_on_chip=part, slice_index=piece)

    assert hardware.num_chips([core([0, 0, 0]), core([0, 0, 0], 1), core([1, 0, 0])]) == 2
    assert hardware.num_chips([core([0, 0, 0]), core([0, 0, 0], piece=1)]) == 2  # of two slices
    assert hardware.num_chips([types.SimpleNamespace(id=i) for i in range(3)]) == 3  # GPUs have no place
