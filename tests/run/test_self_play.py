"""`self_play` as a stage and as a command, with the stage's own grading of boxed answers.

The policy to begin with answers each of five problems with one of five boxed digits, the right one twice as
often as each of the others.
"""

import collections
import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from promptcot_jax.checkpoints import load, store
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import (
    AttemptRecord,
    CompletionSample,
    MathPrompt,
    ProgramPrompt,
    Rollout,
    SolvedMathProblem,
    StdioTest,
    VerifiedMathPrompt,
    VerifiedProgramPrompt,
)
from promptcot_jax.data import rollout_sets, training_sets
from promptcot_jax.data.prompt_stream import PromptConfig
from promptcot_jax.models import causal_lm
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.report import samples_page
from promptcot_jax.run import cli, configuration, self_play, sft, stages
from promptcot_jax.sampling import engine, rollouts, token_choice
from promptcot_jax.sources import model_source
from promptcot_jax.trainers import loop
from promptcot_jax.trainers.algorithm import Algorithm
from promptcot_jax.trainers.dpo import Dpo
from promptcot_jax.trainers.grpo import Grpo
from promptcot_jax.trainers.held_out import HeldOutConfig
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.trainers.rejection import RejectionSampling
from promptcot_jax.trainers.self_play_config import SelfPlayConfig
from promptcot_jax.verify.programs import ProgramSettings
from promptcot_jax.verify.rewards import RewardConfig
from tests import toys
from tests.run import calling, killing, test_hosts, watched

NUMBER = 5
PROMPTS = [
    VerifiedMathPrompt(
        id=f"p{i}", problem=f"{i}+1=", answer=str(i + 1), agreement=1.0, pool="hard" if i else "easy"
    )
    for i in range(NUMBER)
]


@pytest.fixture(scope="module")
def guesser(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the policy that guesses."""
    workdir = tmp_path_factory.mktemp("guesser")
    toys.byte_tokenizer().save(workdir / "tokenizer")
    rows = [
        SolvedMathProblem(
            id=f"{prompt.id}-{place}",
            concepts=("sums",),
            problem=prompt.problem,
            answer=str(answer),
            solution=f"\\boxed{{{answer}}}",
        )
        for prompt in PROMPTS
        for place, answer in enumerate((*range(1, NUMBER + 1), int(prompt.answer)))
    ]
    jsonl.write_records(workdir / "triples.jsonl", rows)
    jsonl.write_records(workdir / "triples_heldout.jsonl", rows[:1])
    calling.call(
        sft.sft,
        workdir=str(workdir),
        seed=0,
        model=model_source.FromScratch(model=causal_lm.CausalLM(toys.toy_config())),
        mesh=mesh_lib.MeshConfig(),
        fit=loop.FitConfig(row_length=96, rows_per_batch=16, num_epochs=60, pack=False),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=10, schedule="cosine"),
        loop_config=loop.LoopConfig(tensorboard=False),
        data=training_sets.DataConfig(),
    )
    return str(workdir / "policy")


@pytest.mark.parametrize(
    ("name", "algorithm"), [("", Grpo()), ("_dpo", Dpo()), ("_rejection", RejectionSampling())]
)
def test_classes_default_to_what_the_macros_say(name: str, algorithm: Algorithm):
    """A setting that is made in code is the one that a gin file would make, but for sizes of an iteration."""
    files = [
        "stages/self_play.gin",
        *([f"stages/self_play{name}.gin"] if name else []),
        "models/smollm2_135m.gin",
    ]
    configuration.load(files, ["NUM_ITERATIONS=7"])
    found = configuration.arguments_of("self_play", stages.stage_function("self_play"))
    sizes = {} if not name else {"prompts_per_iteration": 256, "units_per_update": 16}
    assert found["config"] == SelfPlayConfig(num_iterations=7, **sizes)
    assert found["algorithm"] == algorithm
    assert found["prompts"] == PromptConfig()
    assert found["held_out"] == HeldOutConfig(rollouts=found["held_out"].rollouts)
    assert found["optimizer"] == OptimizerConfig(learning_rate=1e-6, warmup_steps=5)


def play(workdir: Path, policy: str, **changes):
    settings = {
        "seed": 0,
        "model": model_source.Pretrained(path=policy),
        "mesh": mesh_lib.MeshConfig(),
        "config": SelfPlayConfig(
            num_iterations=3,
            prompts_per_iteration=NUMBER,
            units_per_update=NUMBER * 4,
            checkpoint_every=2,
            tensorboard=False,
        ),
        "algorithm": Grpo(),
        "rollouts": rollouts.RolloutConfig(
            sampling=token_choice.SamplingConfig(max_new_tokens=12),
            engine=engine.EngineConfig(num_slots=64, page_size=32),
            group_size=8,
            requests_per_shard=16,
        ),
        "optimizer": OptimizerConfig(learning_rate=1e-3),
        "rewards": RewardConfig(),
        "programs": ProgramSettings(allow_weak_sandbox=True),
        "prompts": PromptConfig(),
    }
    jsonl.write_records(workdir / "verified_prompts.jsonl", PROMPTS)
    return calling.call(self_play.self_play, workdir=str(workdir), **(settings | changes))


def metrics_of(workdir: Path):
    return [json.loads(line) for line in (workdir / "self_play" / "metrics.jsonl").read_text().splitlines()]


def test_the_stage_counts_what_it_did_and_leaves_a_policy(guesser: str, tmp_path: Path):
    counts = play(tmp_path, guesser, prompts=PromptConfig(pools=("hard",))).counts
    found = list(rollout_sets.read(tmp_path / "rollouts"))
    assert (counts["in"], counts["out"], counts["dropped_difficulty"]) == (5, 4, 1)
    assert counts["rollouts"] == len(found) == counts["prompts_drawn"] * 8
    assert counts["updates"] == sum(row.get("updates", 0) for row in metrics_of(tmp_path)) > 0
    assert "p0" not in {rollout.prompt_id for rollout in found}
    assert {rollout.status for rollout in found} <= {"match", "mismatch", "no_answer"}
    assert not list((tmp_path / "self_play").glob("checkpoints/*"))
    samples = jsonl.read_records(tmp_path / "self_play" / "samples.jsonl", CompletionSample)
    assert {sample.iteration for sample in samples} == {0, 2}
    assert (tmp_path / "self_play" / "samples.html").read_text() == samples_page.render(samples)
    # Killed between writing the policy and the manifest.
    assert play(tmp_path, guesser, prompts=PromptConfig(pools=("hard",))).counts == counts


EVALUATION = HeldOutConfig(
    prompts="{workdir}/unseen.jsonl",
    rollouts=rollouts.RolloutConfig(
        sampling=token_choice.SamplingConfig(max_new_tokens=12),
        engine=engine.EngineConfig(num_slots=64, page_size=32),
        group_size=4,
    ),
)


def test_what_is_trained_on_is_not_evaluated_on(guesser: str, tmp_path: Path, caplog):
    """A problem in other spacing is the same problem, and counted; the others are."""
    again = MathPrompt(id="again", problem=" 0+1=\n", answer="1")
    unseen = [MathPrompt(id=f"u{i}", problem=f"{i}+2=", answer=str(i + 2)) for i in range(3)]
    jsonl.write_records(tmp_path / "unseen.jsonl", [again, *unseen])
    config = SelfPlayConfig(num_iterations=1, prompts_per_iteration=2, units_per_update=64, tensorboard=False)
    with caplog.at_level("WARNING", "promptcot_jax"):
        counts = play(tmp_path, guesser, held_out=EVALUATION, config=config).counts
    assert "1 of 4 problems are trained on" in caplog.text
    assert (counts["heldout_in"], counts["heldout_out"], counts["heldout_dropped_trained_on"]) == (4, 3, 1)
    found = jsonl.read_records(tmp_path / "self_play" / "evaluations" / "step_00001.jsonl", AttemptRecord)
    assert [attempt.problem_id for attempt in found] == [f"u{i}" for i in range(3) for _ in range(4)]
    for attempt in found:  # graded by the boxed answer, as rollouts are
        assert attempt.correct == (attempt.answer == attempt.reference) == (attempt.status == "match")
    assert [row["eval/num_problems"] for row in metrics_of(tmp_path)] == [3, 3]


def test_manifest_and_provenance_say_which_policy_is_kept_and_that_the_run_stopped(
    guesser: str, tmp_path: Path
):
    """The goal is reached at the start, by attempts of which none is right."""
    unseen = [MathPrompt(id="u", problem="2+2=", answer="100")]
    jsonl.write_records(tmp_path / "unseen.jsonl", unseen)
    held_out = dataclasses.replace(EVALUATION, keep_best="eval/avg_at_k")
    config = SelfPlayConfig(
        num_iterations=3, prompts_per_iteration=2, tensorboard=False, stop_at="eval/avg_at_k <= 0.0"
    )
    counts = play(tmp_path, guesser, held_out=held_out, config=config).counts
    assert (counts["iterations"], counts["stopped_early"], counts["policy_of_iteration"]) == (0, 1, 0)
    facts = store.load_provenance(tmp_path / "policy")
    assert facts["best"] == {"step": 0, "metric": "eval/avg_at_k", "value": 0.0}
    assert facts["stopped_at"] == "eval/avg_at_k <= 0.0"
    assert facts["params_digest"] == store.load_provenance(guesser)["params_digest"]
    assert not (tmp_path / "self_play" / "best").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "num_iterations", "learning_rate"),
    [
        (Grpo(), 12, 3e-3),
        (Dpo(beta=0.1, solved_below=1.0), 30, 1e-3),
        (RejectionSampling(solved_below=1.0), 20, 3e-3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_self_play_learns_sums_from_sparse_reward(
    guesser: str, tmp_path: Path, algorithm: Algorithm, num_iterations: int, learning_rate: float
):
    """From a third of the answers to most of them, by reward alone."""
    config = SelfPlayConfig(
        num_iterations=num_iterations,
        prompts_per_iteration=NUMBER,
        units_per_update=NUMBER * 4,
        checkpoint_every=100,
        tensorboard=False,
    )
    play(
        tmp_path,
        guesser,
        algorithm=algorithm,
        config=config,
        optimizer=OptimizerConfig(learning_rate=learning_rate),
    )
    rewards = [row["reward/correct"] for row in metrics_of(tmp_path)]
    assert np.mean(rewards[:2]) < 0.5
    assert np.mean(rewards[-3:]) > 0.6


@pytest.mark.slow
def test_math_and_code_are_mixed_by_rate_and_graded_each_in_its_way(guesser: str, tmp_path: Path):
    program = ProgramPrompt(id="c", problem="Print 1.", tests=(StdioTest("", "1\n"),))
    path = tmp_path / "both.jsonl"
    jsonl.write_records(path, [*PROMPTS, program])
    play(
        tmp_path,
        guesser,
        verified_prompts=str(path),
        prompts=PromptConfig(rates={"math": 1.0, "code": 1.0}),
        config=SelfPlayConfig(
            num_iterations=2,
            prompts_per_iteration=6,
            units_per_update=64,
            max_tries=1,
            tensorboard=False,
        ),
    )
    found = list(rollout_sets.read(tmp_path / "rollouts"))
    by_domain = {domain: [r for r in found if r.domain == domain] for domain in ("math", "code")}
    assert abs(len(by_domain["math"]) - len(by_domain["code"])) <= 2 * 8
    assert {rollout.status for rollout in by_domain["code"]} == {"no_program"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": PromptConfig(pools=("medium",))}, "there are no prompts to play on .*difficulty': 5"),
        ({"prompts": PromptConfig(rates={"math": 1.0, "code": 1.0})}, "There is no 'code' to mix"),
        (
            {"held_out": dataclasses.replace(EVALUATION, prompts="{workdir}/verified_prompts.jsonl")},
            "nothing to evaluate on .*of 5 problems 5 are trained on",
        ),
    ],
)
def test_wrong_use_is_refused_before_anything_is_written(guesser: str, tmp_path: Path, changes, message):
    with pytest.raises(WrongUse, match=message):
        play(tmp_path, guesser, **changes)
    assert [path.name for path in tmp_path.iterdir()] == ["verified_prompts.jsonl"]


def _policy_gin(path: Path, policy: str) -> str:
    """A gin file that makes `policy` the model."""
    path.write_text(
        "from __gin__ import dynamic_registration\n"
        "from promptcot_jax.sources import model_source\n"
        "MODEL = @model_source.Pretrained()\n"
        f"model_source.Pretrained.path = '{policy}'\n"
    )
    return f"--gin_file={path}"


@pytest.mark.slow
def test_prompts_are_filtered_by_pass_rate_and_mixed_by_rate_from_the_command_line(
    guesser: str, tmp_path: Path
):
    """The paper's rule leaves out what is solved in half of the tries; then 3 of math to 1 of code."""

    def tried(share: float) -> dict[str, Any]:
        return {"agreement": share, "num_solutions": 100, "pass_share": share}

    tests = (StdioTest("", "1\n"),)
    jsonl.write_records(
        tmp_path / "verified_prompts.jsonl",
        [
            VerifiedMathPrompt(id="half", problem="1+1=", answer="2", **tried(0.5)),
            VerifiedMathPrompt(id="below", problem="1+2=", answer="3", **tried(0.49)),
            MathPrompt(id="untried", problem="1+3=", answer="4"),
            VerifiedProgramPrompt(id="code-half", problem="Print 1.", tests=tests, **tried(0.5)),
            *[
                VerifiedProgramPrompt(id=f"code-{i}", problem=f"Print {i}.", tests=tests, **tried(0.49))
                for i in range(6)
            ],
        ],
    )
    command = [
        "self_play",
        "--gin_file=stages/self_play.gin",
        "--gin_file=stages/self_play_measure.gin",
        _policy_gin(tmp_path / "policy.gin", guesser),
        "--gin.PROMPTS_PER_ITERATION=8",
        "--gin.GROUP_SIZE=2",
        "--gin.MAX_SOLUTION_TOKENS=12",
        "--gin.SOLVED_BELOW=0.5",
        "--gin.PROMPT_RATES={'math': 3.0, 'code': 1.0}",
        "--gin.ALLOW_WEAK_SANDBOX=True",
        "--gin.iterations.SelfPlayConfig.tensorboard=False",
        f"--workdir={tmp_path}",
    ]
    assert cli.main(command) == 0
    drawn = [rollout.prompt_id for rollout in rollout_sets.read(tmp_path / "rollouts")][::2]
    counts = collections.Counter(drawn)
    assert len(drawn) == 8
    assert (counts["below"], counts["untried"]) == (3, 3)  # of 8 prompts with 2 of mathematics
    assert sum(n for name, n in counts.items() if name.startswith("code-")) == 2
    assert not {"half", "code-half"} & counts.keys()
    (row,) = metrics_of(tmp_path)
    assert (row["groups/used"], row["sequences"]) == (0, 0)  # measured, not trained

    again = tmp_path / "again"
    again.mkdir()
    jsonl.write_records(again / "verified_prompts.jsonl", PROMPTS)
    measured = [*command[:-1], "--gin.PROMPT_RATES=None", f"--workdir={again}"]
    missing = f"--gin.SOLVED_IN='{tmp_path}/nothing'"
    assert cli.main([*measured, missing]) == 2
    assert cli.main([*measured, f"--gin.SOLVED_IN='{tmp_path}/rollouts'"]) == 0


def command_of(directory: Path, policy: str, *more: str) -> list[str]:
    """A small run from a policy, without its workdir."""
    return [
        "self_play",
        "--gin_file=stages/self_play.gin",
        *more,
        _policy_gin(directory / "policy.gin", policy),
        "--gin.NUM_ITERATIONS=4",
        "--gin.PROMPTS_PER_ITERATION=8",
        "--gin.GROUP_SIZE=8",
        "--gin.UNITS_PER_UPDATE=32",
        "--gin.MAX_SOLUTION_TOKENS=12",
        "--gin.SELF_PLAY_LEARNING_RATE=1e-3",
        "--gin.CHECKPOINT_EVERY=2",
        "--gin.iterations.SelfPlayConfig.tensorboard=False",
        "--gin.self_play/rollouts.RolloutConfig.requests_per_shard=8",
    ]


def with_prompts(workdir: Path) -> Path:
    workdir.mkdir()
    jsonl.write_records(workdir / "verified_prompts.jsonl", PROMPTS)
    return workdir


@pytest.mark.slow
def test_kill_9_in_sampling_grading_update_and_evaluation_and_a_notice(guesser: str, tmp_path: Path):
    """The outcome of the command is that of an undisturbed one, bit for bit."""
    killed, undisturbed = with_prompts(tmp_path / "killed"), with_prompts(tmp_path / "undisturbed")
    unseen = [MathPrompt(id=f"u{i}", problem=f"1+{i}=", answer=str(i + 1)) for i in range(4)]
    for workdir in (killed, undisturbed):
        jsonl.write_records(workdir / "unseen.jsonl", unseen)
    command = [
        *command_of(tmp_path, guesser),
        "--gin.EVAL_PROMPTS='{workdir}/unseen.jsonl'",
        "--gin.EVAL_EVERY=2",
        "--gin.KEEP_BEST='eval/avg_at_k'",
        "--gin.evaluation/rollouts.RolloutConfig.requests_per_shard=8",
    ]
    before, after = (
        (
            "self_play/evaluations/step_00000-0*.jsonl",
            "self_play/best/*/COMPLETE",
            "rollouts/iteration_00000-0*.jsonl",  # while others are drawn and graded
        ),
        (
            "rollouts/iteration_00001.jsonl",  # before the updates of the second iteration
            "self_play/evaluations/step_00002.jsonl",
            "self_play/checkpoints/step_00000002/COMPLETE",
            "policy*",  # while the policy is written
        ),
    )
    for pattern in before:
        killing.kill_when([*command, f"--workdir={killed}"], killed, pattern)
    process = killing.start([*command, f"--workdir={killed}"])
    killing.wait_for(killed, "rollouts/iteration_00000.jsonl", 1, [process])
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=killing.DEADLINE_SECONDS)
    assert process.returncode == 75, errors
    assert "'self_play' left after iteration 1 of 4 for SIGTERM, with a checkpoint" in errors
    for pattern in after:
        killing.kill_when([*command, f"--workdir={killed}"], killed, pattern)
    killing.run_to_end([*command, f"--workdir={killed}"])
    killing.run_to_end([*command, f"--workdir={undisturbed}"])
    killing.assert_same_outcome(killed, undisturbed)
    assert jsonl.read_records(killed / "rollouts" / "iteration_00003.jsonl", Rollout)


@pytest.mark.slow
def test_two_hosts_play_as_one_process_and_the_first_alone_writes(guesser: str, tmp_path: Path):
    """On the same four devices; tolerance 1e-4 after eight steps of Adam at 1e-3.

    The other algorithms on two hosts: tests/trainers/test_self_play_on_devices.py.
    """
    one, two = with_prompts(tmp_path / "one"), with_prompts(tmp_path / "two")
    command = command_of(tmp_path, guesser, "--gin_file=meshes/fsdp.gin")
    killing.run_to_end([*command, f"--workdir={one}"], num_devices=4, as_here=True)
    test_hosts.run_hosts([*command, f"--workdir={two}"], module="tests.run.watched", as_here=True)
    drawn = [[*rollout_sets.read(workdir / "rollouts")] for workdir in (one, two)]
    assert [(r.token_ids, r.status, r.reward) for r in drawn[0]] == [
        (r.token_ids, r.status, r.reward) for r in drawn[1]
    ]
    for ours, theirs in zip(metrics_of(two), metrics_of(one), strict=True):
        for name in ("loss", "grad_norm", "updates", "sequences", "groups/drawn", "reward"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)
    policies = [jax.tree.leaves(load.load_model(workdir / "policy").params) for workdir in (two, one)]
    for ours, theirs in zip(*policies, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert {Path(name).parts[0] for name in watched.written_by(two, 0)} >= {
        "rollouts",
        "self_play",
        "policy.part",
    }
    # Its part of the arrays in checkpoints and policy is all that the second writes.
    written = [Path(name).parts[:2] for name in watched.written_by(two, 1)]
    assert {*written} <= {("self_play", "checkpoints"), ("policy.part", "params.orbax-checkpoint-tmp")}
