"""Facts of the vote: who votes, what wins, and why a problem gets no answer."""

import pytest

from promptcot_jax.core.records import AnswerGroup
from promptcot_jax.sampling.text_model import Reply
from promptcot_jax.synthesis import answer_votes, solutions
from promptcot_jax.synthesis.problem_files import OpenProblem

CUT_OFF = ("length", "so far \\boxed{3}")


def replies_of(texts):
    """A solver's replies with these texts, or (finish reason, text), sample by sample."""
    return [
        Reply(
            id="p",
            sample=sample,
            text=text[1] if isinstance(text, tuple) else text,
            finish_reason=text[0] if isinstance(text, tuple) else "stop",
            prompt_tokens=1,
            completion_tokens=10 * (sample + 1),
        )
        for sample, text in enumerate(texts)
    ]


def tally_of(texts, tmp_path, *, answer: str = "", **settings) -> answer_votes.VoteTally:
    config = solutions.SolveConfig(num_solutions=len(texts), **settings)
    problem = OpenProblem(id="p", problem="How many?", answer=answer)
    solved = solutions.read([problem], replies_of(texts), config)
    [tally] = answer_votes.count([problem], solved, tmp_path / "votes.jsonl")
    return tally


def boxed(*answers: str) -> list[str]:
    return [f"It is \\boxed{{{answer}}}." if answer else "I do not know." for answer in answers]


def test_equal_answers_in_other_spellings_are_one_group_and_every_vote_is_kept(tmp_path):
    tally = tally_of(boxed("1/2", "3", "0.5", "", "\\frac{2}{4}", "3.0"), tmp_path)
    assert tally.votes == (AnswerGroup("1/2", (0, 2, 4)), AnswerGroup("3", (1, 5)))
    assert tally.endings == ("answered",) * 3 + ("no_answer",) + ("answered",) * 2
    assert tally.agreement == 0.5
    assert tally.mean_tokens == 35.0
    found = answer_votes.found(tally)
    assert (found["answer"], found["agreement"], found["num_solutions"]) == ("1/2", 0.5, 6)


@pytest.mark.parametrize(
    ("answers", "min_agreement", "reason"),
    [
        (("3", "3", "3", "4"), 0.75, None),
        (("3", "3", "3", "4"), 0.76, "low_agreement"),
        (("3", "4", "3", "4"), 0.5, "tied"),
        (("3", "4", "5", "3", "4"), 0.4, "tied"),
        (("3", "", "", ""), 0.5, "low_agreement"),  # those without an answer are in the share
        (("3", "", "", ""), 0.25, None),
        (("", "", ""), 0.1, "no_valid_vote"),
    ],
)
def test_a_majority_needs_its_share_and_no_equal(tmp_path, answers, min_agreement, reason):
    fault = answer_votes.fault(
        tally_of(boxed(*answers), tmp_path), answer_votes.VoteConfig(min_agreement=min_agreement)
    )
    assert (fault and fault[0]) == reason


def test_by_default_half_of_the_solutions_must_agree(tmp_path):
    for answers, reason in ((("3", "3", "4", "5"), None), (("3", "3", "4", "5", "6"), "low_agreement")):
        tally = tally_of(boxed(*answers), tmp_path / answers[-1])
        fault = answer_votes.fault(tally, answer_votes.VoteConfig())
        assert (fault and fault[0]) == reason


def test_a_truncated_solution_votes_only_where_a_setting_says_so(tmp_path):
    texts = [CUT_OFF, CUT_OFF, *boxed("4")]
    tally = tally_of(texts, tmp_path / "default")
    assert tally.votes == (AnswerGroup("4", (2,)),)
    assert tally.endings == ("length", "length", "answered")
    tally = tally_of(texts, tmp_path / "all", truncated_vote=True)
    assert tally.votes == (AnswerGroup("3", (0, 1)), AnswerGroup("4", (2,)))
    assert tally.endings == ("answered",) * 3


def test_filtered_and_malformed_solutions_never_vote(tmp_path):
    texts = [("filtered", "\\boxed{3}"), ("malformed", "\\boxed{3}"), ("too_long", "")]
    tally = tally_of(texts, tmp_path, truncated_vote=True)
    assert tally.votes == ()
    assert tally.endings == ("filtered", "malformed", "too_long")


@pytest.mark.parametrize(
    ("answer", "given", "reason"),
    [("0.5", "confirmed", None), ("2", "outvoted", "given_answer_outvoted"), ("", "none", None)],
)
def test_an_answer_of_the_row_must_be_the_majoritys(tmp_path, answer, given, reason):
    tally = tally_of(boxed("1/2", "1/2", "2"), tmp_path, answer=answer)
    assert tally.given_answer == given
    fault = answer_votes.fault(tally, answer_votes.VoteConfig())
    assert (fault and fault[0]) == reason


def test_several_boxes_are_one_answer_and_thinking_is_none(tmp_path):
    texts = ["\\boxed{2} or \\boxed{3}", "<think>\\boxed{9}</think> \\boxed{3, 2}", "<think>\\boxed{9}"]
    tally = tally_of(texts, tmp_path)
    assert tally.votes == (AnswerGroup("2, 3", (0, 1)),)


def test_counted_votes_are_not_counted_again(tmp_path, monkeypatch):
    texts = boxed("1", "1")
    tally = tally_of(texts, tmp_path)
    monkeypatch.setattr(answer_votes.voting, "answer_groups", None)
    assert tally_of(texts, tmp_path) == tally


@pytest.mark.parametrize("echo", ["answer", "...", r"\text{your answer}", "?", "", "<answer>", r"\ldots"])
def test_an_echoed_placeholder_is_no_answer(tmp_path, echo):
    tally = tally_of([f"Put it in \\boxed{{{echo}}}."] * 8, tmp_path)
    assert tally.votes == ()
    assert tally.endings == ("no_answer",) * 8
    fault = answer_votes.fault(tally, answer_votes.VoteConfig())
    assert fault is not None
    assert fault[0] == "no_valid_vote"


@pytest.mark.parametrize(
    "answer",
    [
        r"\text{No}",
        "none",
        "None.",
        r"\textbf{no solution}",
        r"\text{No real solutions}",
        r"\mathrm{no\ solution}",
        r"\text{cannot be determined}",
        r"\text{Not enough information}",
        r"\text{does not exist}",
        r"\text{undefined}",
        "inf",
        r"\infty",
        r"x = -\infty",
        r"\text{infinitely many}",
        "DNE",
        "N/A",
        r"\text{Yes}",
    ],
)
def test_a_majority_that_states_no_value_is_refused_unless_a_setting_says_so(tmp_path, answer):
    tally = tally_of(boxed(answer, answer, answer, "4"), tmp_path, answer=answer)
    fault = answer_votes.fault(tally, answer_votes.VoteConfig())
    assert fault is not None
    assert fault[0] == "no_value"
    assert answer_votes.fault(tally, answer_votes.VoteConfig(values_only=False)) is None


@pytest.mark.parametrize(
    "answer",
    [
        *("0", "1", r"(-\infty, 3)", r"\sum_{n=1}^{\infty} 2^{-n}", r"\text{Noah}", r"\text{nonagon}", "n o"),
        *(r"x \neq 2", r"\triangle DNE", r"\emptyset", r"\text{Infinity ShardScheduler}", r"\notin", "n/a"),
    ],
)
def test_a_value_is_none_of_the_words_for_no_value(answer):
    assert not answer_votes.states_no_value(answer)


def test_an_answer_of_the_row_on_which_nobody_voted_is_unconfirmed(tmp_path):
    tally = tally_of(boxed("", "", ""), tmp_path, answer="2")
    assert tally.given_answer == "unconfirmed"
    fault = answer_votes.fault(tally, answer_votes.VoteConfig())
    assert fault is not None
    assert fault[0] == "no_valid_vote"
