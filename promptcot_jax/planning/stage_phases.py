"""Which programs each stage runs, from its arguments as gin gives them, and what lies on the chips besides.

What is resident follows `run/` and `em/` as they are: cold start keeps the base that its roles start from, a
fit of EM gives up the parameters it starts from, and EM keeps both roles' parameters on the chips all the
time; `tests/em/test_memory.py` measures it. Of self-play `self_play_phases` says it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.em import e_step as e_step_lib
from promptcot_jax.models.config import FloatType
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.planning import phases, self_play_phases
from promptcot_jax.planning.phases import Phase
from promptcot_jax.sources.model_source import ModelSource
from promptcot_jax.sources.text_models import JaxModel
from promptcot_jax.trainers import sft
from promptcot_jax.trainers.loop import Fitter

PLANNED = ("cold_start", "em", "synthesize", "distill", "self_play", "sft", "evaluate")
_VALUES = {"best_of_g": (), "reward_weighted": ("weight",), "grpo": ("advantages", "old_log_probs")}


def has_programs(arguments: Mapping[str, Any]) -> bool:
    """Whether a stage runs anything on the slice: a model behind an endpoint runs elsewhere."""
    return isinstance(_asked(arguments), JaxModel | None)


def mesh_of(arguments: Mapping[str, Any]) -> mesh_lib.MeshConfig:
    """The mesh of a stage, or of the model that it asks."""
    asked = _asked(arguments)
    return arguments["mesh"] if asked is None else asked.mesh


def _asked(arguments: Mapping[str, Any]) -> Any:
    """The model that a stage asks for text, where it is one of that kind."""
    return arguments.get("teacher", arguments.get("solver"))


def of_stage(
    stage: str,
    arguments: Mapping[str, Any],
    chips: Sequence[Any],
    *,
    model: ModelSource | None,
    adapter: LoraConfig | None,
    prompt_tokens: int,
) -> list[Phase]:
    """The programs of one stage on the chips of a topology.

    Args:
        arguments: of the stage's function.
        model: shape of the models that a stage reads from a path; `adapter`: of what was trained beside it.
        prompt_tokens: longest prompt of the stages whose settings do not bound it.

    Raises:
        WrongUse: a model's shape is not stated, or settings do not go together with the mesh.
    """
    mesh = _mesh(mesh_of(arguments), chips)
    if stage in ("cold_start", "sft"):
        return _of_fit(stage, arguments, mesh)
    if stage == "self_play":
        return self_play_phases.of_self_play(arguments, mesh, prompt_tokens)
    if model is None:
        raise WrongUse(
            f"'{stage}' reads its model from a path; name its shape with a file of configs/models/ after "
            "stages/plan.gin, which sets MODEL."
        )
    if stage == "em":
        return _of_em(arguments, mesh, model, adapter)
    if (asked := _asked(arguments)) is not None:
        arguments = {"config": asked.config, "dtype": asked.dtype}
        adapter = None if stage == "distill" else adapter  # a teacher is not what was trained here
    return _of_rollouts(stage, arguments, mesh, model, adapter, prompt_tokens)


def _mesh(config: mesh_lib.MeshConfig, chips: Sequence[Any]) -> Mesh:
    mesh = mesh_lib.make_mesh(config, chips)
    if mesh.size != len(chips):
        raise WrongUse(
            f"{config} takes {mesh.size} of the topology's {len(chips)} chips; use all of them, for example "
            "with fsdp = -1."
        )
    return mesh


def _fitter(arguments: Mapping[str, Any], mesh: Mesh, adapter: LoraConfig | None, role: str = "") -> Fitter:
    return Fitter(
        fit=arguments[f"{role}fit"],
        optimizer=arguments[f"{role}optimizer"],
        loop=arguments["loop_config"],
        mesh=mesh,
        seed=0,
        adapter=adapter,
    )


def _of_fit(stage: str, arguments: Mapping[str, Any], mesh: Mesh) -> list[Phase]:
    """Cold start (its roles' fits are alike) and SFT: the base stays while its copy or adapter is trained."""
    lm, adapter = phases.language_model(arguments["model"]), arguments["lora"]
    base = {"base model": phases.parameters(lm, mesh, lm.config.param_dtype)}
    fitter = _fitter(arguments, mesh, adapter)
    return [phases.fit(f"{stage}: fit", lm, fitter, sft.SftLoss(), {} if adapter else base)]


def _of_em(
    arguments: Mapping[str, Any], mesh: Mesh, model: ModelSource, adapter: LoraConfig | None
) -> list[Phase]:
    """Two roles: each a set of float32 parameters, or both one base in the compute type with two adapters."""
    e_step, sizes, dtype = arguments["e_step"], arguments["batch_sizes"], arguments["dtype"]
    stored: FloatType = "float32" if adapter is None else dtype
    lm = phases.language_model(model, dtype=dtype, param_dtype=stored)
    whole = phases.parameters(lm, mesh, stored, adapter)
    one = whole if adapter is None else phases.adapter_of(lm, mesh, adapter)  # what a role takes of its own
    to_decode = phases.decoding_parameters(lm, mesh, dtype, adapter)
    is_copy = to_decode != whole
    length = max(arguments["phi_fit"].row_length, arguments["theta_fit"].row_length)
    drawing = phases.sampling(
        "em: rationales",
        lm,
        mesh,
        dtype=dtype,
        adapter=adapter,
        config=sizes.engine,
        max_tokens=length,
        resident={"the other role": one} | ({"the role as trained": whole} if is_copy else {}),
    )
    ranking = phases.score(
        "em: score under theta",
        lm,
        mesh,
        dtype=stored,
        adapter=adapter,
        length=length,
        batch_tokens=sizes.score_tokens,
        # The engine is between bursts.
        resident={"phi": one, "cache": drawing[0].parts["cache"]}
        | ({"phi to decode": to_decode} if is_copy else {}),
    )
    fit_phi = phases.fit(
        "em: fit phi",
        lm,
        _fitter(arguments, mesh, adapter, "phi_"),
        e_step_lib.phi_loss(e_step),
        {"theta": one},
        _VALUES[e_step.objective],
    )
    fit_theta = phases.fit(
        "em: fit theta",
        lm,
        _fitter(arguments, mesh, adapter, "theta_"),
        sft.SftLoss(),
        {"phi": one},
    )
    return [*drawing, ranking, fit_phi, fit_theta]


def _of_rollouts(
    stage: str,
    arguments: Mapping[str, Any],
    mesh: Mesh,
    model: ModelSource,
    adapter: LoraConfig | None,
    prompt_tokens: int,
) -> list[Phase]:
    """Synthesis, evaluation, a teacher: one model in one type, sampled, and of synthesis scored."""
    config, dtype = arguments["config"], arguments["dtype"]
    lm = phases.language_model(model, dtype=dtype, param_dtype=dtype)
    length = prompt_tokens + config.sampling.max_new_tokens
    loaded = phases.parameters(lm, mesh, dtype, adapter)
    to_decode = phases.decoding_parameters(lm, mesh, dtype, adapter)
    is_copy = to_decode != loaded
    found = phases.sampling(
        stage,
        lm,
        mesh,
        dtype=dtype,
        adapter=adapter,
        config=config.engine,
        max_tokens=length,
        resident={"the model as loaded": loaded} if is_copy else {},
    )
    if stage == "synthesize":
        held = {"cache": found[0].parts["cache"]} | ({"the model to decode": to_decode} if is_copy else {})
        found.append(
            phases.score(
                f"{stage}: score",
                lm,
                mesh,
                dtype=dtype,
                adapter=adapter,
                length=length,
                batch_tokens=arguments["score_tokens"],
                resident=held,
            )
        )
    return found
