"""Verdicts are read strictly, and the agreement of judgings is what a pencil finds."""

import json

import pytest

from promptcot_jax.sampling.text_model import Reply
from promptcot_jax.synthesis import judging
from promptcot_jax.synthesis.judging import Verdict
from promptcot_jax.synthesis.teacher_replies import Unusable

SOUND = dict.fromkeys(judging.CRITERIA, True)
CONFIG = judging.JudgeConfig()


def written(verdict) -> str:
    return f"Some thoughts.\n```json\n{json.dumps(verdict)}\n```"


def test_the_last_fence_after_the_thinking_is_the_verdict():
    doubtful = SOUND | {"unique_answer": False}
    text = f"<think>{written(SOUND)}</think>{written(SOUND)}\nOn second thought:\n{written(doubtful)}"
    verdict = judging.read_verdict(text)
    assert verdict == Verdict(**doubtful)
    assert (verdict.is_well_posed, verdict.faults) == (False, ("unique_answer",))
    assert judging.read_verdict(written(SOUND)).is_well_posed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Everything is fine.", "no_fence"),
        (f"```json\n{json.dumps(SOUND)}", "no_fence"),
        ("```json\nyes\n```", "no_json"),
        (written([True] * 4), "no_verdict"),
        (written(SOUND | {"hard": True}), "no_verdict"),
        (written({"unique_answer": True}), "no_verdict"),
        (written(SOUND | {"unique_answer": "true"}), "not_boolean"),
        (written(SOUND | {"unique_answer": 1}), "not_boolean"),
    ],
)
def test_another_form_is_no_verdict(text: str, reason: str):
    with pytest.raises(Unusable) as caught:
        judging.read_verdict(text)
    assert caught.value.reason == reason


def test_each_judging_asks_the_questions_in_another_order_and_none_is_lost():
    asked = [judging.request("How many?", "math", number) for number in range(5)]
    assert len(set(asked)) == 4
    assert asked[4] == asked[0]
    for text in asked:
        assert all(f"- {name}: {question}" in text for name, question in judging.QUESTIONS["math"].items())
        assert "Problem:\nHow many?\n" in text


def judgements_of(texts):
    """From replies with these texts, in order; CUT ran out of tokens, and of "" nothing came."""
    reasons = {"": "malformed", "CUT": "length"}
    replies = [
        Reply(
            id="a",
            sample=i % CONFIG.judgings,
            text=text,
            finish_reason=reasons.get(text, "stop"),
            prompt_tokens=1,
            completion_tokens=1,
        )
        for i, text in enumerate(texts)
    ]
    return judging.judgements_of(replies, CONFIG)


def test_a_problem_is_kept_if_enough_of_what_can_be_read_finds_it_well_posed():
    vague, double = SOUND | {"quantities_given": False}, SOUND | {"one_question": False}
    texts = [
        SOUND,
        SOUND,
        SOUND,
        vague,
        double,
        double | {"quantities_given": False},
        SOUND,
        None,
        None,
        None,
    ]
    said = [written(text) if text else "No." for text in texts]
    judgements = judgements_of(said)
    faults = [judgement.fault(CONFIG) for judgement in judgements]
    assert faults == [None, "quantities_given", "one_question", None, "no_verdict"]
    lenient = judging.JudgeConfig(min_sound_share=0.5)
    assert [judgement.fault(lenient) for judgement in judgements][1] is None


def test_a_reply_that_did_not_end_is_no_verdict():
    judgements = judgements_of(["CUT", ""])
    assert judging.report(judgements)["unreadable"] == {"length": 1, "malformed": 1}


@pytest.mark.parametrize(
    ("table", "equal", "kappa"),
    [
        ([(True, True)] * 4 + [(False, False)] * 4, 1.0, 1.0),
        ([(True, False)] * 4 + [(False, True)] * 4, 0.0, -1.0),
        # Cohen's marginals by hand: 20 + 15 of 50 agree, by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5.
        ([(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15, 0.7, 0.4),
        ([(True, True)] * 9 + [(True, False)], 0.9, 0.0),  # high agreement, no better than chance
        ([(True, True)] * 3, 1.0, None),
        ([(True, None), (None, True)], None, None),
        ([], None, None),
    ],
)
def test_agreement_by_hand(table, equal, kappa):
    found = judging.agreement_of(table)
    assert (found["equal_share"], found["kappa"]) == (equal, kappa)


def test_of_three_judgings_the_pairs_are_averaged():
    table = [(True, True, False), (False, False, True)] * 3
    assert judging.agreement_of(table) == {"compared": 18, "equal_share": 0.3333, "kappa": -0.3333}
