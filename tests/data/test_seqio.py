"""seqio: tasks and converter agree with the plain Python path."""

import collections
import json
import subprocess
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import converters, examples, packing, tasks
from tests import toys

TOKENIZER = toys.byte_tokenizer()
TRIPLES = toys.toy_triples()


@pytest.fixture
def triples_file(tmp_path):
    path = tmp_path / "triples.jsonl"
    jsonl.write_records(path, TRIPLES)
    tasks.register_tasks(TOKENIZER, path, path)
    return path


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("p_theta", examples.theta_example),
        ("q_phi", examples.phi_example),
        ("p_direct", examples.direct_example),
    ],
)
def test_tasks_give_the_examples_of_the_python_path(triples_file, name, build):
    for split in ("train", "validation"):
        assert tasks.task_examples(name, split) == [build(TOKENIZER, triple) for triple in TRIPLES]


def test_registering_again_replaces(triples_file, tmp_path):
    other = tmp_path / "other.jsonl"
    jsonl.write_records(other, TRIPLES[:1])
    tasks.register_tasks(TOKENIZER, other)
    assert len(tasks.task_examples("p_theta")) == 1
    tasks.register_tasks(TOKENIZER, triples_file)
    assert len(tasks.task_examples("p_theta")) == len(TRIPLES)


def test_registering_reads_no_file(tmp_path):
    tasks.register_tasks(TOKENIZER, tmp_path / "absent.jsonl")
    with pytest.raises(WrongUse, match=r"absent\.jsonl: no such file"):
        tasks.task_examples("p_theta")


GOOD_LINE = jsonl.to_line(TRIPLES[0])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD_LINE[:-9], r"triples\.jsonl:2: not a JSON object"),
        ("[1]", r"triples\.jsonl:2: expected a JSON object"),
        (
            json.dumps({"concepts": ["a"], "problem": "x"}),
            r"triples\.jsonl:2: field 'rationale' .* is missing",
        ),
        (
            json.dumps({"concepts": "a", "rationale": "z", "problem": "x"}),
            r"triples\.jsonl:2: field 'concepts' must be a list",
        ),
        (
            json.dumps({"concepts": ["a"], "rationale": "z", "problem": " "}),
            r"^Row 'triples\.jsonl:2': the problem is empty\.$",
        ),
        (
            json.dumps({"concepts": ["a"], "rationale": "<|endoftext|>", "problem": "x"}),
            r"^Row 'triples\.jsonl:2': the text holds the stop token '<\|endoftext\|>'; remove it\.$",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "triples.jsonl"
    path.write_text(f"{GOOD_LINE}\n{line}\n")
    tasks.register_tasks(TOKENIZER, path)
    with pytest.raises(WrongUse, match=message):
        tasks.task_examples("p_theta")


LENGTHS = {"inputs": 384, "targets": 256}


def converted(name: str, pack: bool, **options) -> list[packing.PackedBatch]:
    """A task through `seqio.get_dataset` and the converter, in batches of two rows."""
    dataset = seqio.get_dataset(
        name, LENGTHS, converters.PackedLM(pad_id=TOKENIZER.pad_id, pack=pack), shuffle=False, **options
    )
    return [converters.to_packed_batch(fields) for fields in dataset.batch(2).as_numpy_iterator()]


def segments(batches: list[packing.PackedBatch]) -> collections.Counter:
    """Multiset of (ids, labels, positions) of each segment."""
    return collections.Counter(
        tuple(
            tuple(field[row][batch.segment_ids[row] == segment].tolist())
            for field in (batch.token_ids, batch.loss_mask, batch.positions)
        )
        for batch in batches
        for row in range(len(batch.token_ids))
        for segment in range(1, batch.segment_ids[row].max() + 1)
    )


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("name", ["p_theta", "q_phi"])
def test_seqio_packing_holds_what_packed_epochs_hold(triples_file, name, pack):
    batches = converted(name, pack)
    epochs = packing.PackedEpochs(
        tasks.task_examples(name), row_length=640, rows_per_batch=2, num_epochs=1, seed=0, pack=pack
    )
    ours = [epochs.batch(step) for step in range(epochs.num_steps)]
    assert segments(batches) == segments(ours)
    for batch in batches:
        assert [field.dtype for field in (batch.token_ids, batch.segment_ids, batch.positions)] == [
            np.int32
        ] * 3
        assert batch.loss_mask.dtype == np.bool_
        padding = batch.segment_ids == 0
        assert (batch.token_ids[padding] == TOKENIZER.pad_id).all()
        assert not batch.loss_mask[padding].any()
        assert not batch.positions[padding].any()


def test_seqio_never_cuts_a_row_silently(triples_file):
    dataset = seqio.get_dataset("p_theta", LENGTHS | {"targets": 100}, converters.PackedLM(), shuffle=False)
    with pytest.raises(
        tf.errors.OpError, match="WrongUse: Row 'toy-0': 'targets' has .* over the length of 100"
    ):
        list(dataset.as_numpy_iterator())


def test_tasks_mix(triples_file):
    seqio.MixtureRegistry.remove("both_models")
    seqio.MixtureRegistry.add("both_models", ["p_theta", "q_phi"], default_rate=1.0)
    dataset = seqio.get_dataset(
        "both_models", LENGTHS, converters.PackedLM(), shuffle=True, seed=1, num_epochs=1
    )
    assert sum(int(row["loss_mask"].any()) for row in dataset.take(2).as_numpy_iterator()) == 2


def test_only_three_modules_need_seqio():
    code = (
        "import sys\n"
        "from promptcot_jax.data import examples, packing, templates, tokenizer\n"
        "print([name for name in ('seqio', 'tensorflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
