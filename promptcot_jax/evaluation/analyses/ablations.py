"""Arms of an ablation side by side: accuracy of each over its seeds, and what it differs by from the first "
"arm."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure as mpl_figure

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.evaluation import figures
from promptcot_jax.evaluation.analyses import results
from promptcot_jax.evaluation.analyses.made import Made, NoRecords

MEAN = "mean"  # over the sets, each counting alike


def figures_of(arms: Mapping[str, str | Sequence[str]]) -> list[Made]:
    """The table and figure of the arms, which need not have the same sets.

    Args:
        arms: name -> paths of `results.json` (or of workdirs, or of attempts), one for each seed, in the same
            order in each arm; or one path with `{seed}` in it.

    Raises:
        NoRecords: no arms are given.
        WrongUse: results are not there, or no set is in all of them.
    """
    if not arms:
        raise NoRecords(
            "ARMS is empty; name finished runs: "
            "--gin.ARMS=\"{'full': ('a1/results.json', 'a2/results.json'), "
            "'no EM': ('b1/results.json', 'b2/results.json')}\"."
        )
    table = statistics({name: _accuracies(name, paths) for name, paths in arms.items()})
    first = next(iter(arms))
    return [
        Made(
            name="ablations",
            title="Ablations",
            caption="Accuracy of each arm: mean and one standard deviation over its seeds; at the right "
            "the difference to "
            f"'{first}', seed by seed. '{MEAN}' is the mean over the sets that all arms have.",
            rows=table,
            figure=_draw(table),
        )
    ]


def _accuracies(name: str, paths: str | Sequence[str]) -> dict[int, dict[str, float]]:
    """Accuracy by set for each seed of an arm."""
    given = [paths] if isinstance(paths, str) else list(paths)
    if not given:
        raise WrongUse(f"ARMS: the arm '{name}' has no results; name them, or leave it out.")
    found: dict[int, dict[str, float]] = {}
    for place, path in enumerate(given):
        for numbers, file in results.matches(path, ("seed",)):
            seed = numbers.get("seed", place)
            if seed in found:
                raise WrongUse(f"ARMS: {file} is a second run of the arm '{name}' with seed {seed}.")
            found[seed] = results.read(file)
    return found


def statistics(arms: Mapping[str, Mapping[int, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Accuracy of each arm and set over seeds, and its difference to the first arm.

    Raises:
        WrongUse: no set is in all results.
    """
    every = [own for by_seed in arms.values() for own in by_seed.values()]
    sets = [name for name in every[0] if all(name in own for own in every)]
    if not sets:
        raise WrongUse(
            f"ARMS: no set is in all results; the first has {', '.join(every[0])}. Evaluate all arms on the "
            "same sets."
        )
    names = [*sets, *((MEAN,) if len(sets) > 1 else ())]
    rows, reference = [], next(iter(arms.values()))
    for arm, by_seed in arms.items():
        for name in names:
            own, first = _of_set(by_seed, name, sets), _of_set(reference, name, sets)
            difference = results.differences(first, own) if by_seed is not reference else None
            rows.append(
                {
                    "arm": arm,
                    "set": name,
                    **results.spread(list(own.values())),
                    "difference": difference and difference["mean"],
                    "difference_deviation": difference and difference["deviation"],
                    "pairs": difference["seeds"] if difference else 0,
                }
            )
    return rows


def _of_set(by_seed: Mapping[int, Mapping[str, float]], name: str, sets: Sequence[str]) -> dict[int, float]:
    return {
        seed: sum(own[one] for one in sets) / len(sets) if name == MEAN and name not in sets else own[name]
        for seed, own in by_seed.items()
    }


@figures.drawing()
def _draw(table: Sequence[Mapping[str, Any]]) -> mpl_figure.Figure:
    arms = list(dict.fromkeys(row["arm"] for row in table))
    names = list(dict.fromkeys(row["set"] for row in table))
    cells = {(row["arm"], row["set"]): row for row in table}
    figure = figures.blank(figures.WIDTH, 1.5 + len(names) * (0.28 + 0.2 * len(arms)))
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, value, error, title in (
        (left, "mean", "deviation", "accuracy"),
        (right, "difference", "difference_deviation", f"less that of {figures.short(arms[0])}"),
    ):
        points = {arm: [(cells[arm, name][value], cells[arm, name][error]) for name in names] for arm in arms}
        figures.points_with_errors(axes, names, points)
        axes.set_title(title)
    left.xaxis.set_major_formatter(figures.percent)
    right.xaxis.set_major_formatter(lambda share, _: f"{100 * share:+.1f}")
    right.axvline(0, color="#555555", linewidth=1)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)
    return figure
