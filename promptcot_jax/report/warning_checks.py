"""What a reader must know before quoting a figure of the run: each check looks at the stages' own records.

A threshold is where a figure begins to say something else than it seems to; it is no proof that the run is
bad, and passing all of them none that it is good.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.objectives import paired
from promptcot_jax.report import page, paper, run_sections, workdir_files
from promptcot_jax.report.page import label, number
from promptcot_jax.verify import problem_accuracy

FEW_PROBLEMS = 200  # fewer: the 95 % interval of an accuracy of a half is wider than +- 7 points
_CUT_OFF = 0.02
_NO_ANSWER = 0.1
_GRADER_FAILED = 0.01
_CLOSE = 0.5
_COLLAPSED = 0.2  # as EM warns of itself
_SKIPPED = 0.05
_SAME_GROUPS = 0.5
_SHORT_WINS = -0.5
_LOST_HALF = 0.5
_LAST_ITERATIONS = 10
_COUNTED = (  # part of a count's name, what so many of them are; beside rows that a filter is meant to drop
    ("bad_", "bad rows left out"),
    ("sandbox_errors", "runs in which the sandbox itself failed"),
    ("sandbox_failed", "problems lost to faults of the sandbox, which says nothing of them"),
    ("skipped_updates", "updates left out since gradient or loss was not finite"),
    ("skipped_pairs", "pairs skipped since none of their rationales was valid"),
    ("m_step_skipped", "pairs without a rationale for the M-step"),
    ("overlong", "rows left out as too long for the row length"),
    ("dropped_too_long", "rows left out as too long for the model"),
)
_FILTERED = ("synthesize",)  # whose `dropped_too_long` is its limit of words


def warnings(workdir: epath.Path) -> dict[str, Any]:
    """Sentences by what they concern."""
    found = {}
    for subject, check in _CHECKS.items():
        try:
            sentences = list(check(workdir))
        except (WrongUse, TypeError, ValueError, AttributeError, KeyError) as error:
            sentences = [f"This could not be looked at: {error}"]
        if sentences:
            found[subject] = sentences
    return {"found": found}


def _of_stages(workdir: epath.Path) -> Iterator[str]:
    """Stages that are not done, what they left out, and time that nobody counted."""
    entries = run_sections.entries_in_order(workdir)
    for entry in entries:
        name, counts = label(entry.stage), entry.counts
        if entry.status != "complete":
            yield f"{name} has not finished: its figures are of what it has written so far, or of none."
        untimed = entry.attempts - entry.timed_attempts - (entry.status != "complete")
        if untimed > 0:
            yield (
                f"{name}: {untimed} of {entry.attempts} attempts were killed outright, and their time and "
                "cost are not counted."
            )
        for part, said in _COUNTED:
            total = sum(count for field, count in counts.items() if part in field)
            if total and not (part == "dropped_too_long" and entry.stage in _FILTERED):
                yield f"{name}: {said}: {number(total)}."
        if counts.get("in", 0) and "out" in counts and counts["out"] < _LOST_HALF * counts["in"]:
            share = 1 - counts["out"] / counts["in"]
            selection = f"left out {share:.0%} of its rows; what it kept is a selection"
            yield f"{name} {selection if counts['out'] else 'kept none of its rows'}."
        if counts.get("weak_sandbox"):
            yield f"{name} ran programs without isolation (ALLOW_WEAK_SANDBOX): they could have cheated."
    yield from _of_versions(entries)


def _of_versions(entries: Sequence[Any]) -> Iterator[str]:
    seen: dict[str, set[str]] = {}
    for entry in entries:
        for name, version in entry.versions.items():
            seen.setdefault(name, set()).add(version)
    if mixed := sorted(name for name, versions in seen.items() if len(versions) > 1):
        yield f"Stages ran with different versions of {', '.join(mixed)}."
    kinds = {use.kind for entry in entries for use in entry.devices}
    if len(kinds) > 1:
        yield f"Stages ran on different devices ({', '.join(sorted(kinds))}), which round differently."


def _of_data(workdir: epath.Path) -> Iterator[str]:
    """Few triples, replies that were cut off, votes that tied, targets that were not reached."""
    if warning := workdir_files.document(workdir / "annotate" / "report.json").get("warning"):
        yield f"Annotation: {warning}"
    verify = workdir_files.document(workdir / "verify" / "report.json")
    votes = verify.get("votes") or {}
    if votes.get("tied"):
        yield f"Verification: the votes on {number(votes['tied'])} problems tied."
    if lost := (verify.get("tests") or {}).get("lost_runs"):
        yield f"Verification: the sandbox failed in {number(lost)} runs of programs."
    for stage, replies in _replies(workdir, verify):
        total = sum(replies.get(name, 0) for name in ("stop", "length", "filtered", "too_long", "malformed"))
        cut = replies.get("length", 0)
        if total and cut / total > _CUT_OFF:
            yield f"{stage}: {cut / total:.1%} of the replies were cut off by their budget of tokens."
    target = workdir_files.settings(workdir, "synthesize").get("synthesize.batches.target") or 0
    entries = {entry.stage: entry for entry in run_sections.entries_in_order(workdir)}
    written = entries["synthesize"].counts.get("out") if "synthesize" in entries else None
    if written is not None and written < target:
        yield (
            f"Synthesis kept {written:,} of the {target:,} problems asked for: MAX_CONCEPT_SETS or its "
            "concepts were at an end."
        )


def _replies(workdir: epath.Path, verify: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Ends of a model's replies, by stage."""
    for name, own in (verify.get("replies") or {}).items():
        yield f"Verification, {label(name)}", own
    yield "Distillation", workdir_files.document(workdir / "distill" / "report.json").get("replies") or {}


def _of_em(workdir: epath.Path) -> Iterator[str]:
    """Choices of little meaning, skipped pairs, cut-offs, short winners, collapse, rounds at their limit."""
    rows = [row for row in workdir_files.rows(workdir / "em" / "diagnostics.jsonl") if "reward_mean" in row]
    for field, limit, said in (
        (
            "close_share",
            _CLOSE,
            "of the choices were nearly even: the best two within 0.5 nats of R",
        ),
        ("unfinished_share", _CUT_OFF, "of the rationales were cut off by their budget of tokens"),
    ):
        worst = max(rows, key=lambda row: row.get(field) or 0.0, default={})
        if (worst.get(field) or 0.0) > limit:
            yield f"Round {worst['round']}: {worst[field]:.1%} {said}."
    for row in rows:
        if row.get("pairs") and row.get("skipped_pairs", 0) / row["pairs"] > _SKIPPED:
            share = row["skipped_pairs"] / row["pairs"]
            yield f"Round {row['round']}: {share:.1%} of the pairs had no valid rationale and were skipped."
    distinct = [(row["distinct_rationales"], row) for row in rows if "distinct_rationales" in row]
    share, least = min(distinct, key=lambda found: found[0], default=(1.0, {}))
    if share < _COLLAPSED:
        yield (
            f"Round {least['round']}: only {share:.1%} of a pair's further rationales differed, so that R "
            "had next to nothing to choose from: q\u03c6 has collapsed. EM_TEMPERATURE, "
            "EM_COLD_SAMPLES or EM_NUM_WINNERS may be too low, EM_LEARNING_RATE or MAX_ROUNDS too high."
        )
    if rows:
        last = rows[-1]
        if (last.get("reward_length_correlation") or 0.0) < _SHORT_WINS:
            correlation = number(last["reward_length_correlation"])
            yield f"Last round: short rationales win (correlation of R with length {correlation})."
        if (last.get("effective_samples") or 9.0) < 1.2:
            yield "Last round: one sample carries nearly all the importance weight, so the bound is loose."
    yield from _of_rounds(workdir)


def _of_rounds(workdir: epath.Path) -> Iterator[str]:
    rounds = workdir_files.rows(workdir / "em" / "nll.jsonl")
    settings = workdir_files.settings(workdir, "em")
    first, last = (rounds[0], rounds[-1]) if rounds else ({}, {})
    gap, before = last.get("z_gap"), first.get("z_gap")
    share = settings.get("em.em_config.z_gap_share", 0.7)
    floor = paired.CONFIDENT * (last.get("z_gap_error") or 0.0)
    if gap is not None and (gap <= floor or (before is not None and gap < share * before)):
        cold = last.get("z_gap_cold")
        with_cold = "" if cold is None else f", {number(cold)} with those of the cold start"
        yield (
            f"At the end q\u03c6\u2019s rationales are worth little to p\u03b8 (z gap {number(gap)} nats a "
            f"token of x{with_cold}): they say less of x, or p\u03b8 ignores them, which no bound shows."
        )
    bounds = [row["nll_bound"] for row in rounds if row.get("nll_bound") is not None]
    limit = settings.get("em.em_config.max_rounds")
    fell = last.get("bound_change", -1.0) + last.get("bound_change_half_width", 0.0) < 0
    if limit and len(rounds) > limit and len(bounds) > 1 and min(bounds) == bounds[-1] and fell:
        rounds_told = "1 round" if limit == 1 else f"{limit} rounds"
        yield f"EM ended at its limit of {rounds_told} while the held-out bound was still falling."
    if len(rounds) > 1 and last.get("best_round", 0) < 0:
        yield (
            "After the last EM round the held-out bound is surely above the cold start\u2019s, and lower in "
            "no other: synthesize takes the cold-started p\u03b8."
        )


def _of_self_play(workdir: epath.Path) -> Iterator[str]:
    """Cut-offs, ungraded completions, prompts without contrast, iterations that were not made."""
    rows = workdir_files.rows(workdir / "self_play" / "metrics.jsonl")
    rows = [row for row in rows if row.get("step")]  # without the evaluation before the first iteration
    last = rows[-_LAST_ITERATIONS:]
    for field, limit, said in (
        ("completions/clipped_ratio", _CUT_OFF, "of the completions were cut off by their budget of tokens"),
        ("reward/ungraded", _GRADER_FAILED, "of the completions could not be graded and taught nothing"),
        (
            "frac_reward_zero_std",
            _SAME_GROUPS,
            "of the prompts were all right or all wrong and taught nothing",
        ),
    ):
        values = [row[field] for row in last if isinstance(row.get(field), int | float)]
        if values and sum(values) / len(values) > limit:
            yield f"{sum(values) / len(values):.1%} {said}, in the last {len(values)} iterations."
    wanted = workdir_files.settings(workdir, "self_play").get("self_play.config.num_iterations")
    if rows and wanted and len(rows) < wanted:
        yield f"{len(rows)} of {wanted} iterations were made: it stopped at its goal, or has not finished."
    if rows and rows[-1].get("num_skipped"):
        yield f"Updates left out since gradient or loss was not finite: {rows[-1]['num_skipped']}."


def _of_results(workdir: epath.Path) -> Iterator[str]:
    """Few problems, attempts cut off or without answer, problems that were not graded, weak isolation."""
    for name, result in workdir_files.results(workdir).items():
        problems = result.get("problems") or 0
        if 0 < problems < FEW_PROBLEMS:
            bounds = page.interval(result.get("interval"))
            range_told = f" (95 % interval {bounds} %)" if bounds else ""
            yield f"{name}: {problems} problems are few{range_told}; small differences mean nothing."
        if (result.get("cut_off_share") or 0.0) > _CUT_OFF:
            yield (
                f"{name}: {result['cut_off_share']:.1%} of the attempts were cut off by their budget of "
                "tokens, and count as what they had written so far."
            )
        if (result.get("no_answer_share") or 0.0) > _NO_ANSWER:
            yield f"{name}: {result['no_answer_share']:.1%} of the attempts gave no readable answer."
        if result.get("not_graded"):
            why = f": {result['not_graded_reason']}" if result.get("not_graded_reason") else ""
            yield f"{name}: {number(result['not_graded'])} problems were not graded{why}."
        if result.get("sandbox") == "weak":
            yield f"{name}: programs ran without isolation, and could have cheated."
        yield from _of_statuses(name, result.get("status_shares") or {})
        benchmark = paper.benchmark_of(name)
        if benchmark and problems and problems != benchmark.problems:
            said = f"the paper\u2019s {benchmark.label} has {benchmark.problems}"
            yield f"{name} has {problems} problems here; {said}."


def _of_statuses(name: str, shares: Mapping[str, float]) -> Iterator[str]:
    """How attempts at a set ended other than right or wrong."""
    failed = sum(shares.get(status, 0.0) for status in problem_accuracy.NOT_GRADED)
    if failed > _GRADER_FAILED:
        yield f"{name}: on {failed:.1%} of the attempts the grader or the server failed; they do not count."
    for status, said in (
        ("timeout", "were stopped at a time limit: programs too slow, or answers too hard to compare"),
        ("too_long", "had no room, as the prompt fills the model's context"),
        ("filtered", "were held back by the server"),
    ):
        if shares.get(status, 0.0) > _GRADER_FAILED:
            yield f"{name}: {shares[status]:.1%} of the attempts {said}; they count as wrong."


_CHECKS: Mapping[str, Callable[[epath.Path], Iterator[str]]] = {
    "Stages": _of_stages,
    "Data": _of_data,
    "EM": _of_em,
    "Self-play": _of_self_play,
    "Results": _of_results,
}
