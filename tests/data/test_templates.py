"""The text formats: what is written can be read back, and what is malformed is not read at all."""

import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AssertTest, CallTest, ConceptSet, StdioTest
from promptcot_jax.data import templates
from tests import toys

Z = "Think of a grid.\n\n1. Count its paths."
X = "How many paths are there?\n```python\nprint(1)\n```"


def test_theta_prompt_keeps_the_fields_of_the_released_generator():
    prompt = templates.theta_prompt(("Number theory", "Primes"), "HMMT-Feb", "math")
    instruction, conditions = prompt.split("\n\n", 1)
    assert "\n" not in instruction
    assert conditions == "Foundational Concepts:\n1. Number theory\n2. Primes\n\nDifficulty Level: HMMT-Feb\n"


def test_code_prompt_has_its_own_heading_and_level():
    prompt = templates.theta_prompt(("Graphs",), "", "code")
    assert prompt.endswith("Foundational Programming Concepts:\n1. Graphs\n\nDifficulty Level: codeforces\n")


@pytest.mark.parametrize(
    ("level", "written"), [("5", "Level 5"), (" 12 ", "Level 12"), ("USAMO", "USAMO"), ("Level 5", "Level 5")]
)
def test_a_numeric_level_n_is_written_level_n(level, written):
    for prompt in (
        templates.theta_prompt(("a",), level, "math"),
        templates.direct_prompt(("a",), level, "code"),
        templates.phi_prompt(("a",), level, X, "math"),
    ):
        assert f"\nDifficulty Level: {written}\n" in prompt


def test_the_three_prompts_differ_and_only_phi_sees_the_problem():
    theta, direct, phi = (
        templates.theta_prompt(("a",), "1", "math"),
        templates.direct_prompt(("a",), "1", "math"),
        templates.phi_prompt(("a",), "1", X, "math"),
    )
    assert len({theta, direct, phi}) == 3
    assert [X in prompt for prompt in (theta, direct, phi)] == [False, False, True]
    for prompt in (theta, direct, phi):
        assert prompt.endswith("\n")
        assert not any(marker in prompt for marker in templates.MARKERS)


def test_blocks_have_their_exact_form():
    assert templates.rationale_block("z") == "<!-- BEGIN RATIONALE -->\nz\n<!-- END RATIONALE -->\n"
    assert templates.problem_block("x") == "<!-- BEGIN PROBLEM -->\nx\n<!-- END PROBLEM -->"


@pytest.mark.parametrize("triple", toys.toy_triples(), ids=lambda triple: triple.id)
def test_what_is_written_is_read_back(triple):
    z_block, x_block = templates.rationale_block(triple.rationale), templates.problem_block(triple.problem)
    assert templates.parse_problem(z_block + x_block) == (triple.rationale, triple.problem)
    assert templates.parse_rationale(z_block) == triple.rationale


def test_samples_of_the_released_generator_parse_without_line_breaks_inside_the_blocks():
    z_block = "<!-- BEGIN RATIONALE --> z <!-- END RATIONALE --> \n\n"
    text = z_block + "<!-- BEGIN PROBLEM -->x\ny<!-- END PROBLEM -->\n"
    assert templates.parse_problem(text) == ("z", "x\ny")


Z_BLOCK, X_BLOCK = templates.rationale_block(Z), templates.problem_block(X)


@pytest.mark.parametrize(
    "text",
    [
        "",
        Z_BLOCK,
        X_BLOCK,
        X_BLOCK + Z_BLOCK,
        Z_BLOCK + X_BLOCK.removesuffix(templates.END_PROBLEM),
        "Sure! " + Z_BLOCK + X_BLOCK,
        Z_BLOCK + "and so" + X_BLOCK,
        Z_BLOCK + X_BLOCK + " done",
        Z_BLOCK + Z_BLOCK + X_BLOCK,
        Z_BLOCK + X_BLOCK + X_BLOCK,
        Z_BLOCK.replace(Z, templates.BEGIN_RATIONALE) + X_BLOCK,
        Z_BLOCK.replace(Z, " ") + X_BLOCK,
        Z_BLOCK + X_BLOCK.replace(X, "\n"),
        Z_BLOCK.replace(Z, f"{Z} {templates.END_PROBLEM}") + X_BLOCK,
    ],
)
def test_anything_but_one_block_of_each_is_not_a_problem(text):
    assert templates.parse_problem(text) is None


@pytest.mark.parametrize(
    "text", ["", Z, X_BLOCK, Z_BLOCK + X_BLOCK, Z_BLOCK * 2, Z_BLOCK + "tail", Z_BLOCK[:-10]]
)
def test_anything_but_one_rationale_block_is_not_a_rationale(text):
    assert templates.parse_rationale(text) is None


@pytest.mark.parametrize("marker", templates.MARKERS)
def test_a_marker_inside_a_text_is_refused_with_its_row(marker):
    with pytest.raises(WrongUse, match=r"Row 'r7': the rationale holds the marker"):
        templates.rationale_block(f"a {marker} b", "Row 'r7'")
    with pytest.raises(WrongUse, match=r"Row 'r7': the problem holds the marker"):
        templates.problem_block(f"a {marker} b", "Row 'r7'")
    with pytest.raises(WrongUse, match="the concept holds the marker"):
        templates.theta_prompt((f"a{marker}",), "1", "math")
    with pytest.raises(WrongUse, match="the problem holds the marker"):
        templates.phi_prompt(("a",), "1", marker, "math")


def test_empty_texts_are_refused():
    with pytest.raises(WrongUse, match="rationale is empty"):
        templates.rationale_block(" \n")
    with pytest.raises(WrongUse, match="concepts is empty"):
        templates.theta_prompt((), "1", "math")


def test_a_concept_stays_on_its_line():
    assert "\n1. two lines\n2. b\n" in templates.theta_prompt(("two\n lines", "b"), "1", "math")


def test_solver_prompts_ask_for_a_form_that_can_be_graded():
    assert "\\boxed{}" in templates.solver_prompt("x", "math")
    assert "```python" in templates.solver_prompt("x", "code")
    (message,) = templates.solver_messages("x", "math")
    assert message["role"] == "user"
    assert message["content"] + "\n" == templates.solver_prompt("x", "math")


def test_tests_that_call_ask_for_a_function_and_none_for_a_program():
    reads, calls = StdioTest("1", "1"), CallTest("near", (1,), 1)
    program = templates.solver_prompt("x", "code")
    assert templates.solver_prompt("x", "code", (reads, reads)) == program
    for tests in ((calls,), (AssertTest("assert near(1) == 1"),), (reads, calls)):
        asked = templates.solver_prompt("x", "code", tests)
        assert "standard input" not in asked
        assert "function or class" in asked
        assert "```python code fence" in asked
        assert ("`near`" in asked) == (calls in tests)  # an assertion is never shown by the form
        assert "== 1" not in asked
        assert templates.solver_messages("x", "code", tests)[0]["content"] + "\n" == asked


def test_the_last_closed_fence_is_graded():
    text = "```\nfirst\n```\ntalk `inline` ```\n```python\nprint(1)\n\nprint('```')\n```\n```python\ncut off"
    assert templates.last_code_fence(text) == "print(1)\n\nprint('```')\n"
    assert templates.last_code_fence("no fence, ```inline``` only") is None


@pytest.mark.parametrize("triple", toys.toy_triples(), ids=lambda triple: triple.id)
def test_conditions_are_read_back_from_every_prompt(triple):
    written = templates.level_text(triple.level, triple.domain)
    expected = ConceptSet(domain=triple.domain, concepts=triple.concepts, level=written)
    of_c = (triple.concepts, triple.level, triple.domain)
    for prompt in (
        templates.theta_prompt(*of_c),
        templates.direct_prompt(*of_c),
        templates.phi_prompt(triple.concepts, triple.level, triple.problem, triple.domain),
    ):
        assert templates.parse_conditions(prompt) == expected


@pytest.mark.parametrize(
    "text", ["", "Foundational Concepts:\n", "Foundational Concepts:\nprimes\n", "1. primes\n2. powers"]
)
def test_a_text_that_numbers_no_concepts_has_no_conditions(text):
    assert templates.parse_conditions(text) is None
