"""Every gin file of `configs/` parses, and what it sets up is built, up to the point of work."""

import collections
import dataclasses
import functools
import inspect
import math
import re
from pathlib import Path
from typing import Any

import gin
import jax
import pytest
from gin import config as gin_config

from promptcot_jax.em import settings
from promptcot_jax.models import causal_lm
from promptcot_jax.models import config as model_config
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import topologies
from promptcot_jax.run import cli, configuration, gin_files, stages
from promptcot_jax.sampling import engine
from promptcot_jax.trainers import loop, self_play_config
from tests.run import test_commands

CONFIGS = Path(gin_files.packaged_configs())
FILES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.gin"))
NO_STAGE = ("stages/shared.gin", "stages/endpoint.gin", "stages/report.gin")
TRAINING = ("stages/cold_start.gin", "stages/em.gin")  # what model, mesh and data files are named after

# Each file's companions on the command line, and what the user must set.
BEFORE = {
    "stages/shared.gin": (),
    "stages/endpoint.gin": (),
    "data/user_triples.gin": (*TRAINING, "models/smollm2_135m.gin"),
    "data/tasks.gin": ("stages/sft.gin",),
    "models/lora.gin": ("stages/cold_start.gin",),
    "stages/watching.gin": ("stages/sft.gin",),
    "stages/self_play_dpo.gin": ("stages/self_play.gin",),
    "stages/self_play_rejection.gin": ("stages/self_play.gin",),
    "stages/self_play_measure.gin": ("stages/self_play.gin",),
    "stages/self_play_sampled.gin": ("stages/self_play.gin",),
    "stages/plan.gin": ("stages/cold_start.gin",),
}
AFTER = {
    "stages/cold_start.gin": ("models/smollm2_135m.gin",),
    "stages/sft.gin": ("models/smollm2_135m.gin",),
    "stages/self_play.gin": ("models/smollm2_135m.gin",),
    "stages/watching.gin": ("models/smollm2_135m.gin",),
    "stages/self_play_dpo.gin": ("models/smollm2_135m.gin",),
    "stages/self_play_rejection.gin": ("models/smollm2_135m.gin",),
    "stages/self_play_measure.gin": ("models/smollm2_135m.gin",),
    "stages/self_play_sampled.gin": ("models/smollm2_135m.gin",),
    "data/tasks.gin": ("models/smollm2_135m.gin",),
    "models/lora.gin": ("models/smollm2_135m.gin",),
    "stages/plan.gin": ("models/smollm2_135m.gin",),
}
REQUIRED = {"TRIPLES": "'mine.jsonl'", "TRIPLES_HELDOUT": "'held.jsonl'", "MODEL_PATH": "'model'"}
REQUIRED |= {"SOURCE": "'model'", "OUTPUT": "'converted'", "BENCHMARKS": "('test.jsonl',)"}
REQUIRED |= {"PROBLEMS": "'mine.jsonl'", "TEACHER": "'teacher'", "SOLVER": "'solver'", "VOTER": "'voter'"}
REQUIRED |= {"TASKS": "('p_theta',)", "TOPOLOGY": "'v5e-8'", "NUM_ITERATIONS": "10"}
REQUIRED |= {"PROMPTS_PER_ITERATION": "16", "BASELINE": "'first'", "OTHER": "'second'"}
REQUIRED |= {"STAGES": "['report']"}

# Published sizes, as the hub counts in the checkpoints' safetensors; more in tests/models/test_hf_config.py.
PARAMETERS = {
    "models/qwen2_5_0_5b.gin": 494_032_768,
    "models/qwen2_5_1_5b.gin": 1_543_714_304,
    "models/qwen2_5_7b.gin": 7_615_616_512,
    "models/qwen2_5_32b.gin": 32_763_876_352,
    "models/qwen3_4b_thinking.gin": 4_022_468_096,
    "models/qwen3_30b_a3b.gin": 30_532_122_624,
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
    macros = gin_files.macros_of(gin_files.with_includes([gin_files.SHARED, *files]))
    required = [name for name, macro in macros.items() if macro.default == "%gin.REQUIRED"]
    return files, [f"{name}={REQUIRED[name]}" for name in required]


def test_every_group_of_configs_is_there():
    assert {file.split("/")[0] for file in FILES} == {
        "data",
        "meshes",
        "models",
        "runs",
        "stages",
    }


@pytest.mark.parametrize("file", FILES)
def test_the_file_has_its_header_and_is_short(file: str):
    said = gin_files.read(str(CONFIGS / file))
    assert said.summary
    lines = (CONFIGS / file).read_text().splitlines()
    assert len(lines) <= (125 if file.startswith("stages/") else 60)
    if file.startswith("runs/"):
        assert said.headings.keys() >= {"command", "hardware", "time", "result"}


@pytest.mark.parametrize("stage", stages.STAGES)
def test_a_stage_file_lists_what_is_required_and_what_is_commonly_overridden(stage: str):
    said, macros = cli._file_of(stage), gin_files.macros_of(gin_files.of_stage(stage))
    assert said.headings.keys() >= {"command", "reads", "result"}
    required = {name for name, macro in macros.items() if macro.default == "%gin.REQUIRED"}
    # `plan` takes MODEL from the file of a model, where a stage that it plans reads one.
    assert set(said.listed("Required")) == required - ({"MODEL"} if stage == "plan" else set())
    assert set(said.listed("Commonly overridden")) <= macros.keys() - required
    assert all(gin_files.find(file) for file in said.listed("with"))


# Two settings of one name, in stages that no run does together.
TWO_MEANINGS = {"DOMAIN", "OUTPUT", "PROBLEMS", "SOURCE"}


def test_a_macro_has_its_default_and_meaning_in_one_file():
    """Other files only set it: variants of a stage, meshes, models, runs."""
    homes = collections.defaultdict(set)
    for stage in stages.STAGES:
        for file, said in gin_files.of_stage(stage).items():
            for macro in said.macros:
                homes[macro.name].add(file)
                assert macro.meaning, f"{file}: {macro.name}"
    assert {name for name, files in homes.items() if len(files) > 1} == TWO_MEANINGS


def test_list_macros_leaves_none_out():
    listed = set[str]()
    for stage in stages.STAGES:
        listed |= set(re.findall(r"^  ([A-Z][A-Z0-9_]*)", cli._macro_list(stage, [], []), re.MULTILINE))
    assert listed == {macro.name for file in FILES for macro in gin_files.read(str(CONFIGS / file)).macros}


def test_list_macros_says_default_and_meaning():
    text = cli._macro_list("em", ["meshes/fsdp_tensor.gin"], [])
    assert "  EM_GROUP_SIZE = 8  " in text
    assert "rationales sampled per (concepts, problem) pair; the paper's 8" in text
    assert "meshes/fsdp_tensor.gin, with --gin_file=meshes/fsdp_tensor.gin:" in text
    assert "  TENSOR = 2  devices that share a matmul" in text
    assert "LORA" not in text  # of the shared macros only what the stage reads


def test_every_macro_has_a_meaning_somewhere():
    said = [macro for file in FILES for macro in gin_files.read(str(CONFIGS / file)).macros]
    assert {macro.name for macro in said} == {macro.name for macro in said if macro.meaning}


def test_synthesize_draws_as_the_released_generator():
    configuration.load(["stages/synthesize.gin"], [])
    drawn = configuration.arguments_of("synthesize", stages.stage_function("synthesize"))["config"].sampling
    assert (drawn.temperature, drawn.max_new_tokens, drawn.top_p) == (0.8, 4096, 1.0)


@pytest.mark.parametrize("file", FILES)
def test_the_file_parses_and_builds(file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)  # found through the packaged configs, not the current directory
    files, bindings = command_line(file)
    configuration.load(files, bindings)
    built = [name for name in stages.STAGES if is_set_up(name)]
    assert built or file in NO_STAGE
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


@pytest.mark.parametrize("slice_", "v4-8 v5e-8 v6e-8 v4-32 v5e-16 v6e-16 v5p-32 v5p-64 v5p-128".split())
@pytest.mark.parametrize(("file", "tensor"), [("fsdp", 1), ("fsdp_tensor", 2)])
def test_a_mesh_file_takes_all_chips_of_any_slice(file: str, tensor: int, slice_: str):
    configuration.load(["stages/em.gin", f"meshes/{file}.gin"])
    config = gin.get_configurable(mesh_lib.MeshConfig)()
    num_chips = topologies.named(slice_).num_chips
    shape = test_commands.mesh_of(config, num_chips).shape
    assert (shape["fsdp"], shape["tensor"], math.prod(shape.values())) == (
        num_chips // tensor,
        tensor,
        num_chips,
    )


def test_the_mesh_file_of_one_device():
    configuration.load(["stages/em.gin", "meshes/fsdp.gin", "meshes/single.gin"])
    assert mesh_lib.make_mesh(gin.get_configurable(mesh_lib.MeshConfig)()).size == 1


@pytest.mark.parametrize("stage", stages.STAGES)
def test_a_macro_and_the_field_that_it_sets_have_the_same_default(stage: str):
    """Or the field has none; a class that is used under several scopes may have another."""
    files, bindings = command_line(f"stages/{stage}.gin")
    configuration.load(files, bindings)
    config, given_here = gin_config._CONFIG, {binding.partition("=")[0] for binding in bindings}
    for (scope, selector), parameters in config.items():
        fields = inspect.signature(gin_config._REGISTRY[selector].wrapped).parameters
        for name, given in parameters.items():
            macro = repr(given)[1:]
            if scope or not configuration._is_macro(given) or macro in given_here:
                continue
            value, default = config[macro, "gin.macro"]["value"], fields[name].default
            if is_plain(value) and default is not inspect.Parameter.empty:
                stands_for_empty = default is None or repr(default) == "<factory>"
                assert value == default or (value == {} and stands_for_empty), f"{selector}.{name}, {macro}"


def is_plain(value: Any) -> bool:
    """Whether a value of gin's refers to nothing."""
    return not any(
        isinstance(leaf, gin_config.ConfigurableReference) for leaf in configuration._leaves(value)
    )


@pytest.mark.parametrize(
    ("file", "claimed"), [("runs/from_scratch.gin", 375_360), ("runs/tiny_base.gin", 2_009_504)]
)
def test_a_model_has_the_size_that_is_claimed(file: str, claimed: int):
    configuration.load([file])
    assert gin.get_configurable(model_config.DecoderConfig)().parameter_count() == claimed


def test_what_only_says_how_names_fields_that_exist():
    for cls in (loop.LoopConfig, mesh_lib.MeshConfig, settings.BatchSizes, engine.EngineConfig):
        assert {field.name for field in dataclasses.fields(cls)} >= cls.EXECUTION_ONLY


def test_a_packaged_file_is_found_by_its_path_in_a_checkout_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)  # as on a machine of a slice, where only the package is
    configuration.load(["configs/runs/quickstart.gin", "configs/meshes/fsdp.gin"])
    assert gin.get_configurable(mesh_lib.MeshConfig)().fsdp == -1


def test_each_part_of_the_bases_pretraining_reads_its_own_documents_and_rows():
    found = {}
    for file in ("runs/tiny_base.gin", "runs/tiny_base_mixed.gin"):
        configuration.load([file], [])
        found[file] = [gin.query_parameter(f"%{name}") for name in ("MIXTURE_OR_TASK_NAME", "SEED")]
    assert found == {
        "runs/tiny_base.gin": ["documents", 20],
        "runs/tiny_base_mixed.gin": ["mixed_documents", 22],
    }


def test_grpo_takes_the_samplers_log_probs_where_it_is_told_to():
    configuration.load(
        ["stages/self_play.gin", "stages/self_play_sampled.gin", "models/smollm2_135m.gin"],
        ["NUM_ITERATIONS=1"],
    )
    config = gin.get_configurable(self_play_config.SelfPlayConfig)()
    assert config.old_log_probs == "sampled"


def test_more_than_half_of_the_quickstarts_votes_must_agree():
    """Half of them are guesses without work."""
    configuration.load(["runs/quickstart.gin"], [])
    votes, share = (gin.query_parameter(f"%{name}") for name in ("VOTE_GROUP_SIZE", "MIN_AGREEMENT"))
    assert math.ceil(votes * share) == 9
    assert votes == 16
