"""`promptcot em`: EM rounds from the cold-started models (paper section 2.3)."""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import jax
from etils import epath
from jax.sharding import Mesh

from promptcot_jax.checkpoints import adapters, load, store
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.workdir import InputPath, in_workdir
from promptcot_jax.data import examples, tasks, training_sets
from promptcot_jax.em import held_out as held_out_lib
from promptcot_jax.em import loop as em_loop
from promptcot_jax.em import models
from promptcot_jax.em import pairs as pairs_lib
from promptcot_jax.em import role as role_lib
from promptcot_jax.em.pairs import Pair
from promptcot_jax.em.settings import EmConfig, EStepConfig, HeldOutConfig
from promptcot_jax.models import language_model
from promptcot_jax.models.config import FloatType
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.run import stage
from promptcot_jax.trainers import loop, sft, train_step
from promptcot_jax.trainers.fitter import FitConfig, Fitter
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
    batch_sizes: models.BatchSizes,
    data: training_sets.DataConfig,
    theta: InputPath = "{workdir}/cold_start/theta",
    phi: InputPath = "{workdir}/cold_start/phi",
    direct: InputPath = "{workdir}/cold_start/direct",
    triples: InputPath = "{workdir}/triples.jsonl",
    triples_heldout: InputPath = "{workdir}/triples_heldout.jsonl",
    first_triple: int = 0,
    dtype: FloatType = "float32",
    without_e_step_too: bool = False,
) -> stage.StageResult:
    """Writes `em/`.

    Args:
        direct: the baseline without rationale; measured where it is there.
        first_triple: EM takes the rows of `triples` from this one on; the cold start can have had the others.
        dtype: of computation; parameters are float32 masters.
        without_e_step_too: runs the paper's variant without E-step as well, in `em/without_e_step/`, for its
            NLL study.
    """
    if first_triple < 0:
        raise WrongUse(f"em.first_triple must be 0 or more, got {first_triple}.")
    devices = mesh_lib.make_mesh(mesh)
    directory = epath.Path(workdir) / "em"
    with jax.set_mesh(devices):
        bases: load.Bases = {}
        theta_model = _load(in_workdir(theta, workdir), dtype, devices, bases)
        phi_model = _load(in_workdir(phi, workdir), dtype, devices, bases)
        models.check_roles(theta_model.tokenizer, phi_model.tokenizer)
        make_role = functools.partial(_role, em_config=em_config, loop_config=loop_config, devices=devices)
        read_pairs = functools.partial(
            _read_pairs, rules=data.row_rules(), e_step=e_step, both=(theta_model, phi_model)
        )
        pairs, counts = read_pairs(in_workdir(triples, workdir), start=first_triple)
        held_out_pairs, _ = read_pairs(in_workdir(triples_heldout, workdir), limit=held_out.num_pairs)
        run = em_loop.Em(
            roles=models.Roles(theta_model.lm, phi_model.lm, theta_model.tokenizer, batch_sizes),
            pairs=pairs,
            held_out_pairs=held_out_pairs,
            e_step=e_step,
            em=em_config,
            held_out=held_out,
            phi_role=make_role("phi", phi_model, phi_fit, phi_optimizer, role_lib.phi_loss(e_step)),
            theta_role=make_role("theta", theta_model, theta_fit, theta_optimizer, sft.sft_loss),
            directory=directory,
        )
        place = in_workdir(direct, workdir)
        baselines = functools.partial(_direct_figures, place, dtype, devices, run)
        of_rounds = run.run(theta_model.params, phi_model.params, baselines)
        if without_e_step_too:
            fixed = dataclasses.replace(
                run,
                em=dataclasses.replace(em_config, e_step=False),
                directory=directory / "without_e_step",
            )
            # The arrays of the first run are gone.
            theta_model = _load(in_workdir(theta, workdir), dtype, devices, bases)
            phi_model = _load(in_workdir(phi, workdir), dtype, devices, bases)
            more = fixed.run(theta_model.params, phi_model.params, baselines)
            of_rounds |= {f"without_e_step_{name}": count for name, count in more.items()}
    return stage.StageResult(counts={**tasks.counts_of_rows([counts]), **of_rounds})


def _read_pairs(
    place: str,
    *,
    rules: tasks.RowRules,
    e_step: EStepConfig,
    both: Sequence[load.LoadedModel],
    start: int = 0,
    limit: int = 0,
) -> tuple[list[Pair], collections.Counter[str]]:
    """The pairs of a triples file that both models have room for, and what became of its rows."""
    counts = collections.Counter[str]()
    found = pairs_lib.read_pairs(both[0].tokenizer, place, rules, start=start, limit=limit, counts=counts)
    within = pairs_lib.within_positions(
        found,
        max_rationale_tokens=e_step.max_rationale_tokens,
        max_positions=min(model.lm.config.max_positions for model in both),
    )
    counts["dropped_too_long"] += len(found) - len(within)
    return within, counts


def _role(
    name: Literal["theta", "phi"],
    model: load.LoadedModel,
    fit: FitConfig,
    optimizer: OptimizerConfig,
    loss: train_step.Loss,
    *,
    em_config: EmConfig,
    loop_config: loop.LoopConfig,
    devices: Mesh,
) -> role_lib.Role:
    """How one of the two models is fitted."""
    fitter = Fitter(
        fit=fit,
        optimizer=optimizer,
        loop=loop_config,
        mesh=devices,
        seed=em_config.seed,
        rules=model.lm.rules,
        adapter=model.adapter and model.adapter.config,
    )
    return role_lib.Role(
        name=name,
        lm=model.lm,
        tokenizer=model.tokenizer,
        fitter=role_lib.role_fitter(fitter, em_config.seed, name),
        loss=loss,
        adapter=model.adapter,
        keeps_optimizer=em_config.optimizer_between_rounds == "keep",
    )


def _direct_figures(path: str, dtype: FloatType, devices: Mesh, run: em_loop.Em) -> dict[str, float]:
    """Held-out figures of the baseline without rationale, where it is there."""
    if not store.is_complete_for_all(path) or not run.held_out_pairs:
        return {}
    model = _load(path, dtype, devices, {})
    prompts = [model.tokenizer.prompt_ids(examples.direct_prompt(pair.triple)) for pair in run.held_out_pairs]
    return held_out_lib.evaluate_direct(model.lm, model.params, run.held_out_pairs, prompts, run.roles)


def _load(path: str, dtype: FloatType, devices: Mesh, bases: load.Bases) -> load.LoadedModel:
    """A model that computes in `dtype`: its float32 masters, or its base in `dtype` with its adapter."""
    if adapters.read(epath.Path(path)) is not None:
        return load.load_model(path, dtype=dtype, mesh=devices, bases=bases)
    model = load.load_model(path, dtype="float32", mesh=devices)
    return dataclasses.replace(model, lm=language_model.in_types(model.lm, dtype=dtype))
