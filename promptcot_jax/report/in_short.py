"""The report's first screen: what a run came to, in sentences for a reader who knows none of its words.

Each figure is read from what a stage wrote; a stage that did not run has no sentence. Where a figure is bad,
the sentence is followed by why that may be and by the macro to change. A damaged file is left to its section.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from etils import epath

from promptcot_jax.core import jsonl, manifest
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptRecord
from promptcot_jax.evaluation import comparing
from promptcot_jax.report import in_short_samples, workdir_files
from promptcot_jax.report.page import MINUS, at, number, percent
from promptcot_jax.report.workdir_files import Missing, Row

T = TypeVar("T")

FEW_WELL_POSED, FEW_VERIFIED, FEW_RIGHT = 0.9, 1 / 3, 0.95  # below these the page says what to change
LONGER = 1.25  # times as long after self-play: the page says what that may mean
_NUM_SETS = 3  # of results that have a sentence
_EVALUATIONS = ("self_play", "evaluations")

ILL_POSED = (
    "That is low. The prompt model may have learned too little of what a problem must say (raise "
    "COLD_START_EPOCHS or NUM_TRAIN), or its texts may be drawn too freely (lower PROBLEM_TEMPERATURE)."
)
UNVERIFIED = (
    "That is low. The solver may be too weak for its votes to agree (name a better one with VOTER), may "
    "run out of tokens (raise MAX_VOTE_TOKENS), or be asked to agree too well (lower MIN_AGREEMENT)."
)
WRONG_LABELS = (
    "That is low: self-play would learn from wrong answers. Ask for more agreement (raise MIN_AGREEMENT "
    "or VOTE_GROUP_SIZE), or for a better solver (VOTER)."
)
NOT_BETTER = (
    "So no gain is shown. Self-play may have been too short or too careful (raise NUM_ITERATIONS or "
    "SELF_PLAY_LEARNING_RATE), or there were too few attempts to tell (raise EVAL_SAMPLES or NUM_HELDOUT)."
)
WORSE = (
    "So self-play did harm. Its steps may be too large (lower SELF_PLAY_LEARNING_RATE), or its labels wrong "
    "(raise MIN_AGREEMENT); KEEP_BEST keeps the best policy instead of the last."
)
NO_GAIN_OF_EM = (
    "So no gain by EM is shown. Its steps may be too small or its pairs too few (raise EM_LEARNING_RATE or "
    "EM_PAIRS_PER_ROUND), or too few held-out problems were measured to tell (raise HELD_OUT_BOUND_PAIRS)."
)
LOSS_BY_EM = (
    "So EM did harm. Its steps may be too large (lower EM_LEARNING_RATE), or the same pairs come too often "
    "(set EM_PAIRS_PER_ROUND, for fresh ones)."
)
NOT_TOLD = "Whether that is a gain cannot be told: too few samples carry the bound (raise HELD_OUT_SAMPLES)."


@dataclasses.dataclass(frozen=True)
class Point:
    """A sentence, and where its figure is bad, what to change."""

    text: str
    advice: str = ""


def has_figures(workdir: epath.Path) -> bool:
    """Whether a stage has left anything that the first screen could say."""
    rows = (workdir / "problems.jsonl", workdir / "verified_prompts.jsonl")
    files = (workdir / "results.json", workdir.joinpath(*_EVALUATIONS))
    if any(map(workdir_files.exists, rows)) or any(path.exists() for path in files):
        return True
    return len(workdir_files.rows(workdir / "em" / "nll.jsonl")) > 1


def in_short(workdir: epath.Path) -> dict[str, Any]:
    """Sentences in the order of the flow, and five problems to read."""
    points: list[Point] = []
    for part in (_problems, _verified, _solver, _likelihoods):
        points += _unless_damaged(part, workdir)
    is_own_corpus = bool(_unless_damaged(_counted_exactly, workdir))
    samples = _unless_damaged(lambda place: in_short_samples.choose(place, is_own_corpus), workdir)
    if not points and not samples:
        raise Missing("No stage has come to a figure yet.")
    return {"points": points, "samples": samples}


def _unless_damaged(part: Callable[[epath.Path], Iterable[T]], workdir: epath.Path) -> list[T]:
    """What a part gives until it meets a fault, which the section of the file in question names."""
    found: list[T] = []
    with contextlib.suppress(WrongUse, TypeError, ValueError, AttributeError, KeyError):
        for one in part(workdir):
            found.append(one)
    return found


def _counted_exactly(workdir: epath.Path) -> dict[tuple[str, str], Row]:
    """The rows of the analysis `well_posed` by set and figure; empty of a run on another corpus."""
    entries = at(workdir_files.document(workdir / "analyses" / "index.json"), "analyses")
    (made, *_) = at(entries, "well_posed").get("made") or [{}]
    rows = [dict(zip(made["header"], row, strict=True)) for row in made.get("rows", ())]
    return {(row["set"], row["figure"]): row for row in rows}


def _problems(workdir: epath.Path) -> Iterator[Point]:
    """How many problems were written, how many are sound, and how many are new."""
    counts = _counts(workdir, "synthesize")
    written = counts.get("out")
    if written is None and workdir_files.exists(workdir / "problems.jsonl"):
        written = workdir_files.count_rows(workdir / "problems.jsonl")
    if written is None:
        return
    drafts = f", from {_counted(counts['in'], 'draft')}; rules refused the others" if "in" in counts else ""
    yield Point(f"The prompt model wrote {_counted(written, 'new problem')}{drafts}.")
    exact = _counted_exactly(workdir)
    sound = exact.get(("problems", "well_posed"), {})
    if sound.get("value") is None:
        return
    yield Point(
        f"{_share(sound)} are well-posed: a program that knows the corpus could read and solve them.",
        ILL_POSED if sound["value"] < FEW_WELL_POSED else "",
    )
    asked = exact.get(("problems", "own_concepts"), {})
    if asked.get("value") is not None:
        yield Point(f"{_share(asked)} are about the first concept of the list that they were written from.")
    numbers, pairs = (exact.get(("problems", name), {}) for name in ("new_numbers", "new_pairs"))
    if numbers.get("value") is not None and pairs.get("value") is not None:
        yield Point(
            f"Of the well-posed problems {percent(numbers['value'])} have numbers that no training "
            f"problem of this run has, and {percent(pairs['value'])} ask a kind of question that their "
            "topic never has in training."
        )


def _verified(workdir: epath.Path) -> Iterator[Point]:
    """How many problems got an answer, and how many of these answers are right."""
    counts = _counts(workdir, "verify")
    if counts.get("in") and "out" in counts:
        share = counts["out"] / counts["in"]
        yield Point(
            f"{number(counts['out'])} of {_counted(counts['in'], 'problem')} ({percent(share)}) got a "
            "verified answer: one that enough of the solver\u2019s own solutions agree on, or tests that its "
            "programs agree on.",
            UNVERIFIED if share < FEW_VERIFIED else "",
        )
    labels = _counted_exactly(workdir).get(("verified_prompts", "right_labels"), {})
    if labels.get("value") is not None:
        yield Point(
            f"Of the answers that an exact solver can check, {_share(labels)} are right.",
            WRONG_LABELS if labels["value"] < FEW_RIGHT else "",
        )


def _solver(workdir: epath.Path) -> Iterator[Point]:
    """What self-play did to the solver on problems it never trained on; without that, how good it is."""
    if point := _before_and_after(workdir) or _compared(workdir):
        yield point
        return
    for name, result in list(workdir_files.results(workdir).items())[:_NUM_SETS]:
        if result.get("accuracy") is not None:
            told = f" ({_interval(result['interval'])})" if result.get("interval") else ""
            problems = _counted(result.get("problems") or 0, "problem")
            yield Point(f"The solver solves {percent(result['accuracy'])}{told} of {problems} of {name}.")


def _before_and_after(workdir: epath.Path) -> Point | None:
    """Of the evaluations that self-play makes: the first, and that of the policy which was kept."""
    directory = workdir.joinpath(*_EVALUATIONS)
    found = sorted(directory.glob("step_*.jsonl")) if directory.exists() else []
    steps = {int(path.name.removeprefix("step_").removesuffix(".jsonl")): path for path in found}
    if len(steps) < 2:
        return None
    counts = _counts(workdir, "self_play")
    kept = counts.get("policy_of_iteration", max(steps))
    if kept not in steps:
        return None
    if kept == min(steps):  # chosen by KEEP_BEST
        return Point(
            "Self-play kept the solver as it began: by the figure that KEEP_BEST names, none of its "
            f"{len(steps) - 1} later evaluations on held-out problems was better.",
            NOT_BETTER,
        )
    first, second = (jsonl.read_file(steps[step], AttemptRecord) for step in (min(steps), kept))
    one = comparing.compare([first], [second])
    attempts = _counted(round(len(first) / one.num_problems), "attempt")
    before, after = (round(sum(row.num_tokens for row in rows) / len(rows)) for rows in (first, second))
    when = "after it" if "iterations" in counts else f"after {_counted(kept, 'iteration')} of it"
    text = (
        f"On {_counted(one.num_problems, 'held-out problem')} ({attempts} at each) the solver\u2019s share "
        f"of right attempts went from {percent(one.first)} before self-play to {percent(one.second)} "
        f"{when}: {_points(one.difference, one.interval)}. An attempt has {number(after)} tokens on average, "
        f"before self-play {number(before)}."
    )
    if after > LONGER * before and one.difference > 0 and not one.is_within_noise:
        text += " So a part of the gain, or all, may be that it writes out more of its work."
    if "policy_of_iteration" in counts:
        text += (
            f" It is what KEEP_BEST chose of {len(steps)} evaluations on these problems, which flatters it."
        )
    advice = NOT_BETTER if one.is_within_noise else WORSE if one.difference < 0 else ""
    return Point(text, advice)


def _compared(workdir: epath.Path) -> Point | None:
    """What `promptcot compare` found, in a workdir of self-play that made no evaluations of its own."""
    directory = workdir / "comparisons"
    for path in sorted(directory.glob("*.json")) if directory.exists() else []:
        one = workdir_files.document(path)
        text = (
            f"On {_counted(one['num_problems'], 'problem')} the solver\u2019s accuracy is "
            f"{percent(one['second'])} ({_names(one['other'])}) beside {percent(one['first'])} "
            f"({_names(one['baseline'])}): {_points(one['difference'], one['interval'])}."
        )
        return Point(text, _of_difference(one["interval"]) if _counts(workdir, "self_play") else "")
    return None


def _names(paths: list[str]) -> str:
    return ", ".join(os.path.basename(os.path.normpath(path)) for path in paths)


def _of_difference(interval: Any) -> str:
    low, high = interval
    return WORSE if high < 0 else NOT_BETTER if low <= 0 else ""


def _points(difference: float, interval: Any) -> str:
    """A difference of shares in points of percent."""
    low, high = (_signed(100 * end, 1) for end in interval)
    return f"{_signed(100 * difference, 1)} points (paired 95 % interval {low} to {high})"


def _likelihoods(workdir: epath.Path) -> Iterator[Point]:
    """What EM did to the held-out likelihoods, in the round that is used."""
    first, *rounds = workdir_files.rows(workdir / "em" / "nll.jsonl") or [{}]
    if not rounds:
        return
    if rounds[-1].get("best_round") == -1:
        yield Point(
            "After no round of EM were held-out problems surely likelier: the cold start is used.", LOSS_BY_EM
        )
        return
    best = next((row for row in rounds if row["round"] == rounds[-1].get("best_round")), rounds[-1])
    before, after = first.get("nll_bound"), best.get("nll_bound")
    if before is None or after is None:
        return
    change, reach = best.get("bound_change"), best.get("bound_change_half_width")
    told, advice = "", NOT_TOLD
    if change is not None and reach is not None:
        of = f" over {_counted(best['bound_pairs'], 'problem')}" if "bound_pairs" in best else ""
        told = f" (change {_signed(change, 4)} \u00b1 {reach:.4f}, a 95 % interval{of})"
        advice = LOSS_BY_EM if change > reach else NO_GAIN_OF_EM if change + reach >= 0 else ""
    given, given_after = first.get("nll_x_given_q"), best.get("nll_x_given_q")
    rationale = (
        f"; when shown a rationale, from {number(given)} to {number(given_after)}"
        if given is not None and given_after is not None
        else ""
    )
    yield Point(
        "By EM, which updates rationales and prompt model in turn, the prompt model\u2019s surprise at "
        "held-out problems (an upper bound on \u2212log p, nats per token; lower is better) went from "
        f"{number(before)} to {number(after)}{told}{rationale}.",
        advice,
    )


def _counts(workdir: epath.Path, stage: str) -> Mapping[str, int]:
    entry = manifest.read(workdir).get(stage)
    return entry.counts if entry is not None else {}


def _counted(count: int, noun: str) -> str:
    return f"{number(count)} {noun if count == 1 else noun + 's'}"


def _share(row: Row) -> str:
    """Such as "187 of 201 (93.0%; 95 % interval 88.6% to 95.8%)"."""
    of = f"{number(row['count'])} of {number(row['of'])}"
    return f"{of} ({percent(row['value'])}; {_interval((row['low'], row['high']))})"


def _interval(bounds: Sequence[float]) -> str:
    low, high = map(percent, bounds)
    return f"95 % interval {low} to {high}"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", MINUS)
