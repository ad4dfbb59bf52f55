"""`promptcot cache_tasks` and what reads its caches, through the command line and as a library."""

import pathlib
import sys

import pytest
import seqio

from promptcot_jax.core import jsonl, manifest, records
from promptcot_jax.data import tasks, training_sets
from promptcot_jax.run import cli
from tests import toys

TOKENIZER = toys.byte_tokenizer()
EXTENSION = """
import seqio
import tensorflow as tf

def read(split, shuffle_files):
    ids = [[1, 2], [3, 4]] if split == "train" else [[5, 6]]
    return tf.data.Dataset.from_tensor_slices({"inputs": tf.constant(ids), "targets": tf.constant(ids)})

feature = seqio.Feature(seqio.PassThroughVocabulary(9), add_eos=False)
for name, preprocessors in {"users_own": [seqio.CacheDatasetPlaceholder()], "users_uncacheable": []}.items():
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(read, splits=("train", "validation")),
        preprocessors=preprocessors,
        output_features={"inputs": feature, "targets": feature},
    )
"""
IMPORT = "from __gin__ import dynamic_registration\nimport users_extension\n"


@pytest.fixture
def workdir(tmp_path, monkeypatch) -> pathlib.Path:
    """A workdir with what `corpus` writes; a module of the user's, and a gin file that imports it."""
    monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [])
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "users_extension.py").write_text(EXTENSION)
    (tmp_path / "mine.gin").write_text(IMPORT)
    directory = tmp_path / "run"
    jsonl.write_records(directory / "triples.jsonl", toys.toy_triples())
    jsonl.write_records(directory / "triples_heldout.jsonl", toys.toy_triples()[:1])
    TOKENIZER.save(directory / "tokenizer")
    yield directory
    sys.modules.pop("users_extension", None)
    for name in ("users_own", "users_uncacheable"):
        seqio.TaskRegistry.remove(name)


def promptcot(workdir: pathlib.Path, *bindings: str, flags: tuple[str, ...] = ()) -> int:
    """The stage's exit code."""
    files = ("stages/cache_tasks.gin", str(workdir.parent / "mine.gin"))
    return cli.main(
        [
            "cache_tasks",
            *(f"--gin_file={file}" for file in files),
            *(f"--gin.{binding}" for binding in bindings),
            *flags,
            f"--workdir={workdir}",
        ]
    )


def counts(workdir: pathlib.Path) -> dict[str, int]:
    return dict(manifest.read(workdir)["cache_tasks"].counts)


@pytest.mark.slow
def test_a_mixture_and_a_user_s_task_are_cached_and_counted(workdir, capsys):
    bad = '{"id": "b", "concepts": ["a"], "rationale": "z", "problem": " ", "domain": "math"}'
    with (workdir / "triples.jsonl").open("a") as file:
        print(bad, file=file)
    wanted = ("TASKS=('p_theta_by_domain', 'users_own')", "SPLITS=('train',)", "NUM_SHARDS=2")
    assert promptcot(workdir, *wanted, "BAD_ROWS='skip'") == 0
    expected = {
        "p_theta_math/train/in": 5,
        "p_theta_math/train/dropped_bad_content": 1,
        "p_theta_math/train/out": 3,
        "p_theta_code/train/in": 5,
        "p_theta_code/train/out": 1,
        "users_own/train/out": 2,
    }
    assert counts(workdir) == expected
    caches = workdir / "cached_tasks"
    marker = caches / "p_theta_math" / "COMPLETED"
    assert (caches / "users_own" / "train.tfrecord-00001-of-00002").exists()
    seqio.add_global_cache_dirs([str(caches)])
    for name, number in {"p_theta_math": 3, "p_theta_code": 1}.items():
        assert len(list(seqio.get_mixture_or_task(name).get_dataset(None, use_cached=True))) == number

    written = marker.stat().st_ino
    (caches / "users_own" / "COMPLETED").unlink()  # as if it had been killed before it was done
    assert promptcot(workdir, *wanted, "BAD_ROWS='skip'") == 0
    assert counts(workdir) == expected
    assert (caches / "users_own" / "COMPLETED").exists()
    assert marker.stat().st_ino == written

    assert promptcot(workdir, *wanted, "BAD_ROWS='skip'", "VALIDITY='off'") == 2
    said = capsys.readouterr().err
    assert (
        f"{caches}/p_theta_code holds a cache of 'p_theta_code' whose split 'train' is stale (validity"
        in said
    )
    assert promptcot(workdir, *wanted, "BAD_ROWS='skip'", "VALIDITY='off'", "OVERWRITE=True") == 0
    assert marker.stat().st_ino != written


def test_an_evaluation_set_and_verified_prompts_go_elsewhere(workdir, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    jsonl.write_records(prompts, [records.MathPrompt(id="m", problem="1+1?", answer="2")])
    assert (
        promptcot(
            workdir,
            "TASKS=('evaluate_aime', 'verified_prompts')",
            f"FILES={{'test': '{prompts}'}}",
            f"CACHE_DIR='{tmp_path}/shared'",
        )
        == 0
    )
    assert counts(workdir) == {
        f"{name}/test/{key}": 1 for name in ("evaluate_aime", "verified_prompts") for key in ("in", "out")
    }
    seqio.add_global_cache_dirs([f"{tmp_path}/shared"])
    (row,) = seqio.get_mixture_or_task("evaluate_aime").get_dataset(None, "test", use_cached=True)
    assert row["reference"].numpy() == b"2"


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (("TASKS=()",), "TASKS names no task; there is nothing to cache"),
        (("TASKS=('nobodys',)",), "There is no task or mixture 'nobodys' in seqio's registry"),
        (
            ("TASKS=('users_uncacheable',)",),
            "'users_uncacheable' cannot be cached: it has no seqio.CacheDatasetPlaceholder",
        ),
        (
            ("TASKS=('users_own',)", "SPLITS=('test',)"),
            "'users_own' has no split 'test'; it has train, validation",
        ),
        (("TASKS=('p_theta_code',)",), "Task 'p_theta_code' has no row in split 'validation'"),
        (("TASKS=('p_theta',)", "NUM_SHARDS=17"), "num_shards must be between 1 and 16, got 17"),
        (("TASKS=('p_theta',)", "FILES={'train': 'absent.jsonl'}"), "absent.jsonl: no such file"),
        (("TASKS=('evaluate_aime',)",), "'evaluate_aime' has the one split 'test'; give FILES its file"),
        (("TASKS=('p_theta',)", "TOKENIZER='absent'"), "absent"),
    ],
)
def test_what_cannot_be_cached_is_said_in_a_sentence(workdir, capsys, bindings, message):
    assert promptcot(workdir, *bindings) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("promptcot: ")
    assert message in said
    assert not list((workdir / "cached_tasks").rglob("COMPLETED"))


def test_a_fit_reads_a_user_s_task_from_the_cache_that_the_flag_names(workdir, tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    assert promptcot(workdir, "TASKS=('users_own',)", f"CACHE_DIR='{shared}'") == 0
    source = seqio.TaskRegistry.get("users_own").source
    monkeypatch.setattr(source, "get_dataset", None)  # what is read now comes from the cache
    flags = (f"--seqio_additional_cache_dirs={tmp_path}/other,{shared}",)
    assert promptcot(workdir, "TASKS=('users_own',)", f"CACHE_DIR='{shared}'", flags=flags) == 0
    config = training_sets.DataConfig(use_cached_tasks=True)
    for split, expected in {"train": [[1, 2], [3, 4]], "validation": [[5, 6]]}.items():
        found, counts_of_split = training_sets.open_task(
            "users_own", "", TOKENIZER, config=config, workdir=str(workdir), split=split
        )
        assert [example.completion_ids.tolist() for example in found] == expected
        assert counts_of_split == {"in": len(expected)}


def test_a_fit_says_where_a_task_that_is_not_cached_was_looked_for(workdir):
    config = training_sets.DataConfig(use_cached_tasks=True)
    assert promptcot(workdir, "TASKS=('users_own',)") == 0  # in a directory that nobody names
    with pytest.raises(
        tasks.WrongUse, match="'users_own' is in none of the cache directories .*; write it with"
    ):
        training_sets.open_task("users_own", "", TOKENIZER, config=config, workdir=str(workdir))
