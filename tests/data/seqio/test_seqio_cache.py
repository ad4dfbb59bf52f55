"""Caches give what the tasks give, in seqio's own layout; they are whole, or stale by name, or not there."""

import itertools
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import seqio
import tensorflow as tf

from promptcot_jax.core import jsonl, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import rows, tasks
from promptcot_jax.data.seqio import seqio_cache, seqio_tasks
from promptcot_jax.data.seqio.vocabulary import TokenizerVocabulary
from tests import toys
from tests.cases import some_fast
from tests.data.seqio import seqio_data
from tests.run import killing

VOCABULARY = TokenizerVocabulary(toys.byte_tokenizer())
NUM_ROWS = 40  # blocks of 16, 16 and 8
PER_DOMAIN = {"math": 30, "code": 10}


def triples() -> list[records.Triple]:
    toy = toys.toy_triples()
    fields = [
        {**vars(toy[i % 4]), "id": f"t{i}", "problem": f"{toy[i % 4].problem} ({i})"} for i in range(40)
    ]
    return [records.Triple(**each) for each in fields]


ROWS = {
    "triples": triples(),
    "sft_traces": [
        records.SftTrace(id=f"s{i}", domain="math", prompt=f"{i}+1?", completion=f"\\boxed{{{i + 1}}}")
        for i in range(NUM_ROWS)
    ],
    "verified_prompts": [
        records.MathPrompt(id=f"v{i}", problem=f"{i}+1?", answer=str(i + 1))
        if i % 2
        else records.ProgramPrompt(id=f"v{i}", problem="é?", tests=(records.StdioTest("a", str(i)),))
        for i in range(NUM_ROWS)
    ],
    "preference_pairs": [
        records.PreferencePair(id=f"p{i}", prompt="1+1?", chosen="So \\boxed{2}.", rejected=f"{i}, no?")
        for i in range(NUM_ROWS)
    ],
}
TASKS = ("p_theta", "p_theta_math", "p_theta_code", "sft_traces")
TASKS += ("verified_prompts", "preference_pairs", "evaluate_toy")


@pytest.fixture(autouse=True)
def no_cache_dirs(monkeypatch):
    monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [])


def register(directory: pathlib.Path, **settings) -> None:
    """All of our tasks over the files of a directory."""
    files = {kind: {"train": str(directory / f"{kind}.jsonl")} for kind in ROWS}
    sets = {"toy": files["verified_prompts"]["train"]}
    seqio_tasks.register_tasks(
        settings.pop("vocabulary", VOCABULARY), evaluation_sets=sets, **files, **settings
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("rows")
    for kind, some in ROWS.items():
        jsonl.write_records(directory / f"{kind}.jsonl", some)
    return directory


def dataset(name: str, use_cached: bool = False, **options) -> tf.data.Dataset:
    provider = seqio.get_mixture_or_task(name)
    lengths = dict.fromkeys(provider.output_features, 999)
    return seqio.get_dataset(
        name,
        lengths,
        seqio.PassThroughFeatureConverter(),
        dataset_split="test" if name.startswith("evaluate") else "train",
        use_cached=use_cached,
        shuffle=False,
        **options,
    )


@pytest.mark.slow
def test_a_cache_of_each_kind_of_our_tasks_gives_what_the_task_gives(files, tmp_path):
    register(files)
    mixed = {"p_theta_by_domain": {"seed": 1}}
    names = [*TASKS, *mixed]
    plain = {name: list(dataset(name, **mixed.get(name, {})).as_numpy_iterator()) for name in names}
    for name, num_shards in zip(TASKS, itertools.cycle((1, 3, 16))):
        counts = seqio_cache.write_cache(name, tmp_path, num_shards=num_shards)
        num_rows = PER_DOMAIN.get(name.removeprefix("p_theta_"), NUM_ROWS)
        assert list(counts.values()) == [{"in": NUM_ROWS, "out": num_rows}]
    seqio.add_global_cache_dirs([str(tmp_path)])
    for name, expected in plain.items():
        found = list(dataset(name, use_cached=True, **mixed.get(name, {})).as_numpy_iterator())
        assert len(found) == len(expected)
        for row, other in zip(found, expected, strict=True):
            assert row.keys() == other.keys()
            for feature, value in other.items():
                np.testing.assert_array_equal(row[feature], value)
                assert np.asarray(row[feature]).dtype == np.asarray(value).dtype


@pytest.mark.parametrize("num_shards", some_fast([1, 3, 16], fast=(1,)))
def test_rows_keep_their_order_in_any_number_of_files(tmp_path, num_shards):
    some = [[[i], [i, 1]] for i in range(2, 302)]  # more than sixteen blocks
    seqio_data.register("many", some, preprocessors=[seqio.CacheDatasetPlaceholder()])
    seqio_cache.write_cache("many", tmp_path, num_shards=num_shards)
    seqio.add_global_cache_dirs([str(tmp_path)])
    found = [row["inputs"].tolist() for row in dataset("many", use_cached=True).as_numpy_iterator()]
    assert found == [row[0] for row in some]
    of_hosts = [
        row["inputs"].tolist()
        for host in range(3)
        for row in dataset("many", use_cached=True, shard_info=seqio.ShardInfo(host, 3)).as_numpy_iterator()
    ]
    assert sorted(of_hosts) == found


def test_statistics_are_seqio_s(files, tmp_path):
    register(files)
    seqio_cache.write_cache("p_theta", tmp_path)
    seqio.add_global_cache_dirs([str(tmp_path)])
    lengths = [(len(row["inputs"]), len(row["targets"])) for row in dataset("p_theta").as_numpy_iterator()]
    inputs, targets = np.array(lengths).T
    assert seqio.get_mixture_or_task("p_theta").get_cached_stats("train") == {
        "examples": NUM_ROWS,
        "inputs_tokens": inputs.sum(),
        "inputs_max_tokens": inputs.max(),
        "targets_tokens": (targets - 1).sum(),  # without the end token
        "targets_max_tokens": targets.max() - 1,
    }


GOLDEN = pathlib.Path(seqio.test_utils.TEST_DATA_DIR)
FAKE = {
    "cached_untokenized_task": {},
    "cached_untokenized_ndfeatures_task": {"ndfeatures": True},
    "cached_untokenized_ragged_features_task": {"ragged_features": True},
}


@pytest.mark.parametrize("golden", FAKE)
def test_files_are_those_that_seqio_s_own_script_wrote(tmp_path, golden):
    """Against the caches that come with seqio's tests, made by its Beam script."""
    many_axes = {"2d_feature": 2, "3d_feature": 3} if FAKE[golden] else {}
    any_ids = seqio.PassThroughVocabulary(1000, eos_id=0)
    seqio.TaskRegistry.remove("fake")
    seqio.TaskRegistry.add(
        "fake",
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files: seqio.test_utils.get_fake_dataset(split, **FAKE[golden]),
            splits=("train", "validation"),
        ),
        preprocessors=[seqio.test_utils.test_text_preprocessor, seqio.CacheDatasetPlaceholder()],
        output_features={
            name: seqio.Feature(seqio.test_utils.sentencepiece_vocab()) for name in ("inputs", "targets")
        }
        | {name: seqio.Feature(any_ids, add_eos=False, rank=rank) for name, rank in many_axes.items()},
    )
    seqio_cache.write_cache("fake", tmp_path, num_shards=2)
    for path in sorted((GOLDEN / golden).glob("*.json")):
        expected = json.loads(path.read_text())
        if path.name.startswith("info"):
            expected |= {"seqio_version": seqio.__version__, "num_shards": 2}
        assert (tmp_path / "fake" / path.name).read_text() == json.dumps(
            expected, sort_keys=True, indent=2
        ) + "\n"
    assert (tmp_path / "fake" / "COMPLETED").read_text() == ""
    for split in ("train", "validation"):
        shards = sorted(str(path) for path in (tmp_path / "fake").glob(f"{split}.tfrecord-*-of-00002"))
        assert len(shards) == 2
        task = seqio.TaskRegistry.get("fake")
        plain = [
            seqio.dict_to_tfexample(row)
            for row in task.preprocess_precache(task.source.get_dataset(split, shuffle=False))
        ]
        assert [
            tf.train.Example.FromString(record)
            for record in tf.data.TFRecordDataset(shards).as_numpy_iterator()
        ] == plain


def test_numbers_texts_and_ragged_features_come_back(tmp_path):
    ragged = tf.ragged.constant([[[1, 2], []], [[3]], []], dtype=tf.int32)
    values = {
        "inputs": ragged,
        "weight": tf.constant([0.5, -1.0, 3.0]),
        "vector": tf.constant([[0.5, 1.0]] * 3),
        "flag": tf.constant([True, False, True]),
        "number": tf.constant([1 << 40, 2, 3], tf.int64),
        "words": tf.ragged.constant([["a", "b\0"], [], ["é"]]),
        "targets": tf.ragged.constant([[], [7], [8, 9]], dtype=tf.int64),
    }
    seqio.TaskRegistry.remove("mixed_bag")
    seqio.TaskRegistry.add(
        "mixed_bag",
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files: tf.data.Dataset.from_tensor_slices(values), splits=("train",)
        ),
        preprocessors=[seqio.CacheDatasetPlaceholder(required=True)],
        output_features={
            "inputs": seqio.Feature(seqio.PassThroughVocabulary(9), add_eos=False, rank=2),
            "targets": seqio.Feature(seqio.PassThroughVocabulary(9), add_eos=False, dtype=tf.int64),
        },
    )
    seqio_cache.write_cache("mixed_bag", tmp_path)
    seqio.add_global_cache_dirs([str(tmp_path)])
    found = list(seqio.get_mixture_or_task("mixed_bag").get_dataset(None, use_cached=True, shuffle=False))
    assert len(found) == 3
    for i, row in enumerate(found):
        for name, value in values.items():
            expected = value[i]
            assert row[name].dtype == expected.dtype
            assert as_list(row[name]) == as_list(expected)


def as_list(value) -> list:
    return value.to_list() if isinstance(value, tf.RaggedTensor) else value.numpy().tolist()


CHANGES = {
    "rows": lambda directory: jsonl.write_records(directory / "triples.jsonl", triples()[1:]),
    "tokenizer": lambda _: {
        "vocabulary": TokenizerVocabulary(toys.byte_tokenizer(merges=[("a", "n")])),
    },
    "validity": lambda _: {"rules": tasks.RowRules(validity="off")},
    "bad_rows": lambda _: {"rules": tasks.RowRules(bad_rows=rows.BadRows(action="skip"))},
}


@pytest.mark.parametrize("changed", some_fast(CHANGES))
def test_a_stale_cache_is_refused_by_name_and_can_be_replaced(tmp_path, changed):
    for kind, some in ROWS.items():
        jsonl.write_records(tmp_path / f"{kind}.jsonl", some)
    register(tmp_path)
    caches = tmp_path / "caches"
    seqio.add_global_cache_dirs([str(caches)])
    for name in ("p_theta_math", "p_theta_code"):
        seqio_cache.write_cache(name, caches)
    dataset("p_theta_by_domain", use_cached=True)
    settings = CHANGES[changed](tmp_path)
    register(tmp_path, **(settings if isinstance(settings, dict) else {}))
    message = f"The cache of 'p_theta_math' in {caches}/p_theta_math is stale: {changed} of split 'train'"
    with pytest.raises(WrongUse, match=message):
        dataset("p_theta_math", use_cached=True)
    with pytest.raises(WrongUse, match=rf"'p_theta_\w+' .* is stale: {changed} of split 'train'"):
        dataset("p_theta_by_domain", use_cached=True)
    with pytest.raises(
        WrongUse, match=rf"split 'train' is stale \({changed} changed\); replace it with OVER"
    ):
        seqio_cache.write_cache("p_theta_math", caches)
    seqio_cache.write_cache("p_theta_math", caches, overwrite=True)
    assert dataset("p_theta_math", use_cached=True)


def test_other_code_and_other_benchmarks_make_a_cache_stale_too(files, tmp_path, monkeypatch):
    benchmark = tmp_path / "aime.jsonl"
    benchmark.write_text('{"id": "a", "problem": "Find m + n."}\n')
    register(files, rules=tasks.RowRules(benchmarks={"aime": str(benchmark)}))
    seqio_cache.write_cache("verified_prompts", tmp_path)
    seqio.add_global_cache_dirs([str(tmp_path)])
    task = seqio.get_mixture_or_task("verified_prompts")
    task.assert_cached()
    benchmark.write_text('{"id": "a", "problem": "Find m - n."}\n')
    monkeypatch.setattr(tasks, "code_digest", lambda: "another")
    with pytest.raises(WrongUse, match="is stale: benchmarks, code of split 'train' changed"):
        task.assert_cached()


def test_a_cache_that_says_not_what_it_was_made_from_is_read_with_a_warning(files, tmp_path, caplog):
    """One that seqio's own script wrote."""
    register(files)
    seqio_cache.write_cache("p_theta", tmp_path)
    (tmp_path / "p_theta" / "made_from.train.json").unlink()
    seqio.add_global_cache_dirs([str(tmp_path)])
    with caplog.at_level(logging.WARNING):
        assert dataset("p_theta", use_cached=True)
    assert caplog.text.count("p_theta does not say what it was made from") == 1


def test_rows_that_change_while_they_are_cached_make_no_cache(tmp_path, monkeypatch):
    for kind, some in ROWS.items():
        jsonl.write_records(tmp_path / f"{kind}.jsonl", some)
    register(tmp_path)
    original = seqio_cache._write_rows

    def write_and_change(*arguments):
        jsonl.write_records(tmp_path / "triples.jsonl", triples()[:2])
        return original(*arguments)

    monkeypatch.setattr(seqio_cache, "_write_rows", write_and_change)
    with pytest.raises(WrongUse, match="What 'p_theta' reads changed while split 'train' was cached"):
        seqio_cache.write_cache("p_theta", tmp_path / "caches")
    assert [path.name for path in (tmp_path / "caches").iterdir()] == ["p_theta.lock"]


# A task that notes each reading of its rows and stops in the middle of them until it may go on.
SLOW = """
import os, sys, time
import seqio, tensorflow as tf
from promptcot_jax.data.seqio import seqio_cache

def read(split, shuffle_files, where):
    def ids():
        with open(f"{where}/readings", "a") as file:
            file.write("x")
        for i in range(40):
            while i == 20 and not os.path.exists(f"{where}/go"):
                time.sleep(0.02)
            yield {"inputs": [i], "targets": [i]}
    spec = tf.TensorSpec([None], tf.int32)
    return tf.data.Dataset.from_generator(ids, output_signature={"inputs": spec, "targets": spec})

def register(where):
    seqio.TaskRegistry.remove("slow")
    feature = seqio.Feature(seqio.PassThroughVocabulary(99), add_eos=False)
    rows = lambda split, shuffle_files: read(split, shuffle_files, where)
    seqio.TaskRegistry.add(
        "slow",
        source=seqio.FunctionDataSource(rows, splits=["train"]),
        preprocessors=[seqio.CacheDatasetPlaceholder()],
        output_features={"inputs": feature, "targets": feature},
    )

if __name__ == "__main__":
    register(sys.argv[1])
    print(seqio_cache.write_cache("slow", sys.argv[2], num_shards=2))
"""


@pytest.mark.slow
def test_one_of_two_processes_builds_and_what_a_killed_one_left_is_taken_for_nothing(tmp_path):
    namespace = {"__name__": "slow"}
    exec(SLOW, namespace)
    (tmp_path / "slow.py").write_text(SLOW)
    readings, caches = tmp_path / "readings", tmp_path / "caches"
    namespace["register"](str(tmp_path))
    seqio.add_global_cache_dirs([str(caches)])

    def start() -> subprocess.Popen:
        """Another process that writes the same cache."""
        command = [sys.executable, str(tmp_path / "slow.py"), str(tmp_path), str(caches)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    first, second = start(), start()
    try:
        wait_until(readings.exists)
        killed, other = (first, second) if holds_rows(first, tmp_path) else (second, first)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert seqio.get_mixture_or_task("slow").cache_dir is None
        wait_until(lambda: readings.read_text() == "xx")  # the other has taken over
        counts: list[dict] = []
        thread = threading.Thread(
            target=lambda: counts.append(seqio_cache.write_cache("slow", caches, num_shards=2))
        )
        thread.start()  # and here is a third, which waits for it
        (tmp_path / "go").touch()
        said = other.stdout.read()
        thread.join()
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
            process.stdout.close()
    assert said.strip() == str(counts[0]) == "{'train': {'out': 40}}"
    assert readings.read_text() == "xx"  # nobody built it a second time
    assert sorted(path.name for path in caches.iterdir()) == ["slow", "slow.lock"]
    found = seqio.get_mixture_or_task("slow").get_dataset(None, use_cached=True, shuffle=False)
    assert [row["inputs"].tolist() for row in found.as_numpy_iterator()] == [[i] for i in range(40)]


def wait_until(is_so) -> None:
    deadline = time.monotonic() + killing.DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def holds_rows(process: subprocess.Popen, directory: pathlib.Path) -> bool:
    """Whether a process has a file of the cache open that is being written."""
    open_files = pathlib.Path(f"/proc/{process.pid}/fd").iterdir()
    return any(".part" in os.readlink(file) for file in open_files)


def test_in_a_bucket_the_marker_is_written_last_and_removed_first(tmp_path, monkeypatch):
    """In TensorFlow's file system in memory, which like a bucket has neither locks nor renames."""
    some, bucket = [[[1], [2]]] * 20, "ram://bucket"
    seqio_data.register("some", some, preprocessors=[seqio.CacheDatasetPlaceholder()])
    seqio_cache.write_cache("some", bucket, num_shards=3)
    seqio.add_global_cache_dirs([bucket])
    assert len(seqio_data.elements(dataset("some", use_cached=True))) == 20
    seqio_data.register("some", [*some, [[3], [4]]], preprocessors=[seqio.CacheDatasetPlaceholder()])
    original = seqio_cache._write_rows

    def write_and_fail(*arguments):
        original(*arguments)
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(seqio_cache, "_write_rows", write_and_fail)
        with pytest.raises(OSError):
            seqio_cache.write_cache("some", bucket, num_shards=2, overwrite=True)
    assert seqio.get_mixture_or_task("some").cache_dir is None
    seqio_cache.write_cache("some", bucket, num_shards=2)
    assert len(seqio_data.elements(dataset("some", use_cached=True))) == 21
    assert not tf.io.gfile.glob(f"{bucket}/some/*-of-00003")


def register_values(name: str, values: tf.data.Dataset, can_be_cached: bool = True) -> None:
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(lambda split, shuffle_files: values, splits=("train",)),
        preprocessors=[seqio.CacheDatasetPlaceholder()] if can_be_cached else [],
        output_features={"inputs": seqio.Feature(seqio.PassThroughVocabulary(9), add_eos=False)},
    )


def of_shapes(*shapes: tuple[int, ...]) -> tf.data.Dataset:
    spec = tf.TensorSpec([None, None], tf.int32)
    return tf.data.Dataset.from_generator(
        lambda: ({"inputs": np.zeros(shape)} for shape in shapes), output_signature={"inputs": spec}
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nobodys", {}, "no task or mixture 'nobodys' in seqio's registry"),
        ("p_theta_by_domain", {}, "'p_theta_by_domain' is a mixture; cache its tasks"),
        ("uncacheable", {}, "'uncacheable' cannot be cached: it has no seqio.CacheDatasetPlaceholder"),
        ("good", {"splits": ("test",)}, "'good' has no split 'test'; it has train"),
        ("good", {"num_shards": 0}, "num_shards must be between 1 and 16, got 0"),
        ("good", {"num_shards": 17}, "num_shards must be between 1 and 16, got 17"),
        ("empty", {}, "Task 'empty' has no row in split 'train'; give it rows"),
        ("double", {}, "its feature 'inputs' is TensorSpec.*float64.*; seqio's caches hold .* int32, int64"),
        ("nested", {}, "its feature 'inputs' is {'x'"),
        (
            "wider",
            {},
            r"the shape of 'inputs' is \[None, 3\] in row 2 and \[None, 2\] in the first; make it rag",
        ),
        (
            "precious",
            {},
            "precious holds 'thesis.tex', which is no file of a cache; choose another CACHE_DIR",
        ),
        ("bad_row", {}, "Row 'triples.jsonl:1': the problem is empty"),
    ],
)
def test_what_cannot_be_cached_is_refused_and_nothing_is_left(files, tmp_path, name, options, message):
    register(files)
    good = of_shapes((1, 2), (2, 2))
    register_values("good", good)
    register_values("precious", good)
    register_values("uncacheable", good, can_be_cached=False)
    register_values("empty", of_shapes())
    register_values("double", tf.data.Dataset.from_tensors({"inputs": np.zeros(2)}))
    register_values("nested", tf.data.Dataset.from_tensors({"inputs": {"x": [1]}}))
    register_values("wider", of_shapes((1, 2), (1, 3)))
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").touch()
    if name == "bad_row":
        (tmp_path / "triples.jsonl").write_text('{"concepts": ["a"], "rationale": "z", "problem": " "}\n')
        seqio_tasks.register_tasks(VOCABULARY, triples={"train": str(tmp_path / "triples.jsonl")})
        name = "p_theta"
    before = {path for path in tmp_path.rglob("*") if not path.name.endswith(".lock")}
    with pytest.raises(WrongUse, match=message):
        seqio_cache.write_cache(name, tmp_path, **options)
    assert {path for path in tmp_path.rglob("*") if not path.name.endswith(".lock")} == before


def test_a_cache_with_other_files_or_splits_is_kept_and_a_name_with_colons_is_a_path(tmp_path):
    register_values("mine:good.v2", of_shapes((1, 2), (2, 2)))
    seqio_cache.write_cache("mine:good.v2", tmp_path, num_shards=2)
    seqio.add_global_cache_dirs([str(tmp_path)])
    assert seqio.get_mixture_or_task("mine:good.v2").cache_dir == str(tmp_path / "mine" / "good.v2")
    with pytest.raises(WrongUse, match="split 'train' is in 2 files, not 3; replace it with OVERWRITE=True"):
        seqio_cache.write_cache("mine:good.v2", tmp_path, num_shards=3)
    register_values("mine:good.v2", of_shapes())  # would be refused if it were written
    assert seqio_cache.write_cache("mine:good.v2", tmp_path, num_shards=2) == {"train": {"out": 2}}
