"""`promptcot sft`: a solver trained on worked solutions, problem -> solution (post-training by SFT).

The held-out figure in its metrics is the NLL of unseen problems' worked solutions, per token of the solution.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax

from promptcot_jax.checkpoints import adapters, store
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.data import training_sets
from promptcot_jax.data.example_sets import ExampleSet
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
from promptcot_jax.trainers.sft import SftLoss


def sft(
    *,
    workdir: str,
    seed: int,
    model: ModelSource,
    mesh: mesh_lib.MeshConfig,
    fit: FitConfig,
    optimizer: OptimizerConfig,
    loop_config: loop.LoopConfig,
    data: training_sets.DataConfig,
    solved: InputPath = "{workdir}/triples.jsonl",
    solved_heldout: InputPath = "{workdir}/triples_heldout.jsonl",
    mixture_or_task_name: str = "sft_traces",
    lora: LoraConfig | None = None,
) -> stage.StageResult:
    """Trains on the solved problems of `solved` and writes `policy/`.

    Args:
        lora: train an adapter of this shape instead of all parameters.

    Raises:
        WrongUse: a row is no solved problem, or none is short enough.
    """
    policy, directory = os.path.join(workdir, "policy"), os.path.join(workdir, "sft")
    model_source.check_adapter(model, lora)
    devices = mesh_lib.make_mesh(mesh)
    with jax.set_mesh(devices):
        base = model.load(seed=seed, mesh=devices)
        fitter = Fitter(
            fit=fit,
            optimizer=optimizer,
            loop=loop_config,
            mesh=devices,
            seed=seed,
            adapter=lora,
            rules=base.lm.rules,
        )

        def opened(path: str, split: str) -> tuple[ExampleSet, dict[str, int]]:
            found, counts = training_sets.open_task(
                mixture_or_task_name, path, base.tokenizer, config=data, workdir=workdir, split=split
            )
            kept, dropped = fitter.within_length(found)
            return kept, counts | dropped

        rows, counts = opened(solved, "train")
        if not len(rows) and not counts["dropped_overlong"]:
            raise WrongUse(f"{solved}: there are no solved problems to train on in it ({counts}).")
        if not len(rows):
            raise WrongUse(f"{solved}: no solved problem fits in row_length={fit.row_length}; raise it.")
        heldout, heldout_counts = opened(solved_heldout, "validation")
        batches = fitter.batches(rows)
        counts = {"in": counts.pop("in"), "out": counts.pop("kept"), **counts}
        counts |= {f"heldout_{name}": count for name, count in heldout_counts.items()}
        counts |= {"steps": batches.num_steps, "tokens": batches.num_tokens}
        if store.is_complete_for_all(policy):  # killed between writing the policy and the manifest
            loop.remove_checkpoints(directory)
            return stage.StageResult(counts=counts)

        params = fitter.train(
            base.lm,
            base.params,
            batches,
            directory=directory,
            name="solver",
            loss=SftLoss(),
            held_out=heldout,
        )
        provenance = {"stage": "sft", "base": base.source, "seed": seed, "rows": len(rows)}
        adapter = adapters.after_fit(base.adapter, lora, base.source, base.params)
        store.save_model(policy, base.lm, params, base.tokenizer, provenance=provenance, adapter=adapter)
    loop.remove_checkpoints(directory)
    return stage.StageResult(counts=counts)


def programs(target: Target, arguments: Mapping[str, Any]) -> list[Program]:
    """What the fit runs, for `promptcot plan`."""
    return [target.fit_program(arguments)]
