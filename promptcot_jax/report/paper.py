"""The run beside the paper's benchmarks, results and settings (`paper.toml`), with every difference to them.

Figures stand beside the paper's only for benchmarks that it has, and the differences in setting are computed
from what the stages recorded, so that nobody compares what cannot be compared.
"""

import dataclasses
import functools
import importlib.resources
import math
import tomllib
from collections.abc import Mapping
from typing import Any, Literal

from etils import epath

from promptcot_jax.core import manifest
from promptcot_jax.report import page, workdir_files
from promptcot_jax.report.page import at, cell, label, number

Result = Mapping[str, Any]  # an entry of `results.json`


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One column of the paper's tables."""

    label: str
    names: tuple[str, ...]  # of its problems' file in `results.json`, without `_`, `-` and case
    problems: int
    attempts: int  # at each problem
    how: str
    metric: Literal["accuracy", "rating"] = "accuracy"


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting of the paper's runs beside the name that ours has."""

    name: str  # in `config/STAGE.settings.json`
    label: str
    value: Any  # ours that is the paper's; a list: the ends of a range, or one of several words
    in_words: str = ""  # the paper's; empty: the value itself
    of: Literal["paper", "release"] = "paper"  # "release": only the released scripts say it

    @property
    def stage(self) -> str:
        return self.name.partition(".")[0]

    @property
    def of_paper(self) -> str:
        return self.in_words or cell(self.value)

    def is_same(self, ours: Any) -> bool:
        """Whether a recorded value is the paper's."""
        if isinstance(self.value, list) and not isinstance(ours, str):
            return isinstance(ours, int | float) and self.value[0] <= ours <= self.value[1]
        return ours in self.value if isinstance(self.value, list) else ours == self.value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What `paper.toml` says."""

    benchmarks: tuple[Benchmark, ...]
    results: Mapping[str, Mapping[str, list[float | int | None]]]  # None: the paper reports nothing
    settings: tuple[Setting, ...]
    scale: Mapping[str, Mapping[str, Any]]  # by stage: the paper's in words, and the counts of ours


@functools.cache
def facts() -> Facts:
    """The paper's benchmarks, results and settings."""
    file = importlib.resources.files("promptcot_jax.report") / "paper.toml"
    stated = tomllib.loads(file.read_text(encoding="utf-8"))
    benchmarks = (Benchmark(**one | {"names": tuple(one["names"])}) for one in stated["benchmarks"])
    results = {
        title: {
            trained_on: [None if math.isnan(one) else one for one in row] for trained_on, row in table.items()
        }
        for title, table in stated["results"].items()
    }
    settings = tuple(Setting(**one) for one in stated["settings"])
    return Facts(benchmarks=tuple(benchmarks), results=results, settings=settings, scale=stated["scale"])


def benchmark_of(name: str) -> Benchmark | None:
    """The paper's benchmark that a data set of `results.json` is, by its name."""
    plain = "".join(letter for letter in name.lower() if letter.isalnum()).removesuffix("test")
    return next((one for one in facts().benchmarks if plain in one.names), None)


def section(workdir: epath.Path) -> dict[str, Any]:
    """Results and settings side by side, as far as the run has something to compare."""
    runs: dict[Benchmark, tuple[str, Result]] = {}
    for name, result in workdir_files.results(workdir).items():
        if benchmark := benchmark_of(name):
            runs.setdefault(benchmark, (name, result))  # the first of two that are the same benchmark
    runs = {benchmark: runs[benchmark] for benchmark in facts().benchmarks if benchmark in runs}
    solvers = ", ".join(sorted({str(result.get("solver", "not recorded")) for _, result in runs.values()}))
    models = ", ".join(title.rpartition(", ")[2] for title in facts().results)
    differences = [["all", "model", f"trained from {models}", solvers]]
    alike = []
    for benchmark, (name, result) in runs.items():
        for what, paper, ours, is_same in _compared(benchmark, result):
            if is_same:
                alike.append(f"{what} on {name}")
            else:
                differences.append([benchmark.label, what, paper, ours])
    settings = _compared_settings(workdir)
    return {
        "benchmarks": [one.label for one in facts().benchmarks],
        "columns": [one.label for one in runs],
        "results": _results(runs, solvers),
        "differences": differences,
        "alike": alike,
        "settings": settings,
        "num_different": sum(row[-1] == "differs" for row in settings),
        "scale": _scale(workdir),
    }


def _results(runs: Mapping[Benchmark, tuple[str, Result]], solvers: str) -> list[list[Any]]:
    """Our figures in a row, and those of the paper that are of the same benchmarks."""
    columns = [facts().benchmarks.index(benchmark) for benchmark in runs]
    rows: list[list[Any]] = [
        ["this run", solvers, *(_figure(one, result) for one, (_, result) in runs.items())]
    ]
    for title, table in facts().results.items():
        for trained_on, figures in table.items():
            own = [figures[column] for column in columns]
            if any(value is not None for value in own):
                rows.append([f"paper: {trained_on}", title, *own])
    return rows


def _figure(benchmark: Benchmark, result: Result) -> str:
    """Our figure on a benchmark, with its interval where there is one."""
    if benchmark.metric == "rating":
        rating = at(result, "codeforces")
        if rating.get("rating") is None:
            return "no rating"
        shown, ends = f"{rating['rating']:,.0f}", page.interval(rating.get("interval"), 1.0, 0)
    elif result.get("accuracy") is None:
        return page.DASH
    else:
        shown, ends = f"{100 * result['accuracy']:.1f}", page.interval(result.get("interval"))
    return f"{shown} ({ends})" if ends else shown


def _compared(benchmark: Benchmark, result: Result) -> list[tuple[str, str, str, bool]]:
    """How a benchmark was run: setting, the paper's, ours, whether they are the same."""
    sampling = at(result, "sampling", "sampling")
    problems, attempts = result.get("problems"), result.get("attempts_per_problem")
    of_paper = f"{benchmark.attempts} ({benchmark.how})"
    found = [
        ("problems", str(benchmark.problems), problems, problems == benchmark.problems),
        ("attempts at each problem", of_paper, attempts, attempts == benchmark.attempts),
    ]
    for setting in facts().settings:
        if setting.stage == "evaluate":
            ours = sampling.get(setting.name.rpartition(".")[2])
            of_paper = f"{setting.of_paper} (released script; the text does not say)"
            found.append((setting.label, of_paper, ours, setting.is_same(ours)))
    for name, off in (("top_k", 0), ("min_p", 0.0)):
        value = sampling.get(name, off)
        found.append((name.replace("_", "-"), "not used", value, value == off))
    budget = at(result, "chat").get("thinking_budget")
    found.append(("tokens of thinking", "no limit of their own", budget, budget is None))
    for name, value in at(result, "extra_body").items():
        found.append((f"{name} in the request", "not used", value, False))
    if result.get("not_graded"):
        found.append(("problems not graded", "none", result["not_graded"], False))
    return [(what, of_paper, cell(ours), is_same) for what, of_paper, ours, is_same in found]


def _compared_settings(workdir: epath.Path) -> list[list[str]]:
    """The settings of training beside the paper's: of the stages that ran."""
    rows = []
    for setting in facts().settings:
        own = workdir_files.settings(workdir, setting.stage)
        if setting.stage == "evaluate" or not own:
            continue
        ours = own.get(setting.name)
        rows.append(
            [
                label(setting.stage),
                setting.label,
                setting.of_paper + (" (released script)" if setting.of == "release" else ""),
                "not set" if ours is None else cell(ours),
                "as the paper" if setting.is_same(ours) else "differs",
            ]
        )
    return rows


def _scale(workdir: epath.Path) -> list[list[str]]:
    """How much was trained on what, in the paper and here: of the stages that ran."""
    rows, entries = [], manifest.read(workdir)
    for stage, stated in facts().scale.items():
        if stage in entries and workdir_files.settings(workdir, stage):
            counts = entries[stage].counts
            ours = [f"{number(counts[name])} {label(name)}" for name in stated["ours"] if name in counts]
            rows.append([label(stage), stated["paper"], ", ".join(ours) or page.DASH])
    return rows
