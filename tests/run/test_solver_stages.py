"""`sft`, `synthesize` and `evaluate` as functions: what they count, which model wrote, wrong use."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest

from promptcot_jax.checkpoints import store
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import (
    AttemptRecord,
    ConceptSet,
    SolvedMathProblem,
    SolvedProgramProblem,
    StdioTest,
    Triple,
)
from promptcot_jax.data import training_sets
from promptcot_jax.evaluation.benchmarks import EvaluateConfig
from promptcot_jax.evaluation.solver_prompts import SolverPrompts
from promptcot_jax.models import causal_lm
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.run import evaluate, sft, synthesize
from promptcot_jax.sampling import engine, rollouts, token_choice
from promptcot_jax.sources import model_source, text_models
from promptcot_jax.synthesis.concept_pool import PoolConfig
from promptcot_jax.synthesis.filters import FilterConfig
from promptcot_jax.synthesis.near_duplicates import DuplicateConfig
from promptcot_jax.synthesis.writing import ListBatchConfig
from promptcot_jax.trainers import loop
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.verify import sandbox, sandbox_host
from promptcot_jax.verify.programs import ProgramSettings
from tests import toys
from tests.run import calling

SOLVED = [
    SolvedMathProblem(
        id=f"p{i}",
        concepts=("sums",),
        problem=f"{i} + 1?",
        answer=str(i + 1),
        solution="One more. " * (i + 1) + f"\\boxed{{{i + 1}}}",
    )
    for i in range(4)
]
ATTEMPTS = rollouts.RolloutConfig(
    sampling=token_choice.SamplingConfig(max_new_tokens=4, temperature=0.0),
    engine=engine.EngineConfig(num_slots=4),
)
SOLVER = text_models.JaxModel(path="{workdir}/policy", config=ATTEMPTS, mesh=mesh_lib.MeshConfig())
WRITING = rollouts.RolloutConfig(
    sampling=token_choice.SamplingConfig(max_new_tokens=4), engine=engine.EngineConfig(num_slots=2)
)
SFT = {
    "seed": 0,
    "mesh": mesh_lib.MeshConfig(),
    "fit": loop.FitConfig(row_length=160, rows_per_batch=2),
    "optimizer": OptimizerConfig(learning_rate=1e-3),
    "loop_config": loop.LoopConfig(tensorboard=False),
    "data": training_sets.DataConfig(),
    "model": model_source.FromScratch(model=causal_lm.CausalLM(toys.toy_config())),
}


@pytest.fixture
def workdir(tmp_path: Path) -> str:
    """Solved problems and a tokenizer."""
    toys.byte_tokenizer().save(tmp_path / "tokenizer")
    jsonl.write_records(tmp_path / "triples.jsonl", SOLVED)
    # Of the held-out ones the first is too long for a row.
    overlong = dataclasses.replace(SOLVED[0], id="long", solution="And so on. " * 40 + "\\boxed{1}")
    jsonl.write_records(tmp_path / "triples_heldout.jsonl", [overlong, *SOLVED[:2]])
    return str(tmp_path)


def save_model(directory: Path, provenance: dict) -> str:
    lm = causal_lm.CausalLM(toys.toy_config())
    store.save_model(directory, lm, lm.init(jax.random.key(0)), toys.byte_tokenizer(), provenance=provenance)
    return store.load_provenance(directory)["params_digest"]


def test_sft_counts_held_out_rows_and_leaves_no_optimizer_state_after_a_kill(workdir: str):
    result = calling.call(sft.sft, workdir=workdir, **SFT)
    assert (result.counts["in"], result.counts["out"]) == (4, 4)
    assert (result.counts["heldout_kept"], result.counts["heldout_dropped_overlong"]) == (2, 1)
    checkpoints = Path(workdir) / "sft" / loop.CHECKPOINTS
    assert not checkpoints.exists() or not list(checkpoints.iterdir())
    # Killed after the policy was written: the checkpoints of the fit are still there.
    (checkpoints / "00000004").mkdir(parents=True)
    assert calling.call(sft.sft, workdir=workdir, **SFT).counts == result.counts
    assert not checkpoints.exists() or not list(checkpoints.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solved": "{workdir}/none.jsonl"}, "there are no solved problems to train on"),
        ({"fit": loop.FitConfig(row_length=8, rows_per_batch=2)}, "fits in row_length=8; raise it"),
        ({"loop_config": loop.LoopConfig(micro_batches=4)}, "rows_per_batch=2 .*a multiple of 4"),
        ({"mesh": mesh_lib.MeshConfig(data=2, fsdp=2)}, "rows_per_batch=2 .*a multiple of 4"),
    ],
)
def test_sft_refuses_what_it_cannot_train_on_before_it_writes(workdir: str, changes: dict, message: str):
    (Path(workdir) / "none.jsonl").touch()
    with pytest.raises((WrongUse, ValueError), match=message):
        calling.call(sft.sft, workdir=workdir, **(SFT | changes))
    assert not (Path(workdir) / "sft").exists()


@pytest.mark.parametrize(
    ("provenance", "round_index"),
    [
        ({"stage": "em", "round": 3}, 3),
        ({"stage": "cold_start"}, -1),
        ({"stage": "sft", "round": 3}, -1),
        ({}, -1),
    ],
)
def test_a_problem_names_the_round_of_the_model_that_wrote_it(
    tmp_path: Path, provenance: dict, round_index: int
):
    digest = save_model(tmp_path / "theta", provenance)
    model = model_source.Pretrained(path=str(tmp_path / "theta"), dtype="bfloat16").load(
        seed=0, mesh=mesh_lib.make_mesh(mesh_lib.MeshConfig())
    )
    assert synthesize.lineage(str(tmp_path / "theta"), model) == (digest, round_index)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score_tokens": 0}, "score_tokens and filter_processes must be at least 1"),
        ({}, "nothing to write: set num_concept_sets or target"),
        ({"batches": ListBatchConfig(num_concept_sets=0, target=3)}, "names? no concepts"),
        (
            {"concept_sets": "{workdir}/sets.jsonl", "batches": ListBatchConfig(num_concept_sets=3)},
            "has 2 lists",
        ),
        ({"encoder": "{workdir}/none"}, "ENCODER is "),
    ],
)
def test_synthesize_refuses_settings_that_mean_nothing(tmp_path: Path, settings: dict, message: str):
    jsonl.write_records(tmp_path / "triples.jsonl", [])
    sets = [ConceptSet(id=str(i), concepts=("primes",)) for i in range(2)]
    jsonl.write_records(tmp_path / "sets.jsonl", sets)
    given: dict[str, Any] = {"batches": ListBatchConfig(num_concept_sets=0)} | settings
    with pytest.raises(WrongUse, match=message):
        calling.call(
            synthesize.synthesize,
            workdir=str(tmp_path),
            config=WRITING,
            mesh=mesh_lib.MeshConfig(),
            pool=PoolConfig(),
            filters=FilterConfig(),
            duplicates=DuplicateConfig(),
            prompt_model="none",
            **given,
        )


def test_more_lists_than_the_pool_gives_are_refused(tmp_path: Path):
    triple = Triple(concepts=("primes", "sums"), rationale="z", problem="What is the sum of two primes?")
    jsonl.write_records(tmp_path / "triples.jsonl", [triple])
    save_model(tmp_path / "theta", {})
    with pytest.raises(WrongUse, match="5 concept sets.*no more than 1 different ones.*from 2 concepts"):
        calling.call(
            synthesize.synthesize,
            workdir=str(tmp_path),
            config=WRITING,
            mesh=mesh_lib.MeshConfig(),
            batches=ListBatchConfig(num_concept_sets=5),
            pool=PoolConfig(),
            filters=FilterConfig(),
            duplicates=DuplicateConfig(),
            prompt_model=str(tmp_path / "theta"),
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_problems": -1}, "max_problems must be 0"),
        ({"attempts": 0}, "attempts must be at least 1"),
        ({"attempts": 4}, "ATTEMPTS is 4 at temperature 0.*raise ATTEMPT_TEMPERATURE"),
        ({"problems": ("{workdir}/none.jsonl",)}, "no problems to attempt in {workdir}/none.jsonl"),
        ({"problems": ()}, "no problems to attempt in no files"),
        (
            {"problems": ("{workdir}/triples.jsonl", "{workdir}/other/triples.jsonl")},
            "triples.jsonl and .*/other/triples.jsonl would both be 'triples'",
        ),
    ],
)
def test_evaluate_refuses_problems_that_it_cannot_tell_apart_or_find(
    workdir: str, settings: dict, message: str
):
    (Path(workdir) / "none.jsonl").touch()
    with pytest.raises((WrongUse, ValueError), match=message):
        calling.call(
            evaluate.evaluate,
            workdir=workdir,
            programs=ProgramSettings(),
            prompts=SolverPrompts(),
            solver=SOLVER,
            config=EvaluateConfig(**settings),
        )


def test_evaluate_attempts_programs_where_a_sandbox_works(workdir: str, monkeypatch: pytest.MonkeyPatch):
    save_model(Path(workdir) / "policy", {})
    program = SolvedProgramProblem(
        id="add", concepts=("sums",), problem="Add.", tests=(StdioTest("1", "1"),), solution="print(input())"
    )
    jsonl.write_records(Path(workdir) / "mixed.jsonl", [SOLVED[0], program])

    def evaluated() -> tuple[int, int, int, str]:
        result = calling.call(
            evaluate.evaluate,
            workdir=workdir,
            solver=SOLVER,
            programs=ProgramSettings(allow_weak_sandbox=True),
            prompts=SolverPrompts(),
            config=EvaluateConfig(problems=("{workdir}/mixed.jsonl",)),
        )
        shutil.rmtree(Path(workdir) / "evaluate")
        entry = json.loads((Path(workdir) / "results.json").read_text())["results"]["mixed"]
        counts = result.counts
        return counts["attempts"], counts["not_graded"], counts["weak_sandbox"], entry["sandbox"]

    weak = sandbox.Host(bwrap="", python="python3", prefix="/usr")
    monkeypatch.setattr(sandbox_host, "find_host", lambda allow_weak: weak)
    assert evaluated() == (2, 0, 1, "weak")

    def refuse(allow_weak: bool) -> sandbox.Host:
        raise sandbox_host.SandboxUnavailable("nothing works.")

    monkeypatch.setattr(sandbox_host, "find_host", refuse)
    assert evaluated() == (1, 1, 0, "none")


def test_evaluate_keeps_its_attempts_in_a_directory_of_its_own(workdir: str):
    save_model(Path(workdir) / "policy", {})
    result = calling.call(
        evaluate.evaluate,
        workdir=workdir,
        solver=SOLVER,
        programs=ProgramSettings(),
        prompts=SolverPrompts(),
        config=EvaluateConfig(problems=("{workdir}/triples.jsonl",), max_problems=2),
    )
    assert result.counts["attempts"] == 2
    assert len(jsonl.read_records(Path(workdir) / "evaluate" / "attempts.jsonl", AttemptRecord)) == 2
    assert set(json.loads((Path(workdir) / "results.json").read_text())["results"]) == {"triples"}
