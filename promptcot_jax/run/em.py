"""`promptcot em`: EM rounds from the cold-started models (paper section 2.3)."""

import dataclasses

import jax
from etils import epath
from jax.sharding import Mesh

from promptcot_jax.checkpoints import load, store
from promptcot_jax.core import jsonl
from promptcot_jax.core.records import Triple
from promptcot_jax.data import examples
from promptcot_jax.em import held_out as held_out_lib
from promptcot_jax.em import loop as em_loop
from promptcot_jax.em import models, pairs
from promptcot_jax.em.cold_start import Fitter
from promptcot_jax.em.settings import EmConfig, EStepConfig, FitConfig, HeldOutConfig
from promptcot_jax.models.config import FloatType
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.run import configuration, stage
from promptcot_jax.trainers import loop
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
    theta: configuration.InputPath = "{workdir}/cold_start/theta",
    phi: configuration.InputPath = "{workdir}/cold_start/phi",
    direct: configuration.InputPath = "{workdir}/cold_start/direct",
    triples: configuration.InputPath = "{workdir}/triples.jsonl",
    triples_heldout: configuration.InputPath = "{workdir}/triples_heldout.jsonl",
    first_triple: int = 0,
    dtype: FloatType = "float32",
    without_e_step_too: bool = False,
) -> stage.StageResult:
    """Writes `em/`.

    Args:
        direct: the baseline without rationale; measured where it is there.
        first_triple: EM takes the rows of `triples` from this one on, so that the cold start can have had the others.
        dtype: of computation; parameters are float32 masters.
        without_e_step_too: runs the paper's variant without E-step as well, in `em/without_e_step/`, for its NLL study.
    """
    devices = stage.make_mesh(mesh)
    directory = epath.Path(workdir) / "em"
    with jax.set_mesh(devices):
        theta_model = _load(configuration.in_workdir(theta, workdir), dtype, devices)
        phi_model = _load(configuration.in_workdir(phi, workdir), dtype, devices)
        models.check_roles(theta_model.tokenizer, phi_model.tokenizer)
        tokenizer = theta_model.tokenizer
        roles = models.Roles(theta_model.lm, phi_model.lm, tokenizer, batch_sizes)
        rows = jsonl.read_records(configuration.in_workdir(triples, workdir), Triple)[first_triple:]
        held_out_rows = jsonl.read_records(configuration.in_workdir(triples_heldout, workdir), Triple)
        held_out_pairs = pairs.tokenize_pairs(tokenizer, held_out_rows[: held_out.num_pairs])
        run = em_loop.Em(
            roles=roles,
            pairs=pairs.tokenize_pairs(tokenizer, rows),
            held_out_pairs=held_out_pairs,
            e_step=e_step,
            em=em_config,
            held_out=held_out,
            phi_fitter=Fitter(
                fit=phi_fit, optimizer=phi_optimizer, loop=loop_config, mesh=devices, seed=em_config.seed
            ),
            theta_fitter=Fitter(
                fit=theta_fit, optimizer=theta_optimizer, loop=loop_config, mesh=devices, seed=em_config.seed
            ),
            directory=directory,
        )
        baselines = {}
        direct_path = configuration.in_workdir(direct, workdir)
        if store.is_complete(direct_path):
            baseline = _load(direct_path, dtype, devices)
            prompts = [examples.direct_prompt_ids(tokenizer, pair.triple) for pair in held_out_pairs]
            baselines = held_out_lib.evaluate_direct(
                baseline.lm, baseline.params, held_out_pairs, prompts, roles
            )
        counts = run.run(theta_model.params, phi_model.params, baselines)
        if without_e_step_too:
            fixed = dataclasses.replace(
                run,
                em=dataclasses.replace(em_config, e_step=False),
                directory=directory / "without_e_step",
            )
            counts |= {
                f"without_e_step_{name}": count
                for name, count in fixed.run(theta_model.params, phi_model.params, baselines).items()
            }
    return stage.StageResult(counts=counts)


def _load(path: str, dtype: FloatType, devices: Mesh) -> load.LoadedModel:
    """A model with float32 parameters that computes in `dtype`."""
    model = load.load_model(path, dtype="float32", mesh=devices)
    config = dataclasses.replace(model.lm.config, dtype=dtype)
    return dataclasses.replace(model, lm=dataclasses.replace(model.lm, config=config))
