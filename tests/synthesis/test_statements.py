"""What a statement asks for, where its sentences end, whether it breaks off: each beside its neighbour."""

import pytest

from promptcot_jax.synthesis import statements


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Dr. Li left at 5 p.m. on Monday. He ran. When did he rest?", 3),
        ("How many divisors of 30! are prime? is 7 one of them?", 2),
        ("The P.T.O. bought U.S. coins! Find their worth.", 2),
        ("Let $f(x) = x?$ and\nlet $g = f$\n\nFind $g(1)$.", 2),
    ],
)
def test_sentences_end_where_the_next_begins(text: str, number: int):
    assert len(statements.sentences(statements.words_only(text))) == number


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Find x, and find y.", ["Find x, and find y.", "and find y."]),
        ("If x = 2, what is y? What is z?", ["what is y?", "What is z?"]),
        ("What is 2 + 2? Express your answer in base 3. Write your answer twice.", ["What is 2 + 2?"]),
        ("A dog may give birth to 5 pups. In which month is it born?", ["In which month is it born?"]),
        ("Write the sum in base 4. Give its number of digits too.", ["Write the sum in base 4.", "Give its"]),
        ("A train leaves at 3, and how it goes is known.", []),
    ],
)
def test_a_statement_asks_as_often_as_it_asks(text: str, asked: list[str]):
    found = statements.questions(text)
    assert len(found) == len(asked)
    assert all(one.startswith(start) for one, start in zip(found, asked, strict=True))


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("The roots satisfy the following conditions:", "The following condition holds: x < 3."),
        ("Tickets cost $5. Find the sum of", "Tickets cost $5. Find the sum."),
        ("Let $x = 3$ and $2x + y", "It costs 5$. Let $x$ be what 3$ buy. Find $x$."),
        ("Find $\\frac{1}{2} + 3x", "Each costs 100$ or \\$5. What is their sum?"),
    ],
)
def test_a_text_breaks_off_or_comes_to_its_end(broken: str, whole: str):
    assert statements.open_end(broken)
    assert statements.open_end(whole) is None
