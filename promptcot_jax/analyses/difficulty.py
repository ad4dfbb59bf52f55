"""How hard sets of problems are (the paper's section 4.3): a solver's accuracy, and tokens of reasoning.

The paper draws 1,000 problems a set, has a model solve them once, compares with the answers of a stronger
model and takes the tokens that this one wrote. No model runs here: `promptcot evaluate` makes the attempts,
with the model of choice as SOLVER and MAX_PROBLEMS = 1000, and this reads them. Tokens may come from other
attempts than accuracy does.
"""

import collections
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure

from promptcot_jax.analyses import figures
from promptcot_jax.analyses.figures import AnalysisResult, NoRecords, counted
from promptcot_jax.analyses.problem_sets import ProblemSets, SetRow
from promptcot_jax.core import file_sets, jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptRecord
from promptcot_jax.verify import problem_accuracy

log = logging.getLogger(__name__)

NUM_CONCEPTS = 12  # the most common ones are shown
Attempts = Mapping[str, Sequence[AttemptRecord]]  # by set


def read_attempts(paths: str | Mapping[str, str], sets: ProblemSets) -> dict[str, list[AttemptRecord]]:
    """Attempts by set.

    Args:
        paths: a file for each set; or one file for all, whose attempts go to the sets that hold their
            problems.

    Raises:
        NoRecords: the one file is not there, leaves a set without any, or cannot tell two sets apart.
        WrongUse: a file is empty, or of those for each set one is missing, is of no set, or holds attempts at
            problems of another.
    """
    if isinstance(paths, str):
        if not file_sets.files_named(paths):
            raise NoRecords(
                f"{paths} is not there; run 'promptcot evaluate' on the sets, or name attempts with "
                "SET_ATTEMPTS."
            )
        return _shared_out(_read(paths), paths, sets)
    if unknown := sorted(paths.keys() - sets.keys()):
        raise WrongUse(
            f"SET_ATTEMPTS names '{unknown[0]}', which is no set; SETS has {', '.join(sets) or 'none'}."
        )
    found = {}
    for name, path in paths.items():
        found[name] = _read(path)
        ids = {row.id for row in sets[name]}
        if foreign := [one.problem_id for one in found[name] if one.problem_id not in ids]:
            raise WrongUse(
                f"{path}: {counted(len(foreign), 'attempt')} at problems that the set '{name}' does not "
                f"have, e.g. {foreign[0]!r}; name the file that was attempted in SETS, or other attempts in "
                "SET_ATTEMPTS."
            )
    return found


def _read(path: str) -> list[AttemptRecord]:
    found = jsonl.read_records(path, AttemptRecord)
    if not found:
        raise WrongUse(f"{path}: there are no attempts in it; run 'promptcot evaluate' again.")
    return found


def _shared_out(
    attempts: Iterable[AttemptRecord], path: str, sets: ProblemSets
) -> dict[str, list[AttemptRecord]]:
    set_of: dict[str, str] = {}
    for name, rows in sets.items():
        for row in rows:
            if set_of.setdefault(row.id, name) != name:
                raise NoRecords(
                    f"the sets '{set_of[row.id]}' and '{name}' both have a problem with id {row.id!r}, so "
                    f"{path} does not say whose attempts it has; give a file for each set: "
                    "SET_ATTEMPTS = {'one': 'path'}."
                )
    found: dict[str, list[AttemptRecord]] = {name: [] for name in sets}
    num_others = 0
    for attempt in attempts:
        if attempt.problem_id in set_of:
            found[set_of[attempt.problem_id]].append(attempt)
        else:
            num_others += 1
    if empty := [name for name, own in found.items() if not own]:
        raise NoRecords(
            f"{path}: no attempt at a problem of the set '{empty[0]}'; evaluate that set, name its attempts "
            "with SET_ATTEMPTS, or name the other sets alone with SETS."
        )
    if num_others:
        log.info("%s: %s at problems of no set passed over", path, counted(num_others, "attempt"))
    return found


def figures_of(sets: ProblemSets, attempts: Attempts, token_attempts: Attempts) -> list[AnalysisResult]:
    """Accuracy and tokens of each set, by level and by concept."""
    table = statistics(sets, attempts, token_attempts)
    most_common = _most_common_concepts(sets, attempts)
    results = [
        AnalysisResult(
            name="difficulty",
            title="Difficulty of the sets",
            caption=_caption(table, attempts, token_attempts),
            rows=[row for row in table if row["by"] == "all"],
            figure=_draw(table, "all", ["all"], list(attempts)),
        )
    ]
    for by, groups in (("level", _levels(table)), ("concept", most_common)):
        if groups := [group for group in groups if group]:
            results.append(
                AnalysisResult(
                    name=f"difficulty_{by}s",
                    title=f"Difficulty by {by}",
                    caption=f"As above, by {by}"
                    + (f"; the {len(groups)} most common concepts." if by == "concept" else "."),
                    rows=[row for row in table if row["by"] == by and row["group"] in groups],
                    figure=_draw(table, by, groups, list(attempts)),
                )
            )
    return results


def _most_common_concepts(sets: ProblemSets, attempts: Attempts) -> list[str]:
    """Of the problems that were attempted."""
    counts: collections.Counter[str] = collections.Counter()
    for name, own in attempts.items():
        ids = {attempt.problem_id for attempt in own}
        counts.update(concept for row in sets[name] if row.id in ids for concept in _concepts(row))
    return [concept for concept, _ in counts.most_common(NUM_CONCEPTS)]


def _caption(table: Sequence[Mapping[str, Any]], attempts: Attempts, token_attempts: Attempts) -> str:
    of_all = {row["set"]: row for row in table if row["by"] == "all"}
    numbers = ", ".join(f"{name} {row['problems']:,}" for name, row in of_all.items())
    other = "" if token_attempts is attempts else " of other attempts than accuracy (TOKEN_ATTEMPTS)"
    return (
        f"Mean over problems with its standard error; problems attempted: {numbers}. Tokens are those of a "
        f"whole completion{other}, thinking and answer; "
        f"{_cut_off({name: row['cut_off_share'] for name, row in of_all.items()})}."
    )


def _cut_off(shares: Mapping[str, float | None]) -> str:
    """Which share of each set's completions was cut off; None: none of its tokens are known."""
    cut = [f"{name} {share:.1%}" for name, share in shares.items() if share]
    unknown = [name for name, share in shares.items() if share is None]
    parts = (
        [f"TOKEN_ATTEMPTS has none of {', '.join(unknown)}, whose tokens are not known"] if unknown else []
    )
    if cut:
        parts.append(f"cut off at the limit, which makes the mean too small: {', '.join(cut)}")
    elif len(unknown) < len(shares):
        parts.append("of the others none was cut off" if unknown else "none was cut off")
    return "; ".join(parts)


def statistics(sets: ProblemSets, attempts: Attempts, token_attempts: Attempts) -> list[dict[str, Any]]:
    """Accuracy and tokens with standard errors over problems, of all of a set, by level and by concept."""
    table = []
    for name, own in attempts.items():
        rows = {row.id: row for row in sets[name]}
        groupings: dict[str, Callable[[SetRow], Sequence[str]]] = {
            "all": lambda _: ("all",),
            "level": lambda row: (row.level,) if row.level else (),
            "concept": _concepts,
        }
        for by, groups_of in groupings.items():
            solved, written = (
                _by_group(some, rows, groups_of) for some in (own, token_attempts.get(name, ()))
            )
            for group in sorted(solved, key=_natural):
                table.append(
                    {
                        "set": name,
                        "by": by,
                        "group": group,
                        **_measured(solved[group], written.get(group, ())),
                    }
                )
    return table


def _concepts(row: SetRow) -> tuple[str, ...]:
    return tuple(dict.fromkeys(concept.casefold() for concept in row.concepts))


def _by_group(
    attempts: Iterable[AttemptRecord],
    rows: Mapping[str, SetRow],
    groups_of: Callable[[SetRow], Sequence[str]],
) -> dict[str, list[AttemptRecord]]:
    groups: dict[str, list[AttemptRecord]] = collections.defaultdict(list)
    for attempt in attempts:
        for group in groups_of(rows[attempt.problem_id]):
            groups[group].append(attempt)
    return groups


def _measured(solved: Sequence[AttemptRecord], written: Sequence[AttemptRecord]) -> dict[str, Any]:
    by_problem: dict[str, list[int]] = collections.defaultdict(list)
    for attempt in written:
        by_problem[attempt.problem_id].append(attempt.num_tokens)
    tokens, error = mean_and_error([float(np.mean(own)) for own in by_problem.values()])
    return {
        "problems": len({attempt.problem_id for attempt in solved}),
        "attempts": len(solved),
        **problem_accuracy.over_problems(solved),
        "mean_tokens": tokens,
        "tokens_standard_error": error,
        "cut_off_share": float(np.mean([one.finish_reason == "length" for one in written]))
        if written
        else None,
    }


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and its standard error; None where they are not defined."""
    if not values:
        return None, None
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return float(np.mean(values)), error


def _levels(table: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({row["group"] for row in table if row["by"] == "level"}, key=_natural)


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers by size, then words."""
    return (0, float(name), "") if name.isdecimal() else (1, 0.0, name)


@figures.drawing()
def _draw(
    table: Sequence[Mapping[str, Any]], by: str, groups: Sequence[str], names: Sequence[str]
) -> mpl_figure.Figure:
    """Accuracy and tokens side by side: a row for each set, or for each group with a point for each set."""
    names = [name for name in names if any((row["set"], row["by"]) == (name, by) for row in table)]
    cells = {(row["set"], row["group"]): row for row in table if row["by"] == by}
    labels = list(names) if by == "all" else list(groups)
    figure = figures.blank(
        figures.WIDTH, 1.3 + 0.36 * len(labels) * (1 if by == "all" else 0.7 + 0.3 * len(names))
    )
    left, right = figure.subplots(1, 2, sharey=True)
    if by == "all":
        rows_of = {"all": [cells[name, "all"] for name in names]}
    else:
        rows_of = {name: [cells.get((name, group), {}) for group in groups] for name in names}
    _draw_points(left, labels, rows_of, "accuracy", "standard_error", "accuracy")
    _draw_points(right, labels, rows_of, "mean_tokens", "tokens_standard_error", "mean tokens of a solution")
    left.xaxis.set_major_formatter(figures.percent)
    if by != "all" and len(names) > 1:
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)
    return figure


def _draw_points(
    axes: mpl_axes.Axes,
    labels: Sequence[str],
    rows_of: Mapping[str, Sequence[Mapping[str, Any]]],
    value: str,
    error: str,
    title: str,
) -> None:
    """A point with its error for each label and series; `rows_of` has the rows of each series by label."""
    points = {name: [(row.get(value), row.get(error)) for row in rows] for name, rows in rows_of.items()}
    figures.points_with_errors(axes, labels, points)
    axes.set_title(title)
    axes.set_xlim(left=0)
