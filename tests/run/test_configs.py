"""Every gin file of `configs/` parses, and what it sets up is built, up to the point of work."""

import dataclasses
import functools
import math
from pathlib import Path

import gin
import jax
import pytest

from promptcot_jax.em import settings
from promptcot_jax.models import causal_lm
from promptcot_jax.models import config as model_config
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import topologies
from promptcot_jax.run import configuration, stages
from promptcot_jax.sampling import engine
from promptcot_jax.trainers import loop

CONFIGS = Path(configuration.packaged_configs())
FILES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.gin"))
TRAINING = ("stages/cold_start.gin", "stages/em.gin")  # what model, mesh and data files are named after

# Each file's companions on the command line, and what the user must set.
BEFORE = {
    "stages/annotate_teachers.gin": ("stages/annotate.gin",),
    "stages/verify_models.gin": ("stages/verify.gin",),
    "stages/distill_teacher.gin": ("stages/distill.gin",),
    "data/corpus.gin": (),
    "data/user_triples.gin": (*TRAINING, "models/smollm2_135m.gin"),
    "data/tasks.gin": ("stages/sft.gin",),
    "models/lora.gin": ("stages/cold_start.gin",),
    "stages/em_settings.gin": ("stages/em.gin",),
    "stages/synthesize_settings.gin": ("stages/synthesize.gin",),
    "stages/evaluate_solver.gin": ("stages/evaluate.gin",),
    "stages/self_play_settings.gin": ("stages/self_play.gin",),
    "stages/self_play_watching.gin": ("stages/self_play.gin",),
    "stages/watching.gin": ("stages/sft.gin",),
    "stages/self_play_dpo.gin": ("stages/self_play.gin",),
    "stages/self_play_rejection.gin": ("stages/self_play.gin",),
    "stages/self_play_measure.gin": ("stages/self_play.gin",),
    "stages/plan.gin": ("stages/cold_start.gin",),
}
AFTER = {
    "stages/cold_start.gin": ("models/smollm2_135m.gin",),
    "stages/sft.gin": ("models/smollm2_135m.gin",),
    "stages/self_play.gin": ("models/smollm2_135m.gin",),
    "stages/evaluate_solver.gin": ("stages/evaluate.gin",),
    "stages/self_play_settings.gin": ("models/smollm2_135m.gin",),
    "stages/self_play_watching.gin": ("models/smollm2_135m.gin",),
    "stages/watching.gin": ("models/smollm2_135m.gin",),
    "stages/self_play_dpo.gin": ("models/smollm2_135m.gin",),
    "stages/self_play_rejection.gin": ("models/smollm2_135m.gin",),
    "stages/self_play_measure.gin": ("models/smollm2_135m.gin",),
    "data/tasks.gin": ("models/smollm2_135m.gin",),
    "models/lora.gin": ("models/smollm2_135m.gin",),
    "data/corpus.gin": ("stages/corpus.gin",),
    "stages/plan.gin": ("models/smollm2_135m.gin",),
}
REQUIRED = {"TRIPLES": "'mine.jsonl'", "TRIPLES_HELDOUT": "'held.jsonl'", "MODEL_PATH": "'model'"}
REQUIRED |= {"SOURCE": "'model'", "OUTPUT": "'converted'", "BENCHMARKS": "('test.jsonl',)"}
REQUIRED |= {"PROBLEMS": "'mine.jsonl'", "TEACHER": "'teacher'", "SOLVER": "'solver'"}
REQUIRED |= {"TASKS": "('p_theta',)", "TOPOLOGY": "'v5e-8'", "NUM_ITERATIONS": "10"}
REQUIRED |= {"PROMPTS_PER_ITERATION": "16", "BASELINE": "'first'", "OTHER": "'second'"}

# Published sizes: what the hub counts in the checkpoints' safetensors. The cards round: Qwen3-30B-A3B 30.5B,
# Llama 3.1 8B 8.03B, Gemma 2 2B 2.61B, gpt-oss 20.9B and 116.8B (its card, table 1). Of Gemma 3 4B, 4.30B of
# which 0.42B see, the text part's 3.88B, from its config.
PARAMETERS = {
    "models/qwen2_5_0_5b.gin": 494_032_768,
    "models/qwen2_5_1_5b.gin": 1_543_714_304,
    "models/qwen2_5_7b.gin": 7_615_616_512,
    "models/qwen2_5_32b.gin": 32_763_876_352,
    "models/qwen3_4b.gin": 4_022_468_096,
    "models/qwen3_4b_thinking.gin": 4_022_468_096,
    "models/qwen3_8b.gin": 8_190_735_360,
    "models/qwen3_30b_a3b.gin": 30_532_122_624,
    "models/llama3_1_8b.gin": 8_030_261_248,
    "models/gemma2_2b.gin": 2_614_341_888,
    "models/gemma3_4b.gin": 3_880_263_168,
    "models/gpt_oss_20b.gin": 20_914_757_184,
    "models/gpt_oss_120b.gin": 116_829_156_672,
}


def command_line(file: str) -> tuple[list[str], list[str]]:
    """Files and bindings of a whole command around one config file."""
    if file.startswith("models/"):
        before = ("stages/corpus.gin", *TRAINING) if file == "models/tiny.gin" else TRAINING
    elif file.startswith("meshes/"):
        before = (*TRAINING, "models/smollm2_135m.gin")
    else:
        before = BEFORE.get(file, ())
    files = [*before, file, *AFTER.get(file, ())]
    text = "\n".join((CONFIGS / name).read_text() for name in with_includes(files))
    bindings = [f"{name}={value}" for name, value in REQUIRED.items() if f"{name} = %gin.REQUIRED" in text]
    return files, bindings


def with_includes(files: list[str]) -> list[str]:
    """The files and, recursively, what they include."""
    found = []
    for file in files:
        lines = (CONFIGS / file).read_text().splitlines()
        included = [line.split("'")[1] for line in lines if line.startswith("include ")]
        found += [*with_includes(included), file]
    return found


def test_every_group_of_configs_is_there():
    assert {file.split("/")[0] for file in FILES} == {
        "analyses",
        "data",
        "meshes",
        "models",
        "runs",
        "stages",
    }


@pytest.mark.parametrize("file", FILES)
def test_the_file_has_its_header_and_is_short(file: str):
    lines = (CONFIGS / file).read_text().splitlines()
    assert len(lines) < 60
    header = "\n".join(line for line in lines if line.startswith("#"))
    for heading in ("# command:", "# hardware:", "# time:", "# result:"):
        assert heading in header


def test_synthesize_draws_as_the_released_generator():
    configuration.load(["stages/synthesize.gin"], [])
    drawn = configuration.arguments_of("synthesize", stages.stage_function("synthesize"))["config"].sampling
    assert (drawn.temperature, drawn.max_new_tokens, drawn.top_p) == (0.8, 4096, 1.0)


@pytest.mark.parametrize("file", FILES)
def test_the_file_parses_and_builds(file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)  # found through the packaged configs, not the current directory
    files, bindings = command_line(file)
    configuration.load(files, bindings)
    built = [name for name, stage in stages.STAGES.items() if stage.built and is_set_up(name)]
    assert built or file == "data/corpus.gin"
    if "run" in built:
        built += configuration.arguments_of("run", stages.stage_function("run"))["stages"]
    for name in built:
        arguments = configuration.arguments_of(name, stages.stage_function(name))
        settings = configuration.settings_of(name, arguments)
        assert all("%" not in str(value) for value in settings.values())


@functools.cache
def function_of(name: str):
    return stages.stage_function(name)


def is_set_up(name: str) -> bool:
    """Whether the loaded configuration speaks of a stage."""
    try:
        return bool(gin.get_bindings(function_of(name), resolve_references=False))
    except ValueError:
        return False


@pytest.mark.parametrize(("file", "parameters"), PARAMETERS.items())
def test_a_model_file_describes_the_published_model(file: str, parameters: int):
    configuration.load(*command_line(file))
    built = gin.get_configurable(model_config.DecoderConfig)()
    shapes = jax.eval_shape(causal_lm.CausalLM(built).init, jax.random.key(0))
    assert built.parameter_count() == sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters
    assert built.dtype == built.param_dtype == "bfloat16"


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("meshes/")])
def test_a_mesh_file_takes_all_chips_of_its_slice(file: str):
    configuration.load(*command_line(file))
    config = gin.get_configurable(mesh_lib.MeshConfig)()
    if file in ("meshes/single.gin", "meshes/fsdp.gin"):
        assert mesh_lib.make_mesh(config).size == (1 if "single" in file else 8)
        return
    name = "-".join(Path(file).stem.split("_")[:2])
    assert math.prod(config.shape) == topologies.named(name).num_chips


def test_quickstart_model_has_the_size_that_is_claimed():
    configuration.load(["runs/quickstart.gin"])
    built = gin.get_configurable(model_config.DecoderConfig)()
    assert 300_000 < built.parameter_count() < 400_000


def test_every_macro_of_the_help_is_in_the_stages_gin_file():
    for name, stage in stages.STAGES.items():
        if not stage.settings:
            continue
        file = "runs/quickstart.gin" if name == "run" else f"stages/{name}.gin"
        text = "\n".join((CONFIGS / included).read_text() for included in with_includes([file]))
        for setting, _ in stage.settings:
            assert f"{setting} = " in text, f"{name}: {setting}"


def test_what_only_says_how_names_fields_that_exist():
    for cls in (loop.LoopConfig, mesh_lib.MeshConfig, settings.BatchSizes, engine.EngineConfig):
        assert cls.EXECUTION_ONLY <= {field.name for field in dataclasses.fields(cls)}


def test_a_packaged_file_is_found_by_its_path_in_a_checkout_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)  # as on a machine of a slice, where only the package is
    configuration.load(["configs/runs/quickstart.gin", "configs/meshes/v6e_8.gin"])
    assert gin.get_configurable(mesh_lib.MeshConfig)().fsdp == 8
