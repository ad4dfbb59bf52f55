"""The run beside the paper: its benchmarks, results and settings as data, and every difference to them.

arXiv 2509.19894 v1: results of section 3 (self-play, SFT with its ablations, and the appendix's iterative
SFT), settings of sections 2 and 3. Where the text names no setting and the released scripts have one,
`SETTINGS` says that it is the script's. Figures stand beside the paper's only for benchmarks that it has, and
the differences in setting are computed from what the stages recorded, so that nobody compares what cannot be
compared.
"""

import dataclasses
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


BENCHMARKS = (
    Benchmark("AIME 24", ("aime24", "aime2024"), 30, 16, "avg@16"),
    Benchmark("AIME 25", ("aime25", "aime2025"), 30, 16, "avg@16"),
    Benchmark("HMMT Feb 25", ("hmmtfeb25", "hmmt25", "hmmtfeb2025", "hmmt2025"), 30, 16, "avg@16"),
    Benchmark(
        "LiveCodeBench v5",
        ("livecodebenchv5", "lcbv5", "livecodebench5"),
        *(279, 1, "pass@1, problems of 2024-08 to 2025-02"),
    ),
    Benchmark(
        "LiveCodeBench v6",
        ("livecodebenchv6", "lcbv6", "livecodebench6"),
        *(131, 1, "pass@1, problems of 2025-02 to 2025-05"),
    ),
    Benchmark("Codeforces", ("codeforces",), 408, 8, "Elo over contests, up to 8 tries", "rating"),
)

# Way and model -> training data -> figures in the order of BENCHMARKS: accuracies in percent, a rating; None
# where the paper reports nothing.
TABLES: Mapping[str, Mapping[str, tuple[float | int | None, ...]]] = {
    "Self-play (DPO), Qwen3-4B-Thinking-2507": {
        "before training": (85.2, 81.3, 55.5, 63.8, 55.2, 1852),
        "OpenCodeReasoning": (83.1, 78.5, 50.4, 64.4, 57.1, 1867),
        "OpenMathReasoning": (85.3, 83.0, 56.8, 59.7, 48.5, 1826),
        "OpenThoughts3": (84.7, 80.6, 54.2, 65.2, 54.4, 1846),
        "OpenR1": (84.6, 80.9, 56.7, 63.0, 54.6, 1829),
        "PromptCoT 1.0": (85.3, 81.8, 58.6, 64.5, 56.7, 1878),
        "PromptCoT 2.0": (87.3, 85.0, 66.5, 67.7, 61.1, 1934),
    },
    "Self-play (DPO), Qwen3-30B-A3B-Thinking-2507": {
        "before training": (87.7, 85.0, 71.4, 68.1, 66.0, 2044),
        "OpenCodeReasoning": (85.0, 81.1, 64.9, 70.8, 67.4, 2048),
        "OpenMathReasoning": (87.9, 86.1, 72.2, 65.7, 58.4, 2022),
        "OpenThoughts3": (85.7, 84.7, 70.0, 68.3, 67.2, 2019),
        "OpenR1": (86.3, 84.9, 68.9, 68.3, 63.7, 2045),
        "PromptCoT 1.0": (86.8, 87.4, 72.0, 69.7, 67.8, 2051),
        "PromptCoT 2.0": (92.1, 89.8, 76.7, 74.2, 71.0, 2079),
    },
    "SFT, Qwen2.5-7B-Instruct": {
        "before training": (12.8, 8.0, 2.7, 14.7, 13.7, 706),
        "OpenCodeReasoning": (11.7, 7.7, 6.0, 50.5, 42.0, 1648),
        "OpenMathReasoning": (73.3, 58.1, 42.1, 9.7, 10.7, 676),
        "OpenThoughts3": (69.6, 59.4, 38.3, 47.0, 36.6, 1630),
        "OpenR1": (55.6, 39.2, 24.6, 40.5, 32.8, 1548),
        "PromptCoT 1.0": (71.0, 60.2, 41.6, 47.8, 43.6, 1645),
        "OpenThoughts3, GPT-OSS traces": (52.3, 37.3, 24.0, 22.2, 21.4, 907),
        "PromptCoT 2.0": (73.1, 65.6, 46.5, 53.4, 48.9, 1815),
        "PromptCoT 2.0 without cold start": (72.1, 63.9, 45.3, 50.4, 43.6, 1677),
        "PromptCoT 2.0 without EM": (69.8, 59.0, 41.3, 44.9, 44.2, 1592),
    },
    "Self-play by iterative SFT, Ring-Lite-2506": {
        "before training": (76.6, 69.1, None, 60.7, None, None),
        "PromptCoT 2.0": (79.8, 70.4, None, 62.7, None, None),
    },
}
_MODELS = tuple(title.rpartition(", ")[2] for title in TABLES)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting of the paper's runs beside the name that ours has."""

    name: str  # in `config/STAGE.settings.json`
    label: str
    value: Any  # ours that is the paper's; a tuple: the ends of a range, or one of several words
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
        if isinstance(self.value, tuple) and not isinstance(ours, str):
            return isinstance(ours, int | float) and self.value[0] <= ours <= self.value[1]
        return ours in self.value if isinstance(self.value, tuple) else ours == self.value


SETTINGS = (
    Setting("cold_start.optimizer.learning_rate", "learning rate", 2e-5),
    Setting("cold_start.fit.rows_per_batch", "rows a batch", 16),
    Setting("cold_start.fit.pack", "packing", False, "one sequence a row"),
    Setting("cold_start.fit.num_epochs", "epochs", 2),
    Setting("em.e_step.group_size", "rationales of a pair (E-step)", 8),
    Setting("em.e_step.temperature", "temperature (E-step)", 1.0),
    Setting("em.e_step.objective", "what phi is fitted to", "best_of_g", "the best of the samples"),
    Setting("em.e_step.reward", "reward R", "log_joint", "log p(z, x | c), a sum over tokens"),
    Setting("em.phi_optimizer.learning_rate", "learning rate, phi", 2e-6),
    Setting("em.theta_optimizer.learning_rate", "learning rate, theta", 2e-6),
    Setting("em.phi_fit.rows_per_batch", "rows a batch, phi", 16),
    Setting("em.theta_fit.rows_per_batch", "rows a batch, theta", 16),
    Setting("em.theta_fit.pack", "packing, theta", False, "one sequence a row"),
    Setting("em.em_config.with_e_step", "E-step", True, "in every round"),
    Setting("verify.config.solve.num_solutions", "solutions that vote", 8),
    Setting("self_play.algorithm", "algorithm", "Dpo", "DPO"),
    Setting("self_play.rollouts.group_size", "completions of a prompt", 8),
    Setting(
        "self_play.rollouts.sampling.temperature",
        "temperature of completions",
        (1.2, 1.25),
        "1.25 (4B), 1.2 (30B-A3B)",
    ),
    Setting("self_play.rollouts.sampling.max_new_tokens", "tokens of a completion", 81_920, of="release"),
    Setting("self_play.optimizer.learning_rate", "learning rate", 1e-6),
    Setting("self_play.prompts.solved_below", "prompts solved in this share of tries left out", 0.5),
    Setting(
        "distill.teacher.model",
        "teacher",
        ("gpt-oss-120b", "openai/gpt-oss-120b"),
        "GPT-OSS-120B (medium)",
    ),
    Setting("sft.optimizer.learning_rate", "learning rate", 8e-5),
    Setting("sft.fit.rows_per_batch", "rows a batch", 1024),
    Setting("evaluate.solver.config.sampling.temperature", "temperature", 0.6, of="release"),
    Setting("evaluate.solver.config.sampling.top_p", "top-p", 0.95, of="release"),
    Setting("evaluate.solver.config.sampling.max_new_tokens", "tokens of an attempt", 81_920, of="release"),
)

# Of the data and models, which no single setting of ours says; and counts of ours to put beside.
SCALE = {
    "cold_start": "15,586 triples; p_theta and q_phi start from Qwen2.5-32B-Base",
    "em": "rounds, steps of a round and the rule to stop are not given",
    "verify": "answers by vote of Qwen3-30B-A3B-Thinking-2507 or GPT-OSS-120B; 3 to 4 tests a program",
    "self_play": "48,113 prompts (4B) or 11,209 (30B-A3B), batches of 16; beta and epochs are not given",
    "sft": "4,766,890 prompts, 7,351 tokens a trace; epochs are not given",
}
_OUR_SCALE = {
    "cold_start": ("theta_rows", "phi_rows", "out"),
    "em": ("pairs", "rounds"),
    "verify": ("in", "out"),
    "self_play": ("out", "iterations", "rollouts", "updates"),
    "sft": ("out", "rows", "tokens", "steps"),
}


def benchmark_of(name: str) -> Benchmark | None:
    """The paper's benchmark that a data set of `results.json` is, by its name."""
    plain = "".join(letter for letter in name.lower() if letter.isalnum()).removesuffix("test")
    return next((one for one in BENCHMARKS if plain in one.names), None)


def section(workdir: epath.Path) -> dict[str, Any]:
    """Results and settings side by side, as far as the run has something to compare."""
    runs: dict[Benchmark, tuple[str, Result]] = {}
    for name, result in workdir_files.results(workdir).items():
        if benchmark := benchmark_of(name):
            runs.setdefault(benchmark, (name, result))  # the first of two that are the same benchmark
    runs = {benchmark: runs[benchmark] for benchmark in BENCHMARKS if benchmark in runs}
    solvers = ", ".join(sorted({str(result.get("solver", "not recorded")) for _, result in runs.values()}))
    differences = [["all", "model", f"trained from {', '.join(_MODELS)}", solvers]]
    alike = []
    for benchmark, (name, result) in runs.items():
        for what, paper, ours, is_same in _compared(benchmark, result):
            if is_same:
                alike.append(f"{what} on {name}")
            else:
                differences.append([benchmark.label, what, paper, ours])
    settings = _compared_settings(workdir)
    return {
        "benchmarks": [one.label for one in BENCHMARKS],
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
    columns = [BENCHMARKS.index(benchmark) for benchmark in runs]
    rows: list[list[Any]] = [
        ["this run", solvers, *(_figure(one, result) for one, (_, result) in runs.items())]
    ]
    for title, table in TABLES.items():
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
    for setting in SETTINGS:
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
    for setting in SETTINGS:
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
    for stage, of_paper in SCALE.items():
        if stage in entries and workdir_files.settings(workdir, stage):
            counts = entries[stage].counts
            ours = [f"{number(counts[name])} {label(name)}" for name in _OUR_SCALE[stage] if name in counts]
            rows.append([label(stage), of_paper, ", ".join(ours) or page.DASH])
    return rows
