"""The report's section beside the paper: results on its benchmarks, and every setting that is another.

Figures stand beside the paper's only for benchmarks that it has, and the differences in setting are computed
from what the stages recorded, so that nobody compares what cannot be compared.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from promptcot_jax.core import manifest
from promptcot_jax.report import charts, page, paper_results, workdir_files
from promptcot_jax.report.paper_results import BENCHMARKS, Benchmark

_OUR_SCALE = {  # counts of the manifest beside `paper_results.SCALE`
    "cold_start": ("theta_rows", "phi_rows", "out"),
    "em": ("pairs", "rounds"),
    "verify": ("in", "out"),
    "self_play": ("out", "iterations", "rollouts", "updates"),
    "sft": ("out", "rows", "tokens", "steps"),
}


def paper_section(workdir: epath.Path) -> str:
    """Both, as far as the run has something to compare."""
    lead = (
        "arXiv 2509.19894. A figure of this run may be held against one of the paper only as far as model, "
        "data and setting agree; what does not is listed."
    )
    runs = _runs(workdir_files.results(workdir))
    parts = []
    if runs:
        parts.append(_results_table(runs))
        parts.append(_evaluation_table(runs))
    else:
        names = ", ".join(benchmark.label for benchmark in BENCHMARKS)
        parts.append(
            f"<p>None of the paper\u2019s benchmarks ({page.text(names)}) was run here: there are no "
            "results to set side by side.</p>"
        )
    parts.append(_settings_table(workdir))
    return page.section("paper", "Beside the paper", lead, *parts)


def _runs(results: Mapping[str, Mapping[str, Any]]) -> dict[int, tuple[str, Mapping[str, Any]]]:
    """Data set and result by column of the paper; the first of two that are the same benchmark."""
    runs: dict[int, tuple[str, Mapping[str, Any]]] = {}
    for name, result in results.items():
        benchmark = paper_results.benchmark_of(name)
        if benchmark is not None:
            runs.setdefault(BENCHMARKS.index(benchmark), (name, result))
    return dict(sorted(runs.items()))


def _results_table(runs: Mapping[int, tuple[str, Mapping[str, Any]]]) -> str:
    solvers = sorted({str(result.get("solver", "not recorded")) for _, result in runs.values()})
    ours = [_figure(BENCHMARKS[column], result) for column, (_, result) in runs.items()]
    rows: list[Sequence[object]] = [["this run", ", ".join(solvers), *ours]]
    for table in paper_results.TABLES:
        for row in table.rows:
            own = [row.figures[column] for column in runs]
            if any(value is not None for value in own):
                rows.append([f"paper: {row.data}", table.title, *map(page.cell, own)])
    header = ["trained on", "way and model", *(BENCHMARKS[column].label for column in runs)]
    caption = "This run beside the paper: accuracy in percent, with its 95 % interval; Codeforces: rating"
    return page.table(header, rows, caption=caption, words=(1,))


def _figure(benchmark: Benchmark, result: Mapping[str, Any]) -> str:
    """Our figure on a benchmark, with its interval where there is one."""
    if benchmark.metric == "rating":
        rating = result.get("codeforces")
        if not isinstance(rating, dict) or rating.get("rating") is None:
            return "no rating"
        ends = page.interval(rating.get("interval"), scale=1.0, digits=0)
        return f"{rating['rating']:,.0f}" + (f" ({ends})" if ends else "")
    if result.get("accuracy") is None:
        return "\u2013"
    ends = page.interval(result.get("interval"))
    return f"{100 * result['accuracy']:.1f}" + (f" ({ends})" if ends else "")


def _evaluation_table(runs: Mapping[int, tuple[str, Mapping[str, Any]]]) -> str:
    """What differs in how the benchmarks were run."""
    rows, alike = [], []
    for column, (name, result) in runs.items():
        benchmark = BENCHMARKS[column]
        for what, paper, ours, is_same in _compared(benchmark, result):
            if is_same:
                alike.append(f"{what} on {name}")
            else:
                rows.append([benchmark.label, what, paper, ours])
    models = ", ".join(paper_results.MODELS)
    solvers = sorted({str(result.get("solver", "not recorded")) for _, result in runs.values()})
    rows.insert(0, ["all", "model", f"trained from {models}", ", ".join(solvers)])
    header = ["benchmark", "setting", "the paper", "this run"]
    table = page.table(header, rows, caption="Differences in how it was measured", words=(1, 2, 3))
    said = f'<p class="soft">As in the paper: {page.text("; ".join(alike))}.</p>' if alike else ""
    return table + said


def _compared(benchmark: Benchmark, result: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Setting, the paper's, ours, whether they are the same."""
    config = result.get("sampling") or {}
    sampling = config.get("sampling") or {}
    problems = result.get("problems")
    attempts = result.get("attempts_per_problem")
    found = [
        ("problems", str(benchmark.problems), page.cell(problems), problems == benchmark.problems),
        (
            "attempts at each problem",
            f"{benchmark.attempts} ({benchmark.how})",
            page.cell(attempts),
            attempts == benchmark.attempts,
        ),
    ]
    for setting in paper_results.SETTINGS:
        if setting.stage == "evaluate":
            ours = sampling.get(setting.name.rpartition(".")[2])
            paper = f"{_said(setting)} (released script; the text does not say)"
            found.append((setting.label, paper, page.cell(ours), setting.is_same(ours)))
    for name, off in (("top_k", 0), ("min_p", 0.0)):
        value = sampling.get(name, off)
        found.append((name.replace("_", "-"), "not used", page.cell(value), value == off))
    budget = (result.get("chat") or {}).get("thinking_budget")
    found.append(("tokens of thinking", "no limit of their own", page.cell(budget), budget is None))
    for name, value in (result.get("extra_body") or {}).items():
        found.append((f"{name} in the request", "not used", page.cell(value), False))
    if result.get("not_graded"):
        found.append(("problems not graded", "none", page.cell(result["not_graded"]), False))
    return found


def _settings_table(workdir: epath.Path) -> str:
    """The settings of training beside the paper's: of the stages that ran."""
    rows, different = [], 0
    recorded: dict[str, dict[str, Any]] = {}
    for setting in paper_results.SETTINGS:
        if setting.stage == "evaluate":
            continue
        if setting.stage not in recorded:
            recorded[setting.stage] = workdir_files.settings(workdir, setting.stage)
        own = recorded[setting.stage]
        if not own:
            continue
        ours = own.get(setting.name)
        is_same = setting.is_same(ours)
        different += not is_same
        paper = _said(setting) + (" (released script)" if setting.of == "release" else "")
        shown = "not set" if ours is None else page.cell(ours)
        rows.append(
            [page.words(setting.stage), setting.label, paper, shown, "as the paper" if is_same else "differs"]
        )
    if not rows:
        return ""
    header = ["stage", "setting", "the paper", "this run", "comparison"]
    caption = f"Settings of training: {different} of {len(rows)} differ"
    scale = _scale_table(workdir, [stage for stage, own in recorded.items() if own])
    table = page.table(header, rows, caption=caption, words=(1, 2, 3, 4))
    return f"<h3>How it was trained</h3>{page.folded(caption, table)}{scale}"


def _said(setting: paper_results.Setting) -> str:
    return setting.said or page.cell(setting.values[0])


def _scale_table(workdir: epath.Path, stages: Sequence[str]) -> str:
    """How much was trained on what, in the paper and here."""
    entries = manifest.read(workdir)
    rows = []
    for stage in stages:
        if stage in paper_results.SCALE and stage in entries:
            counts = entries[stage].counts
            ours = [f"{charts.number(counts[n])} {page.words(n)}" for n in _OUR_SCALE[stage] if n in counts]
            rows.append([page.words(stage), paper_results.SCALE[stage], ", ".join(ours) or "\u2013"])
    header = ["stage", "the paper", "this run"]
    return page.table(header, rows, caption="Scale", words=(1, 2)) if rows else ""
