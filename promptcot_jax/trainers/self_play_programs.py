"""What an iteration of self-play runs, for the planner: sampling, scoring of what was sampled, the updates.

Policy and optimizer state lie on the chips all the time: float32 masters and two moments, or with LoRA a
frozen base, the adapter and its moments. The copy to decode and the cache are there while an iteration is
drawn, the policy that training began with only where a KL term needs it.
`tests/planning/test_self_play_memory.py` measures it.

Rows of an update are the most that there may be: every prompt gives as many sequences as the algorithm takes
of one, each as long as prompt and completion may be. Shorter completions pack into fewer rows.
"""

import functools

from jax.sharding import Mesh

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import language_model, lora
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import rules
from promptcot_jax.parallel.programs import Program
from promptcot_jax.sampling import engine
from promptcot_jax.sampling.rollouts import RolloutConfig
from promptcot_jax.trainers import packed_scores, policy_updates, train_step
from promptcot_jax.trainers.algorithm import Algorithm
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.trainers.self_play_config import SelfPlayConfig


def programs(
    lm: CausalLM,
    mesh: Mesh,
    *,
    config: SelfPlayConfig,
    algorithm: Algorithm,
    rollouts: RolloutConfig,
    optimizer: OptimizerConfig,
    adapter: LoraConfig | None,
    prompt_tokens: int,
) -> list[Program]:
    """The programs of one iteration.

    Args:
        prompt_tokens: longest prompt; the prompts themselves are not read.

    Raises:
        WrongUse: a row of the updates is too short for what must share one, or no prompt can be of use.
    """
    algorithm = config.resolved(algorithm, rollouts.group_size)
    longest, loaded = prompt_tokens + rollouts.sampling.max_new_tokens, lm.config.dtype
    policy = lora.abstract_params(lm, mesh, "float32" if adapter is None else loaded, adapter)
    reference = lora.abstract_params(lm, mesh, loaded, adapter)
    # What the policy, and the reference, share with no other model on the chips.
    own = policy if adapter is None else lora.abstract_adapter(lm, adapter, mesh)
    own_reference = reference if adapter is None else own
    kept = {"the reference": own_reference} if algorithm.keeps_reference else {}

    num_rows, row_length = _update_shape(lm, mesh, config, algorithm, rollouts, prompt_tokens)
    update = train_step.program(
        "self_play: update",
        lm,
        config.step_config(
            algorithm, temperature=rollouts.sampling.temperature, optimizer=optimizer, adapter=adapter
        ),
        mesh,
        num_rows=num_rows,
        row_length=row_length,
        resident=kept,
        token_values=algorithm.value_names,
        shares_prompts=language_model.prefix_capacity(lm, row_length) > 0,
    )
    moments = {"optimizer": update.parts["optimizer"]}
    drawing = engine.programs(
        "self_play: iteration",
        lm,
        mesh,
        policy,
        rollouts.engine,
        max_tokens=longest,
        resident={**moments, **kept},
        params_name="the policy as trained",
    )
    score = functools.partial(
        packed_scores.program,
        lm=lm,
        mesh=mesh,
        num_rows=num_rows,
        row_length=row_length,
        micro_batches=config.micro_batches,
        remat=config.remat,
    )
    names, scores = algorithm.value_names, []
    is_reference_scored = "reference_log_probs" in names
    if ("old_log_probs" in names and config.old_log_probs == "scored") or (
        is_reference_scored and not algorithm.keeps_reference
    ):
        scores.append(score("self_play: score under the policy", params=policy, resident={**moments, **kept}))
    if is_reference_scored and algorithm.keeps_reference:
        resident = {**moments, "the policy": own}
        scores.append(score("self_play: score under the reference", params=reference, resident=resident))
    return [*drawing, *scores, update]


def _update_shape(
    lm: CausalLM,
    mesh: Mesh,
    config: SelfPlayConfig,
    algorithm: Algorithm,
    rollouts: RolloutConfig,
    prompt_tokens: int,
) -> tuple[int, int]:
    """Rows, and their length, of the fullest minibatch that there may be."""
    of_unit = algorithm.sequences_per_unit * (prompt_tokens + rollouts.sampling.max_new_tokens)
    multiple = config.micro_batches * rules.num_shards(mesh, "batch", lm.rules)
    row_length = config.tokens_of_row(
        lm, algorithm, rollouts, prompt_tokens=prompt_tokens, rows_multiple=multiple
    )
    if row_length < of_unit:
        raise WrongUse(
            f"row_length={row_length}, but what must share a row may have {of_unit} tokens; raise it, set it "
            "to 0, or plan for shorter prompts (PROMPT_TOKENS)."
        )
    num_units = config.most_units(algorithm, rollouts.group_size)
    if not num_units:
        raise WrongUse(f"No prompt can be of use with group_size={rollouts.group_size}.")
    rows = policy_updates.most_rows(num_units, of_unit, row_length=row_length, rows_multiple=multiple)
    return rows, row_length
