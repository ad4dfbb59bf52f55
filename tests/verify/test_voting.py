"""Facts of the vote: equivalent answers vote together, and the outcome does not hang on chance."""

import pytest

from promptcot_jax.verify import voting


def test_equivalent_answers_vote_together():
    vote = voting.majority_vote(["2", r"\frac{1}{2}", "0.5", "2", "1/2", r"\sqrt{4}", "2^{-1}"])
    assert vote == voting.Vote(answer=r"\frac{1}{2}", num_votes=4, agreement=4 / 7)


def test_samples_without_an_answer_count_in_the_share_only():
    vote = voting.majority_vote([None, "x+1", "", "1+x", None])
    assert vote == voting.Vote(answer="x+1", num_votes=2, agreement=0.4)


@pytest.mark.parametrize(
    ("answers", "winner"),
    [(["3", "4"], "3"), (["4", "3"], "4"), (["5", "3", "4", "4", "3.0"], "3"), (["7", None, None], "7")],
)
def test_a_tie_goes_to_the_answer_given_first(answers, winner):
    vote = voting.majority_vote(answers)
    assert vote is not None
    assert vote.answer == winner


def test_no_answers_elect_nobody():
    assert voting.majority_vote([]) is None
    assert voting.majority_vote([None, "", "  "]) is None
