"""Set-up of every test: eight simulated CPU devices, cheap compilation, warnings as errors but for some.

Most of the suite's time is XLA compiling toys that then run for milliseconds, so its costly passes are off.
They change speed and rounding, not meaning; tests that compare bits compare programs compiled alike.

Nothing of `promptcot_jax` or JAX may be imported at the top of this file: the devices are counted when JAX
starts, and jaxtyping's import hook (`make check` and CI switch it on) checks only what is imported after it.
"""

import gc
import os
import pathlib

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    + " --xla_backend_optimization_level=0"
    + " --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_use_fusion_emitters=false"  # a third of what compiling takes
    + " --xla_cpu_parallel_codegen_split_count=1"  # of parts that are compiled in parallel, each at a price
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiled programs are kept from one run of the tests to the next, in a directory that git ignores, never in
# the user's home. Half of the suite's time is compiling, most of it programs that no change has touched.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".cache" / "jax_tests")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow (through seqio) is imported

import jaxtyping
import pytest

# Each entry: (filter, why it cannot be mended here). Empty: no third party warns in the proven versions.
THIRD_PARTY_WARNINGS: tuple[tuple[str, str], ...] = ()


def pytest_configure(config: pytest.Config) -> None:
    """Lets the named third-party warnings through; everything else stays an error."""
    for warning_filter, _ in THIRD_PARTY_WARNINGS:
        config.addinivalue_line("filterwarnings", warning_filter)


def pytest_collection_finish() -> None:
    """Looks for garbage less often, and never among what importing made: a million objects that stay."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture
def unchecked_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """As users run it: without jaxtyping's hook, which refuses a wrong argument before our message can."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
