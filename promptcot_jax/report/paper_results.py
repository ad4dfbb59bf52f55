"""What the paper reports, as data: benchmarks, tables of results, and the settings that they were made with.

arXiv 2509.19894 v1: results of section 3 (self-play, SFT with its ablations, and the appendix's iterative
SFT), settings of sections 2 and 3. Where the text names no setting and the released scripts have one,
`SETTINGS` says that it is the script's.
"""

import dataclasses
from typing import Any, Literal

Number = float | int | None  # None: not reported


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One column of the paper's tables.

    Attributes:
        names: of its problems' file in `results.json`, without `_`, `-` and case.
        attempts: of each problem.
    """

    label: str
    names: tuple[str, ...]
    problems: int
    attempts: int
    metric: Literal["accuracy", "rating"]
    how: str


BENCHMARKS = (
    Benchmark(
        label="AIME 24",
        names=("aime24", "aime2024"),
        problems=30,
        attempts=16,
        metric="accuracy",
        how="avg@16",
    ),
    Benchmark(
        label="AIME 25",
        names=("aime25", "aime2025"),
        problems=30,
        attempts=16,
        metric="accuracy",
        how="avg@16",
    ),
    Benchmark(
        label="HMMT Feb 25",
        names=("hmmtfeb25", "hmmt25", "hmmtfeb2025", "hmmt2025"),
        problems=30,
        attempts=16,
        metric="accuracy",
        how="avg@16",
    ),
    Benchmark(
        label="LiveCodeBench v5",
        names=("livecodebenchv5", "lcbv5", "livecodebench5"),
        problems=279,
        attempts=1,
        metric="accuracy",
        how="pass@1, problems of 2024-08 to 2025-02",
    ),
    Benchmark(
        label="LiveCodeBench v6",
        names=("livecodebenchv6", "lcbv6", "livecodebench6"),
        problems=131,
        attempts=1,
        metric="accuracy",
        how="pass@1, problems of 2025-02 to 2025-05",
    ),
    Benchmark(
        label="Codeforces",
        names=("codeforces",),
        problems=408,
        attempts=8,
        metric="rating",
        how="Elo over contests, up to 8 tries",
    ),
)


def benchmark_of(name: str) -> Benchmark | None:
    """The paper's benchmark that a data set of `results.json` is, by its name."""
    plain = "".join(letter for letter in name.lower() if letter.isalnum())
    plain = plain.removesuffix("test")
    return next((one for one in BENCHMARKS if plain in one.names), None)


@dataclasses.dataclass(frozen=True)
class Result:
    """One row: training data, and the figures in the order of `BENCHMARKS`; accuracies in percent."""

    data: str
    figures: tuple[Number, ...]


@dataclasses.dataclass(frozen=True)
class ResultTable:
    """The rows of one policy and way of training."""

    title: str
    rows: tuple[Result, ...]


TABLES = (
    ResultTable(
        "Self-play (DPO), Qwen3-4B-Thinking-2507",
        (
            Result("before training", (85.2, 81.3, 55.5, 63.8, 55.2, 1852)),
            Result("OpenCodeReasoning", (83.1, 78.5, 50.4, 64.4, 57.1, 1867)),
            Result("OpenMathReasoning", (85.3, 83.0, 56.8, 59.7, 48.5, 1826)),
            Result("OpenThoughts3", (84.7, 80.6, 54.2, 65.2, 54.4, 1846)),
            Result("OpenR1", (84.6, 80.9, 56.7, 63.0, 54.6, 1829)),
            Result("PromptCoT 1.0", (85.3, 81.8, 58.6, 64.5, 56.7, 1878)),
            Result("PromptCoT 2.0", (87.3, 85.0, 66.5, 67.7, 61.1, 1934)),
        ),
    ),
    ResultTable(
        "Self-play (DPO), Qwen3-30B-A3B-Thinking-2507",
        (
            Result("before training", (87.7, 85.0, 71.4, 68.1, 66.0, 2044)),
            Result("OpenCodeReasoning", (85.0, 81.1, 64.9, 70.8, 67.4, 2048)),
            Result("OpenMathReasoning", (87.9, 86.1, 72.2, 65.7, 58.4, 2022)),
            Result("OpenThoughts3", (85.7, 84.7, 70.0, 68.3, 67.2, 2019)),
            Result("OpenR1", (86.3, 84.9, 68.9, 68.3, 63.7, 2045)),
            Result("PromptCoT 1.0", (86.8, 87.4, 72.0, 69.7, 67.8, 2051)),
            Result("PromptCoT 2.0", (92.1, 89.8, 76.7, 74.2, 71.0, 2079)),
        ),
    ),
    ResultTable(
        "SFT, Qwen2.5-7B-Instruct",
        (
            Result("before training", (12.8, 8.0, 2.7, 14.7, 13.7, 706)),
            Result("OpenCodeReasoning", (11.7, 7.7, 6.0, 50.5, 42.0, 1648)),
            Result("OpenMathReasoning", (73.3, 58.1, 42.1, 9.7, 10.7, 676)),
            Result("OpenThoughts3", (69.6, 59.4, 38.3, 47.0, 36.6, 1630)),
            Result("OpenR1", (55.6, 39.2, 24.6, 40.5, 32.8, 1548)),
            Result("PromptCoT 1.0", (71.0, 60.2, 41.6, 47.8, 43.6, 1645)),
            Result("OpenThoughts3, GPT-OSS traces", (52.3, 37.3, 24.0, 22.2, 21.4, 907)),
            Result("PromptCoT 2.0", (73.1, 65.6, 46.5, 53.4, 48.9, 1815)),
            Result("PromptCoT 2.0 without cold start", (72.1, 63.9, 45.3, 50.4, 43.6, 1677)),
            Result("PromptCoT 2.0 without EM", (69.8, 59.0, 41.3, 44.9, 44.2, 1592)),
        ),
    ),
    ResultTable(
        "Self-play by iterative SFT, Ring-Lite-2506",
        (
            Result("before training", (76.6, 69.1, None, 60.7, None, None)),
            Result("PromptCoT 2.0", (79.8, 70.4, None, 62.7, None, None)),
        ),
    ),
)
MODELS = tuple(table.title.rpartition(", ")[2] for table in TABLES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting of the paper's runs beside the name that ours has.

    Attributes:
        name: in `config/STAGE.settings.json`.
        values: those of ours that are the paper's; two where the paper has a range, which is between them.
        said: the paper's in words; empty: the value itself.
        of: "release" where only the released scripts say it.
    """

    stage: str
    label: str
    name: str
    values: tuple[Any, ...]
    said: str = ""
    is_range: bool = False
    of: Literal["paper", "release"] = "paper"

    def is_same(self, ours: Any) -> bool:
        """Whether a recorded value is the paper's."""
        if self.is_range:
            return isinstance(ours, int | float) and self.values[0] <= ours <= self.values[1]
        return ours in self.values


SETTINGS = (
    Setting(
        stage="cold_start", label="learning rate", name="cold_start.optimizer.learning_rate", values=(2e-5,)
    ),
    Setting(stage="cold_start", label="rows a batch", name="cold_start.fit.rows_per_batch", values=(16,)),
    Setting(
        stage="cold_start",
        label="packing",
        name="cold_start.fit.pack",
        values=(False,),
        said="one sequence a row",
    ),
    Setting(stage="cold_start", label="epochs", name="cold_start.fit.num_epochs", values=(2,)),
    Setting(stage="em", label="rationales of a pair (E-step)", name="em.e_step.group_size", values=(8,)),
    Setting(stage="em", label="temperature (E-step)", name="em.e_step.temperature", values=(1.0,)),
    Setting(
        stage="em",
        label="what phi is fitted to",
        name="em.e_step.objective",
        values=("best_of_g",),
        said="the best of the samples",
    ),
    Setting(
        stage="em",
        label="reward R",
        name="em.e_step.reward",
        values=("log_joint",),
        said="log p(z, x | c), a sum over tokens",
    ),
    Setting(stage="em", label="learning rate, phi", name="em.phi_optimizer.learning_rate", values=(2e-6,)),
    Setting(
        stage="em", label="learning rate, theta", name="em.theta_optimizer.learning_rate", values=(2e-6,)
    ),
    Setting(stage="em", label="rows a batch, phi", name="em.phi_fit.rows_per_batch", values=(16,)),
    Setting(stage="em", label="rows a batch, theta", name="em.theta_fit.rows_per_batch", values=(16,)),
    Setting(
        stage="em",
        label="packing, theta",
        name="em.theta_fit.pack",
        values=(False,),
        said="one sequence a row",
    ),
    Setting(stage="em", label="E-step", name="em.em_config.e_step", values=(True,), said="in every round"),
    Setting(
        stage="verify", label="solutions that vote", name="verify.config.solve.num_solutions", values=(8,)
    ),
    Setting(
        stage="self_play",
        label="method",
        name="self_play.method",
        values=("DpoConfig",),
        said="DPO",
    ),
    Setting(
        stage="self_play",
        label="completions of a prompt",
        name="self_play.rollouts.group_size",
        values=(8,),
    ),
    Setting(
        stage="self_play",
        label="temperature of completions",
        name="self_play.rollouts.sampling.temperature",
        values=(1.2, 1.25),
        said="1.25 (4B), 1.2 (30B-A3B)",
        is_range=True,
    ),
    Setting(
        stage="self_play",
        label="tokens of a completion",
        name="self_play.rollouts.sampling.max_new_tokens",
        values=(81_920,),
        of="release",
    ),
    Setting(
        stage="self_play", label="learning rate", name="self_play.optimizer.learning_rate", values=(1e-6,)
    ),
    Setting(
        stage="self_play",
        label="prompts solved in this share of tries left out",
        name="self_play.prompts.solved_below",
        values=(0.5,),
    ),
    Setting(
        stage="distill",
        label="teacher",
        name="distill.teacher.model",
        values=("gpt-oss-120b", "openai/gpt-oss-120b"),
        said="GPT-OSS-120B (medium)",
    ),
    Setting(stage="sft", label="learning rate", name="sft.optimizer.learning_rate", values=(8e-5,)),
    Setting(stage="sft", label="rows a batch", name="sft.fit.rows_per_batch", values=(1024,)),
    Setting(
        stage="evaluate",
        label="temperature",
        name="evaluate.solver.config.sampling.temperature",
        values=(0.6,),
        of="release",
    ),
    Setting(
        stage="evaluate",
        label="top-p",
        name="evaluate.solver.config.sampling.top_p",
        values=(0.95,),
        of="release",
    ),
    Setting(
        stage="evaluate",
        label="tokens of an attempt",
        name="evaluate.solver.config.sampling.max_new_tokens",
        values=(81_920,),
        of="release",
    ),
)

# Of the data and models, which no single setting of ours says.
SCALE = {
    "cold_start": "15,586 triples; p_theta and q_phi start from Qwen2.5-32B-Base",
    "em": "rounds, steps of a round and the rule to stop are not given",
    "verify": "answers by vote of Qwen3-30B-A3B-Thinking-2507 or GPT-OSS-120B; 3 to 4 tests a program",
    "self_play": "48,113 prompts (4B) or 11,209 (30B-A3B), batches of 16; beta and epochs are not given",
    "sft": "4,766,890 prompts, 7,351 tokens a trace; epochs are not given",
}
