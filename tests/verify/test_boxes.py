"""Facts of taking boxed answers out of responses."""

import json
import os
import pathlib
import time

import pytest

from promptcot_jax.verify import boxes

CASES = (
    pathlib.Path(os.environ.get("PROMPTCOT_SHARED", pathlib.Path(__file__).parents[3] / "shared")) / "cases"
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{7}, no: \boxed{42}.", "42"),
        (r"\fbox{7}", "7"),
        (r"\boxed{7} then \fbox{8}", "8"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x : x > 0 \right\}}", r"\left\{ x : x > 0 \right\}"),
        (r"\boxed{\begin{cases} 1 \\{} 2 \end{cases}}", r"\begin{cases} 1 \\{} 2 \end{cases}"),
        (r"<think>\boxed{1}</think> thus \boxed {2}", "2"),
        (r"<think>\boxed{1}</think> the answer is 1", None),
        (r"\boxed{1}</think> thus \boxed{2}", "2"),
        (r"<think> it may be \boxed{1}, wait", None),
        (r"\boxed{1} <think> or \boxed{2}", None),
        (r"a set { and then \boxed{3}", "3"),
        (r"closed } too early \boxed{3} }", "3"),
        (r"\boxed{5} and again \boxed{5", "5"),
        (r"\boxed{never", None),
        (r"\boxed{\frac{1}{2}", None),
        (r"\boxed{open \boxed{3}", "3"),
        (r"\boxed{\boxed{8}}", "8"),
        (r"\boxed{ \fbox{\boxed{8} } }", "8"),
        (r"\boxed{8 + \boxed{9}}", r"8 + \boxed{9}"),
        (r"\boxed{ }", ""),
        ("42", None),
        ("", None),
        (r"\boxed 42", None),
        (r"\\boxed{42}", "42"),
    ],
)
def test_the_last_balanced_box_after_the_thinking_is_the_answer(text, answer):
    assert boxes.extract_answer(text) == answer


@pytest.mark.parametrize(
    "echo",
    [
        r"\boxed{}",
        r"\boxed{answer}",
        r"\boxed{your answer}",
        r"\boxed{\text{final answer}}",
        r"\boxed{...}",
        r"\boxed{\ldots}",
        r"\boxed{<answer>}",
        r"\boxed{ANSWER}",
        r"\boxed{your_answer_here}",
    ],
)
def test_an_echo_of_the_instruction_is_no_answer_where_there_is_one(echo):
    assert boxes.extract_answer(rf"I get \boxed{{42}}, and I put it within {echo}.") == "42"
    assert boxes.extract_answer(rf"I shall put it within {echo}. I get \boxed{{42}}.") == "42"
    assert boxes.extract_answer(f"Put it within {echo}.") == echo[len(r"\boxed{") : -1]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (r"\boxed{2} or \boxed{3}", ["2", "3"]),
        (r"$\boxed{2}$, $\boxed{3}$ and $\boxed{4}$", ["2", "3", "4"]),
        (r"\boxed{2}\text{ or }\boxed{3}", ["2", "3"]),
        (r"\boxed{2} \quad \boxed{3}", ["2", "3"]),
        (r"\boxed{2}, \boxed{2}", ["2"]),
        (r"\boxed{2}, then \boxed{3}", ["3"]),
        (r"\boxed{2}. \boxed{3}", ["3"]),
        (r"\boxed{2} <think> \boxed{3}", []),
        ("2", []),
    ],
)
def test_boxes_side_by_side_are_one_answer(text, parts):
    assert boxes.answer_parts(text) == parts


@pytest.mark.parametrize(
    "text_of",
    [
        lambda n: "\\boxed{" * 2 * n,
        lambda n: "\\boxed{" * n + "}" * n,
        lambda n: "\\boxed{ " * n + "} " * n,
        lambda n: "\\boxed{1}" * n,
        lambda n: "\\boxed{1} or " * n,
        lambda n: "\\boxed{" + "\\boxed{1}" * n + "}",
        lambda n: "\\boxed" + " " * 10 * n,
        lambda n: "\\boxed{" + " " * 10 * n + "}",
        lambda n: "{" * 5 * n + "\\boxed{1}",
        lambda n: "<think>" * n + "</think>" * n,
        lambda n: "text " * n + "\\boxed{1}",
    ],
)
def test_time_is_linear_in_the_text(text_of):
    """Ten times the text takes about ten times as long; a hundred if the time were quadratic."""

    def seconds(num: int) -> float:
        text, taken = text_of(num), []
        for _ in range(3):
            start = time.process_time()
            boxes.extract_answer(text)
            boxes.answer_parts(text)
            taken.append(time.process_time() - start)
        return min(taken)

    assert seconds(30_000) < 30 * seconds(3_000) + 0.05


def test_the_public_extraction_cases_are_all_right():
    path = CASES / "math_extraction.jsonl"
    if not path.exists():
        pytest.skip("the public grading cases are not here")
    for row in map(json.loads, path.read_text().splitlines()):
        assert boxes.extract_answer(row["text"]) == row["boxed"], row
