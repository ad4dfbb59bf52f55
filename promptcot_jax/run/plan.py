"""`promptcot plan`: does a run fit on a TPU topology? Compiled ahead of time on a machine without any TPU.

The gin files are those of the run, with `stages/plan.gin` and a topology. Neither weights nor tokenizer nor
data are read. Exit code 3 says that it does not fit.
"""

import importlib
import importlib.metadata
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import DoesNotFit, WrongUse
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import hardware, topologies
from promptcot_jax.parallel.programs import Program
from promptcot_jax.planning import planner, report
from promptcot_jax.planning import target as target_lib
from promptcot_jax.planning.target import Target
from promptcot_jax.run import compilation_cache, configuration, stage
from promptcot_jax.run import stages as stages_lib
from promptcot_jax.sources.model_source import ModelSource

log = logging.getLogger(__name__)

# Stages that run programs on a slice; the module of each says which, by its function `programs`.
PLANNED = ("cold_start", "em", "synthesize", "distill", "self_play", "sft", "evaluate")


def plan(
    *,
    workdir: str,
    topology: str,
    model: ModelSource | None = None,
    stages: tuple[str, ...] = (),
    prompt_tokens: int = 2048,
    search: bool = True,
) -> stage.StageResult:
    """Writes `plan.json`.

    Args:
        topology: a slice by the cloud's name ("v5litepod-16", "v5e-16", "v5p-64") or by its grid ("v5e:4x4");
            there are `MeshConfig.num_slices` of it.
        model: shape of the models that stages read from a path, the teacher of traces among them.
        stages: what to plan; () is what the run lists, or all that the gin files set up.
        prompt_tokens: longest prompt of what samples; cold start, EM and SFT bound theirs.
        search: where a stage does not fit, compile it with other settings until it does.

    Raises:
        WrongUse: the cloud has no such slice, the mesh does not match its chips, a model has no stated shape
            or runs behind an endpoint, or the compiler is not installed.
        DoesNotFit: a program does not fit; `plan.json` is written.
    """
    if prompt_tokens < 1:
        raise WrongUse(f"plan.prompt_tokens must be at least 1, got {prompt_tokens}.")
    names = stages or _stages_of_run()
    arguments = _with_programs({name: _arguments(name) for name in names})
    configs = filter(None, map(target_lib.mesh_config, arguments.values()))
    sliced = {config.num_slices for config in configs}
    if len(sliced) > 1:
        raise WrongUse(f"stages {', '.join(arguments)} have meshes of {sliced} slices; plan them one by one.")
    slice_ = topologies.named(topology, sliced.pop())
    os.environ.update({**topologies.ENVIRONMENT, **os.environ})
    compilation_cache.switch_on("off")  # a program for a topology cannot be read back
    chips = topologies.devices(slice_)
    peaks = hardware.hardware_of(chips[0].device_kind)
    assert peaks is not None, f"{chips[0].device_kind} is offered by the cloud and not in the table of peaks"
    log.info("plan for %s, %s", slice_, report.COMPILED_ONLY)
    if warning := topologies.libtpu_mismatch():
        log.warning("plan: %s", warning)

    def planned(name: str) -> planner.StagePlan:
        adapter = _adapter(name)

        def programs_of(given: Mapping[str, Any]) -> Sequence[Program]:
            return stage_programs(
                name, given, chips, model=model, adapter=adapter, prompt_tokens=prompt_tokens
            )

        made = planner.plan_stage(name, arguments[name], programs_of, peaks, searches=search)
        for line in report.lines(made):
            log.info("%s", line)
        return made

    plans = [planned(name) for name in arguments]
    about = {"topology": _described(slice_), "versions": _versions()}
    path = os.path.join(workdir, "plan.json")
    jsonl.write_json(path, report.record(plans, about))
    misfits = [made for made in plans if not made.fits]
    if misfits:
        raise DoesNotFit(_verdict(slice_, misfits, path))
    return stage.StageResult(counts={"phases": sum(len(made.measured) for made in plans)})


def stage_programs(
    stage: str,
    arguments: Mapping[str, Any],
    chips: Sequence[Any],
    *,
    model: ModelSource | None,
    adapter: LoraConfig | None,
    prompt_tokens: int,
) -> list[Program]:
    """The programs of one stage on the chips of a topology, from the arguments of the stage's function.

    Raises:
        WrongUse: a model's shape is not stated, or settings do not go together with the mesh.
    """
    config = target_lib.mesh_config(arguments)
    assert config is not None, "stages without programs have been left out"
    target = Target(
        stage=stage,
        mesh=target_lib.make_mesh(config, chips),
        model=model,
        adapter=adapter,
        prompt_tokens=prompt_tokens,
    )
    module = importlib.import_module(f"promptcot_jax.run.{stage}")
    return module.programs(target, arguments)


def _stages_of_run() -> tuple[str, ...]:
    """The stages that the loaded gin files set up, of those that can be planned."""
    run = stages_lib.stage_function("run")
    listed = (
        configuration.arguments_of("run", run)["stages"]
        if configuration.is_set_up(run)
        else [name for name in PLANNED if configuration.is_set_up(stages_lib.stage_function(name))]
    )
    names = tuple(name for name in listed if name in PLANNED)
    if not names:
        raise WrongUse(
            "the gin files set up no stage that runs on a TPU; give the files of the run besides "
            f"stages/plan.gin. Planned are {', '.join(PLANNED)}."
        )
    return names


def _arguments(name: str) -> dict[str, Any]:
    if name not in PLANNED:
        raise WrongUse(f"plan.stages names '{name}'; what can be planned is {', '.join(PLANNED)}.")
    return configuration.arguments_of(name, stages_lib.stage_function(name))


def _with_programs(arguments: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The arguments of the stages that run something on the slice."""
    found = {name: given for name, given in arguments.items() if target_lib.mesh_config(given) is not None}
    elsewhere = ", ".join(arguments.keys() - found.keys())
    reason = f"{elsewhere}: the model is behind an endpoint; nothing of it runs on the slice"
    if not found:
        raise WrongUse(f"{reason}.")
    if elsewhere:
        log.info("plan: %s", reason)
    return found


def _adapter(stage: str) -> LoraConfig | None:
    """The adapter that a stage finds in its model: the one that was trained before it."""
    before = {"evaluate": ("self_play", "sft", "cold_start"), "distill": ()}
    for trained_by in before.get(stage, ("cold_start",)):
        function = stages_lib.stage_function(trained_by)
        if configuration.is_set_up(function):
            return configuration.arguments_of(trained_by, function)["lora"]
    return None


def _described(slice_: topologies.Topology) -> dict[str, Any]:
    return {
        "name": slice_.cloud_name,
        "kind": slice_.kind,
        "grid": slice_.grid,
        "slices": slice_.num_slices,
        "chips": slice_.num_chips,
        "hosts": slice_.num_hosts,
    }


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}


def _verdict(slice_: topologies.Topology, misfits: Sequence[planner.StagePlan], path: str) -> str:
    """One sentence: what does not fit, and what would."""
    phases = ", ".join(one.name for made in misfits for one in made.measured if not one.fits)
    found = [
        " ".join(
            f"--gin.{name}={value!r}" for name, value in report.in_gin(made.stage, made.advice.change).items()
        )
        for made in misfits
        if made.advice is not None
    ]
    remedy = (
        f"it fits with {'; '.join(found)}"
        if len(found) == len(misfits)
        else "no setting was found with which it does; take a larger slice"
    )
    return f"does not fit on {slice_}: {phases}; {remedy} ({report.COMPILED_ONLY}; {path})"
