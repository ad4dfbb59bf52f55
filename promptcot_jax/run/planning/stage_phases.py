"""Which programs each stage runs, from its arguments as gin gives them, and what lies on the chips besides.

What is resident follows `run/` and `em/` as they are: fits copy the parameters they start from, which stay
(a base serves two roles, a round's old parameters its resumption), and EM keeps both roles' float32
parameters on the chips all the time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.em import role as role_lib
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.run.model_source import ModelSource
from promptcot_jax.run.planning import phases
from promptcot_jax.run.planning.phases import Phase
from promptcot_jax.trainers import sft
from promptcot_jax.trainers.fitter import Fitter

PLANNED = ("cold_start", "em", "synthesize", "sft", "evaluate")
_VALUES = {"best_of_g": (), "reward_weighted": ("weight",), "grpo": ("weight", "old_log_probs")}


def of_stage(
    stage: str,
    arguments: Mapping[str, Any],
    chips: Sequence[Any],
    *,
    model: ModelSource | None,
    prompt_tokens: int,
) -> list[Phase]:
    """The programs of one stage on the chips of a topology.

    Args:
        arguments: of the stage's function.
        model: shape of the models that a stage reads from a path.
        prompt_tokens: longest prompt of the stages whose settings do not bound it.

    Raises:
        WrongUse: a model's shape is not stated, or settings do not go together with the mesh.
    """
    mesh = _mesh(arguments["mesh"], chips)
    if stage in ("cold_start", "sft"):
        return _of_fit(stage, arguments, mesh)
    if model is None:
        raise WrongUse(
            f"'{stage}' reads its model from a path; name its shape with a file of configs/models/ after "
            "stages/plan.gin, which sets MODEL."
        )
    if stage == "em":
        return _of_em(arguments, mesh, model)
    return _of_rollouts(stage, arguments, mesh, model, prompt_tokens)


def _mesh(config: mesh_lib.MeshConfig, chips: Sequence[Any]) -> Mesh:
    mesh = mesh_lib.make_mesh(config, chips)
    if mesh.size != len(chips):
        raise WrongUse(
            f"{config} takes {mesh.size} of the topology's {len(chips)} chips; use all of them, for example "
            "with fsdp = -1."
        )
    return mesh


def _fitter(arguments: Mapping[str, Any], mesh: Mesh, role: str = "") -> Fitter:
    return Fitter(
        fit=arguments[f"{role}fit"],
        optimizer=arguments[f"{role}optimizer"],
        loop=arguments["loop_config"],
        mesh=mesh,
        seed=0,
    )


def _of_fit(stage: str, arguments: Mapping[str, Any], mesh: Mesh) -> list[Phase]:
    """Cold start (its roles' fits are alike) and SFT: the base stays while its copies are trained."""
    lm = phases.language_model(arguments["model"])
    base = {"base model": phases.parameters(lm, mesh, lm.config.param_dtype)}
    return [phases.fit(f"{stage}: fit", lm, _fitter(arguments, mesh), sft.sft_loss, base)]


def _of_em(arguments: Mapping[str, Any], mesh: Mesh, model: ModelSource) -> list[Phase]:
    e_step, sizes, dtype = arguments["e_step"], arguments["batch_sizes"], arguments["dtype"]
    lm = phases.language_model(model, dtype=dtype)
    masters = phases.parameters(lm, mesh, "float32")
    decoded = {} if dtype == "float32" else {"a role to decode": phases.parameters(lm, mesh, dtype)}
    both = {"theta": masters, "phi": masters}
    length = max(arguments["phi_fit"].row_length, arguments["theta_fit"].row_length)
    # Held-out figures draw from both roles, of whose copies the program at work sees one.
    drawing = phases.sampling(
        "em: rationales",
        lm,
        mesh,
        dtype=dtype,
        config=sizes.engine,
        max_tokens=length,
        resident={**both, **decoded} if decoded else {"the other role": masters},
    )
    cache = drawing[0].parts["cache"]
    ranking = phases.score(
        "em: score under theta",
        lm,
        mesh,
        dtype="float32",
        length=length,
        batch_tokens=sizes.score_tokens,
        resident={"phi": masters, **decoded, "cache": cache},  # the engine stands between two bursts
    )
    # Between the first round and the next, `Em.run` and `run/em.py` hold what each of them was given.
    held = {"theta": masters, "phi": masters, "both of the cold start": [masters, masters]}
    fit_phi = phases.fit(
        "em: fit phi",
        lm,
        _fitter(arguments, mesh, "phi_"),
        role_lib.phi_loss(e_step),
        held,
        _VALUES[e_step.objective],
    )
    fit_theta = phases.fit(
        "em: fit theta",
        lm,
        _fitter(arguments, mesh, "theta_"),
        sft.sft_loss,
        {**held, "phi of the last round": masters},
    )
    return [*drawing, ranking, fit_phi, fit_theta]


def _of_rollouts(
    stage: str, arguments: Mapping[str, Any], mesh: Mesh, model: ModelSource, prompt_tokens: int
) -> list[Phase]:
    """Synthesis and evaluation: one model in one type, sampled, and of synthesis scored."""
    config, dtype = arguments["config"], arguments["dtype"]
    lm = phases.language_model(model, dtype=dtype)
    length = prompt_tokens + config.sampling.max_new_tokens
    found = phases.sampling(
        stage, lm, mesh, dtype=dtype, config=config.engine, max_tokens=length, resident={}
    )
    if stage == "synthesize":
        cache = {"cache": found[0].parts["cache"]}
        scored = arguments["score_tokens"]
        found.append(
            phases.score(
                f"{stage}: score",
                lm,
                mesh,
                dtype=dtype,
                length=length,
                batch_tokens=scored,
                resident=cache,
            )
        )
    return found
