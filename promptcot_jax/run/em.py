"""`promptcot em`: EM rounds from the cold-started models (paper section 2.3)."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from promptcot_jax.checkpoints import adapters, load, store
from promptcot_jax.checkpoints.load import LoadedModel
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.corpus import styles
from promptcot_jax.data import tasks, training_sets
from promptcot_jax.em import held_out as held_out_lib
from promptcot_jax.em import pairs as pairs_lib
from promptcot_jax.em import programs as em_programs
from promptcot_jax.em import rounds
from promptcot_jax.em.generators import PromptModel, RationaleModel
from promptcot_jax.em.pairs import Pair
from promptcot_jax.em.settings import (
    Arm,
    BatchSizes,
    EmConfig,
    EStepConfig,
    HeldOutConfig,
    role_seed,
    settings_of_arm,
)
from promptcot_jax.models import language_model
from promptcot_jax.models.config import FloatType
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel.programs import Program
from promptcot_jax.planning.target import Target
from promptcot_jax.run import stage
from promptcot_jax.trainers import loop
from promptcot_jax.trainers.loop import FitConfig, Fitter
from promptcot_jax.trainers.optimizer import OptimizerConfig


def em(
    *,
    workdir: str,
    em_config: EmConfig,
    e_step: EStepConfig,
    held_out: HeldOutConfig,
    mesh: mesh_lib.MeshConfig,
    phi_fit: FitConfig,
    theta_fit: FitConfig,
    phi_optimizer: OptimizerConfig,
    theta_optimizer: OptimizerConfig,
    loop_config: loop.LoopConfig,
    batch_sizes: BatchSizes,
    data: training_sets.DataConfig,
    theta: InputPath = "{workdir}/cold_start/theta",
    phi: InputPath = "{workdir}/cold_start/phi",
    direct: InputPath = "{workdir}/cold_start/direct",
    triples: InputPath = "{workdir}/triples.jsonl",
    triples_heldout: InputPath = "{workdir}/triples_heldout.jsonl",
    first_triple: int = 0,
    dtype: FloatType = "float32",
    arms: tuple[Arm, ...] = (),
) -> stage.StageResult:
    """Writes `em/`.

    Args:
        direct: the baseline without rationale; measured where it is there.
        first_triple: EM takes the rows of `triples` from this one on; the cold start can have had the others.
        dtype: of computation; parameters are float32 masters.
        arms: run from the same cold start as well, each in `em/ARM/`, to compare them with the one in `em/`.
    """
    if em_config.arm in arms or len(set(arms)) < len(arms):
        raise WrongUse(f"em.arms must name each arm once, and not {em_config.arm!r}, the run's own: {arms}.")
    if first_triple < 0:
        raise WrongUse(f"em.first_triple must be 0 or more, got {first_triple}.")
    devices, directory = mesh_lib.make_mesh(mesh), epath.Path(workdir) / "em"
    load_model = functools.partial(_load, dtype=dtype, devices=devices, bases={})
    with jax.set_mesh(devices):
        theta_model, phi_model = map(load_model, (theta, phi))
        theta_params, phi_params = theta_model.params, phi_model.params
        read_pairs = functools.partial(
            pairs_lib.read_pairs,
            theta_model.tokenizer,
            rules=data.row_rules(),
            max_rationale_tokens=e_step.max_rationale_tokens,
            max_positions=min(model.lm.config.max_positions for model in (theta_model, phi_model)),
        )
        pairs, counts = read_pairs(triples, start=first_triple)
        held_out_pairs, _ = read_pairs(triples_heldout, limit=held_out.num_pairs)
        fitter = functools.partial(Fitter, loop=loop_config, mesh=devices)
        shared = {"max_rationale_tokens": e_step.max_rationale_tokens, "batch_sizes": batch_sizes}

        def baselines() -> dict[str, Any]:
            if not store.is_complete_for_all(direct):
                return {}
            of_bound = held_out_pairs[: held_out.bound_pairs]
            return held_out_lib.direct_nll(load_model(direct), of_bound, batch_sizes)

        prompt_model = PromptModel(
            **_fields(theta_model, fitter, theta_fit, theta_optimizer, role_seed(em_config.seed, "theta")),
            **shared,
        )
        rationale_model = RationaleModel(
            **_fields(phi_model, fitter, phi_fit, phi_optimizer, role_seed(em_config.seed, "phi")),
            **shared,
            style_of=_style_of(pairs),
        )
        runs, of_rounds = dict[Arm, rounds.Em](), dict[str, int]()
        for arm in (em_config.arm, *arms):
            config, e_step_of_arm = settings_of_arm(arm, em_config, e_step)
            runs[arm] = rounds.Em(
                prompt_model=prompt_model,
                rationale_model=rationale_model,
                pairs=pairs,
                held_out_pairs=held_out_pairs,
                e_step=e_step_of_arm,
                held_out=held_out,
                config=config,
                directory=directory / arm if arm in arms else directory,
                cold_phi=lambda: load_model(phi).params,
                baselines=baselines,
            )
        for arm, run in runs.items():
            if arm in arms:  # the arrays of the run before are gone
                theta_params, phi_params = (load_model(path).params for path in (theta, phi))
                rounds.share_cold_start(directory, run.directory)
            of_run = rounds.run(run, theta_params, phi_params)
            of_rounds |= {f"{arm}_{name}" if arm in arms else name: n for name, n in of_run.items()}
    return stage.StageResult(counts={**tasks.counts_of_rows([counts]), **of_rounds})


def _fields(
    model: LoadedModel, fitter: Callable[..., Fitter], fit: FitConfig, optimizer: OptimizerConfig, seed: int
) -> dict[str, Any]:
    """What a model was loaded with, and how it is fitted."""
    adapter = model.adapter and model.adapter.config
    made = fitter(fit=fit, optimizer=optimizer, seed=seed, rules=model.lm.rules, adapter=adapter)
    return {"lm": model.lm, "tokenizer": model.tokenizer, "adapter": model.adapter, "fitter": made}


def programs(target: Target, arguments: Mapping[str, Any]) -> list[Program]:
    """What a round runs, for `promptcot plan`: in float32, or with an adapter on a base in `dtype`."""
    dtype, adapter = arguments["dtype"], target.adapter
    return em_programs.programs(
        target.lm(dtype=dtype, param_dtype="float32" if adapter is None else dtype),
        e_step=arguments["e_step"],
        batch_sizes=arguments["batch_sizes"],
        theta_fitter=target.fitter(arguments, adapter, "theta_"),
        phi_fitter=target.fitter(arguments, adapter, "phi_"),
    )


def _style_of(pairs: Sequence[Pair]) -> Callable[[str], str] | None:
    """How rationales are classified where those of the triples have the styles of the seed corpus."""
    of_triples = (styles.classify_style(pair.triple.rationale) for pair in pairs)
    return styles.classify_style if any(style in styles.STYLES for style in of_triples) else None


def _load(path: str, dtype: FloatType, devices: Mesh, bases: load.Bases) -> LoadedModel:
    """A model that computes in `dtype`: its float32 masters, or its base in `dtype` with its adapter."""
    if adapters.read(epath.Path(path)) is not None:
        return load.load_model(path, dtype=dtype, mesh=devices, bases=bases)
    model = load.load_model(path, dtype="float32", mesh=devices)
    return dataclasses.replace(model, lm=language_model.in_types(model.lm, dtype=dtype))
