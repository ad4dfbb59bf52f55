"""The token store: whole or not there, built once, refused where damaged, and named by all that makes it."""

import ast
import dataclasses
import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from promptcot_jax.core import building, jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import rows, tasks, token_store, training_sets
from tests import toys
from tests.data import store_builder
from tests.run import killing

EXPECTED = [
    [*row.prompt_ids.tolist(), *row.completion_ids.tolist()] for row in map(store_builder.example, range(18))
]
TOKENIZER = toys.byte_tokenizer()
TRIPLES = toys.toy_triples()


def lines(journal: Path) -> list[str]:
    return journal.read_text().splitlines() if journal.exists() else []


def leftovers(cache_dir: Path) -> list[Path]:
    return list(cache_dir.glob("*.part"))


def wait_for(happened, process) -> None:
    """Until `happened()`; the process must go on until then."""
    deadline = time.monotonic() + killing.DEADLINE_SECONDS
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_of_two_processes_one_builds_and_both_read_it(tmp_path):
    journal, go = tmp_path / "journal", tmp_path / "go"
    first = store_builder.start(tmp_path / "cache", journal, goes_on_with=str(go))
    wait_for(lambda: lines(journal), first)
    second = store_builder.start(tmp_path / "cache", journal)
    said = iter(second.stderr.readline, "")
    assert any("another process is making it; waiting" in line for line in said)
    go.touch()
    for process in (first, second):
        output, errors = process.communicate(timeout=killing.DEADLINE_SECONDS)
        assert json.loads(output) == [EXPECTED, {"read": 18}], errors
    assert lines(journal).count("build") == 1
    assert not leftovers(tmp_path / "cache")


def test_after_a_killed_builder_the_next_one_builds_whole_and_clears_up(tmp_path):
    cache_dir, journal = tmp_path / "cache", tmp_path / "journal"
    process = store_builder.start(cache_dir, journal, goes_on_with=str(tmp_path / "never"))
    wait_for(lambda: len(lines(journal)) > 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    content = store_builder.content(journal)
    assert process.returncode == -signal.SIGKILL
    assert not (cache_dir / content.key).exists()
    (left,) = leftovers(cache_dir)
    assert (left / "token_ids.bin").exists()
    store = token_store.open_or_build(str(cache_dir), content, patience_seconds=0.0)  # the lock is free
    assert store_builder.ids_of(store) == EXPECTED
    assert store.counts == {"read": 18}
    assert not leftovers(cache_dir)


def test_a_build_that_fails_leaves_nothing(tmp_path):
    content = store_builder.content(tmp_path / "journal")

    def build():
        yield from content.build()
        raise WrongUse("rows.jsonl:19: not a JSON object")

    with pytest.raises(WrongUse, match="rows.jsonl:19"):
        token_store.open_or_build(str(tmp_path / "cache"), dataclasses.replace(content, build=build))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    assert len(token_store.open_or_build(str(tmp_path / "cache"), content)) == 18


def test_patience_ends_and_says_what_to_do(tmp_path):
    content = store_builder.content(tmp_path / "journal")
    directory = str(tmp_path / content.key)
    with building.sole_builder(directory, "another"):
        with pytest.raises(
            TimeoutError, match=r"\.lock: another process has been making 'slow' for 0 s; see"
        ):
            token_store.open_or_build(str(tmp_path), content, patience_seconds=0.0)
    assert len(token_store.open_or_build(str(tmp_path), content, patience_seconds=0.0)) == 18


def test_who_reads_a_store_keeps_it_while_another_process_builds_it_anew(tmp_path):
    journal = tmp_path / "journal"
    store = token_store.open_or_build(str(tmp_path), store_builder.content(journal))
    process = store_builder.start(tmp_path, journal, anew=True, first_id=1000)
    output, errors = process.communicate(timeout=killing.DEADLINE_SECONDS)
    assert json.loads(output)[0][17][0] == 1017, errors
    assert store_builder.ids_of(store) == EXPECTED
    again = token_store.open_or_build(str(tmp_path), store_builder.content(journal))
    assert store_builder.ids_of(again)[0][0] == 1000
    assert lines(journal).count("build") == 2


def test_an_empty_store_is_a_store(tmp_path):
    content = store_builder.content(tmp_path / "journal", num_batches=0)
    assert len(token_store.open_or_build(str(tmp_path), content)) == 0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize("name", ["token_ids.bin", "lengths.bin", "store.json"])
@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_damaged_store_is_refused_by_name(tmp_path, name, damage):
    content = store_builder.content(tmp_path / "journal")
    token_store.open_or_build(str(tmp_path), content)
    directory = tmp_path / content.key
    damage(directory / name)
    if (name, damage) == ("store.json", Path.unlink):  # what makes a directory a store
        assert store_builder.ids_of(token_store.open_or_build(str(tmp_path), content)) == EXPECTED
        return
    with pytest.raises(WrongUse, match=f"{content.key}: this token store is damaged .*remove the directory"):
        token_store.open_or_build(str(tmp_path), content)
    shutil.rmtree(directory)
    assert store_builder.ids_of(token_store.open_or_build(str(tmp_path), content)) == EXPECTED


def test_a_store_that_shrinks_under_its_reader_gives_no_shorter_example(tmp_path):
    content = store_builder.content(tmp_path / "journal")
    store = token_store.open_or_build(str(tmp_path), content)
    cut(tmp_path / content.key / "token_ids.bin")
    assert store[16] == store_builder.example(16)
    with pytest.raises(WrongUse, match=r"damaged \(example 17 is cut off\)"):
        store[17]


@pytest.fixture
def triples(tmp_path):
    jsonl.write_records(tmp_path / "triples.jsonl", TRIPLES)
    jsonl.write_records(tmp_path / "benchmark.jsonl", TRIPLES[:1])
    return tmp_path / "triples.jsonl"


def key(path, name="p_theta", tokenizer=TOKENIZER, rules=tasks.NO_RULES, **options) -> str:
    return training_sets.content_of(name, path, tokenizer, rules, **options).key


def test_what_changes_the_bytes_changes_the_key(triples, monkeypatch):
    benchmarks = {"toy": str(triples.parent / "benchmark.jsonl")}
    skipping = rows.BadRows(action="skip")
    found = {
        "as it is": key(triples),
        "another task": key(triples, "q_phi"),
        "one domain": key(triples, "p_theta_math"),
        "a limit": key(triples, limit=3),
        "bad rows": key(triples, rules=tasks.RowRules(bad_rows=skipping)),
        "their size": key(triples, rules=tasks.RowRules(bad_rows=rows.BadRows(max_row_bytes=100))),
        "validity": key(triples, rules=tasks.RowRules(validity="release")),
        "benchmarks": key(triples, rules=tasks.RowRules(benchmarks=benchmarks)),
        "merges": key(triples, tokenizer=toys.byte_tokenizer(merges=[("a", "b")])),
        "a chat template": key(triples, tokenizer=toys.byte_tokenizer("{{ messages }}")),
        "BOS": key(triples, tokenizer=dataclasses.replace(TOKENIZER, bos_id=7, adds_bos=True)),
    }
    (triples.parent / "benchmark.jsonl").write_text(jsonl.to_line(TRIPLES[1]) + "\n")
    found["another benchmark"] = key(triples, rules=tasks.RowRules(benchmarks=benchmarks))
    triples.write_text(triples.read_text().replace("sum", "sums"))
    found["rows"] = key(triples)
    monkeypatch.setattr(tasks, "code_digest", lambda: "another")
    found["code"] = key(triples)
    assert len(set(found.values())) == len(found)


def test_what_does_not_change_the_bytes_does_not_change_the_key(triples, tmp_path, monkeypatch):
    shutil.copy(triples, tmp_path / "moved.jsonl")
    monkeypatch.chdir(tmp_path)
    benchmark, copy = tmp_path / "benchmark.jsonl", tmp_path / "copy.jsonl"
    shutil.copy(benchmark, copy)
    assert key(triples) == key(tmp_path / "moved.jsonl") == key("triples.jsonl")
    assert key(triples, tokenizer=toys.byte_tokenizer()) == key(triples)
    assert key(triples, rules=tasks.RowRules(benchmarks={"a": str(benchmark)})) == key(
        triples, rules=tasks.RowRules(benchmarks={"b": str(copy)})
    )
    monkeypatch.setattr(tasks, "ROWS_AT_ONCE", 7)
    assert key(triples) == key(triples, limit=0)


def test_a_moved_file_and_other_settings_find_the_store_that_is_there(triples, tmp_path, monkeypatch):
    shutil.copy(triples, tmp_path / "moved.jsonl")

    def opened(path, **settings):
        config = training_sets.DataConfig(cache_dir=str(tmp_path / "cache"), **settings)
        return training_sets.open_task("p_theta", path, TOKENIZER, config=config, workdir=str(tmp_path))[0]

    first = opened(triples)
    monkeypatch.setattr(tasks.examples, "tokenize", None)  # nothing is tokenized again
    assert list(opened(tmp_path / "moved.jsonl", use_cached_tasks=True)) == list(first)


PACKAGE = Path(tasks.__file__).parents[1]
CODE = sorted(
    path.relative_to(PACKAGE) for room in ("core", "data") for path in (PACKAGE / room).rglob("*.py")
)


@pytest.mark.parametrize("name", ["core/jsonl.py", "data/templates.py", "data/formats/records.py"])
def test_the_code_that_rows_pass_through_is_part_of_the_key(triples, monkeypatch, name):
    before = key(triples)
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read_bytes(path) + b"#" * (path == PACKAGE / name))
    tasks.code_digest.cache_clear()
    try:
        assert key(triples) != before
    finally:
        tasks.code_digest.cache_clear()


def test_all_that_this_code_imports_of_the_package_is_part_of_the_key():
    for name in CODE:
        for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("promptcot_jax."):
                assert node.module.split(".")[1] in ("core", "data"), name


def test_rows_that_change_while_they_are_tokenized_make_no_store(triples, tmp_path):
    content = training_sets.content_of("p_theta", triples, TOKENIZER, tasks.NO_RULES)

    def build():
        for batch in content.build():
            with open(triples, "a") as file:  # somebody adds a row when the first are read
                file.write(jsonl.to_line(TRIPLES[0]) + "\n")
            yield batch

    with pytest.raises(WrongUse, match=r"triples\.jsonl changed while it was tokenized; start again"):
        token_store.open_or_build(str(tmp_path / "cache"), dataclasses.replace(content, build=build))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    again = training_sets.content_of("p_theta", triples, TOKENIZER, tasks.NO_RULES)
    assert len(token_store.open_or_build(str(tmp_path / "cache"), again)) == 5
