"""`promptcot cold_start`: p_theta and q_phi fitted to annotated triples (paper section 3.2)."""

import os
from collections.abc import Mapping
from typing import Any

import jax

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.data import training_sets
from promptcot_jax.data.example_sets import ExampleSet
from promptcot_jax.em import cold_start as cold_start_lib
from promptcot_jax.em.settings import Role, role_seed
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel.programs import Program
from promptcot_jax.planning.target import Target
from promptcot_jax.run import stage
from promptcot_jax.sources import model_source
from promptcot_jax.sources.model_source import ModelSource
from promptcot_jax.trainers import loop
from promptcot_jax.trainers.loop import FitConfig, Fitter
from promptcot_jax.trainers.optimizer import OptimizerConfig

TASKS: dict[Role, str] = {"theta": "p_theta", "phi": "q_phi", "direct": "p_direct"}


def cold_start(
    *,
    workdir: str,
    seed: int,
    model: ModelSource,
    mesh: mesh_lib.MeshConfig,
    fit: FitConfig,
    optimizer: OptimizerConfig,
    loop_config: loop.LoopConfig,
    data: training_sets.DataConfig,
    roles: tuple[Role, ...] = ("theta", "phi"),
    triples: InputPath = "{workdir}/triples.jsonl",
    triples_heldout: InputPath = "{workdir}/triples_heldout.jsonl",
    num_triples: int | dict[Role, int] = 0,
    lora: LoraConfig | None = None,
) -> stage.StageResult:
    """Writes `cold_start/ROLE` for each role; all start from the same base weights.

    Args:
        roles: add "direct" for the baseline without rationale.
        num_triples: the first rows of `triples` only, or of each role that is named; 0 takes all. EM can go
            on with the others.
        lora: train an adapter of this shape for each role instead of all parameters; the base is shared.
        data: with `rates` of domains, such as {"math": 3, "code": 1}, each epoch mixes them so.
    """
    if not set(roles) >= {"theta", "phi"}:
        raise WrongUse(f"cold_start.roles must name 'theta' and 'phi', got {roles}.")
    of_role = num_triples if isinstance(num_triples, dict) else dict.fromkeys(roles, num_triples)
    if unknown := of_role.keys() - set(roles):
        raise WrongUse(f"cold_start.num_triples names {sorted(unknown)}, which is not among roles {roles}.")
    if min(of_role.values(), default=0) < 0:
        raise WrongUse(f"cold_start.num_triples must be 0 (all) or more, got {num_triples}.")
    model_source.check_adapter(model, lora)
    devices = mesh_lib.make_mesh(mesh)
    counts: dict[str, int] = {}
    with jax.set_mesh(devices):
        base = model.load(seed=seed, mesh=devices)

        def opened(name: str, path: str, limit: int = 0) -> tuple[ExampleSet, dict[str, int]]:
            return training_sets.open_task(
                name, path, base.tokenizer, config=data, workdir=workdir, limit=limit
            )

        mixed = "" if data.rates is None else "_by_domain"
        for role in roles:
            fitter = Fitter(
                fit=fit,
                optimizer=optimizer,
                loop=loop_config,
                mesh=devices,
                seed=role_seed(seed, role),
                rules=base.lm.rules,
                adapter=lora,
            )
            rows, found = opened(f"{TASKS[role]}{mixed}", triples, of_role.get(role, 0))
            heldout, _ = opened(TASKS[role], triples_heldout)  # each row once, whatever is trained on
            directory = os.path.join(workdir, "cold_start")
            counts |= found
            counts |= cold_start_lib.cold_start(role, base, rows, heldout, directory=directory, fitter=fitter)
    return stage.StageResult(counts=counts)


def programs(target: Target, arguments: Mapping[str, Any]) -> list[Program]:
    """What the fit of each role runs, for `promptcot plan`."""
    return [target.fit_program(arguments)]
