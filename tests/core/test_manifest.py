"""The manifest of a workdir and the digests in it."""

from promptcot_jax.core import jsonl, manifest


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
