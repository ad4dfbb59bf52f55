"""How many synthesized problems are sound, and how many of their labels right: of runs on the seed corpus.

No model judges here. `corpus.oracle` reads a statement back to the family, the ending and the numbers that it
was made of, and solves it exactly. What it cannot read counts as not well-posed, so that these shares are
lower bounds. Rates that the paper can only estimate, by models and by people, are counted here. A problem of
another corpus, however good, cannot be read: there the analysis is left out.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import figure as mpl_figure

from promptcot_jax.analyses import figures
from promptcot_jax.analyses.figures import AnalysisResult, NoRecords, counted
from promptcot_jax.analyses.problem_sets import SetRow
from promptcot_jax.core.records import Triple
from promptcot_jax.corpus import generator, oracle
from promptcot_jax.corpus.oracle import Reading
from promptcot_jax.verify import math_answers, problem_accuracy

NAME = "well_posed"
PROBLEMS, VERIFIED, TRIPLES = "problems", "verified_prompts", "triples"  # the sets, and their files
_WORDS = {  # figure -> what it is
    "well_posed": "well-posed",
    "new_numbers": "with numbers that no training row has",
    "new_pairs": "with a pair of concepts that no training row has",
    "own_concepts": "about the leading concept that was asked for",
    "right_labels": "with the right label",
    "mean_level": "mean level",
}
_LEVEL = "mean_level"  # the only figure that is no share

Read = Callable[[str], Reading | None]


def is_own_corpus(triples: Sequence[Triple]) -> bool:
    """Whether all training rows name a family of the project's own seed corpus."""
    return bool(triples) and {row.family for row in triples} <= generator.families().keys()


def numbers(
    triples: Sequence[Triple],
    problems: Sequence[SetRow],
    verified: Sequence[SetRow],
    *,
    read: Read = oracle.read,
) -> list[dict[str, Any]] | None:
    """Every figure of a run, each with its count; None of a run that is not on the seed corpus.

    A share is `value` = `count` / `of`, between `low` and `high`: Wilson's interval at 95 %. Of nothing it is
    None. What is new, and what is about its own concepts, are shares of the well-posed problems; right labels
    are shares of those well-posed prompts that have an answer (programs have tests).
    """
    if not is_own_corpus(triples):
        return None
    trained = _read_all(triples, read)
    rows = [_share(TRIPLES, "well_posed", len(trained), len(triples)), _mean_level(TRIPLES, trained)]
    if problems:
        rows += _of_problems(_read_all(problems, read), len(problems), trained)
    if verified:
        rows += _of_verified(_read_all(verified, read), len(verified))
    return rows


def _read_all(rows: Iterable[Any], read: Read) -> list[tuple[Any, Reading]]:
    """The rows that can be read, each with what it says."""
    readings = ((row, read(row.problem)) for row in rows)
    return [(row, reading) for row, reading in readings if reading is not None]


def _of_problems(
    found: Sequence[tuple[SetRow, Reading]], num_rows: int, trained: Sequence[tuple[Triple, Reading]]
) -> Iterator[dict[str, Any]]:
    known_numbers = {_numbers_of(reading) for _, reading in trained}
    known_pairs = {(reading.family, reading.ending) for _, reading in trained}
    counts = {
        "new_numbers": sum(_numbers_of(reading) not in known_numbers for _, reading in found),
        "new_pairs": sum((reading.family, reading.ending) not in known_pairs for _, reading in found),
        "own_concepts": sum(oracle.concepts_of(reading)[0] in row.concepts for row, reading in found),
    }
    yield _share(PROBLEMS, "well_posed", len(found), num_rows)
    for figure, count in counts.items():
        yield _share(PROBLEMS, figure, count, len(found))
    yield _mean_level(PROBLEMS, found)


def _of_verified(found: Sequence[tuple[SetRow, Reading]], num_rows: int) -> Iterator[dict[str, Any]]:
    labels = [
        (reading.answer, row.answer) for row, reading in found if reading.answer is not None and row.answer
    ]
    num_right = sum(grade.match for grade in math_answers.grade_many(labels))
    yield _share(VERIFIED, "well_posed", len(found), num_rows)
    yield _share(VERIFIED, "right_labels", num_right, len(labels))
    yield _mean_level(VERIFIED, found)


def _numbers_of(reading: Reading) -> Hashable:
    return reading.family, tuple(sorted(reading.parameters.items()))


def _share(of_set: str, figure: str, count: int, total: int) -> dict[str, Any]:
    value = count / total if total else None
    low, high = (None, None) if value is None else problem_accuracy.wilson(value, total)
    return _row(of_set, figure, count, total, value, low, high)


def _mean_level(of_set: str, found: Sequence[tuple[Any, Reading]]) -> dict[str, Any]:
    levels = [reading.level for _, reading in found]
    mean = float(np.mean(levels)) if levels else None
    return _row(of_set, _LEVEL, len(levels), len(levels), mean, None, None)


def _row(
    of_set: str,
    figure: str,
    count: int,
    total: int,
    value: float | None,
    low: float | None,
    high: float | None,
) -> dict[str, Any]:
    row = {"set": of_set, "figure": figure, "what": _WORDS[figure], "count": count, "of": total}
    return row | {"value": value, "low": low, "high": high}


def figures_of(
    triples: Sequence[Triple],
    problems: Sequence[SetRow],
    verified: Sequence[SetRow],
    *,
    read: Read = oracle.read,
) -> list[AnalysisResult]:
    """The shares with their intervals, drawn.

    Raises:
        NoRecords: the run is not on the seed corpus, or has no new problems yet.
    """
    rows = numbers(triples, problems, verified, read=read)
    if rows is None:
        raise NoRecords(
            "triples.jsonl is not of the project's own seed corpus (its rows name other families, or none), "
            "and problems of another one cannot be read back exactly."
        )
    if not problems and not verified:
        raise NoRecords("there are no new problems: problems.jsonl and verified_prompts.jsonl have no rows.")
    readable = next(row for row in rows if (row["set"], row["figure"]) == (TRIPLES, "well_posed"))
    levels = "; ".join(
        f"{row['set']} {row['value']:.2f}"
        for row in rows
        if row["figure"] == _LEVEL and row["value"] is not None
    )
    caption = (
        f"{counted(len(problems), 'synthesized problem')} and {counted(len(verified), 'verified prompt')}, "
        "each read back and solved exactly; what cannot be read counts as not well-posed. New: against the "
        "training rows, of which "
        f"{readable['count']:,} of {readable['of']:,} can be read. Shares of the second to the last line are "
        f"of the well-posed ones. Bars: 95 % intervals (Wilson). Mean levels: {levels or 'none'}."
    )
    title = "Well-posed problems and right labels"
    return [AnalysisResult(name=NAME, title=title, caption=caption, rows=rows, figure=_draw(rows))]


@figures.drawing()
def _draw(rows: Sequence[Mapping[str, Any]]) -> mpl_figure.Figure:
    shares = {
        (row["set"], row["figure"]): row for row in rows if row["figure"] != _LEVEL and row["set"] != TRIPLES
    }
    names = [name for name in _WORDS if any(figure == name for _, figure in shares)]
    sets = [name for name in (PROBLEMS, VERIFIED) if any(of_set == name for of_set, _ in shares)]
    figure = figures.blank(figures.WIDTH, 1.2 + 0.42 * len(names))
    axes = figure.subplots()
    groups = {
        of_set.replace("_", " "): [_point(shares.get((of_set, name))) for name in names] for of_set in sets
    }
    figures.points_with_errors(axes, [_WORDS[name] for name in names], groups)
    axes.set_yticks(axes.get_yticks(), [_WORDS[name] for name in names])  # whole: there is room
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(figures.percent)
    axes.legend(loc="upper left", bbox_to_anchor=(0, 1.16), ncols=2, frameon=False, fontsize=8.5)
    return figure


def _point(row: Mapping[str, Any] | None) -> figures.Point:
    if row is None or row["value"] is None:
        return None, None
    return row["value"], (max(row["value"] - row["low"], 0.0), max(row["high"] - row["value"], 0.0))
