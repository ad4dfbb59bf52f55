"""The manifest of a workdir and the digests in it."""

import pytest

from promptcot_jax.core import jsonl, manifest
from promptcot_jax.core.errors import WrongUse


def entry(stage, **changes):
    values = {
        "stage": stage,
        "status": "complete",
        "config_digest": "d",
        "seed": 1,
        "inputs": {"a": "b"},
        "counts": {"rows": 3},
        "versions": {"python": "3"},
        "wall_seconds": 1.5,
    }
    return manifest.StageEntry(**(values | changes))


def test_entries_of_stages_stand_side_by_side(tmp_path):
    manifest.record(tmp_path, entry("corpus", status="running"))
    manifest.record(tmp_path, entry("em"))
    manifest.record(tmp_path, entry("corpus"))
    assert manifest.read(tmp_path) == {"corpus": entry("corpus"), "em": entry("em")}


def test_a_digest_follows_content_not_place(tmp_path):
    for name in ("one", "two"):
        jsonl.write_records(tmp_path / name / "rows.jsonl", [{"a": 1}, {"a": 2}])
    one, two = tmp_path / "one", tmp_path / "two"
    assert manifest.file_digest(one) == manifest.file_digest(two)
    assert manifest.file_digest(one / "rows.jsonl") == manifest.file_digest(two / "rows.jsonl")
    jsonl.write_records(two / "rows.jsonl", [{"a": 1}, {"a": 3}])
    assert manifest.file_digest(one) != manifest.file_digest(two)


def use(seconds, **changes):
    values = {"kind": "TPU v4", "unit": "chip", "count": 16, "hosts": 4, "wall_seconds": seconds}
    return manifest.DeviceUse(**(values | changes))


def test_devices_and_attempts_are_read_as_they_were_written(tmp_path):
    written = entry("em", devices=(use(90.0), use(5.0, count=8)), attempts=3, timed_attempts=2)
    manifest.record(tmp_path, written)
    assert manifest.read(tmp_path) == {"em": written}


# As version 0.1 wrote it, in part.
OF_VERSION_1 = {
    "stages": {
        "corpus": {
            "stage": "corpus",
            "status": "complete",
            "config_digest": "0e14d408b0cb5792",
            "seed": 0,
            "inputs": {},
            "counts": {"triples": 2400, "triples_heldout": 96, "triples_novel": 48, "vocabulary": 1024},
            "versions": {"python": "3.11.7", "promptcot_jax": "0.1.0", "jax": "0.10.2"},
            "wall_seconds": 0.718,
            "devices": [],
            "attempts": 1,
            "timed_attempts": 1,
        }
    }
}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            OF_VERSION_1,
            r"was written by promptcot_jax 0\.1\.0 \(format 1; this version has format 2\): use",
        ),
        (OF_VERSION_1 | {"format": 3}, r"was written by promptcot_jax 0\.1\.0 \(format 3; this version"),
        ({"stages": {}}, "was written by another version of promptcot_jax"),
        ([], "is no manifest"),
    ],
)
def test_a_manifest_of_another_format_is_refused_with_the_version_that_wrote_it(tmp_path, document, message):
    jsonl.write_json(tmp_path / "manifest.json", document)
    with pytest.raises(WrongUse, match=message):
        manifest.read(tmp_path)
    with pytest.raises(WrongUse, match=message):
        manifest.record(tmp_path, entry("em"))
    assert jsonl.read_json(tmp_path / "manifest.json") == document


@pytest.mark.parametrize("devices", [[{"kind": "TPU v4"}], [{"colour": "red"}], [3], 3])
def test_devices_of_another_shape_are_refused_by_stage(tmp_path, devices):
    manifest.record(tmp_path, entry("em"))
    document = jsonl.read_json(tmp_path / "manifest.json")
    document["stages"]["em"]["devices"] = devices
    jsonl.write_json(tmp_path / "manifest.json", document)
    with pytest.raises(WrongUse, match="manifest.json: stage 'em': not a manifest entry of this version"):
        manifest.read(tmp_path)


def test_chip_hours_add_up_over_attempts_on_the_same_devices():
    first = manifest.with_use((), use(1800.0))
    assert [one.hours for one in first] == [8.0]
    again = manifest.with_use(first, use(900.0))
    assert [one.hours for one in again] == [12.0]
    smaller = manifest.with_use(again, use(3600.0, count=8, hosts=2))
    assert [(one.count, one.hours) for one in smaller] == [(16, 12.0), (8, 8.0)]
    assert manifest.with_use(smaller, None) == smaller
