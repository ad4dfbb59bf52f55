"""Policy-gradient loss on packed completions; the E-step's `grpo` objective trains phi with it."""

import jax.numpy as jnp

from promptcot_jax.core.arrays import Params
from promptcot_jax.data.packing import PackedBatch
from promptcot_jax.models.decoder import Remat
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.objectives import policy_gradient, token_log_probs
from promptcot_jax.trainers import sft


def grpo_loss(
    lm: LanguageModel,
    params: Params,
    batch: PackedBatch,
    *,
    clip_epsilon: float,
    remat: Remat = "projections",
) -> sft.LossSums:
    """Clipped surrogate summed over completion tokens, and how many there are.

    `batch.values` holds per token the advantage of its sample ("weight") and the log-probability under the
    policy that drew it ("old_log_probs").
    """
    labels, is_label = sft.next_token_labels(batch)
    hidden, *routers = sft.hidden_states(lm, params, batch, remat=remat)
    log_probs = token_log_probs.chunked_label_log_probs(
        hidden,
        lm.output_embedding(params),
        labels,
        soft_cap=lm.config.logit_soft_cap,
        rules=lm.rules,
    )
    old_log_probs = sft.of_next_token(batch.values["old_log_probs"])
    losses = policy_gradient.grpo_token_loss(
        jnp.where(is_label, log_probs, old_log_probs),  # ratio 1 where nothing is trained
        old_log_probs,
        sft.of_next_token(batch.values["weight"]),
        clip_epsilon=clip_epsilon,
    )
    return *token_log_probs.masked_total(losses, is_label), *routers
