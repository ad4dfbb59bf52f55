"""Plans with a fake compiler: what is tried, in which order, and what is reported."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import hardware, topologies
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel.programs import Program
from promptcot_jax.planning import measures, planner, report, search, target
from promptcot_jax.planning.measures import Measured
from promptcot_jax.run import cli, configuration, plan, stages
from promptcot_jax.sources.model_source import Pretrained

V5E = hardware.HARDWARE["TPU v5 lite"]
GIN = ("runs/from_scratch.gin", "stages/plan.gin")


@pytest.fixture
def quickstart() -> dict[str, dict]:
    """Arguments of the quickstart's stages, on eight devices."""
    configuration.load(
        [*GIN],
        ["TOPOLOGY='v5e-8'", "COLD_START_BATCH=16", "EM_BATCH=16", "SFT_BATCH=16", "mesh.MeshConfig.fsdp=8"],
    )
    return {
        name: configuration.arguments_of(name, stages.stage_function(name))
        for name in plan.PLANNED
        if name not in ("self_play", "distill")
    }


def self_play(*bindings: str, algorithm: str = "") -> dict:
    """Arguments of self-play of a 135M, on eight devices."""
    files = [
        "stages/self_play.gin",
        *([f"stages/self_play_{algorithm}.gin"] if algorithm else []),
        *("models/smollm2_135m.gin", "stages/plan.gin"),
    ]
    fixed = ("TOPOLOGY='v5e-8'", "NUM_ITERATIONS=4", "MAX_SOLUTION_TOKENS=192", "mesh.MeshConfig.fsdp=8")
    configuration.load(files, [*fixed, *bindings])
    return configuration.arguments_of("self_play", stages.stage_function("self_play"))


def programs_of(stage: str, arguments: dict) -> list[Program]:
    model = configuration.arguments_of("plan", stages.stage_function("plan"))["model"]
    return plan.stage_programs(stage, arguments, jax.devices(), model=model, adapter=None, prompt_tokens=64)


def fake_compiler(needs):
    """A compiler for which a program needs what `needs` says, in bytes; and the names of what it compiled."""
    names: list[str] = []

    def compile_program(program: Program, of: hardware.Hardware) -> Measured:
        names.append(program.name)
        limit = measures.limit_bytes(of)
        return Measured(
            name=program.name,
            peak_bytes=needs(program),
            parts={},
            resident={},
            limit_bytes=limit,
            compile_seconds=1.0,
        )

    return compile_program, names


def test_every_stage_has_its_programs(quickstart: dict[str, dict]):
    names = {
        stage: [program.name for program in programs_of(stage, quickstart[stage])] for stage in quickstart
    }
    assert names["cold_start"] == ["cold_start: fit"]
    assert names["em"] == [
        "em: rationales: prefill",
        "em: rationales: decode",
        "em: score under theta",
        "em: fit phi",
        "em: fit theta",
        "em: score held-out rationales",
    ]
    assert names["synthesize"] == ["synthesize: prefill", "synthesize: decode", "synthesize: score"]
    assert names["evaluate"] == ["evaluate: prefill", "evaluate: decode"]


def test_memory_is_split_by_what_arguments_are(quickstart: dict[str, dict]):
    (fit,) = programs_of("cold_start", quickstart["cold_start"])
    found = {name: measures.bytes_of_chip(tree) for name, tree in fit.parts.items()}
    of_all = sum(leaf.size * 4 for leaf in jax.tree.leaves(fit.parts["parameters"]))
    assert of_all / 8 <= found["parameters"] < 1.1 * of_all / 8  # all but a few small ones are split
    assert found["optimizer"] == 2 * found["parameters"] + 4  # two moments and a counter
    assert found["batch"] == 16 * 512 * 13 / 8
    assert measures.bytes_of_chip(fit.resident) == found["parameters"]  # the float32 base


def test_em_counts_what_no_program_sees(quickstart: dict[str, dict]):
    found = {program.name: program for program in programs_of("em", quickstart["em"])}
    one = measures.bytes_of_chip(found["em: fit phi"].parts["parameters"])
    assert measures.bytes_of_chip(found["em: fit phi"].resident) == one
    assert measures.bytes_of_chip(found["em: fit theta"].resident) == one
    assert measures.bytes_of_chip(found["em: rationales: decode"].resident) == 2 * one  # each as trained
    held_out = found["em: score held-out rationales"]
    assert measures.bytes_of_chip(held_out.resident) == 2 * one  # the other model, and the cold-started q_phi
    e_step = dataclasses.replace(quickstart["em"]["e_step"], num_cold_samples=2)
    with_cold = {
        program.name: program for program in programs_of("em", quickstart["em"] | {"e_step": e_step})
    }
    more = {
        name: measures.bytes_of_chip(with_cold[name].resident) - measures.bytes_of_chip(found[name].resident)
        for name in found
    }
    without = dict.fromkeys(("em: fit phi", "em: fit theta", "em: score held-out rationales"), 0)
    assert more == dict.fromkeys(found, one) | without


def test_self_play_scores_what_its_method_needs():
    def scored(*bindings: str, algorithm: str = "") -> list[str]:
        names = [
            program.name for program in programs_of("self_play", self_play(*bindings, algorithm=algorithm))
        ]
        assert names[:2] == ["self_play: iteration: prefill", "self_play: iteration: decode"]
        assert names[-1] == "self_play: update"
        return [name.removeprefix("self_play: score under ") for name in names[2:-1]]

    assert scored("UNITS_PER_UPDATE=64") == ["the policy"]
    assert scored("UNITS_PER_UPDATE=128") == []  # ratios of the update's own pass
    assert scored("UNITS_PER_UPDATE=128", "self_play/grpo.Grpo.kl_beta=0.1") == ["the reference"]
    assert scored("UNITS_PER_UPDATE=64", "self_play/grpo.Grpo.kl_beta=0.1") == ["the policy", "the reference"]
    assert scored(algorithm="dpo") == ["the policy"]
    assert scored(algorithm="rejection") == []


def batch_of(arguments: dict) -> tuple[int, ...]:
    """Shape of the batch of an update."""
    batch = programs_of("self_play", arguments)[-1].parts["batch"]
    return batch.token_ids.shape


def test_updates_of_self_play_have_the_most_rows_that_there_may_be():
    # Prompts of 64 tokens and completions of 192; three share a row if they share a prompt, else two do.
    assert batch_of(self_play("PROMPTS_PER_ITERATION=16", "GROUP_SIZE=8", "UNITS_PER_UPDATE=64")) == (32, 704)
    dpo = ("PROMPTS_PER_ITERATION=32", "GROUP_SIZE=8", "UNITS_PER_UPDATE=24")
    assert batch_of(self_play(*dpo, "PAIRS_PER_PROMPT=2", algorithm="dpo")) == (24, 512)
    few = ("PROMPTS_PER_ITERATION=8", "GROUP_SIZE=8", "UNITS_PER_UPDATE=64")
    assert batch_of(self_play(*few, algorithm="dpo")) == (24, 512)  # three of eight right, at most
    longer = "iterations.SelfPlayConfig.row_length=1024"
    assert batch_of(self_play(*dpo, longer, "PAIRS_PER_PROMPT=4", algorithm="dpo")) == (16, 1024)
    rejection = ("PROMPTS_PER_ITERATION=32", "GROUP_SIZE=8", "UNITS_PER_UPDATE=24")
    assert batch_of(self_play(*rejection, "COMPLETIONS_PER_PROMPT=0", algorithm="rejection")) == (24, 256)
    with pytest.raises(WrongUse, match="may have 512 tokens"):
        batch_of(self_play(*dpo, "iterations.SelfPlayConfig.row_length=256", algorithm="dpo"))


def test_only_the_adapter_of_self_play_has_optimizer_state():
    def parts_of(arguments: dict) -> tuple[float, float, float]:
        """Bytes of a chip: trained, frozen, optimizer."""
        parts = programs_of("self_play", arguments)[-1].parts
        trees = (*parts["parameters"], parts["optimizer"])
        trained, frozen, optimizer = (measures.bytes_of_chip(tree) for tree in trees)
        return trained, frozen, optimizer

    given = self_play()
    whole, nothing, of_whole = parts_of(given)
    assert (nothing, of_whole) == (0, 2 * whole + 4)  # two moments and a counter
    adapter, base, of_adapter = parts_of(given | {"lora": LoraConfig(rank=4)})
    assert base == pytest.approx(whole, rel=0.01)  # as it was loaded, in float32 too
    assert of_adapter == 2 * adapter + 4 < 0.1 * of_whole


def test_self_play_that_does_not_fit_is_advised_by_gins_names():
    arguments = self_play("PROMPTS_PER_ITERATION=16", "GROUP_SIZE=8", "UNITS_PER_UPDATE=64")

    def planned(needs) -> planner.StagePlan:
        compile_program, _ = fake_compiler(needs)
        return planner.plan_stage(
            "self_play",
            arguments,
            lambda a: programs_of("self_play", a),
            V5E,
            compile_program=compile_program,
        )

    first = programs_of("self_play", arguments)[-1].work.memory_bytes
    plan = planned(lambda p: 20e9 if p.name.endswith("update") and p.work.memory_bytes == first else 1e9)
    assert plan.advice is not None
    advised = report.in_gin("self_play", plan.advice.change)
    assert advised == {
        "iterations.SelfPlayConfig.micro_batches": 2,
        "iterations.SelfPlayConfig.remat": "projections",
    }
    # A command that takes the advice sets what was advised.
    taken = self_play(*(f"{name}={value!r}" for name, value in advised.items()))
    assert taken["config"].micro_batches == 2

    plan = planned(lambda p: 20e9 if p.name.endswith("decode") and p.work.tokens > 32 else 1e9)
    assert plan.advice is not None
    advised = report.in_gin("self_play", plan.advice.change)
    assert advised == {"NUM_SLOTS": 32}
    taken = self_play(*(f"{name}={value!r}" for name, value in advised.items()))
    assert taken["rollouts"].engine.num_slots == 32


def test_a_teacher_in_jax_is_planned_and_one_behind_an_endpoint_is_not():
    files = ["stages/distill.gin", "models/smollm2_135m.gin", "stages/plan.gin"]
    bindings = ["TOPOLOGY='v5e-8'", "TEACHER='any'", "MAX_TRACE_TOKENS=192", "mesh.MeshConfig.fsdp=8"]

    def distill(*more: str) -> dict:
        configuration.load(files, [*bindings, *more])
        return configuration.arguments_of("distill", stages.stage_function("distill"))

    assert target.mesh_config(distill()) is None
    arguments = distill("DISTILLED_BY=@distill/text_models.JaxModel()")
    mesh = target.mesh_config(arguments)
    assert mesh is not None
    assert mesh.fsdp == 8
    prefill, decode = programs_of("distill", arguments)
    assert (prefill.name, decode.name) == ("distill: prefill", "distill: decode")
    assert decode.work.tokens == arguments["teacher"].config.engine.num_slots
    assert measures.bytes_of_chip(decode.resident) > 0  # the model as it was loaded, on a mesh
    change = next(search.changes(arguments, decode.settings, 8))
    assert search.apply(arguments, change)["teacher"].config.engine.num_slots == 32
    assert report.in_gin("distill", change) == {"NUM_SLOTS": 32}
    meshes = [change["teacher.mesh"] for change in search.changes(arguments, ("mesh",), 8)]
    assert {mesh.tensor for mesh in meshes} == {2, 4, 8}


def test_a_stage_that_fits_is_compiled_once(quickstart: dict[str, dict]):
    compile_program, names = fake_compiler(lambda program: 1e9)
    plan = planner.plan_stage(
        "em", quickstart["em"], lambda a: programs_of("em", a), V5E, compile_program=compile_program
    )
    assert plan.fits
    assert plan.advice is None
    assert len(names) == 6


def test_micro_batches_come_before_remat(quickstart: dict[str, dict]):
    changes = list(search.changes(quickstart["cold_start"], ("micro_batches", "remat"), 8))
    assert changes[0] == {"loop_config.micro_batches": 2, "loop_config.remat": "projections"}
    assert [change["loop_config.remat"] for change in changes] == sorted(
        (change["loop_config.remat"] for change in changes), reverse=True
    )
    assert changes[-1] == {"loop_config.micro_batches": 16, "loop_config.remat": "full"}


def test_a_mesh_with_an_axis_left_open_is_varied_too(quickstart: dict[str, dict]):
    opened = search.apply(quickstart["cold_start"], {"mesh.fsdp": 2, "mesh.sequence": -1})
    meshes = [change["mesh"] for change in search.changes(opened, ("mesh",), 8)]
    assert meshes
    assert all(math.prod(mesh.shape) == 8 and min(mesh.shape) > 0 for mesh in meshes)


def test_the_first_setting_that_fits_is_advised(quickstart: dict[str, dict]):
    def needs(program: Program) -> float:
        return 20e9 if program.work.memory_bytes < two.memory_bytes else 1e9

    (with_two,) = programs_of(
        "cold_start", search.apply(quickstart["cold_start"], {"loop_config.micro_batches": 2})
    )
    two = with_two.work
    compile_program, names = fake_compiler(needs)
    plan = planner.plan_stage(
        "cold_start",
        quickstart["cold_start"],
        lambda a: programs_of("cold_start", a),
        V5E,
        compile_program=compile_program,
    )
    assert not plan.fits
    assert plan.advice is not None
    assert len(names) == 2
    assert report.in_gin("cold_start", plan.advice.change) == {
        "cold_start/loop.LoopConfig.micro_batches": 2,
        "cold_start/loop.LoopConfig.remat": "projections",
    }


def test_of_sampling_slots_are_halved_and_only_what_did_not_fit_compiles_again(quickstart: dict[str, dict]):
    def needs(program: Program) -> float:
        return 20e9 if program.name.endswith("decode") and program.work.tokens > 16 else 1e9

    compile_program, names = fake_compiler(needs)
    plan = planner.plan_stage(
        "evaluate",
        quickstart["evaluate"],
        lambda a: programs_of("evaluate", a),
        V5E,
        compile_program=compile_program,
    )
    assert plan.advice is not None
    assert plan.advice.change == {"solver.config.engine.num_slots": 16}
    assert names == ["evaluate: prefill", *["evaluate: decode"] * 3]


def test_what_arrays_alone_overfill_is_not_compiled_again(quickstart: dict[str, dict]):
    compile_program, names = fake_compiler(lambda program: 1e9)
    tiny = dataclasses.replace(V5E, hbm_bytes=1e3)
    plan = planner.plan_stage(
        "cold_start",
        quickstart["cold_start"],
        lambda a: programs_of("cold_start", a),
        tiny,
        compile_program=compile_program,
    )
    assert not plan.fits
    assert plan.advice is None
    assert not plan.tried
    assert len(names) == 1


def test_a_refusal_of_the_compiler_is_read():
    message = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required "
        "for HLO temporaries (288.00G) exceeds available HBM (15.75G). HLO module: jit_run.\n\nmore"
    )
    assert measures.bytes_needed(message) == 288 * 2**30
    assert measures.first_line(message).endswith("HLO module: jit_run.")
    assert measures.bytes_needed("Used 36.5G of 15.75G hbm") == 36.5 * 2**30
    assert measures.bytes_needed("nothing is said") is None


def test_bytes_of_a_chip_follow_the_sharding():
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=4, tensor=2))
    split = NamedSharding(mesh, PartitionSpec("fsdp", None))
    shape = jax.ShapeDtypeStruct((16, 3), jnp.bfloat16, sharding=split)
    assert measures.bytes_of_chip({"a": shape, "b": [shape]}) == 2 * 4 * 3 * 2


def command(tmp_path: Path, *more: str) -> list[str]:
    files = [f"--gin_file={file}" for file in GIN]
    return ["plan", *files, "--gin.TOPOLOGY='v5e-8'", *more, f"--workdir={tmp_path}"]


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chips that are the devices of this machine, called v5e."""
    monkeypatch.setattr(topologies, "devices", lambda topology: jax.devices()[: topology.num_chips])
    monkeypatch.setattr(topologies, "libtpu_mismatch", lambda: "")
    monkeypatch.setattr(hardware, "hardware_of", lambda kind: V5E)
    monkeypatch.setitem(stages.STAGES, "plan", dataclasses.replace(stages.STAGES["plan"], environment=()))
    monkeypatch.setattr("promptcot_jax.run.plan._versions", dict)


@pytest.mark.usefixtures("no_compiler")
def test_exit_codes_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    stage = ["--gin.PLAN_STAGES=('evaluate',)", "--gin.mesh.MeshConfig.fsdp=8"]
    compile_program, _ = fake_compiler(lambda program: 1e9)
    plan_stage = planner.plan_stage
    monkeypatch.setattr(
        planner,
        "plan_stage",
        lambda *given, **named: plan_stage(*given, **named, compile_program=compile_program),
    )
    assert cli.main(command(tmp_path, *stage)) == 0
    record = json.loads((tmp_path / "plan.json").read_text())
    assert record["label"] == "compiled only, not run"
    assert record["fits"]
    assert record["topology"]["chips"] == 8

    compile_program, _ = fake_compiler(lambda program: 20e9 if program.work.tokens == 64 else 1e9)
    assert cli.main(command(tmp_path, *stage)) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert "does not fit on v5litepod-8 (8 chips, 2x4): evaluate: decode; it fits with" in error
    assert "--gin.evaluate/engine.EngineConfig.num_slots=32" in error
    assert "compiled only, not run" in error
    record = json.loads((tmp_path / "plan.json").read_text())
    assert not record["fits"]
    assert record["stages"][0]["fits_with"]["settings"] == {"evaluate/engine.EngineConfig.num_slots": 32}


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize(
    ("binding", "words"),
    [
        ("--gin.TOPOLOGY='v5e-9'", "topology 'v5e-9' is not offered"),
        ("--gin.mesh.MeshConfig.fsdp=4", "takes 4 of the topology's 8 chips"),
        ("--gin.mesh.MeshConfig.fsdp=16", "needs 16 devices, 8 are here"),
        ("--gin.PLAN_STAGES=('report',)", "plan.stages names 'report'"),
        ("--gin.PROMPT_TOKENS=0", "prompt_tokens must be at least 1"),
    ],
)
def test_wrong_use_is_said_in_a_sentence(
    binding: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert cli.main(command(tmp_path, "--gin.PLAN_STAGES=('evaluate',)", binding)) == 2
    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("no_compiler")
def test_a_teacher_behind_an_endpoint_is_nothing_to_plan(tmp_path: Path, capsys: pytest.CaptureFixture):
    files = ("stages/distill.gin", "models/smollm2_135m.gin", "stages/plan.gin")
    bindings = ("TOPOLOGY='v5e-8'", "TEACHER='any'")
    arguments = [*(f"--gin_file={file}" for file in files), *(f"--gin.{binding}" for binding in bindings)]
    assert cli.main(["plan", *arguments, f"--workdir={tmp_path}"]) == 2
    assert "distill: the model is behind an endpoint" in capsys.readouterr().err


def test_the_shape_of_a_model_is_read_from_its_config_alone(tmp_path: Path):
    config = Path(__file__).parents[1] / "fixtures" / "tiny_llama" / "config.json"
    (tmp_path / "config.json").write_bytes(config.read_bytes())  # no weights, no tokenizer
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig())
    where = target.Target(stage="sft", mesh=mesh, model=None, adapter=None, prompt_tokens=1)
    lm = where.lm(Pretrained(path=str(tmp_path), dtype="bfloat16"))
    assert lm.config.embed_dim == json.loads(config.read_text())["hidden_size"]
    assert lm.config.dtype == "bfloat16"
    with pytest.raises(
        WrongUse, match=r"the model any has no stated shape: .*config\.json.* Give a directory"
    ):
        where.lm(Pretrained(path="any"))
