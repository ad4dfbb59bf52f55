"""Facts of the vote: equivalent answers vote together, and the outcome does not hang on chance."""

import pytest

from promptcot_jax.core.records import AnswerGroup
from promptcot_jax.verify import voting


def test_equivalent_answers_vote_together():
    first, *_ = voting.answer_groups(["2", r"\frac{1}{2}", "0.5", "2", "1/2", r"\sqrt{4}", "2^{-1}"])
    assert first == AnswerGroup(answer=r"\frac{1}{2}", samples=(1, 2, 4, 6))


def test_samples_without_an_answer_are_in_no_group():
    groups = voting.answer_groups([None, "x+1", "", "1+x", None])
    assert groups == [AnswerGroup(answer="x+1", samples=(1, 3))]


@pytest.mark.parametrize(
    ("answers", "winner"),
    [(["3", "4"], "3"), (["4", "3"], "4"), (["5", "3", "4", "4", "3.0"], "3"), (["7", None, None], "7")],
)
def test_a_tie_goes_to_the_answer_given_first(answers, winner):
    assert voting.answer_groups(answers)[0].answer == winner


def test_no_answers_elect_nobody():
    assert voting.answer_groups([]) == voting.answer_groups([None, "", "  "]) == []
