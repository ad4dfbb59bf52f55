"""Facts of what stands beside the paper: the right column, every difference, nothing without a benchmark."""

import re

import pytest

from promptcot_jax.core import jsonl, manifest
from promptcot_jax.report import paper
from promptcot_jax.run import configuration, stages
from tests.report import outline

SAMPLING = {"group_size": 16, "sampling": {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 81_920}}
RESULT = {
    "accuracy": 0.5,
    "interval": [0.4, 0.6],
    "problems": 30,
    "attempts_per_problem": 16,
    "solver": "runs/policy",
    "sampling": SAMPLING,
}


def rows_of(section: str, caption: str) -> list[list[str]]:
    (table,) = [part for part in section.split("<table>") if part.startswith(f"<caption>{caption}")]
    body = table.partition("<tbody>")[2].partition("</tbody>")[0]
    return [
        [re.sub("<[^>]*>", "", cell) for cell in re.findall("<t[dh][^>]*>(.*?)</t[dh]>", row)]
        for row in body.split("</tr>")[:-1]
    ]


def section_of(workdir, **results) -> str:
    jsonl.write_json(workdir / "results.json", {"results": results})
    return outline.section(workdir, "paper")


def test_the_tables_have_a_figure_for_each_benchmark():
    width = len(paper.facts().benchmarks)
    rows = [figures for table in paper.facts().results.values() for figures in table.values()]
    assert all(len(figures) == width for figures in rows)
    for table in list(paper.facts().results.values())[:2]:  # the paper's headline: best in every column
        for column, figure in enumerate(table["PromptCoT 2.0"]):
            assert figure == max(figures[column] for figures in table.values())


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("aime24", "AIME 24"),
        ("aime2024", "AIME 24"),
        ("AIME_25", "AIME 25"),
        ("hmmt_feb25", "HMMT Feb 25"),
        ("livecodebench_v5", "LiveCodeBench v5"),
        ("lcb-v6", "LiveCodeBench v6"),
        ("codeforces", "Codeforces"),
        ("gsm8k_test", None),
        ("triples_heldout", None),
        ("aime", None),
        ("", None),
    ],
)
def test_a_benchmark_is_known_by_its_name(name, label):
    found = paper.benchmark_of(name)
    assert (found.label if found else None) == label


def test_without_a_benchmark_there_is_one_sentence_and_no_table(tmp_path):
    section = section_of(tmp_path, gsm8k_test=RESULT)
    assert "None of the paper\u2019s benchmarks" in section
    assert "<table" not in section


def test_our_figure_stands_above_the_papers_in_its_column(tmp_path):
    rating = {"rating": 1500.4, "interval": [1400, 1600], "percentile": 60.0}
    section = section_of(
        tmp_path,
        codeforces=RESULT | {"codeforces": rating},
        hmmt_feb25=RESULT,
        gsm8k=RESULT | {"accuracy": 0.99},
    )
    assert re.findall('<th scope="col"[^>]*>(.*?)</th>', section)[2:4] == ["HMMT Feb 25", "Codeforces"]
    rows = rows_of(section, "This run beside the paper")
    assert rows[0] == ["this run", "runs/policy", "50.0 (40.0 to 60.0)", "1,500 (1,400 to 1,600)"]
    paper = {(row[0], row[1]): row[2:] for row in rows[1:]}
    assert paper["paper: PromptCoT 2.0", "Self-play (DPO), Qwen3-4B-Thinking-2507"] == ["66.5", "1,934"]
    assert paper["paper: PromptCoT 2.0 without EM", "SFT, Qwen2.5-7B-Instruct"] == ["41.3", "1,592"]
    assert not any("Ring-Lite" in name for _, name in paper)  # reports neither
    assert "99" not in "".join(rows[0])


def test_equal_settings_are_no_difference_but_the_model_always_is(tmp_path):
    section = section_of(tmp_path, aime24=RESULT)
    assert [row[1] for row in rows_of(section, "Differences in how it was measured")] == ["model"]
    assert "As in the paper: problems on aime24; attempts at each problem on aime24; temperature" in section


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"problems": 12}, ["AIME 24", "problems", "30", "12"]),
        ({"attempts_per_problem": 1}, ["AIME 24", "attempts at each problem", "16 (avg@16)", "1"]),
        ({"not_graded": 3}, ["AIME 24", "problems not graded", "none", "3"]),
        (
            {"sampling": {"sampling": SAMPLING["sampling"] | {"top_k": 20}}},
            ["AIME 24", "top-k", "not used", "20"],
        ),
        (
            {"sampling": {"sampling": SAMPLING["sampling"] | {"max_new_tokens": 1024}}},
            [
                *("AIME 24", "tokens of an attempt"),
                *("81,920 (released script; the text does not say)", "1,024"),
            ],
        ),
    ],
)
def test_each_difference_is_named(tmp_path, changes, difference):
    section = section_of(tmp_path, aime24=RESULT | changes)
    assert rows_of(section, "Differences in how it was measured")[1:] == [difference]


def test_settings_of_training_are_compared_for_stages_that_ran(tmp_path):
    settings = {
        "em.e_step.group_size": 8,
        "em.e_step.temperature": 0.7,
        "em.theta_optimizer.learning_rate": 2e-6,
    }
    jsonl.write_json(tmp_path / "config" / "em.settings.json", settings)
    jsonl.write_json(
        tmp_path / "config" / "self_play.settings.json", {"self_play.rollouts.sampling.temperature": 1.22}
    )
    entry = {"status": "complete", "config_digest": "", "seed": 0, "inputs": {}, "versions": {}}
    counts = {"pairs": 512, "rounds": 3}
    manifest.record(tmp_path, manifest.StageEntry(stage="em", counts=counts, wall_seconds=1.0, **entry))
    section = section_of(tmp_path)
    rows = {(row[0], row[1]): row[2:] for row in rows_of(section, "Settings of training")}
    assert {stage for stage, _ in rows} == {"EM", "self play"}
    assert rows["EM", "rationales of a pair (E-step)"] == ["8", "8", "as the paper"]
    assert rows["EM", "temperature (E-step)"] == ["1", "0.7", "differs"]
    assert rows["EM", "learning rate, theta"] == ["2.0e\u221206", "2.0e\u221206", "as the paper"]
    assert rows["EM", "reward R"][1:] == ["not set", "differs"]
    assert rows["self play", "temperature of completions"][1:] == ["1.22", "as the paper"]
    assert ["EM", paper.facts().scale["em"]["paper"], "512 pairs, 3 rounds"] in rows_of(section, "Scale")


@pytest.mark.parametrize("stage", ["cold_start", "em", "verify", "self_play", "sft", "evaluate"])
def test_the_names_of_settings_are_those_that_stages_record(stage):
    model = ("models/smollm2_135m.gin",) if stage in ("cold_start", "self_play", "sft") else ()
    configuration.load((f"stages/{stage}.gin", *model), ("NUM_ITERATIONS=1",) if stage == "self_play" else ())
    arguments = configuration.arguments_of(stage, stages.stage_function(stage))
    recorded = configuration.settings_of(stage, arguments)
    names = {setting.name for setting in paper.facts().settings if setting.stage == stage}
    assert names <= recorded.keys()
