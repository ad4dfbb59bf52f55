"""Facts of rewards: correctness is 0 or 1 whatever the other terms, and failures of ours are no zeros."""

import pytest

from promptcot_jax.core.records import StdioTest
from promptcot_jax.verify import programs, rewards
from promptcot_jax.verify.math_answers import MathGrade

SHAPED = rewards.RewardConfig(format_weight=0.1, length_weight=0.5, length_limit=100, length_buffer=20)


def grade_many(pairs):
    known = {
        r"\boxed{right}": MathGrade(True, "match"),
        r"\boxed{slow}": MathGrade(False, "timeout"),
        r"\boxed{}": MathGrade(False, "no_answer"),
        r"\boxed{broken}": MathGrade(False, "error"),
    }
    return [known.get(response, MathGrade(False, "mismatch")) for _, response in pairs]


def run_many(jobs):
    return [programs.TestReport(passed=p == "passed", status=p, results=()) for p, _ in jobs]


def test_mathematics_is_right_or_not():
    responses = [r"\boxed{right}", r"\boxed{wrong}", r"\boxed{}"]
    found = rewards.math_rewards(["7"] * 3, responses, [10, 90, 1000], SHAPED, grade_many=grade_many)
    assert [r.correct for r in found] == [1.0, 0.0, 0.0]
    assert [r.format for r in found] == [1.0, 1.0, 0.0]
    assert [r.length for r in found] == [0.0, -0.5, -1.0]
    assert [r.status for r in found] == ["match", "mismatch", "no_answer"]
    assert [r.total(SHAPED) for r in found] == pytest.approx([1.1, -0.15, -0.5])
    assert [r.total(rewards.RewardConfig()) for r in found] == [1.0, 0.0, 0.0]


def test_only_a_box_is_paid_for_and_a_failure_of_the_grader_is_no_zero():
    responses = ["7", r"\boxed{broken}", r"It is \boxed{7}.", r"\boxed{7} or \boxed{8}", r"\boxed{slow}"]
    found = rewards.math_rewards(["7"] * 5, responses, [1] * 5, SHAPED, grade_many=grade_many)
    unboxed, broken, *_, slow = found
    assert (unboxed.status, unboxed.correct) == ("no_answer", 0.0)
    assert broken == rewards.Ungraded(status="error")
    assert slow == rewards.Ungraded(status="timeout")
    graded = rewards.math_rewards(["7"] * 2, responses[2:4], [1] * 2, SHAPED)
    assert [(r.status, r.correct) for r in graded] == [("match", 1.0), ("mismatch", 0.0)]


def test_a_program_that_could_not_be_graded_has_no_reward():
    tests = [(StdioTest("", ""),)] * 4
    found = rewards.program_rewards(
        ["passed", None, "sandbox_error", "wrong_answer"], tests, [1] * 4, SHAPED, run_many=run_many
    )
    assert [type(r) for r in found] == [rewards.Reward, rewards.Reward, rewards.Ungraded, rewards.Reward]
    assert [r.status for r in found] == ["passed", "no_program", "sandbox_error", "wrong_answer"]
    assert [r.correct for r in found if isinstance(r, rewards.Reward)] == [1.0, 0.0, 0.0]
    assert [r.format for r in found if isinstance(r, rewards.Reward)] == [1.0, 0.0, 1.0]


def test_the_length_term_falls_over_the_buffer():
    terms = [rewards.length_term(n, SHAPED) for n in (0, 80, 81, 99, 100, 10_000)]
    assert terms == pytest.approx([0, 0, -0.05, -0.95, -1, -1])
    hard = rewards.RewardConfig(length_limit=10)
    assert [rewards.length_term(n, hard) for n in (10, 11)] == [0.0, -1.0]


@pytest.mark.parametrize(
    "settings",
    [
        {"format_weight": -0.1},
        {"format_weight": float("nan")},
        {"length_weight": float("inf"), "length_limit": 9},
        {"length_weight": 0.1},
        {"length_limit": 10, "length_buffer": 11},
        {"length_limit": -1},
    ],
)
def test_nonsense_is_refused(settings):
    with pytest.raises(ValueError):
        rewards.RewardConfig(**settings)
