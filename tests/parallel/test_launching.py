"""Programs on several devices are launched one at a time; on one device nobody waits."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.parallel import launching
from promptcot_jax.parallel import mesh as mesh_lib


def _most_at_once(mesh) -> int:
    """How many of four threads are within a launch at the same time."""
    under_way, most = 0, 0
    counting = threading.Lock()

    @launching.serialized
    def program():
        nonlocal under_way, most
        with counting:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.05)
        with counting:
            under_way -= 1

    def launch():
        with jax.set_mesh(mesh):
            program()

    threads = [threading.Thread(target=launch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return most


def test_launches_take_turns_where_there_are_several_devices():
    assert _most_at_once(mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=4))) == 1
    assert _most_at_once(mesh_lib.make_mesh(mesh_lib.MeshConfig())) > 1


def test_a_launch_within_a_launch_does_not_wait_for_itself():
    inner = launching.serialized(jax.jit(lambda x: x + 1))
    outer = launching.serialized(lambda x: inner(x))
    with jax.set_mesh(mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=4))):
        np.testing.assert_array_equal(outer(jnp.arange(2)), [1, 2])


def test_an_error_gives_the_turn_back():
    @launching.serialized
    def failing():
        raise ZeroDivisionError

    with jax.set_mesh(mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=4))):
        with pytest.raises(ZeroDivisionError):
            failing()
    assert _most_at_once(mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=4))) == 1


def test_a_serialized_program_is_still_lowered_and_named():
    @launching.serialized
    @jax.jit
    def double(x):
        """Twice as much."""
        return 2 * x

    assert double.__doc__ == "Twice as much."
    assert "stablehlo" in double.lower(jnp.arange(2)).as_text()
