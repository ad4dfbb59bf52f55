"""What annotators write is read back, with and without words around it."""

import pytest

from promptcot_jax.data import annotations

CONCEPTS = [
    "Vieta's formulas",
    'the "hockey stick" identity',
    "$\\mathbb{Z}/n$ and \u03c6(n)",
    "[brackets], commas",
]


def test_concepts_are_read_back():
    assert annotations.parse_concepts(annotations.concept_list(CONCEPTS)) == CONCEPTS


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
    assert annotations.parse_concepts(text) == concepts


def test_rationales_are_read_back():
    rationale = "First, take two primes.\n\nThen ask for the last digit."
    assert annotations.parse_rationale(annotations.thinking_process(rationale)) == rationale
    assert annotations.parse_rationale(f"Of course.\n**Thinking Process:**\n{rationale}\n") == rationale


@pytest.mark.parametrize("text", ["", "no heading", "Thinking Process:", "Thinking Process: \n"])
def test_without_a_rationale_there_is_none(text):
    assert annotations.parse_rationale(text) is None
