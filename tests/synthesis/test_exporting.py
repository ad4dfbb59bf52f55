"""Facts of exported rows and of their card: kinds, sources, splits, and texts that would break a table."""

import collections
import dataclasses
import random
from pathlib import Path

import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import exported_sets, rows
from promptcot_jax.synthesis import data_card, exporting, provenance
from promptcot_jax.synthesis.exporting import ExportConfig
from tests.run import exported_workdir


def math_rows(number: int) -> list[exported_sets.Exported]:
    rng = random.Random(0)
    made = [exported_workdir.math_row(i, rng) for i in range(number)]
    return [exported_sets.ExportedMathPrompt(**vars(row), source="synthesized") for row in made]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/w/verified_prompts.jsonl", "verified_prompts"),
        ("/w/problems-*.jsonl", None),
        ("gs://b/triples.parquet", "triples"),
        ("problems-00000-of-00002.jsonl", "problems"),
        ("/w/verified_prompts_clean.jsonl", None),
    ],
)
def test_a_files_name_says_its_kind_or_the_setting_must(path: str, kind: exported_sets.RecordKind | None):
    if kind is None:
        with pytest.raises(WrongUse, match="EXPORT_KIND"):
            exporting.kind_of(path, None)
    else:
        assert exporting.kind_of(path, None) == kind
    assert exporting.kind_of(path, "triples") == "triples"


@pytest.mark.parametrize(
    ("fields", "source"),
    [
        ({"source": "gsm8k", "model_digest": "d"}, "gsm8k"),
        ({"source": None, "model_digest": "d"}, "synthesized"),
        ({"model_digest": ""}, "unnamed"),
        ({"family": "sums"}, "corpus"),
    ],
)
def test_where_a_row_is_from(fields: dict, source: str):
    assert exporting.source_of(fields) == source
    assert exporting.source_of(fields, "mine") == ("gsm8k" if source == "gsm8k" else "mine")


def test_the_held_out_share_is_met_and_nested_in_a_larger_one():
    found = {}
    for share in (0.0, 0.1, 0.3):
        splits = exporting.split(math_rows(2000), ExportConfig(heldout_share=share))
        assert list(splits) == ["math"]
        found[share] = {row.id for row in splits["math"]["heldout"]}
        assert len(found[share]) + len(splits["math"]["train"]) == 2000
        assert abs(len(found[share]) / 2000 - share) < 0.03
    assert not found[0.0]
    assert found[0.1] < found[0.3]


def test_a_licence_is_that_of_the_rows_unless_a_setting_names_another():
    own, seeds = exporting.Origins(), exporting.Origins()
    for fields in ({"source": "a", "license": "MIT"}, {"source": "a", "license": None}, {"source": "b"}):
        own.add(fields)
    seeds.add({"source": "c", "license": "CC-BY-4.0"})
    assert exporting.licences_of(own, seeds, ExportConfig()) == {"a": "MIT", "b": "unknown", "c": "CC-BY-4.0"}
    config = ExportConfig(licences={"a": "Apache-2.0", "b": "MIT"})
    assert exporting.licences_of(own, seeds, config) == {"a": "Apache-2.0", "b": "MIT", "c": "CC-BY-4.0"}
    seeds.add({"source": "a", "license": "GPL-3.0"})
    assert exporting.licences_of(own, seeds, config)["a"] == "Apache-2.0"
    with pytest.raises(WrongUse, match=r"Rows of 'a' state the licences 'GPL-3.0', 'MIT'; .*LICENCES="):
        exporting.licences_of(own, seeds, ExportConfig())


def test_a_users_directories_are_not_in_the_rows(tmp_path: Path):
    row = dataclasses.asdict(math_rows(1)[0]) | {"solver": "/home/somebody/models/solver/policy"}
    jsonl.write_records(tmp_path / "verified_prompts.jsonl", [row])
    (read,) = exporting.read(
        tmp_path / "verified_prompts.jsonl",
        "verified_prompts",
        source="",
        bad_rows=rows.FATAL,
        counts=collections.Counter(),
        origins=exporting.Origins(),
    )
    assert isinstance(read, exported_sets.ExportedMathPrompt)
    assert read.solver == ".../solver/policy"


def test_a_text_cannot_leave_its_cell_nor_the_yaml_in_front(tmp_path: Path):
    hostile = "a | b\n## c <img src=x> [d](e) `f`"
    made = [dataclasses.replace(row, concepts=(hostile,), level=hostile) for row in math_rows(3)]
    config = ExportConfig(name='x"\n---\nlicense: mit', heldout_share=0.0)
    splits = exporting.split(made, config)
    made = provenance.read(tmp_path, "verified_prompts", "rows.jsonl", "d")
    card = data_card.render(splits, config, made, {"mine": exporting.UNKNOWN}, {})
    cell = "a \\| b ## c \\<img src=x> \\[d](e) \\`f\\`"
    assert card.count(f"| {cell} | 3 |\n") == 2
    assert "\n## c" not in card
    assert "<img" not in card.replace("\\<img", "")
    assert card.split("\n---\n")[0].count("\nlicense:") == 1
    assert 'license: "unknown"' in card.split("\n---\n")[0]
    assert "**Unknown**: the workdir has no manifest" in card


def test_rows_fall_into_the_eighths_that_hold_them():
    splits = exporting.split(math_rows(64), ExportConfig(heldout_share=0.0))
    made = provenance.Provenance(
        kind="verified_prompts", entries={}, settings={}, reports={}, rows="r", digest="d"
    )
    card = data_card.render(splits, ExportConfig(), made, {}, {})
    counts = collections.Counter(row.agreement for row in splits["math"]["train"])  # type: ignore[union-attr]
    for share, count in counts.items():
        assert f"| {share - 0.125:g} to {share:g} | {count} | {count} |" in card
