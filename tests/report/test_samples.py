"""Facts of the samples: evenly spread, with those that failed, bounded in number and bytes."""

import collections
import dataclasses
import re

import pytest
from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.report import page, samples, workdir_files
from tests.report import outline, workdirs


def write_rows(path, number, **more):
    jsonl.write_records(path, [{"i": i, "bad": i % 10 == 3} | more for i in range(number)], more.get("size"))


def sampled(path, count, **options):
    found = workdir_files.sample(epath.Path(path), count, **options)
    return [row["i"] for _, row in found.rows], found


@pytest.mark.parametrize("number", [0, 1, 9, 10, 11, 20, 21, 57, 1000, 12_345])
def test_rows_are_spread_over_a_file_of_any_length(tmp_path, number):
    write_rows(tmp_path / "a.jsonl", number)
    chosen, found = sampled(tmp_path / "a.jsonl", 10)
    assert (found.num_read, found.is_whole) == (number, True)
    assert len(chosen) == min(10, number)
    assert chosen == sorted(set(chosen))
    if number > 10:
        gaps = [after - before for before, after in zip(chosen, chosen[1:], strict=False)]
        assert chosen[0] == 0
        assert max(gaps) <= 3 * min(gaps)
        assert chosen[-1] >= 0.7 * number


def test_rows_that_failed_come_beside_them_each_once(tmp_path):
    write_rows(tmp_path / "a.jsonl", 1000)
    chosen, found = sampled(tmp_path / "a.jsonl", 10, is_of_note=lambda row: row["bad"], num_of_note=20)
    assert found.num_of_note == 100
    failed = [i for i in chosen if i % 10 == 3]
    assert 20 <= len(failed) <= 30
    assert failed[-1] > 800
    assert len(chosen) == len(set(chosen)) <= 30


def test_all_that_failed_are_there_where_they_are_few(tmp_path):
    write_rows(tmp_path / "a.jsonl", 1000)
    chosen, _ = sampled(
        tmp_path / "a.jsonl", 5, is_of_note=lambda row: row["i"] in (17, 18, 901), num_of_note=9
    )
    assert {17, 18, 901} <= set(chosen)


def test_values_are_counted_over_all_rows(tmp_path):
    write_rows(tmp_path / "a.jsonl", 30, level=3)
    _, found = sampled(tmp_path / "a.jsonl", 2, tally=("level", "bad", "gone"))
    assert found.tallies == {"level": {"3": 30}, "bad": {"false": 27, "true": 3}, "gone": {"": 30}}


def test_reading_ends_at_its_limits_and_says_so(tmp_path, monkeypatch):
    write_rows(tmp_path / "a.jsonl", 100, size=30)  # in shards
    assert sampled(tmp_path / "a.jsonl", 5)[1].is_whole
    monkeypatch.setattr(workdir_files, "NUM_ROWS_SCANNED", 60)
    chosen, found = sampled(tmp_path / "a.jsonl", 5)
    assert (found.num_read, found.is_whole, max(chosen) < 60) == (60, False, True)
    monkeypatch.setattr(workdir_files, "NUM_BYTES_SCANNED", 400)
    assert sampled(tmp_path / "a.jsonl", 5)[1].num_read < 20


def test_rows_are_counted_without_being_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"not json\n{}\nlast without break")
    assert workdir_files.count_rows(epath.Path(tmp_path / "a.jsonl")) == 3
    write_rows(tmp_path / "b.jsonl", 100, size=30)
    assert workdir_files.count_rows(epath.Path(tmp_path / "b.jsonl")) == 100
    (tmp_path / "c.jsonl").write_bytes(b"")
    assert workdir_files.count_rows(epath.Path(tmp_path / "c.jsonl")) == 0


def test_a_long_text_is_cut_in_its_middle():
    text = "a" * 5_000 + "b" * 5_000
    cut = page.clipped(text)
    assert "6,000 characters are left out" in cut
    assert cut.startswith("a" * 2_600 + "\n")
    assert cut.endswith("\n" + "b" * 1_400)
    assert page.clipped("x" * 4_000) == "x" * 4_000


def test_every_kind_has_cards_with_what_the_browser_filters_by(tmp_path):
    workdirs.write(tmp_path, num_rounds=1)
    jsonl.write_records(
        tmp_path / "synthesize" / "rejects.jsonl",
        [{"reason": "duplicate", "detail": "of t1", "problem": "x", "concept_set_id": "c"}],
    )
    jsonl.write_records(
        tmp_path / "sft_traces.jsonl",
        [{"id": "p-0", "domain": "math", "prompt": "x", "completion": "y", "verified": "no"}],
    )
    jsonl.write_records(
        tmp_path / "verified_prompts.jsonl",
        [{"id": "p", "domain": "code", "problem": "x", "tests": [1, 2], "concepts": ["a"], "pool": "hard"}],
    )
    articles = outline.named(outline.elements(outline.section(tmp_path, "samples")), "article")
    kinds = {element.attrs["data-kind"]: element for element in articles}
    assert set(kinds) == {
        *("triple", "rationale", "problem", "draft left out", "verified prompt", "problem refused by verify"),
        *("trace", "completion", "attempt"),
    }
    assert kinds["trace"].attrs["data-verdict"] == "wrong"
    assert kinds["verified prompt"].attrs["data-domain"] == "code"
    assert {one.attrs["data-verdict"] for one in articles if one.attrs["data-kind"] == "rationale"} == {
        *("chosen", "not chosen", "cut off")
    }
    attempts = [one.text for one in articles if one.attrs["data-kind"] == "attempt"]
    assert all("Find the remainder when S is divided by 7." in text for text in attempts)  # its problem


def test_attempts_stand_with_their_problems_and_those_that_were_not_graded_are_not_wrong(tmp_path):
    workdirs.write(tmp_path, num_rounds=1)
    path = tmp_path / "evaluate" / "attempts.jsonl"
    rows = jsonl.read_file(path, workdirs.AttemptRecord)
    wrong = [row for row in rows if not row.correct]
    lost = dataclasses.replace(wrong[0], status="sandbox_error")
    jsonl.write_records(path, [lost, *wrong[1:]])
    problems = [{"id": one, "problem": f"Asked {one}"} for one in sorted({row.problem_id for row in rows})]
    jsonl.write_records(tmp_path / "evaluate" / "problems.jsonl", problems)
    found = samples.read(epath.Path(tmp_path))["evaluate/attempts.jsonl"]
    assert all("Asked held-math" in card for card in found.cards)
    assert found.sample.num_of_note == len(wrong) - 1
    verdicts = collections.Counter(re.search('data-verdict="([^"]*)"', card)[1] for card in found.cards)
    assert verdicts == {"wrong": len(wrong) - 1, "not graded": 1}


def test_the_first_row_of_an_id_counts(tmp_path):
    for name in ("a", "b"):
        jsonl.write_records(tmp_path / f"{name}.jsonl", [{"id": "1", "of": name}, {"id": name}])
    files = [epath.Path(tmp_path / f"{name}.jsonl") for name in ("a", "b")]
    assert workdir_files.rows_by_id(files, {"1", "b"})["1"] == {"id": "1", "of": "a"}


def test_cards_keep_within_their_bytes(tmp_path):
    rows = [{"id": str(i), "problem": "p" * 9_000, "rationale": "r" * 9_000} for i in range(500)]
    jsonl.write_records(tmp_path / "triples.jsonl", rows)
    jsonl.write_records(tmp_path / "verify" / "rejects.jsonl", rows)
    found = samples.read(epath.Path(tmp_path))
    sizes = [len("".join(one.cards).encode()) for one in found.values()]
    assert all(0.9 * samples.MAX_BYTES / 2 < size <= samples.MAX_BYTES / 2 for size in sizes)
    shown = [int(number) for number in re.findall("Triple ([0-9]+)", "".join(found["triples.jsonl"].cards))]
    assert shown[0] == 0
    assert shown[-1] > 450


def test_a_damaged_line_names_its_file_and_line(tmp_path):
    write_rows(tmp_path / "a.jsonl", 3)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("[1]\n")
    with pytest.raises(WrongUse, match=r"a\.jsonl:4: expected a JSON object"):
        workdir_files.sample(epath.Path(tmp_path / "a.jsonl"), 2)
