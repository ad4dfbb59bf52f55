"""Cloud names of slices, their sizes, and that the scripts' table says the same."""

from pathlib import Path

import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.parallel import topologies

TABLE = Path(__file__).parents[2] / "tpu_scripts" / "accelerators.txt"


@pytest.mark.parametrize(
    ("name", "kind", "grid", "chips", "hosts"),
    [
        ("v5litepod-16", "v5e", "4x4", 16, 4),
        ("v5e-16", "v5e", "4x4", 16, 4),
        ("V5E:4X4", "v5e", "4x4", 16, 4),
        ("v5e-8", "v5e", "2x4", 8, 1),
        ("v4-8", "v4", "2x2x1", 4, 1),
        ("v5p-64", "v5p", "2x4x4", 32, 8),
        ("v5p:4x4x4", "v5p", "4x4x4", 64, 16),
        ("v6e-1", "v6e", "1x1", 1, 1),
    ],
)
def test_a_name_says_chips_and_hosts(name: str, kind: str, grid: str, chips: int, hosts: int):
    topology = topologies.named(name)
    assert (topology.kind, topology.grid) == (kind, grid)
    assert (topology.num_chips, topology.num_hosts) == (chips, hosts)


def test_slices_multiply():
    two = topologies.named("v6e-16", num_slices=2)
    assert (two.num_chips, two.num_hosts, two.cloud_name) == (32, 8, "v6e-16")
    assert str(two) == "2 x v6e-16 (32 chips, 4x4)"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v3-8", "v4, v5e, v5p, v6e"),
        ("v5e-512", "v5litepod-256 (16x16)"),
        ("v5e:32x32", "is not offered"),
        ("v4-4", "TensorCores, two a chip"),
        ("v6e", "is not offered"),
    ],
)
def test_what_the_cloud_does_not_offer_is_refused(name: str, words: str):
    with pytest.raises(WrongUse) as refusal:
        topologies.named(name)
    assert name in str(refusal.value)
    assert words in str(refusal.value)


def test_the_table_of_the_scripts_says_the_same():
    lines = [line.split() for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]
    rows = {(row[0], int(row[1]), int(row[2]), row[3]) for row in lines if not row[0].startswith("tpu7x")}
    known = {
        (one.cloud_name, one.num_chips, one.num_hosts, one.grid)
        for kind in ("v4", "v5e", "v5p", "v6e")
        for one in topologies.offered(kind)
    }
    assert rows == known


def test_without_the_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WrongUse, match=r"pip install 'promptcot_jax\[tpu\]'"):
        topologies.devices(topologies.named("v5e-8"))


@pytest.mark.parametrize(
    ("installed", "is_other"), [("0.0.42.1", False), ("0.0.42", False), ("0.0.52", True), ("0.0.421", True)]
)
def test_another_libtpu_than_jax_asks_for_is_noticed(
    installed: str, is_other: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(topologies, "libtpu_of_jax", lambda: "0.0.42.*")
    monkeypatch.setattr(topologies.importlib.metadata, "version", lambda name: installed)
    assert bool(topologies.libtpu_mismatch()) == is_other
