"""Facts of difficulty: accuracy, tokens and their errors by hand; attempts of other problems are refused."""

import math
import statistics

import pytest

from promptcot_jax.analyses import difficulty
from promptcot_jax.analyses.figures import NoRecords
from promptcot_jax.analyses.problem_sets import SetRow
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptRecord

SETS = {
    "ours": [
        SetRow(id="o1", problem="x", level="2", concepts=("Primes", "sums")),
        SetRow(id="o2", problem="x", level="10", concepts=("primes", "primes")),
    ],
    "gsm8k": [SetRow(id="g1", problem="x")],
}


def attempt(problem_id, sample, correct, tokens, finish_reason="stop"):
    return AttemptRecord(
        problem_id=problem_id,
        sample=sample,
        completion="",
        answer="1",
        reference="1",
        correct=correct,
        status="match" if correct else "mismatch",
        finish_reason=finish_reason,
        num_tokens=tokens,
    )


OURS = [
    attempt("o1", 0, True, 10),
    attempt("o1", 1, True, 30),
    attempt("o2", 0, True, 100),
    attempt("o2", 1, False, 300, "length"),
]
GSM8K = [attempt("g1", 0, True, 7)]


def test_numbers_are_means_over_problems_with_their_errors():
    table = difficulty.statistics(SETS, {"ours": OURS, "gsm8k": GSM8K}, {"ours": OURS, "gsm8k": GSM8K})
    found = {(row["set"], row["by"], row["group"]): row for row in table}
    row = found["ours", "all", "all"]
    assert (row["problems"], row["attempts"]) == (2, 4)
    assert row["accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert row["standard_error"] == pytest.approx(statistics.stdev([1, 0.5]) / math.sqrt(2))
    assert row["mean_tokens"] == pytest.approx((20 + 200) / 2)
    assert row["tokens_standard_error"] == pytest.approx(statistics.stdev([20, 200]) / math.sqrt(2))
    assert row["cut_off_share"] == 0.25
    assert found["gsm8k", "all", "all"]["standard_error"] is None  # of one problem
    assert [group for name, by, group in found if by == "level"] == ["2", "10"]
    assert found["ours", "concept", "primes"]["problems"] == 2  # whatever the case, and once a problem
    assert found["ours", "concept", "sums"]["accuracy"] == 1


def test_tokens_may_be_of_another_solver():
    others = [attempt("o1", 0, False, 1000), attempt("o2", 0, False, 3000)]
    (row, *_) = difficulty.statistics(SETS, {"ours": OURS}, {"ours": others})
    assert (row["accuracy"], row["mean_tokens"]) == (0.75, 2000)


def test_figures_have_a_row_for_each_set_level_and_concept():
    attempts = {"ours": OURS, "gsm8k": GSM8K}
    made = {one.name: one for one in difficulty.figures_of(SETS, attempts, attempts)}
    assert list(made) == ["difficulty", "difficulty_levels", "difficulty_concepts"]
    assert [row["set"] for row in made["difficulty"].rows] == ["ours", "gsm8k"]
    assert [row["group"] for row in made["difficulty_levels"].rows] == ["2", "10"]
    assert made["difficulty"].caption.endswith("which makes the mean too small: ours 25.0%.")


def test_concepts_are_counted_over_what_was_attempted():
    """Of the most common ones, where most problems were not attempted."""
    others = [SetRow(id=f"n{i}", problem="x", concepts=(f"rare {i}",) * 2) for i in range(40)]
    named = [SetRow(id=f"m{i}", problem="x", concepts=("never", f"common {i % 12}")) for i in range(48)]
    attempts = {"ours": OURS}
    sets = {"ours": [*others, *named, *SETS["ours"]]}
    made = {one.name: one for one in difficulty.figures_of(sets, attempts, attempts)}
    assert [row["group"] for row in made["difficulty_concepts"].rows] == ["primes", "sums"]
    assert made["difficulty_concepts"].caption.endswith("the 2 most common concepts.")
    bare = {"ours": [*named, SetRow(id="o1", problem="x"), SetRow(id="o2", problem="x")]}
    assert [one.name for one in difficulty.figures_of(bare, attempts, attempts)] == ["difficulty"]


def test_the_caption_does_not_say_of_unknown_tokens_that_none_was_cut_off():
    attempts = {"ours": OURS, "gsm8k": GSM8K}

    def caption(tokens):
        return difficulty.figures_of(SETS, attempts, tokens)[0].caption.rpartition("answer; ")[2]

    assert caption({"gsm8k": GSM8K}) == (
        "TOKEN_ATTEMPTS has none of ours, whose tokens are not known; of the others none was cut off."
    )
    assert caption({"ours": OURS}) == (
        "TOKEN_ATTEMPTS has none of gsm8k, whose tokens are not known; cut off at the limit, which makes "
        "the mean too small: ours 25.0%."
    )
    assert caption({}) == "TOKEN_ATTEMPTS has none of ours, gsm8k, whose tokens are not known."
    whole = {name: [one for one in own if one.finish_reason == "stop"] for name, own in attempts.items()}
    assert caption(whole) == "none was cut off."


def test_attempts_go_to_the_sets_that_hold_their_problems(tmp_path):
    path = str(tmp_path / "attempts.jsonl")
    jsonl.write_records(path, [*OURS, *GSM8K, attempt("elsewhere", 0, True, 1)])
    assert difficulty.read_attempts(path, SETS) == {"ours": OURS, "gsm8k": GSM8K}


def test_attempts_that_do_not_fit_are_refused(tmp_path):
    ours, gsm8k = str(tmp_path / "ours.jsonl"), str(tmp_path / "gsm8k.jsonl")
    jsonl.write_records(ours, OURS)
    jsonl.write_records(gsm8k, [])
    with pytest.raises(NoRecords, match="run 'promptcot evaluate'"):
        difficulty.read_attempts(str(tmp_path / "none.jsonl"), SETS)
    with pytest.raises(WrongUse, match="no attempt at a problem of the set 'gsm8k'"):
        difficulty.read_attempts(ours, SETS)
    with pytest.raises(
        WrongUse, match="4 attempts at problems that the set 'gsm8k' does not have, e.g. 'o1'"
    ):
        difficulty.read_attempts({"gsm8k": ours}, SETS)
    with pytest.raises(WrongUse, match="'other', which is no set; SETS has ours, gsm8k"):
        difficulty.read_attempts({"other": ours}, SETS)
    with pytest.raises(WrongUse, match="no attempts in it"):
        difficulty.read_attempts({"gsm8k": gsm8k}, SETS)
    with pytest.raises(WrongUse, match="both have a problem with id 'g1'"):
        difficulty.read_attempts(ours, SETS | {"again": SETS["gsm8k"]})
