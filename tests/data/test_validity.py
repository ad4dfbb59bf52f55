"""Each rule's fault, and what breaks none."""

import pytest

from promptcot_jax.core import records
from promptcot_jax.data import validity

BOX, FENCE = "so \\boxed{2}.", "```python\nprint(1)\n```"


@pytest.mark.parametrize(
    ("completion", "domain", "paper", "release"),
    [
        (f"<think>a</think>{BOX}", "math", None, None),
        (f"a</think>{BOX}", "math", None, None),  # the prompt opened the block
        (f"<think>a</think>{FENCE}", "code", None, None),
        (f"<think>a</think>{BOX}", "code", "no_answer", "no_answer"),
        (f"<think>{BOX}</think>so it is 2", "math", "no_answer", "no_answer"),
        (BOX, "math", None, "not_one_thinking_block"),
        (f"<think>a</think>b</think>{BOX}", "math", "not_one_thinking_block", "not_one_thinking_block"),
        (f"<think>a<think>b</think>{BOX}", "math", "not_one_thinking_block", "not_one_thinking_block"),
        (f"<think> </think>{BOX}", "math", "empty_part", "empty_part"),
        ("<think>\\boxed{2}</think> ", "math", "empty_part", "empty_part"),
        (f"<think>a</think>答案 {BOX}", "math", None, "east_asian_answer"),
        (f"</think>{BOX}", "math", None, "empty_part"),  # cut away by whoever sent it
        (f"<think>a{BOX}", "math", "unfinished_thinking", "unfinished_thinking"),
        (f"<think>答案</think>{BOX}", "math", None, None),
        ("<think>a</think>```python\nprint(1)", "code", "no_answer", "no_answer"),  # cut off
    ],
)
def test_traces(completion, domain, paper, release):
    trace = records.SftTrace(domain=domain, prompt="x", completion=completion)
    assert validity.fault_of(trace, "paper") == paper
    assert validity.fault_of(trace, "release") == release
    assert validity.fault_of(trace, "off") is None


@pytest.mark.parametrize(
    ("problem", "answer", "fault"),
    [
        ("Find n.", "12", None),
        ("Find n with the following conditions:", "12", "unfinished_problem"),
        ("Find n with the following conditions: n > 3 and n < 5.", "4", None),
        ("Prove that n = 2.", "2", "asks_for_proof"),
        ("Is it so?", "no", "guessable_answer"),
        ("Is it so?", "None of these", "guessable_answer"),
        ("How many?", "\\infty", "guessable_answer"),
        ("How many?", "1", "guessable_answer"),
        ("How many?", "10", None),
        ("Which?", "north", None),
    ],
)
def test_problems_of_the_released_scripts(problem, answer, fault):
    row = records.MathPrompt(problem=problem, answer=answer)
    assert validity.fault_of(row, "release") == fault
    assert validity.fault_of(row, "paper") is None


def test_a_worked_solution_needs_an_answer_and_no_thinking():
    row = records.SolvedMathProblem(concepts=("a",), problem="1+1?", answer="2", solution=BOX)
    assert validity.fault_of(row, "release") is None
    unboxed = records.SolvedMathProblem(concepts=("a",), problem="1+1?", answer="2", solution="2")
    assert validity.fault_of(unboxed, "paper") == "no_answer"
    program = records.SolvedProgramProblem(concepts=("a",), problem="Echo.", tests=(), solution=FENCE)
    assert validity.fault_of(program, "paper") is None


def test_nothing_is_asked_of_triples():
    triple = records.Triple(concepts=("a",), rationale="z", problem="Prove that 1 = 1.")
    assert validity.fault_of(triple, "release") is None
