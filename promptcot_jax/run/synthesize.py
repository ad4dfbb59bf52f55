"""`promptcot synthesize`: new problems from concept lists, written by p_theta (paper section 2.1)."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
from etils import epath

from promptcot_jax.checkpoints import load, store
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import ConceptSet, Triple
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.data import decontamination, rows
from promptcot_jax.models import hashed_tfidf, lora
from promptcot_jax.models.config import FloatType
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel.programs import Program
from promptcot_jax.planning.target import Target
from promptcot_jax.run import encoders, stage
from promptcot_jax.sampling import engine, scoring
from promptcot_jax.sampling.rollouts import RolloutConfig
from promptcot_jax.synthesis import concept_pool, drafts, problem_files, writing
from promptcot_jax.synthesis.drafts import Author
from promptcot_jax.synthesis.filters import FilterConfig
from promptcot_jax.synthesis.near_duplicates import DuplicateConfig, Encode
from promptcot_jax.synthesis.selection import Selection
from promptcot_jax.synthesis.text_sketches import BatchWorkers

log = logging.getLogger(__name__)

RoundChoice = Literal["best", "last"]


def synthesize(
    *,
    workdir: str,
    config: RolloutConfig,
    mesh: mesh_lib.MeshConfig,
    batches: writing.ListBatchConfig,
    pool: concept_pool.PoolConfig,
    filters: FilterConfig,
    duplicates: DuplicateConfig,
    concept_sets: InputPath | None = None,
    concept_lists: InputPath | None = None,
    triples: InputPath | None = "{workdir}/triples.jsonl",
    benchmarks: dict[str, InputPath] | None = None,
    encoder: InputPath = hashed_tfidf.NAME,
    prompt_model: InputPath | None = None,
    em_log: InputPath = "{workdir}/em/nll.jsonl",
    em_round: RoundChoice = "best",
    dtype: FloatType = "float32",
    score_tokens: int = 16384,
    filter_processes: int = 1,
) -> stage.StageResult:
    """Writes `problems.jsonl`; drafts as they were sampled, and `rejects.jsonl`, in `synthesize/`.

    Args:
        concept_sets: a file of lists to write from, instead of lists drawn from a pool.
        concept_lists: a file of lists whose concepts are the pool, instead of those of the triples.
        triples: the seeds: the pool, and what a problem must not repeat. None: there are no seeds,
            and one of the two files above says what to write from.
        benchmarks: evaluation sets, name -> file, that problems must not overlap with.
        encoder: of texts, see `encoders.make_encoder`.
        prompt_model: the model that writes; without it, theta of the round `em_round` of `em_log`: the last
            one, or the one whose held-out bound is best (the cold start counts as round -1).
        filter_processes: that filter and look for repetitions, on the first host.

    Raises:
        WrongUse: no model is there, the concept lists are unusable or none, or a count is negative.
    """
    if score_tokens < 1 or filter_processes < 1:
        raise WrongUse(
            f"score_tokens and filter_processes must be at least 1, got {score_tokens}, {filter_processes}."
        )
    if triples is None and concept_sets is None and concept_lists is None:
        raise WrongUse("TRIPLES is None, so that nothing says what to write from; set CONCEPT_SETS as well.")
    seeds = list(rows.iter_records(triples, Triple)) if triples else []
    encode = encoders.make_encoder(encoder, [seed.problem for seed in seeds])
    if concept_sets is not None:
        next_sets = _in_order(problem_files.read_concept_sets(concept_sets), batches)
    else:
        pooled = seeds
        if concept_lists is not None:
            pooled = problem_files.read_concept_sets(concept_lists)
        next_sets = _drawn(pooled, batches, pool, config.seed, encode)
    path = prompt_model or theta_of_round(em_log, em_round)[0]
    devices = mesh_lib.make_mesh(mesh)
    model = load.load_model(path, dtype=dtype, mesh=devices)
    digest, round_index = lineage(path, model)
    with BatchWorkers(filter_processes) as workers:
        selection = Selection(
            filters,
            duplicates,
            encode=encode,
            seed_problems=[seed.problem for seed in seeds],
            benchmarks=decontamination.read_index(benchmarks) if benchmarks else None,
            workers=workers,
        )
        with jax.set_mesh(devices):
            write_drafts = drafts.draft_writer(model, config, score_tokens=score_tokens)
        counts = writing.write_problems(
            next_sets,
            config=batches,
            write_drafts=_on_mesh(devices, write_drafts),
            samples_per_set=config.group_size,
            selection=selection,
            author=Author(model_digest=digest, round_index=round_index, seed=config.seed),
            directory=os.path.join(workdir, "synthesize"),
            problems_path=os.path.join(workdir, "problems.jsonl"),
        )
    return stage.StageResult(counts=counts)


def programs(target: Target, arguments: Mapping[str, Any]) -> list[Program]:
    """What writing and scoring run, for `promptcot plan`: one model in one type."""
    config, dtype = arguments["config"], arguments["dtype"]
    lm, length = target.lm(dtype=dtype), target.prompt_tokens + config.sampling.max_new_tokens
    params = lora.abstract_params(lm, target.mesh, dtype, target.adapter)
    writing_programs = engine.programs(
        "synthesize",
        lm,
        target.mesh,
        params,
        config.engine,
        max_tokens=length,
        params_name="the model as loaded",
    )
    score = scoring.program(
        "synthesize: score",
        lm,
        target.mesh,
        params,
        length=length,
        batch_tokens=arguments["score_tokens"],
        resident=engine.resident_between_bursts(writing_programs, params, "the model to decode"),
    )
    return [*writing_programs, score]


def _on_mesh(devices: jax.sharding.Mesh, write_drafts: drafts.WriteDrafts) -> drafts.WriteDrafts:
    """Samples on the mesh of all hosts; what selects, on the first host, must not wait for the others."""

    def write(*arguments):
        with jax.set_mesh(devices):
            return write_drafts(*arguments)

    return write


def _in_order(wanted: list[ConceptSet], batches: writing.ListBatchConfig) -> writing.NextSets:
    """The lists of a file, one batch after the other."""
    if batches.num_concept_sets > len(wanted):
        raise WrongUse(
            f"num_concept_sets is {batches.num_concept_sets}, the file has {len(wanted)} lists; 0 takes all."
        )
    rest = iter(wanted)
    return lambda size: [one for _, one in zip(range(size), rest, strict=False)]


def _drawn(
    pooled: Sequence[Triple | ConceptSet],
    batches: writing.ListBatchConfig,
    config: concept_pool.PoolConfig,
    seed: int,
    encode: Encode,
) -> writing.NextSets:
    if not batches.num_concept_sets and not batches.target:
        raise WrongUse(
            "There is nothing to write: set num_concept_sets or target, or give a file of concept sets."
        )
    pool = concept_pool.ConceptPool(pooled, config, seed=seed, encode=encode)

    def draw(size: int) -> list[ConceptSet]:
        sets = pool.draw(size)
        if not batches.target and len(sets) < size:
            raise WrongUse(
                f"{size} concept sets are asked for, but no more than {len(sets)} different ones could be "
                f"drawn from {len(pool)} concepts; ask for fewer, or take more samples of each."
            )
        return sets

    return draw


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
        WrongUse: there is no EM log, or one of a version that did not record the best round.
    """
    directory = epath.Path(em_log).parent
    if not epath.Path(em_log).exists():
        raise WrongUse(
            f"{em_log}: no such file; run 'promptcot em' first, or name a model with PROMPT_MODEL."
        )
    last = next(reversed([row for _, _, row in jsonl.iter_rows(em_log)]), {})
    if "best_round" not in last:
        raise WrongUse(
            f"{em_log}: no best_round in a last row: EM was run by an older version, or measured nothing. "
            "Run 'promptcot em' again, or name a round's model with PROMPT_MODEL."
        )
    index = last["best_round"] if choice == "best" else last["round"]
    if index < 0 <= last["round"]:
        log.warning(
            "%s: after the last round the held-out bound is surely above the cold start's, and lower in no "
            "other: the cold-started p_theta writes the problems. PROMPT_MODEL names another one.",
            em_log,
        )
    models = directory.parent / "cold_start" if index < 0 else directory / f"round_{index:03d}"
    return os.fspath(models / "theta"), index
