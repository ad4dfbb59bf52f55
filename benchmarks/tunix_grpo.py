"""Tunix's side of grpo_step.py, for an interpreter with google-tunix: its own learner over its own Llama.

Prompts are ready token ids of the very length that they are padded to, no id ends a row, and the policy that
is trained is the one that samples: there are no weights to move.
"""

import os
import time
from typing import Any

import jax
import numpy as np
import optax
import pairs
import self_play as iterations
import tunix_decoding
from flax import nnx
from tunix.models.llama3 import model
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout


def llama(vocab_size: int, remat: bool) -> model.Llama3:
    """The shape of `self_play.py` with the weights of one seed, float32."""
    shape = iterations.SHAPE
    config = tunix_decoding.config_of(
        shape,
        vocab_size,
        remat_config=model.RematConfig.DECODER if remat else model.RematConfig.NONE,
    )
    return tunix_decoding.drawn(config, np.random.default_rng(0))


class InTurns:
    """Batches of prompts, each handed out when it is asked for; and what the step before it went to."""

    def __init__(self, num_steps: int):
        self._steps, self._left = pairs.Steps(), num_steps
        self.parts: dict[str, float] = {}
        self.policy: Any = None

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        jax.block_until_ready(nnx.state(self.policy))
        if not self._left or not self._steps.next(self.parts):
            os._exit(0)  # from within a thread of the learner's
        self._left -= 1
        self.parts = dict.fromkeys(("sampling", "scoring", "training"), 0.0)
        first = self._left * iterations.PROMPTS
        return {"prompts": np.array([str(first + i) for i in range(iterations.PROMPTS)])}

    def timed(self, part: str, work: Any, is_update: bool = False) -> Any:
        """The same work, which adds its seconds to a part."""

        def run(*arguments: Any, **settings: Any) -> Any:
            began = time.perf_counter()
            found = work(*arguments, **settings)
            jax.block_until_ready(nnx.state(self.policy) if is_update else found)
            self.parts[part] += time.perf_counter() - began
            return found

        return run


def train(vocab_size: int, remat: bool, num_steps: int) -> None:
    """Steps of GRPO, each when it is asked for."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, 256, (num_steps * iterations.PROMPTS, iterations.PROMPT_TOKENS)).tolist()
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with mesh:
        policy, reference = (llama(vocab_size, remat) for _ in range(2))
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(iterations.LEARNING_RATE, b2=0.95, weight_decay=0.0)
    )
    cluster = rl_cluster.RLCluster(
        actor=policy,
        reference=reference,
        tokenizer=tunix_decoding.FixedPrompts(prompts),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(
                (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT), mesh
            ),
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optimizer, eval_every_n_steps=num_steps + 1, max_steps=num_steps + 1
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=iterations.NEW_TOKENS,
                max_prompt_length=iterations.PROMPT_TOKENS,
                kv_cache_size=iterations.PROMPT_TOKENS + iterations.NEW_TOKENS,
                temperature=1.0,
                top_p=1.0,  # without top_p it is greedy at any temperature
            ),
        ),
    )
    batches = InTurns(num_steps)
    batches.policy = cluster.actor_trainer.model
    cluster.generate = batches.timed("sampling", cluster.generate)
    cluster.get_ref_per_token_logps = batches.timed("scoring", cluster.get_ref_per_token_logps)
    cluster.update_actor = batches.timed("training", cluster.update_actor, is_update=True)

    def reward(prompts, completions, **_):
        return [float(i % 2 == 0) for i in range(len(completions))]

    grpo_learner.GRPOLearner(
        rl_cluster=cluster,
        algo_config=grpo_learner.GRPOConfig(
            num_generations=iterations.SAMPLES,
            num_iterations=1,
            beta=iterations.KL_BETA,
            kl_loss_mode="low_var_kl",  # k3
            epsilon=0.2,
        ),
        reward_fns=reward,
    ).train(batches)
