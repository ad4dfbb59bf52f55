"""What annotators write is read back, with and without words around it."""

import pytest

from promptcot_jax.data import columns
from promptcot_jax.synthesis import annotation_requests
from tests import annotators

CONCEPTS = [
    "Vieta's formulas",
    'the "hockey stick" identity',
    "$\\mathbb{Z}/n$ and \u03c6(n)",
    "[brackets], commas",
]


def test_concepts_are_read_back():
    assert columns.parse_concepts(annotators.concept_list(CONCEPTS)) == CONCEPTS


@pytest.mark.parametrize(
    ("text", "concepts"),
    [
        ("Sure!\n```python\n['a', \"b's\"]\n```\nThese are core.", ["a", "b's"]),
        ('```json\n["a", "b"]\n```', ["a", "b"]),
        ("```\nno list\n```\n```\n['a']\n```\n```\nprint(1)\n```", ["a"]),
        ("['a', 'b']", ["a", "b"]),
        (
            "**Knowledge Point 1:** Primes\n- Knowledge Point 2: Powers (of two)\n",
            ["Primes", "Powers (of two)"],
        ),
        ("Knowledge Point: Primes", ["Primes"]),
        ("primes and powers", None),
        ("```python\n[__import__('os').getcwd()]\n```", None),
        ("[" * 10_000, None),
    ],
)
def test_lists_are_found_among_other_words(text, concepts):
    assert columns.parse_concepts(text) == concepts


def test_rationales_are_read_back():
    rationale = "First, take two primes.\n\nThen ask for the last digit."
    for answer in (
        annotators.thinking_process(rationale),
        f"Of course.\n**Thinking Process:**\n{rationale}\n",
    ):
        assert annotation_requests.read_rationale(answer) == rationale


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("['a', 'b', 'c']", "no_list"),  # without a fence
        ("Knowledge Point: Primes", "no_list"),
        ("```python\n['a', 'b', 'c'\n```", "no_list"),
        ("```python\n('a', 'b', 'c')\n```", "no_list"),
        ("```python\n[open('x'), 'b', 'c']\n```", "no_list"),
        ("```python\n['a', 2, 'c']\n```", "not_texts"),
        ("```python\n['a', ['b'], 'c']\n```", "not_texts"),
        ("```python\n['a', ' \\n', 'c']\n```", "empty"),
        ("```python\n['a', 'b']\n```", "count"),
        ("```python\n[]\n```", "count"),
        ("```python\n['a', 'b', 'c', 'd']\n```", "count"),
        ("```python\n['Prime factors', 'b', 'prime  FACTORS']\n```", "duplicates"),
        ("```python\n['a', 'b', '<!-- BEGIN PROBLEM -->']\n```", "marker"),
    ],
)
def test_an_annotators_own_list_is_held_to_the_form(text: str, reason: str):
    with pytest.raises(annotation_requests.Unusable) as caught:
        annotation_requests.read_concepts(text, 3)
    assert caught.value.reason == reason


def test_a_list_of_the_right_form_is_read_from_the_answer_not_from_the_thinking():
    text = "<think>```python\n['x', 'y', 'z']\n```</think>Here:\n```python\n['a  b', \"c'\", 'd']\n```"
    assert annotation_requests.read_concepts(text, 3) == ("a b", "c'", "d")
    assert annotation_requests.read_concepts(annotators.concept_list(CONCEPTS), 4) == tuple(CONCEPTS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_heading"),
        ("First, take two primes.", "no_heading"),
        ("Thinking Process:", "empty"),
        ("<think>Thinking Process: x</think> Take two.", "no_heading"),
        ("Thinking Process:\n ", "empty"),
        ("Thinking Process:\nTake <!-- END RATIONALE -->", "marker"),
    ],
)
def test_an_annotators_own_rationale_is_held_to_the_form(text: str, reason: str):
    with pytest.raises(annotation_requests.Unusable) as caught:
        annotation_requests.read_rationale(text)
    assert caught.value.reason == reason


def test_requests_say_all_that_an_answer_must_be():
    asked = annotation_requests.concepts_request(" What is 2 + 3? ", "math", 5)
    for needed in ("mathematics", "exactly 5 strings", "foundational", "precise", "essential", "```python"):
        assert needed in asked
    assert "\nWhat is 2 + 3?\n" in asked
    asked = annotation_requests.rationale_request(["sums", "digits"], "7", "What is 2 + 3?", "code")
    for needed in ("programming", "1. sums\n2. digits", "Level 7", "identical problem", "Natural"):
        assert needed in asked
    assert asked.endswith("Thinking Process:")
    assert "Difficulty Level: AIME" in annotation_requests.rationale_request(["sums"], "", "x", "math")
