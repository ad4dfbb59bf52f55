"""Released data sets by their columns: what each form of a value becomes, and what is refused."""

import json
from typing import Any

import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import (
    ConceptSet,
    MathPrompt,
    ProgramPrompt,
    SftTrace,
    StdioTest,
)
from promptcot_jax.data import importers, rows, templates
from tests import toys

ONE_USER = "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n"


def imported(fields: dict[str, Any], is_flat: bool = False, **config: Any) -> importers.Imported:
    settings = importers.ImportConfig(**config)
    row = rows.Row("set/a.jsonl:7", fields, is_flat)
    return importers.maker_of(importers.kind_of(row, settings), settings)(row)


def refusal(fields: dict[str, Any], **config: Any) -> str:
    with pytest.raises(WrongUse) as failure:
        imported(fields, **config)
    assert str(failure.value).startswith("set/a.jsonl:7: ")
    return str(failure.value)


@pytest.mark.parametrize(
    "value",
    [["sums", "a 'b'"], "['sums', \"a 'b'\"]", '["sums", "a \'b\'"]', "```python\n['sums', \"a 'b'\"]\n```"],
)
@pytest.mark.parametrize("column", ["concepts", "foundational_concepts", "concept"])
def test_concepts_are_a_list_or_a_list_as_text(column: str, value: Any):
    expected = ConceptSet(id="a.jsonl:7", concepts=("sums", "a 'b'"))
    assert imported({column: value, "source": "s"}) == expected


def test_concepts_carry_id_level_and_domain():
    fields = {"concepts": ["sums"], "id": 3, "domain": "code", "difficulty": 4}
    assert imported(fields) == ConceptSet(id="3", domain="code", concepts=("sums",), level="4")
    programming = {"foundational_programming_concepts": ["sums"]}
    assert imported(programming) == ConceptSet(id="a.jsonl:7", domain="code", concepts=("sums",))
    assert imported(programming, domain="math") == ConceptSet(id="a.jsonl:7", concepts=("sums",))


@pytest.mark.parametrize("domain", ["math", "code"])
def test_a_prompt_of_the_generator_lists_its_concepts(domain: Any):
    prompt = templates.theta_prompt(("sums", "1. odd"), "HMMT-Feb", domain)
    expected = ConceptSet(id="a.jsonl:7", domain=domain, concepts=("sums", "1. odd"), level="HMMT-Feb")
    assert imported({"prompt": prompt}) == expected


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("sums", "the concepts must be a list"),
        ("[sums]", "must be a list of texts"),
        ("[__import__('os').getpid()]", "must be a list of texts"),
        (["sums", " "], "must be a list of texts"),
        ([["sums"]], "must be a list of texts"),
        ("[" * 10_000, "must be a list of texts"),
    ],
)
def test_what_is_no_list_of_concepts_is_refused(value: Any, says: str):
    assert says in refusal({"concepts": value})


def test_one_concept_of_a_flat_row_is_a_list_of_it():
    assert imported({"concepts": "sums"}, is_flat=True) == ConceptSet(id="a.jsonl:7", concepts=("sums",))


@pytest.mark.parametrize(
    ("completion", "domain"),
    [
        (r"<think>```python</think> so \boxed{3}", "math"),
        ("<think>\\boxed{3}?</think>\n```python\nprint()\n```", "code"),
        ("```c++\n```", "code"),
    ],
)
def test_a_trace_without_a_domain_tells_it(completion: str, domain: Any):
    expected = SftTrace(id="a.jsonl:7", domain=domain, prompt="What is it?", completion=completion)
    assert imported({"prompt": "What is it?", "completion": completion}) == expected


def test_a_trace_that_does_not_tell_its_domain_needs_it_set():
    fields = {"prompt": "p", "completion": "```\nit\n```"}
    assert "set domain" in refusal(fields)
    assert imported(fields, domain="code") == SftTrace(
        id="a.jsonl:7", domain="code", prompt="p", completion="```\nit\n```"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "It."}]},
        {"conversations": [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "It."}]},
        {"messages": json.dumps([{"role": r, "content": c} for r, c in
                                 [("system", ""), ("user", "What is it?"), ("assistant", "It.")]])},
        {"prompt": ONE_USER, "completion": "It.<|im_end|>\n"},
        {"prompt": [{"role": "user", "content": "What is it?"}], "response": "It."},
        {"question": ONE_USER, "response": "It."},
    ],
)  # fmt: skip
def test_one_question_and_its_answer_come_out_of_every_frame(fields: dict[str, Any]):
    expected = SftTrace(id="a.jsonl:7", domain="math", prompt="What is it?", completion="It.")
    assert imported(fields, domain="math") == expected


def test_a_thought_that_the_frame_opened_goes_to_the_completion():
    fields = {"prompt": f"{ONE_USER}<think>\n", "completion": "Hm.</think>\\boxed{3}"}
    assert imported(fields) == SftTrace(
        id="a.jsonl:7", prompt="What is it?", completion="<think>\nHm.</think>\\boxed{3}"
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, "this conversation is user"),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]},
            "system, user",
        ),
        ({"messages": [{"role": "tool", "content": "a"}]}, "a turn must have a role and a text"),
        ({"messages": "hello"}, "must be a list of turns"),
        ({"prompt": ONE_USER + "It.<|im_end|>\n" + ONE_USER, "completion": "c"}, "other than one turn"),
        (
            {"prompt": "<|im_start|>system\ns<|im_end|>\n" + ONE_USER, "completion": "c"},
            "other than one turn",
        ),
        ({"prompt": "p", "completion": "c<|im_end|>\n" + ONE_USER}, "goes on as a conversation"),
        ({"prompt": "p", "completion": "<|im_end|>"}, "the completion is empty"),
    ],
)
def test_other_conversations_are_refused(fields: dict[str, Any], says: str):
    assert says in refusal(fields, domain="math")


@pytest.mark.parametrize(
    "fields",
    [
        {"problem": "x", "answer": "42"},
        {"prompt": ONE_USER.replace("What is it?", "x"), "ground_truth": 42},
        {"question": "x", "answer": ["42"], "solution": "It is 42."},
        {
            "prompt": [{"role": "user", "content": "x"}],
            "reward_model": {"ground_truth": "42", "style": "rule"},
        },
        {"prompt": "x", "tests": [], "answer": "42"},
    ],
)
def test_a_problem_with_an_answer_is_of_mathematics(fields: dict[str, Any]):
    assert imported(fields) == MathPrompt(id="a.jsonl:7", problem="x", answer="42")


GSM8K = "He has <<48/2=24>>24 clips.\nThat is <<48+24=72>>72 in all: 10 << 20.\n#### 1,072\n"


def test_an_answer_of_gsm8k_is_its_last_line_to_prompts_and_a_box_to_traces():
    fields = {"question": "x", "answer": GSM8K, "annotation": "a", "short_answer": "1,072"}
    expected = MathPrompt(id="a.jsonl:7", problem="x", answer="1,072")
    assert imported(fields, is_flat=True) == expected
    completion = "He has 24 clips.\nThat is 72 in all: 10 << 20.\n\\boxed{1,072}"
    expected = SftTrace(id="a.jsonl:7", domain="math", prompt="x", completion=completion)
    assert imported(fields, kind="traces") == expected


@pytest.mark.parametrize("answer", ["a #### 72", "#### 72\nor so", "####", "##### 72", "#### # 72"])
def test_only_a_last_line_of_its_own_is_an_answer_of_gsm8k(answer: str):
    prompt = imported({"question": "x", "answer": answer})
    assert isinstance(prompt, MathPrompt)
    assert prompt.answer == answer
    assert "the row has no completion" in refusal({"question": "x", "answer": answer}, kind="traces")


def test_a_completion_is_left_as_it_is():
    fields = {"question": "x", "response": GSM8K, "answer": GSM8K}
    assert imported(fields, kind="traces", domain="math") == SftTrace(
        id="a.jsonl:7", prompt="x", completion=GSM8K
    )


PAIRS = [{"input": "1\n", "output": "2"}, {"input": "", "output": "0"}]
COLUMNS = {"inputs": ["1\n", ""], "outputs": ["2", "0"]}


@pytest.mark.parametrize(
    "fields",
    [
        {"tests": PAIRS},
        {"test_cases": json.dumps(PAIRS)},
        {"unit_tests": [json.dumps(pair) for pair in PAIRS]},
        {"tests": COLUMNS},
        {"tests": {"input": ["1\n", ""], "output": ["2", "0"], "fn_name": None}},
        {"tests": json.dumps(COLUMNS)},
        COLUMNS,
        {"reward_model": {"ground_truth": json.dumps(COLUMNS)}},
        {"answer": json.dumps(PAIRS)},
    ],
)
def test_a_problem_with_tests_is_of_programming(fields: dict[str, Any]):
    assert imported({"problem": "x", "id": "p"} | fields) == ProgramPrompt(
        id="p", problem="x", tests=(StdioTest("1\n", "2"), StdioTest("", "0"))
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tests": PAIRS, "answer": "42"}, "both an answer and tests"),
        ({"tests": ["assert f(1) == 2"]}, "a test must have the texts 'input' and 'output'"),
        ({"tests": {"inputs": [[1]], "outputs": [[2]]}}, "a test must have the texts"),
        ({"tests": {"inputs": ["1"], "outputs": []}}, "1 inputs and 0 outputs"),
        ({"tests": COLUMNS | {"fn_name": "f"}}, "call a function"),
        ({"inputs": ["1"]}, "the row has no outputs"),
        ({"answer": {"a": 1}}, "the answer must be a text"),
        ({"answer": "42", "domain": "code"}, "the row has no tests"),
        ({"answer": "42", "domain": "art"}, "the domain must be 'math' or 'code', got 'art'"),
    ],
)
def test_prompts_that_cannot_be_checked_are_refused(fields: dict[str, Any], says: str):
    assert says in refusal({"problem": "x"} | fields)


def test_a_domain_decides_between_an_answer_and_tests():
    fields = {"problem": "x", "tests": PAIRS, "answer": "42"}
    assert isinstance(imported(fields, domain="math"), MathPrompt)
    assert isinstance(imported(fields | {"domain": "code"}), ProgramPrompt)


def test_unknown_columns_are_refused_with_what_is_there_and_what_is_known():
    said = refusal({"text": "x", "label": "42"})
    assert "the columns text, label are those of no kind" in said
    assert "answer: answer, expected_answer, ground_truth, reward_model.ground_truth" in said


def test_columns_of_two_kinds_are_refused_and_the_kind_can_be_set():
    fields = {"prompt": "x", "completion": r"\boxed{42}", "answer": "42"}
    assert "those of traces and prompts" in refusal(fields)
    assert isinstance(imported(fields, kind="traces"), SftTrace)
    assert isinstance(imported(fields, kind="prompts"), MathPrompt)


def test_columns_can_be_named():
    fields = {"text": "x", "meta": {"label": "42"}, "problem": "another"}
    columns = {"problem": "text", "answer": "meta.label"}
    expected = MathPrompt(id="a.jsonl:7", problem="x", answer="42")
    assert imported(fields, columns=columns) == expected
    with pytest.raises(ValueError, match="columns has no 'solution'"):
        importers.ImportConfig(columns={"solution": "text"})


@pytest.mark.skipif(not toys.SEED_TRIPLES.exists(), reason="the shared seed data are not here")
def test_the_released_list_of_concepts_is_read_whole():
    path = toys.SEED_TRIPLES.parent / "concepts_code.jsonl"
    read = [imported(row.fields) for row in rows.iter_rows(path)]
    assert len(read) == 28
    assert {(type(record), len(record.concepts), record.domain) for record in read} == {
        (ConceptSet, 5, "code")
    }


@pytest.mark.parametrize(
    ("fields", "record_type"),
    [
        ({"prompt": "x", "completion": "y", "expected_answer": "1"}, SftTrace),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
            | {"text": "x y", "answer": "1"},
            SftTrace,
        ),
        ({"concepts": ["sums"], "text": "about sums"}, ConceptSet),
        ({"text": "What is 1?", "expected_answer": "1"}, MathPrompt),
    ],
)
def test_names_that_many_sets_have_decide_only_where_no_other_does(fields, record_type):
    assert isinstance(imported(fields, domain="math"), record_type)


def test_of_several_columns_the_first_in_the_order_of_the_names_counts():
    fields = {"question": "q", "prompt": "p", "completion": "y", "unique_id": "u1", "problem_id": "p7"}
    made = imported(fields, domain="math")
    assert (made.id, made.prompt) == ("p7", "p")
    tests = [{"input": "", "output": "1"}]
    made = imported({"problem": "Print 1.", "tests": tests, "test_list": ["assert f()"]})
    assert made.tests == (StdioTest(input="", output="1"),)
