"""Arms of an ablation side by side: accuracy of each over its seeds, and what it differs by from the first.

Differences are paired by seed. Where the paths are workdirs that hold attempts, and both arms were evaluated
on one set alone, they are also paired by problem, with the interval and test of `comparing`: attempts do not
say which set they are of, so those of several sets would stand beside the figure of one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure as mpl_figure

from promptcot_jax.analyses import figures, results
from promptcot_jax.analyses.figures import AnalysisResult, NoRecords, counted
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.evaluation import comparing

MEAN = "mean"  # over the sets, each counting alike


def figures_of(arms: Mapping[str, str | Sequence[str]]) -> list[AnalysisResult]:
    """The table and figure of the arms, which need not have the same sets.

    Args:
        arms: name -> paths of `results.json` (or of workdirs, or of attempts), one for each seed, in the same
            order in each arm; or one path with `{seed}` in it, whose runs are in the order of their seeds.

    Raises:
        NoRecords: no arms are given.
        WrongUse: results are not there, no set is in all of them, or it is not known which runs of two arms
            belong together.
    """
    if not arms:
        raise NoRecords(
            "ARMS is empty; name finished runs: "
            "--gin.ARMS=\"{'full': ('a1/results.json', 'a2/results.json'), "
            "'no EM': ('b1/results.json', 'b2/results.json')}\"."
        )
    paths = _paths(arms)
    found = {name: {seed: results.read(path) for seed, path in own.items()} for name, own in paths.items()}
    table = _table(found, paths)
    first = next(iter(arms))
    has_mean = any(row["set"] == MEAN for row in table)
    mean = f" '{MEAN}' is the mean over the sets that all arms have." if has_mean else ""
    kind = "paired by problem and seed, with its 95 % interval" if _draws_pairs(table) else "seed by seed"
    return [
        AnalysisResult(
            name="ablations",
            title="Ablations",
            caption="Accuracy of each arm: mean and one standard deviation over its seeds; at the right "
            f"the difference to '{first}', {kind}.{mean}{_lone_seeds(paths)}",
            rows=table,
            figure=_draw(table),
        )
    ]


def _paths(arms: Mapping[str, str | Sequence[str]]) -> dict[str, dict[int, str]]:
    """The paths of each arm by numbers, which a run shares with the run of the first arm it belongs to."""
    runs = {name: _runs(name, paths) for name, paths in arms.items()}
    first = next(iter(runs))
    return {
        name: _numbered_as_first(first, runs[first], name, own) if name != first else own.by_seed
        for name, own in runs.items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Runs:
    """The paths of an arm by `{seed}`, or by their position where they have none."""

    by_seed: dict[int, str]
    has_seed: bool


def _runs(name: str, paths: str | Sequence[str]) -> _Runs:
    given = [paths] if isinstance(paths, str) else list(paths)
    if not given:
        raise WrongUse(f"ARMS: the arm '{name}' has no results; name them, or leave it out.")
    has_seed = ["{seed}" in path for path in given]
    if any(has_seed) and not all(has_seed):
        raise WrongUse(
            f"ARMS: of the paths of the arm '{name}' some have {{seed}} and some have not; write it "
            "in all, or name each file."
        )
    found: dict[int, str] = {}
    for position, path in enumerate(given):
        for numbers, file in results.matches(path, ("seed",)):
            seed = numbers.get("seed", position)
            if seed in found:
                raise WrongUse(f"ARMS: {file} is a second run of the arm '{name}' with seed {seed}.")
            found[seed] = file
    return _Runs(by_seed=dict(sorted(found.items())), has_seed=any(has_seed))


def _numbered_as_first(first: str, reference: _Runs, name: str, own: _Runs) -> dict[int, str]:
    """The paths of an arm by the seeds, or positions, of the first arm."""
    if own.has_seed == reference.has_seed:
        if not own.by_seed.keys() & reference.by_seed.keys():
            raise WrongUse(
                f"ARMS: '{first}' and '{name}' have no seed in common ({_listed(reference)}; "
                f"{_listed(own)}); run the same seeds, or name the files of both in the order in which they "
                "belong together."
            )
        return own.by_seed
    if len(own.by_seed) != len(reference.by_seed):
        raise WrongUse(
            f"ARMS: '{first}' has {counted(len(reference.by_seed), 'run')} and '{name}' has "
            f"{len(own.by_seed)}, and only '{first if reference.has_seed else name}' has {{seed}} in its "
            "path, so it is not known which runs belong together; name as many files as there are seeds, or "
            "write {seed} in the paths of both."
        )
    return dict(zip(reference.by_seed, own.by_seed.values(), strict=True))


def _listed(runs: _Runs) -> str:
    return ", ".join(map(str, runs.by_seed))


def _lone_seeds(paths: Mapping[str, Mapping[int, str]]) -> str:
    """Says which arms are paired with the first over some of their seeds only."""
    first, *others = paths
    seeds = paths[first].keys()
    return "".join(
        f" '{name}' and '{first}' have only {counted(len(seeds & paths[name].keys()), 'seed')} in common, "
        "over which they are paired."
        for name in others
        if paths[name].keys() != seeds
    )


def _table(
    found: Mapping[str, Mapping[int, Mapping[str, float]]], paths: Mapping[str, Mapping[int, str]]
) -> list[dict[str, Any]]:
    """Accuracy of each arm and set over seeds, and its difference to the first arm.

    Raises:
        WrongUse: no set is in all results.
    """
    every = [own for by_seed in found.values() for own in by_seed.values()]
    sets = [name for name in every[0] if all(name in own for own in every)]
    if not sets:
        raise WrongUse(
            f"ARMS: no set is in all results; the first has {', '.join(every[0])}. Evaluate all arms on the "
            "same sets."
        )
    first, rows = next(iter(found)), []
    for arm, by_seed in found.items():
        paired = None if arm == first else _paired_by_problem((first, arm), sets, found, paths)
        for name in (*sets, MEAN) if len(sets) > 1 else sets:
            own = _of_set(by_seed, name, sets)
            difference = None if arm == first else results.differences(_of_set(found[first], name, sets), own)
            rows.append(
                {
                    "arm": arm,
                    "set": name,
                    **figures.spread(list(own.values())),
                    "difference": difference and difference["mean"],
                    "difference_deviation": difference and difference["deviation"],
                    "pairs": difference["seeds"] if difference else 0,
                    "paired_difference": paired and paired.difference,
                    "interval_low": paired and paired.interval[0],
                    "interval_high": paired and paired.interval[1],
                    "p_value": paired and paired.p_value,
                    "within_noise": paired and paired.is_within_noise,
                }
            )
    return rows


def _paired_by_problem(
    arms: tuple[str, str],
    sets: Sequence[str],
    found: Mapping[str, Mapping[int, Mapping[str, float]]],
    paths: Mapping[str, Mapping[int, str]],
) -> comparing.Comparison | None:
    """Compares two arms problem by problem: where both keep attempts, and have results of one set alone."""
    if len(sets) > 1 or any(own.keys() != set(sets) for arm in arms for own in found[arm].values()):
        return None
    seeds = sorted(paths[arms[0]].keys() & paths[arms[1]].keys())
    runs = [[results.attempts_of(paths[arm][seed]) for seed in seeds] for arm in arms]
    first, second = ([run for run in own if run is not None] for own in runs)
    return comparing.compare(first, second) if seeds and len(first) == len(second) == len(seeds) else None


def _of_set(by_seed: Mapping[int, Mapping[str, float]], name: str, sets: Sequence[str]) -> dict[int, float]:
    return {
        seed: sum(own[one] for one in sets) / len(sets) if name == MEAN and name not in sets else own[name]
        for seed, own in by_seed.items()
    }


def _draws_pairs(table: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is one set, and each arm but the first has a difference paired by problem."""
    others = [row for row in table if row["arm"] != table[0]["arm"]]
    one_set = len({row["set"] for row in table}) == 1
    return one_set and bool(others) and all(row["interval_low"] is not None for row in others)


def _difference(row: Mapping[str, Any], is_paired: bool) -> figures.Point:
    if not is_paired or row["paired_difference"] is None:
        return row["difference"], row["difference_deviation"]
    middle = row["paired_difference"]
    return middle, (middle - row["interval_low"], row["interval_high"] - middle)


@figures.drawing()
def _draw(table: Sequence[Mapping[str, Any]]) -> mpl_figure.Figure:
    arms = list(dict.fromkeys(row["arm"] for row in table))
    names = list(dict.fromkeys(row["set"] for row in table))
    cells = {(row["arm"], row["set"]): row for row in table}
    figure = figures.blank(figures.WIDTH, 1.5 + len(names) * (0.28 + 0.2 * len(arms)))
    left, right = figure.subplots(1, 2, sharey=True)
    is_paired = _draws_pairs(table)
    accuracies: dict[str, list[figures.Point]] = {}
    differences: dict[str, list[figures.Point]] = {}
    for arm in arms:
        rows = [cells[arm, name] for name in names]
        accuracies[arm] = [(row["mean"], row["deviation"]) for row in rows]
        differences[arm] = [_difference(row, is_paired) for row in rows]
    for axes, points, title in (
        (left, accuracies, "accuracy"),
        (right, differences, f"less that of {figures.short(arms[0])}, points"),
    ):
        figures.points_with_errors(axes, names, points)
        axes.set_title(title)
    left.xaxis.set_major_formatter(figures.percent)
    right.xaxis.set_major_formatter(lambda share, _: f"{100 * share:+.1f}")
    right.axvline(0, color="#555555", linewidth=1)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)
    return figure
