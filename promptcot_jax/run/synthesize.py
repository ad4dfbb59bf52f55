"""`promptcot synthesize`: new problems from concept lists, written by p_theta (paper section 2.1)."""

import os
from typing import Literal

import jax
from etils import epath

from promptcot_jax.checkpoints import load, store
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import Triple
from promptcot_jax.data import rows
from promptcot_jax.models.config import FloatType
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.run import configuration, stage
from promptcot_jax.sampling.rollouts import RolloutConfig
from promptcot_jax.synthesis import concept_sets as concept_sets_lib
from promptcot_jax.synthesis import prompt_model as prompt_model_lib
from promptcot_jax.synthesis import writing

RoundChoice = Literal["best", "last"]


def synthesize(
    *,
    workdir: str,
    config: RolloutConfig,
    mesh: mesh_lib.MeshConfig,
    num_concept_sets: int = 0,
    concept_sets: configuration.InputPath | None = None,
    triples: configuration.InputPath = "{workdir}/triples.jsonl",
    prompt_model: configuration.InputPath | None = None,
    em_log: configuration.InputPath = "{workdir}/em/nll.jsonl",
    em_round: RoundChoice = "best",
    dtype: FloatType = "float32",
    score_tokens: int = 16384,
) -> stage.StageResult:
    """Writes `problems.jsonl`, and every sample as `synthesize/drafts.jsonl`.

    Args:
        num_concept_sets: how many lists to draw from the triples; with a file `concept_sets` all of its lists
        are used. prompt_model: the model that writes; without it, theta of the round `em_round` of `em_log`:
        the last one, or the one whose held-out bound is best (the cold start counts as round -1).

    Raises:
        WrongUse: no model is there, the concept lists are unusable or none, or a count is negative.
    """
    if num_concept_sets < 0 or score_tokens < 1:
        raise WrongUse(
            f"num_concept_sets must be 0 or more and score_tokens at least 1, got {num_concept_sets} and "
            f"{score_tokens}."
        )
    seeds = list(rows.iter_records(configuration.in_workdir(triples, workdir), Triple))
    if concept_sets is not None:
        wanted = concept_sets_lib.read_concept_sets(configuration.in_workdir(concept_sets, workdir))
    else:
        wanted = concept_sets_lib.draw_concept_sets(seeds, count=num_concept_sets, seed=config.seed)
    if prompt_model is not None:
        path = configuration.in_workdir(prompt_model, workdir)
    else:
        path, _ = theta_of_round(configuration.in_workdir(em_log, workdir), em_round)
    if not wanted:
        raise WrongUse(
            f"There is nothing to write about: num_concept_sets is {num_concept_sets}, and {triples} has "
            f"{len(seeds)} triples; raise num_concept_sets, or give a file of concept sets."
        )
    devices = mesh_lib.make_mesh(mesh)
    model = load.load_model(path, dtype=dtype, mesh=devices)
    digest, round_index = lineage(path, model)
    with jax.set_mesh(devices):
        counts = writing.write_problems(
            wanted,
            write_drafts=prompt_model_lib.draft_writer(model, config, score_tokens=score_tokens),
            samples_per_set=config.samples_per_row,
            author=writing.Author(model_digest=digest, round_index=round_index, seed=config.seed),
            seed_problems=[seed.problem for seed in seeds],
            drafts_path=os.path.join(workdir, "synthesize", "drafts.jsonl"),
            problems_path=os.path.join(workdir, "problems.jsonl"),
        )
    return stage.StageResult(counts=counts)


def lineage(path: str, model: load.LoadedModel) -> tuple[str, int]:
    """Digest of a model's parameters, and the EM round that made it; -1 is any other model's.

    One of our checkpoints says so itself, however it was named to the stage; its digest is that of the
    parameters as stored, whatever dtype they are read in.
    """
    if not store.is_complete(path):
        return store.params_digest(model.params), -1
    provenance = store.load_provenance(path)
    round_index = int(provenance.get("round", -1)) if provenance.get("stage") == "em" else -1
    return provenance.get("params_digest") or store.params_digest(model.params), round_index


def theta_of_round(em_log: str, choice: RoundChoice) -> tuple[str, int]:
    """Directory and round of the theta that an EM log's figures choose; -1 is the cold start.

    Raises:
        WrongUse: there is no EM log.
    """
    directory = epath.Path(em_log).parent
    if not epath.Path(em_log).exists():
        raise WrongUse(
            f"{em_log}: no such file; run 'promptcot em' first, or name a model with PROMPT_MODEL."
        )
    rounds = {row["round"]: row["nll_bound"] for _, _, row in jsonl.iter_rows(em_log)}
    measured = {index: bound for index, bound in rounds.items() if bound is not None}
    index = min(measured, key=measured.__getitem__) if choice == "best" and measured else max(rounds)
    place = directory.parent / "cold_start" if index < 0 else directory / f"round_{index:03d}"
    return os.fspath(place / "theta"), index
