"""Tasks by name: which rows become examples, what is counted, and what a bad row does wherever it is bad."""

import collections
import json
from pathlib import Path

import pytest

from promptcot_jax.core import jsonl, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import example_sets, examples, packing, tasks, training_sets
from tests import toys

TOKENIZER = toys.byte_tokenizer()
TRIPLES = toys.toy_triples()  # the third is on programming
LEFT_OUT = (
    r"; mend it, or have bad rows left out and counted \(BAD_ROWS = 'skip' where .*bad_rows 'skip'\)\.$"
)
TRACE = {"prompt": "1+1?", "completion": "So \\boxed{2}."}
TRIPLE = {"concepts": ["sums"], "rationale": "Add.", "problem": "1+1?"}
SOLVED = {"concepts": ["sums"], "problem": "1+1?", "answer": "2", "solution": "So \\boxed{2}."}


@pytest.fixture
def triples(tmp_path: Path) -> Path:
    jsonl.write_records(tmp_path / "triples.jsonl", TRIPLES)
    return tmp_path / "triples.jsonl"


def opened(name: str, path: Path, *, tokenizer=TOKENIZER, limit: int = 0, **settings):
    """A task's examples and counts, from a cache beside its file."""
    config = training_sets.DataConfig(**settings)
    return training_sets.open_task(
        name, path, tokenizer, config=config, workdir=str(path.parent), limit=limit
    )


def texts(found) -> list[str]:
    return [TOKENIZER.decode(example.completion_ids[:-1]) for example in found]


@pytest.mark.parametrize(
    ("name", "text", "chosen"),
    [
        ("p_theta", examples.theta_text, [0, 1, 2, 3]),
        ("q_phi_math", examples.phi_text, [0, 1, 3]),
        ("p_direct_code", examples.direct_text, [2]),
    ],
)
def test_a_task_takes_the_rows_of_its_domain(triples, name, text, chosen):
    found, counts = opened(name, triples)
    assert list(found) == examples.tokenize(TOKENIZER, [text(TRIPLES[i]) for i in chosen])
    assert counts == {"in": 4}


def test_a_limit_takes_the_first_readable_rows_of_all_domains(tmp_path):
    lines = [jsonl.to_line(triple) for triple in TRIPLES]
    (tmp_path / "triples.jsonl").write_text("\n".join([lines[0], "{", *lines[1:]]))
    counted = {"in": 4, "dropped_bad_json": 1}
    for name, number in (("p_theta", 3), ("p_theta_math", 2), ("p_theta_by_domain", 3)):
        found, counts = opened(name, tmp_path / "triples.jsonl", limit=3, bad_rows="skip")
        assert (len(found), counts) == (number, counted)


def test_a_mixture_without_rates_holds_each_row_once(triples):
    mixed, counts = opened("p_theta_by_domain", triples)
    whole, _ = opened("p_theta", triples)
    assert sorted(texts(mixed[int(i)] for i in mixed.order(0, 0))) == sorted(texts(whole))
    assert counts == {"in": 4}  # the file's rows, not twice


def test_rates_reach_the_batches(triples):
    """Through the length policy and the packing, as in a stage."""
    mixed, _ = opened("p_theta_by_domain", triples, rates={"math": 1.0, "code": 3.0})
    kept, counts = example_sets.within_length(mixed, example_sets.LengthPolicy(max_length=640))
    assert counts["kept"] == 4
    epochs = packing.PackedEpochs(kept, row_length=640, rows_per_batch=1, num_epochs=2, seed=0, pack=False)
    rows_read = [epochs.batch(step) for step in range(epochs.num_steps)]
    read = collections.Counter(
        TOKENIZER.decode(batch.token_ids[0][batch.loss_mask[0]]) for batch in rows_read
    )
    (code,) = texts(opened("p_theta_code", triples)[0])
    assert read[f"{code}<|endoftext|>"] == 6
    assert sum(read.values()) == 8


@pytest.mark.parametrize(
    ("chosen", "rates", "message"),
    [
        ([0, 1], {"math": 1.0, "code": 1.0}, "'code' has a rate of 1.0 and no examples; set its rate to 0"),
        ([0, 2], {"math": 1.0}, "rate of 'code' is missing"),
        ([0, 2], {"math": 1.0, "code": 1.0, "physics": 1.0}, "There is no 'physics' to mix"),
    ],
)
def test_rates_that_the_rows_do_not_fit_are_refused(tmp_path, chosen, rates, message):
    jsonl.write_records(tmp_path / "triples.jsonl", [TRIPLES[i] for i in chosen])
    with pytest.raises(WrongUse, match=message):
        opened("p_theta_by_domain", tmp_path / "triples.jsonl", rates=rates)
    found, _ = opened("p_theta_by_domain", tmp_path / "triples.jsonl", rates={"math": 1.0, "code": 0.0})
    assert set(texts(found)) <= set(texts(opened("p_theta_math", tmp_path / "triples.jsonl")[0]))


def test_counts_of_a_file_that_several_tasks_read():
    of_file = {"read": 7, "bad_json": 2, "bad_utf8": 1}
    counted = tasks.counts_of_rows(
        [
            {**of_file, "dropped_contaminated": 1, "dropped_bad_content": 2},
            {**of_file, "dropped_contaminated": 3},
        ]
    )
    assert counted == {
        "in": 10,
        "dropped_bad_json": 2,
        "dropped_bad_utf8": 1,
        "dropped_contaminated": 4,
        "dropped_bad_content": 2,
    }


def test_a_mixture_counts_faults_of_the_file_once_and_of_rows_where_they_are(tmp_path):
    bad = json.dumps(TRIPLE | {"problem": " ", "domain": "code"})
    lines = [
        *(jsonl.to_line(triple) for triple in TRIPLES),
        "{",
        bad,
        bad,
        json.dumps(TRIPLE | {"problem": ""}),
    ]
    (tmp_path / "triples.jsonl").write_text("\n".join(lines))
    jsonl.write_records(tmp_path / "benchmark.jsonl", TRIPLES[:1])
    settings = {"bad_rows": "skip", "benchmarks": {"toy": str(tmp_path / "benchmark.jsonl")}}
    mixed, counts = opened("p_theta_by_domain", tmp_path / "triples.jsonl", **settings)
    assert len(mixed) == 3
    assert counts == {
        "in": 8,
        "dropped_bad_json": 1,
        "dropped_bad_content": 3,
        "dropped_contaminated": 1,
    }
    assert opened("p_theta", tmp_path / "triples.jsonl", **settings)[1] == counts
    assert opened("p_theta", tmp_path / "triples.jsonl", **settings)[1] == counts  # from the store


def line(*fields: dict) -> bytes:
    merged = {name: value for some in fields for name, value in some.items()}
    return json.dumps({name: value for name, value in merged.items() if value is not None}).encode()


BAD_ROWS = [  # task, a good row, a bad one, its reason, and how a fatal one is told
    ("sft_traces", TRACE, b"{", "bad_json", r"rows\.jsonl:2: not a JSON object"),
    ("sft_traces", TRACE, b'{"prompt": "\xff"}', "bad_utf8", r"rows\.jsonl:2: .*UTF-8"),
    ("sft_traces", TRACE, line(TRACE, {"note": "x" * 999}), "bad_too_large", r"rows\.jsonl:2: "),
    ("sft_traces", TRACE, line(TRACE, {"domain": "art"}), "bad_field", r"rows\.jsonl:2: "),
    (
        "sft_traces",
        TRACE,
        line(TRACE, {"prompt": "\n "}),
        "bad_content",
        r"Row 'rows\.jsonl:2': the problem is empty",
    ),
    (
        "sft_traces",
        SOLVED,
        line(SOLVED, {"problem": ""}),
        "bad_content",
        r"Row 'rows\.jsonl:2': the problem is empty",
    ),
    (
        "sft_traces",
        SOLVED,
        line(SOLVED, {"solution": " "}),
        "bad_content",
        "'rows.jsonl:2': the solution is empty",
    ),
    (
        "sft_traces",
        TRACE,
        line(TRACE, {"completion": "\\boxed{2}<|endoftext|>"}),
        "bad_content",
        "Row 'rows.jsonl:2': the text holds the stop token",
    ),
    (
        "sft_traces",
        TRACE,
        line(TRACE, {"prompt": "Refuse me"}),
        "bad_content",
        "Row 'rows.jsonl:2': The chat template refuses these messages: not this",
    ),
    ("p_theta", TRIPLE, line(TRIPLE, {"rationale": None}), "bad_field", "'rationale' of Triple is missing"),
    (
        "p_theta",
        TRIPLE,
        line(TRIPLE, {"concepts": []}),
        "bad_content",
        "'rows.jsonl:2': the list of concepts is",
    ),
    ("q_phi", TRIPLE, line(TRIPLE, {"problem": " "}), "bad_content", "'rows.jsonl:2': the problem is empty"),
    (
        "q_phi",
        TRIPLE,
        line(TRIPLE, {"concepts": [" "]}),
        "bad_content",
        "'rows.jsonl:2': the concept is empty",
    ),
    (
        "p_direct",
        TRIPLE,
        line(TRIPLE, {"problem": "<!-- END PROBLEM -->"}),
        "bad_content",
        "Row 'rows.jsonl:2': the problem holds the marker",
    ),
    ("p_theta", TRIPLE, line(TRIPLE, {"rationale": "<|endoftext|>"}), "bad_content", "the stop token"),
]


@pytest.mark.parametrize(("name", "good", "bad", "reason", "message"), BAD_ROWS)
def test_a_bad_row_ends_the_work_or_is_alone_in_being_left_out(tmp_path, name, good, bad, reason, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([line(good), bad, line(good), line(good)]))
    refusing = (
        "{% for m in messages %}{% if 'Refuse' in m.content %}{{ raise_exception('not this') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    settings = {"validity": "off", "max_row_bytes": 500, "tokenizer": toys.byte_tokenizer(refusing)}
    with pytest.raises(WrongUse, match=f"{message}.*{LEFT_OUT}"):
        opened(name, path, **settings)
    found, counts = opened(name, path, bad_rows="skip", **settings)
    assert len(found) == 3
    assert len(set(texts(found))) == 1
    assert counts == {"in": 4, f"dropped_{reason}": 1}


def test_invalid_and_contaminated_rows_are_left_out_whatever_bad_rows_do(tmp_path):
    long = "Find the sum of all the numbers from one up to the number of stars here"
    found = [
        records.SftTrace(prompt=prompt, completion=completion)
        for prompt, completion in ((long, "\\boxed{1}"), ("2?", "no answer"), ("3?", "\\boxed{3}"))
    ]
    jsonl.write_records(tmp_path / "rows.jsonl", found)
    jsonl.write_records(tmp_path / "benchmark.jsonl", [{"problem": f"{long}."}])
    kept, counts = opened(
        "sft_traces", tmp_path / "rows.jsonl", benchmarks={"toy": str(tmp_path / "benchmark.jsonl")}
    )
    assert texts(kept) == ["\\boxed{3}"]
    assert counts == {"in": 3, "dropped_no_answer": 1, "dropped_contaminated": 1}


def test_rows_are_tokenized_a_few_at_a_time_and_in_order(tmp_path, monkeypatch):
    jsonl.write_records(
        tmp_path / "rows.jsonl",
        [records.SftTrace(prompt=f"{i}?", completion=f"\\boxed{{{i}}}") for i in range(8)],
    )
    monkeypatch.setattr(tasks, "ROWS_AT_ONCE", 3)
    task, counts = tasks.task_named("sft_traces"), collections.Counter()
    batches = list(
        tasks.iter_token_examples(task, tmp_path / "rows.jsonl", TOKENIZER, tasks.NO_RULES, counts=counts)
    )
    assert [len(batch) for batch in batches] == [3, 3, 2]
    assert texts(row for batch in batches for row in batch) == [f"\\boxed{{{i}}}" for i in range(8)]
    assert counts == {"read": 8}


def test_a_task_that_is_not_there_is_refused(triples):
    with pytest.raises(WrongUse, match="no task 'nobodys'; there are p_theta, .*p_theta_by_domain"):
        tasks.task_named("nobodys")
    with pytest.raises(WrongUse, match="absent.jsonl: no such file"):
        opened("p_theta", triples.parent / "absent.jsonl")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("bad_rows", "skip"),
        ("max_row_bytes", 99),
        ("validity", "off"),
        ("benchmarks", {"toy": "benchmark.jsonl"}),
        ("rates", {"math": 1.0}),
    ],
)
def test_what_cannot_apply_to_a_task_of_seqios_registry_is_refused_by_name(triples, setting, value):
    with pytest.raises(WrongUse, match=rf"DataConfig\.{setting}=.* cannot apply to 'somebodys', a task"):
        opened("somebodys", triples, **{setting: value})


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="max_row_bytes must be at least 1, got 0"):
        training_sets.DataConfig(max_row_bytes=0)


def test_the_cache_is_local_always():
    assert training_sets.DataConfig().cache_dir_in("runs/a") == "runs/a/token_cache"
    assert training_sets.DataConfig(cache_dir="here").cache_dir_in("gs://bucket/run") == "here"
    assert training_sets.DataConfig().cache_dir_in("gs://bucket/run").endswith("/.cache/promptcot_jax")
