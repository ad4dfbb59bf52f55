"""The seqio tasks: the same examples as the stages train on, through seqio's own calls."""

import collections
import dataclasses
import itertools
import json
import subprocess
import sys

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf

from promptcot_jax.core import jsonl, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import example_sets, examples, packing, rows, tasks, training_sets
from promptcot_jax.data.seqio import converters, seqio_registry, seqio_tasks
from promptcot_jax.data.seqio.vocabulary import TokenizerVocabulary
from tests import toys
from tests.cases import some_fast
from tests.data import prepared_sets
from tests.data.seqio import seqio_data

TOKENIZER = toys.byte_tokenizer()
VOCABULARY = TokenizerVocabulary(TOKENIZER)
TRIPLES = toys.toy_triples()
SOLVED = records.SolvedMathProblem(
    id="s", concepts=("sums",), problem="1+1?", answer="2", solution="So \\boxed{2}."
)
TRACE = records.SftTrace(
    id="t", domain="code", prompt="Echo.", completion="<think>x</think>```python\nprint(input())\n```"
)
PROMPTS = [
    records.MathPrompt(id="m", problem="1+1?", answer="2"),
    records.ProgramPrompt(id="p", problem="Echo.", tests=(records.StdioTest("a", "a"),)),
]
PAIR = records.PreferencePair(id="d", prompt="1+1?", chosen="So \\boxed{2}.", rejected="So \\boxed{3}, no?")


@pytest.fixture
def triples_file(tmp_path):
    path = tmp_path / "triples.jsonl"
    jsonl.write_records(path, TRIPLES)
    seqio_tasks.register_tasks(VOCABULARY, triples={"train": str(path), "validation": str(path)})
    return path


def written(tmp_path, *some) -> dict[str, str]:
    """A file of records as the split "train"."""
    jsonl.write_records(tmp_path / "rows.jsonl", some)
    return {"train": str(tmp_path / "rows.jsonl")}


def text_of(ids: np.ndarray) -> str:
    return VOCABULARY.decode(ids.tolist())


DOCUMENTS = {"documents", "mixed_documents"}  # triples without solutions are none


def all_examples(name: str, split: str = "train") -> list[examples.TokenExample]:
    return [example for batch in seqio_registry.task_examples(name, split) for example in batch]


def elements(name: str, **options) -> list[dict]:
    """A task's features as seqio gives them."""
    dataset = seqio.get_mixture_or_task(name).get_dataset(**{"shuffle": False, **options})
    return list(dataset.as_numpy_iterator())


@pytest.mark.parametrize(
    "name",
    some_fast([name for name in tasks.TASKS if name not in ("sft_traces", *DOCUMENTS)], fast=range(0, 99, 2)),
)
def test_tasks_give_the_examples_of_the_stages(triples_file, tmp_path, name):
    config = training_sets.DataConfig(cache_dir=str(tmp_path / "cache"))
    stored, _ = training_sets.open_task(name, triples_file, TOKENIZER, config=config, workdir=str(tmp_path))
    for split in ("train", "validation"):
        assert all_examples(name, split) == list(stored)
    assert len(stored) == {"math": 3, "code": 1}.get(name.rpartition("_")[2], 4)


def test_features_carry_the_texts_they_were_made_from(triples_file):
    features = elements("p_theta", sequence_length=None)
    for row, triple in zip(features, TRIPLES, strict=True):
        text = examples.theta_text(triple)
        assert row["id"].decode() == triple.id
        assert row["inputs_pretokenized"].decode() == text.prompt == text_of(row["inputs"])
        assert row["targets_pretokenized"].decode() == "".join(text.blocks)
        assert row["targets"].tolist()[-1] == TOKENIZER.eos_id


def solver_ids(problem: str, domain: records.Domain) -> list[int]:
    return TOKENIZER.prompt_ids(examples.solver_prompt(TOKENIZER, problem, domain))


def written_ids(text: str) -> list[int]:
    return [*TOKENIZER.encode(text), TOKENIZER.eos_id]


EXPECTED_ELSEWHERE = {
    "sft_traces": [
        {"inputs": solver_ids("1+1?", "math"), "targets": written_ids(SOLVED.solution)},
        {"inputs": solver_ids("Echo.", "code"), "targets": written_ids(TRACE.completion)},
    ],
    "verified_prompts": [
        {"inputs": solver_ids("1+1?", "math"), "reference": b"2"},
        {"inputs": solver_ids("Echo.", "code"), "reference": b'[{"input": "a", "output": "a"}]'},
    ],
    "preference_pairs": [
        {
            "inputs": solver_ids("1+1?", "math"),
            "chosen": written_ids(PAIR.chosen),
            "rejected": written_ids(PAIR.rejected),
        }
    ],
    "evaluate_toy": [
        {"inputs": solver_ids("1+1?", "math"), "targets": written_ids("2"), "reference": b"2"},
        {
            "inputs": solver_ids("Echo.", "code"),
            "targets": written_ids('[{"input": "a", "output": "a"}]'),
            "reference": b'[{"input": "a", "output": "a"}]',
        },
    ],
}


@pytest.mark.parametrize("name", sorted({*tasks.TASKS, *EXPECTED_ELSEWHERE} - DOCUMENTS))
def test_seqio_asserts_what_each_task_gives(triples_file, tmp_path, name):
    paths = {}
    for kind, some in {"traces": (SOLVED, TRACE), "prompts": PROMPTS, "pairs": (PAIR,)}.items():
        jsonl.write_records(tmp_path / f"{kind}.jsonl", some)
        paths[kind] = {"train": str(tmp_path / f"{kind}.jsonl")}
    seqio_tasks.register_tasks(
        VOCABULARY,
        sft_traces=paths["traces"],
        verified_prompts=paths["prompts"],
        preference_pairs=paths["pairs"],
        evaluation_sets={"toy": paths["prompts"]["train"]},
    )
    expected = EXPECTED_ELSEWHERE.get(name) or [
        {"inputs": example.prompt_ids, "targets": example.completion_ids}
        for triple in TRIPLES
        if tasks.TASKS[name].domain in (None, triple.domain)
        for example in examples.tokenize(TOKENIZER, [tasks.TASKS[name].to_text(triple, TOKENIZER)])
    ]
    split = "test" if name == "evaluate_toy" else "train"
    dataset = seqio.get_mixture_or_task(name).get_dataset(sequence_length=None, split=split, shuffle=False)
    seqio.test_utils.assert_dataset(
        dataset.map(lambda row: {feature: row[feature] for feature in expected[0]}),
        expected,
        expected_dtypes={
            feature: tf.string if feature == "reference" else tf.int32 for feature in expected[0]
        },
    )


def test_a_tfds_data_set_gives_the_examples_of_the_file_it_was_made_from(triples_file, tmp_path, monkeypatch):
    of_file = all_examples("p_theta")
    prepared_sets.prepare_records(tmp_path / "sets", tmp_path, "triples", "array_record")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    splits = {"train": "tfds:promptcot/triples:train", "validation": "tfds:promptcot/triples:train[:1]"}
    seqio_tasks.register_tasks(VOCABULARY, triples=splits)
    assert all_examples("p_theta") == of_file
    assert all_examples("p_theta", "validation") == of_file[:1]
    config = training_sets.DataConfig(cache_dir=str(tmp_path / "cache"))
    stored = [
        list(training_sets.open_task("p_theta", path, TOKENIZER, config=config, workdir="")[0])
        for path in (*splits.values(), "tfds:promptcot/triples:train[1:]")
    ]
    assert stored == [of_file, of_file[:1], of_file[1:]]


def test_traces_and_worked_solutions_are_one_task(tmp_path):
    seqio_tasks.register_tasks(VOCABULARY, sft_traces=written(tmp_path, SOLVED, TRACE))
    solved, trace = elements("sft_traces", sequence_length=None)
    assert text_of(solved["targets"]) == SOLVED.solution
    assert text_of(trace["targets"]) == TRACE.completion
    assert "Python program" in text_of(trace["inputs"])


def test_verified_prompts_carry_what_they_are_checked_by(tmp_path):
    seqio_tasks.register_tasks(VOCABULARY, verified_prompts=written(tmp_path, *PROMPTS))
    math, program = elements("verified_prompts", sequence_length=None)
    assert "\\boxed" in text_of(math["inputs"])
    assert math["reference"] == b"2"
    assert json.loads(program["reference"]) == [{"input": "a", "output": "a"}]


def test_preference_pairs_share_a_prompt(tmp_path):
    seqio_tasks.register_tasks(VOCABULARY, preference_pairs=written(tmp_path, PAIR))
    (row,) = elements("preference_pairs", sequence_length=None)
    assert [text_of(row[name]) for name in ("chosen", "rejected")] == [PAIR.chosen, PAIR.rejected]
    assert row["chosen"][-1] == row["rejected"][-1] == TOKENIZER.eos_id


def test_an_evaluation_task_grades_completions_against_the_references_of_its_file(tmp_path):
    """Through `seqio.Evaluator`, as T5X's evaluation runs it: wrong for one problem, right for the other."""

    def accuracy(targets, predictions):
        return {"accuracy": float(np.mean([a == b for a, b in zip(targets, predictions, strict=True)]))}

    more = records.MathPrompt(id="n", problem="2+2?", answer="\\frac{8}{2}")
    seqio_tasks.register_tasks(
        VOCABULARY,
        evaluation_sets={"toy": written(tmp_path, PROMPTS[0], more)["train"]},
        metric_fns=[accuracy],
    )
    evaluator = seqio.Evaluator(
        mixture_or_task_name="evaluate_toy",
        feature_converter=converters.PackedLM(pack=False),
        eval_split="test",
        sequence_length={"inputs": 200, "targets": 20},
    )
    asked = []

    def predict(dataset, *_, **__):
        found = []
        for index, fields in dataset.as_numpy_iterator():
            asked.append(text_of(fields["token_ids"][~fields["loss_mask"] & (fields["segment_ids"] > 0)]))
            found.append((int(index), [*VOCABULARY.encode("2"), TOKENIZER.eos_id]))
        return found

    metrics, _ = evaluator.evaluate(compute_metrics=True, step=1, predict_fn=predict, score_fn=None)
    assert metrics.result()["evaluate_toy"] == {"accuracy": 0.5}
    assert sorted(text[:4] for text in asked) == ["1+1?", "2+2?"]


T5X_GIN = """
from __gin__ import dynamic_registration
import seqio
from promptcot_jax.data.seqio import converters
from promptcot_jax.data.seqio import seqio_tasks

MIXTURE_OR_TASK_NAME = @seqio_tasks.registered()
TASK_FEATURE_LENGTHS = {'inputs': 384, 'targets': 384}
USE_CACHED_TASKS = False

seqio_tasks.registered:
  mixture_or_task_name = 'p_theta'
  vocabulary = 'TOKENIZER'
  triples = {'train': 'TRIPLES'}

seqio.get_dataset:
  mixture_or_task_name = %MIXTURE_OR_TASK_NAME
  task_feature_lengths = %TASK_FEATURE_LENGTHS
  feature_converter = @converters.PrefixLM()
  use_cached = %USE_CACHED_TASKS
  dataset_split = 'train'
  shuffle = False
"""


def test_t5x_s_macros_name_our_tasks(triples_file, tmp_path):
    """As t5x's trainer asks for its data; not run in t5x itself, which is not on the package index."""
    TOKENIZER.save(tmp_path / "tokenizer")
    text = T5X_GIN.replace("TOKENIZER", str(tmp_path / "tokenizer")).replace("TRIPLES", str(triples_file))
    with gin.config_scope(None):
        gin.clear_config()
        gin.parse_config(text)
        dataset = gin.get_configurable(seqio.get_dataset)()
        gin.clear_config()
    rows = list(dataset.as_numpy_iterator())
    assert {row["decoder_target_tokens"].shape for row in rows} == {(768,)}
    labels = sum(int((row["decoder_loss_weights"] > 0).sum()) for row in rows)
    assert labels == sum(len(example.completion_ids) for example in all_examples("p_theta"))


def test_registering_again_replaces(triples_file, tmp_path):
    other = tmp_path / "other.jsonl"
    jsonl.write_records(other, TRIPLES[:1])
    seqio_tasks.register_tasks(VOCABULARY, triples={"train": str(other)})
    assert len(all_examples("p_theta")) == 1
    with pytest.raises(WrongUse, match="'p_theta' has no split 'validation'; it has train"):
        all_examples("p_theta", "validation")


def test_a_vocabulary_can_be_a_path(triples_file, tmp_path):
    TOKENIZER.save(tmp_path / "tokenizer")
    seqio_tasks.register_tasks(str(tmp_path / "tokenizer"), triples={"train": str(triples_file)})
    assert len(all_examples("p_theta")) == len(TRIPLES)


def test_registering_reads_no_file(tmp_path):
    seqio_tasks.register_tasks(VOCABULARY, triples={"train": str(tmp_path / "absent.jsonl")})
    with pytest.raises(WrongUse, match=r"absent\.jsonl: no such file"):
        all_examples("p_theta")


def test_a_task_that_nobody_registered_is_refused():
    with pytest.raises(WrongUse, match="no task or mixture 'nobodys' in seqio's registry"):
        all_examples("nobodys")


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
            r"^Row 'triples\.jsonl:2': the problem is empty; mend it, or have bad rows left out",
        ),
        (
            json.dumps({"concepts": ["a"], "rationale": "<|endoftext|>", "problem": "x"}),
            r"^Row 'triples\.jsonl:2': the text holds the stop token '<\|endoftext\|>'; remove it; mend",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "triples.jsonl"
    path.write_text(f"{GOOD_LINE}\n{line}\n")
    seqio_tasks.register_tasks(VOCABULARY, triples={"train": str(path)})
    with pytest.raises(WrongUse, match=message):
        all_examples("p_theta")


@pytest.mark.parametrize(
    "line", [json.dumps({"concepts": ["a"], "rationale": "z", "problem": " "}), GOOD_LINE[:-9]]
)
def test_a_bad_row_can_be_left_out_and_counted(tmp_path, line):
    path = tmp_path / "triples.jsonl"
    path.write_text(f"{GOOD_LINE}\n{line}\n{GOOD_LINE}\n")
    counts = seqio_tasks.register_tasks(
        VOCABULARY, triples={"train": str(path)}, rules=tasks.RowRules(bad_rows=rows.BadRows(action="skip"))
    )
    assert len(all_examples("p_theta")) == 2
    assert counts["bad_json"] + counts["dropped_bad_content"] == 1


LENGTHS = {"inputs": 384, "targets": 256}


def converted(name: str, pack: bool, **options) -> list[packing.PackedBatch]:
    """A task through `seqio.get_dataset` and the converter, in batches of two rows."""
    converter = converters.PackedLM(pad_id=TOKENIZER.pad_id, pack=pack)
    dataset = seqio.get_dataset(name, LENGTHS, feature_converter=converter, shuffle=False, **options)
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
def test_seqio_s_rows_hold_what_the_trainers_rows_hold(triples_file, name, pack):
    batches = converted(name, pack)
    epochs = packing.PackedEpochs(
        example_sets.Listed(all_examples(name)),
        row_length=640,
        rows_per_batch=2,
        num_epochs=1,
        seed=0,
        pack=pack,
    )
    assert segments(batches) == segments([epochs.batch(step) for step in range(epochs.num_steps)])


@pytest.mark.parametrize(
    ("overlong", "kept", "counted"), [("drop", 3, {"dropped_overlong": 1}), ("truncate", 4, {"cut": 1})]
)
def test_a_row_over_the_lengths_asked_for_is_dropped_or_cut_and_counted(
    triples_file, overlong, kept, counted
):
    lengths = sorted(len(example.completion_ids) for example in all_examples("p_theta"))
    counts = seqio_tasks.register_tasks(VOCABULARY, triples={"train": str(triples_file)}, overlong=overlong)
    found = elements("p_theta", sequence_length={"inputs": 384, "targets": lengths[-1] - 1})
    assert len(found) == kept
    assert {name: counts[name] for name in counted} == counted
    dropped = elements("p_theta", sequence_length={"inputs": 10, "targets": 999})
    assert dropped == []  # a prompt is never cut


def test_seqio_never_cuts_a_row_silently(triples_file):
    with pytest.raises(
        tf.errors.OpError, match="WrongUse: Example 'toy-0': 'targets' is .* long, over the length of 100"
    ):
        elements("p_theta", sequence_length=LENGTHS | {"targets": 100})


@pytest.mark.slow
@pytest.mark.parametrize("rates", [None, {"math": 1.0, "code": 3.0}])
def test_domains_mix_by_rate(tmp_path, rates):
    # As many rows as seqio shuffles at once: a short file would be opened again for every few of them.
    many = (dataclasses.replace(triple, id=f"{triple.id}-{i}") for i in range(1000) for triple in TRIPLES)
    seqio_tasks.register_tasks(VOCABULARY, triples=written(tmp_path, *many), rates=rates)
    mixture = seqio.get_mixture_or_task("p_theta_by_domain")

    def drawn() -> list[tuple[int, ...]]:
        dataset = mixture.get_dataset(LENGTHS, shuffle=True, seed=1, num_epochs=None)
        return [tuple(row["targets"].tolist()) for row in dataset.take(100).as_numpy_iterator()]

    (code,) = {tuple(example.completion_ids) for example in all_examples("p_theta_code")}
    first = drawn()
    assert first.count(code) / 100 == pytest.approx(0.25 if rates is None else 0.75, abs=0.1)
    assert drawn() == first


@pytest.mark.parametrize("rates", [None, {"math": 1.0, "code": 3.0}])
def test_a_mixture_from_the_registry_ends_after_each_example_once(triples_file, rates):
    seqio_tasks.register_tasks(VOCABULARY, triples={"train": str(triples_file)}, rates=rates)
    found = list(itertools.islice(seqio_registry.task_examples("p_theta_by_domain"), 99))
    mixed = [tuple(example.completion_ids) for batch in found for example in batch]
    assert sorted(mixed) == sorted(tuple(example.completion_ids) for example in all_examples("p_theta"))


def test_a_mixture_from_the_registry_is_mixed_by_its_rates_and_the_same_at_each_start(tmp_path):
    """So that a fit that was killed goes on: the store is made anew, its position must mean the same."""
    both = {"one": seqio_data.random_rows(30, 9), "two": [[[9], [i]] for i in range(20)]}
    for name, made in both.items():
        seqio_data.register(name, made)
    seqio.MixtureRegistry.remove("of_both")
    seqio.MixtureRegistry.add("of_both", [("one", 1.0), ("two", 2.0)])

    def started() -> list[packing.PackedBatch]:
        opened, counts = training_sets.open_task(
            "of_both", "", TOKENIZER, config=training_sets.DataConfig(), workdir=str(tmp_path)
        )
        assert counts == {"in": 50}
        of_two = sum(int(opened[int(i)].prompt_ids[0]) == 9 for i in opened.order(0, 0))
        assert (len(opened), of_two) == (50, 33)  # two thirds
        epochs = packing.PackedEpochs(opened, row_length=20, rows_per_batch=2, num_epochs=2, seed=0)
        return [epochs.batch(step) for step in range(epochs.num_steps)]

    first, second = started(), started()
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
        np.testing.assert_array_equal(one.segment_ids, other.segment_ids)


@pytest.mark.parametrize(
    ("name", "good"),
    [("verified_prompts", PROMPTS[0]), ("verified_prompts", PROMPTS[1]), ("preference_pairs", PAIR)],
)
def test_a_row_without_a_problem_is_a_bad_one(tmp_path, name, good):
    field = "prompt" if name == "preference_pairs" else "problem"
    bad = dataclasses.replace(good, id="blank", **{field: " \n"})
    paths = written(tmp_path, good, bad, good)
    seqio_tasks.register_tasks(VOCABULARY, **{name: paths})
    with pytest.raises(tf.errors.OpError, match="WrongUse: Row 'blank': the problem is empty; mend it, or"):
        elements(name, sequence_length=None)
    rules = tasks.RowRules(bad_rows=rows.BadRows(action="skip"))
    counts = seqio_tasks.register_tasks(VOCABULARY, **{name: paths}, rules=rules)
    assert len(elements(name, sequence_length=None)) == 2
    assert counts["dropped_bad_content"] == 1


def test_a_mixture_passes_over_a_domain_without_rows(tmp_path):
    seqio_tasks.register_tasks(VOCABULARY, triples=written(tmp_path, *TRIPLES[:2]))
    mixture = seqio.get_mixture_or_task("p_theta_by_domain")
    drawn = mixture.get_dataset(LENGTHS, shuffle=False, num_epochs=None).take(8)
    targets = {tuple(row["targets"].tolist()) for row in drawn.as_numpy_iterator()}
    assert targets == {tuple(example.completion_ids) for example in all_examples("p_theta")}


def test_hosts_share_the_rows_of_a_task(triples_file):
    of_hosts = [
        [row["id"] for row in elements("p_theta", shard_info=seqio.ShardInfo(i, 2))] for i in range(2)
    ]
    assert [len(ids) for ids in of_hosts] == [2, 2]
    assert sorted(of_hosts[0] + of_hosts[1]) == [triple.id.encode() for triple in TRIPLES]


def test_what_stages_import_needs_no_tensorflow():
    code = (
        "import sys\n"
        "from promptcot_jax.data import examples, packing, rows, tasks, token_store, tokenizer\n"
        "print([name for name in ('seqio', 'tensorflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
