"""`promptcot self_play`: a policy post-trained on verified prompts by the rewards of its own completions."""

import collections
import dataclasses
import functools
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from promptcot_jax.checkpoints import adapters, store
from promptcot_jax.checkpoints.load import LoadedModel
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.data import prompt_stream, rows
from promptcot_jax.data.prompt_stream import PromptConfig, PromptStream, Task
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import hosts
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel.programs import Program
from promptcot_jax.planning.target import Target
from promptcot_jax.report import samples_page
from promptcot_jax.run import stage
from promptcot_jax.sampling.rollouts import RolloutConfig
from promptcot_jax.sources import model_source
from promptcot_jax.sources.model_source import ModelSource
from promptcot_jax.synthesis import outcomes, text_sketches
from promptcot_jax.trainers import goals, loop, self_play_programs
from promptcot_jax.trainers import held_out as held_out_lib
from promptcot_jax.trainers import self_play as self_play_lib
from promptcot_jax.trainers.algorithm import Algorithm
from promptcot_jax.trainers.grading import Grader
from promptcot_jax.trainers.held_out import HeldOut, HeldOutConfig
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.trainers.self_play import Outcome, SelfPlay
from promptcot_jax.trainers.self_play_config import SelfPlayConfig
from promptcot_jax.verify import program_pool, sandbox_host, user_rewards
from promptcot_jax.verify.programs import ProgramSettings
from promptcot_jax.verify.rewards import RewardConfig

log = logging.getLogger(__name__)


def self_play(
    *,
    workdir: str,
    seed: int,
    model: ModelSource,
    mesh: mesh_lib.MeshConfig,
    config: SelfPlayConfig,
    algorithm: Algorithm,
    rollouts: RolloutConfig,
    optimizer: OptimizerConfig,
    rewards: RewardConfig,
    programs: ProgramSettings,
    prompts: PromptConfig,
    verified_prompts: InputPath = "{workdir}/verified_prompts.jsonl",
    lora: LoraConfig | None = None,
    held_out: HeldOutConfig | None = None,
) -> stage.StageResult:
    """Writes `rollouts/`, `self_play/` (metrics, evaluations, completions to read) and `policy/`.

    Args:
        algorithm: GRPO, DPO or rejection sampling.
        lora: train an adapter of this shape instead of all parameters.
        held_out: what the policy is evaluated on between iterations, where it names a file.

    Raises:
        WrongUse: a row is no verified prompt, none is left, programs cannot be run in isolation, or there is
            no such reward function.
    """
    model_source.check_adapter(model, lora)
    if rewards.function is not None:
        hosts.Shared("reward function").by_all(functools.partial(user_rewards.load, rewards.function))
    policy = os.path.join(workdir, "policy")
    directory = os.path.join(workdir, self_play_lib.DIRECTORY)
    devices = mesh_lib.make_mesh(mesh)
    with jax.set_mesh(devices):
        base = model.load(seed=seed, mesh=devices)
        counts: collections.Counter[str] = collections.Counter()
        room = base.lm.config.max_positions - rollouts.sampling.max_new_tokens
        tasks = prompt_stream.read_tasks(
            verified_prompts, base.tokenizer, prompts, longest=room, counts=counts
        )
        if not tasks:
            raise WrongUse(f"{verified_prompts}: there are no prompts to play on in it ({dict(counts)}).")
        unseen, of_held_out = [], {}
        if held_out is not None and held_out.prompts is not None:
            unseen, of_held_out = _unseen(held_out, base, tasks, prompts.bad_rows)
        if rewards.function is None and any(task.prompt.domain == "code" for task in (*tasks, *unseen)):
            hosts.Shared("sandbox").by_all(lambda: sandbox_host.find_host(programs.allow_weak_sandbox))
        grader = Grader(
            tokenizer=base.tokenizer,
            config=rewards,
            run_many=functools.partial(program_pool.run_many, settings=programs),
        )
        run = SelfPlay(
            lm=base.lm,
            tokenizer=base.tokenizer,
            stream=PromptStream(tasks, seed=seed, rates=prompts.rates),
            grader=grader,
            config=config,
            algorithm=algorithm,
            rollouts=rollouts,
            optimizer=optimizer,
            mesh=devices,
            directory=epath.Path(workdir),
            seed=seed,
            adapter=lora or (base.adapter and base.adapter.config),
            show_samples=functools.partial(samples_page.write, os.path.join(directory, samples_page.FILE)),
            held_out=HeldOut(
                lm=base.lm,
                tokenizer=base.tokenizer,
                grader=grader,
                tasks=unseen,
                config=held_out,
                directory=epath.Path(directory) / held_out_lib.DIRECTORY,
            )
            if held_out and unseen
            else None,
        )
        if not store.is_complete_for_all(policy):  # else killed between writing the policy and the manifest
            outcome = run.run(base.params)
            provenance = {"stage": "self_play", "base": base.source, "seed": seed, **_facts_of(outcome, run)}
            adapter = adapters.after_fit(base.adapter, lora, base.source, base.params)
            store.save_model(
                policy, base.lm, outcome.params, base.tokenizer, provenance=provenance, adapter=adapter
            )
        of_run = store.load_provenance(policy)["counts"]
    loop.remove_checkpoints(directory)
    goals.remove_best(directory)
    return stage.StageResult(counts={**_of_prompts(counts, len(tasks)), **of_held_out, **of_run})


def _unseen(
    config: HeldOutConfig, base: LoadedModel, trained_on: Sequence[Task], bad_rows: rows.BadRows
) -> tuple[list[Task], dict[str, int]]:
    """The problems of `config.prompts` that are not trained on, and what the manifest counts of the file.

    Raises:
        WrongUse: there is no problem, a row is bad and bad rows are not to be skipped, or all are trained on.
    """
    assert config.prompts is not None
    longest = base.lm.config.max_positions - config.rollouts.sampling.max_new_tokens
    counts: collections.Counter[str] = collections.Counter()
    found = prompt_stream.read_tasks(
        config.prompts, base.tokenizer, PromptConfig(bad_rows=bad_rows), longest=longest, counts=counts
    )
    known = {text_sketches.comparable(task.prompt.problem) for task in trained_on}
    unseen = [task for task in found if text_sketches.comparable(task.prompt.problem) not in known]
    num_seen, num_long = len(found) - len(unseen), counts["dropped_too_long"]
    if not unseen:
        raise WrongUse(
            f"{config.prompts}: there is nothing to evaluate on in it; of {len(found)} problems {num_seen} "
            f"are trained on ({dict(counts)}). Set EVAL_PROMPTS to problems that VERIFIED_PROMPTS lacks."
        )
    for number, reason in ((num_seen, "trained on"), (num_long, "too long")):
        if number:
            log.warning(
                "%s: %d of %d problems are %s: left out", config.prompts, number, counts["read"], reason
            )
    kept = unseen[: config.max_problems or None]
    return kept, {
        "heldout_in": counts["read"],
        "heldout_out": len(kept),
        "heldout_dropped_trained_on": num_seen,
        "heldout_dropped_too_long": num_long,
        **{f"heldout_{name}": n for name, n in outcomes.dropped(rows.bad(counts)).items()},
    }


def _facts_of(outcome: Outcome, run: SelfPlay) -> dict[str, Any]:
    """What provenance says of the run beside its base."""
    counts = {
        "iterations": outcome.num_iterations,
        "prompts_drawn": outcome.num_prompts,
        "rollouts": outcome.num_prompts * run.rollouts.group_size,
        "updates": outcome.num_updates,
        "skipped_updates": outcome.num_skipped,
    }
    facts: dict[str, Any] = {"counts": counts}
    if outcome.num_iterations < run.config.num_iterations:
        counts["stopped_early"] = 1
        facts["stopped_at"] = run.config.stop_at
    if outcome.best is not None:
        counts["policy_of_iteration"] = outcome.best.step
        facts["best"] = dataclasses.asdict(outcome.best)
    return facts


def _of_prompts(counts: Mapping[str, int], num_kept: int) -> dict[str, int]:
    """The manifest's counts of the prompts; bad rows count as read."""
    bad = rows.bad(counts)
    rest = {name: n for name, n in counts.items() if name != "read" and name not in bad}
    return {"in": counts["read"] + sum(bad.values()), "out": num_kept, **rest, **outcomes.dropped(bad)}


def programs(target: Target, arguments: Mapping[str, Any]) -> list[Program]:
    """What an iteration runs, for `promptcot plan`."""
    return self_play_programs.programs(
        target.lm(arguments["model"]),
        target.mesh,
        config=arguments["config"],
        algorithm=arguments["algorithm"],
        rollouts=arguments["rollouts"],
        optimizer=arguments["optimizer"],
        adapter=arguments["lora"],
        prompt_tokens=target.prompt_tokens,
    )
