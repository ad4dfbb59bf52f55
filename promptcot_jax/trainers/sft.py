"""Maximum likelihood on token sequences: cold start, M-step, best-of-G E-step and solver training.

The token at position t + 1 is predicted from the state at t. Prompt tokens are read and never trained on;
sums are over the tokens of the completion, its markers and end token included, so that (total, count) of a
batch is minus the log-likelihood the reward uses (section 3 of the paper) and the number of its tokens.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from promptcot_jax.core.arrays import Array, Bool, Float, Int, Params
from promptcot_jax.data import packing
from promptcot_jax.data.packing import BatchSource, PackedBatch
from promptcot_jax.models.decoder import Remat
from promptcot_jax.models.language_model import LanguageModel, has_routers
from promptcot_jax.models.layers import RouterTotals
from promptcot_jax.objectives import token_log_probs
from promptcot_jax.parallel import placing
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.trainers.train_step import LossFigures, LossSums


@dataclasses.dataclass(frozen=True)
class SftLoss:
    """Negative log-likelihood of the trained labels, and how many there are."""

    def __call__(
        self, lm: LanguageModel, params: Params, batch: PackedBatch, *, remat: Remat = "projections"
    ) -> LossSums:
        labels, is_label = next_token_labels(batch)
        weights = is_label.astype(jnp.float32)
        return _nll(lm, params, batch, labels, weights, weights, remat)

    def metrics_of(self, steps: Sequence[LossFigures]) -> dict[str, float]:
        """None beside the loss."""
        return {}


@dataclasses.dataclass(frozen=True)
class WeightedSftLoss(SftLoss):
    """`SftLoss` with weights (>= 0), and a normalizer that does not depend on them.

    Over the labels t of a batch the total is sum_t weight_t * -log p_t and the normalizer sum_t count_t, with
    `batch.values["weight"]` and `["count"]`. Dividing by the sum of weights instead would blow up batches of
    little weight: with this normalizer gradients keep their sizes relative to each other, which Adam, blind
    to a factor that all of them share, turns into updates in the same proportion.
    """

    def __call__(
        self, lm: LanguageModel, params: Params, batch: PackedBatch, *, remat: Remat = "projections"
    ) -> LossSums:
        labels, is_label = next_token_labels(batch)
        weights, counts = (
            jnp.where(is_label, of_next_token(batch.values[name]), 0.0).astype(jnp.float32)
            for name in ("weight", "count")
        )
        return _nll(lm, params, batch, labels, weights, counts, remat)


def nll(
    lm: LanguageModel, params: Params, batches: BatchSource, *, mesh: Mesh | None = None
) -> tuple[float, int]:
    """Held-out negative log-likelihood summed over all trained labels of the batches, and how many there are.

    Args:
        mesh: spreads the rows over devices; None leaves each batch whole.
    """
    sums = []
    for batch in packing.read_ahead(batches):
        if mesh is not None:
            batch = placing.place(batch, rules_lib.batch_sharding(mesh, lm.rules or rules_lib.DEFAULT_RULES))
        sums.append(_evaluate(lm, params, batch))
    totals, counts = np.array(jax.device_get(sums), np.float64).reshape(-1, 2).T
    return float(totals.sum()), int(counts.sum())


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(lm: LanguageModel, params: Params, batch: PackedBatch) -> tuple[Array, Array]:
    return SftLoss()(lm, params, batch)[:2]


def next_token_labels(batch: PackedBatch) -> tuple[Int[Array, "B T"], Bool[Array, "B T"]]:
    """For each position the token after it, and whether that is a trained label of the same segment."""
    is_label = of_next_token(batch.loss_mask) & (of_next_token(batch.segment_ids) == batch.segment_ids)
    return of_next_token(batch.token_ids), is_label


def of_next_token(values: Array | np.ndarray) -> Array:
    """Moves [B, T] values one position back; the last position gets 0."""
    return jnp.pad(values[:, 1:], ((0, 0), (0, 1)))


def hidden_states(
    lm: LanguageModel, params: Params, batch: PackedBatch, *, remat: Remat
) -> tuple[Float[Array, "B T D"], *tuple[RouterTotals, ...]]:
    """States after the final norm of a batch, whose segments do not see each other; and what routers did."""
    arguments = [jnp.asarray(x) for x in (batch.token_ids, batch.segment_ids, batch.positions)]
    if batch.prefix_ids is not None:  # only of models that share prompts
        arguments.append(jnp.asarray(batch.prefix_ids))
    if has_routers(lm):
        return lm.hidden_states_and_routers(params, *arguments, remat=remat)
    return (lm.hidden_states(params, *arguments, remat=remat),)


def _nll(
    lm: LanguageModel,
    params: Params,
    batch: PackedBatch,
    labels: Array,
    weights: Array,
    counts: Array,
    remat: Remat,
) -> LossSums:
    hidden, *routers = hidden_states(lm, params, batch, remat=remat)
    total = token_log_probs.weighted_nll(
        hidden,
        lm.output_embedding(params),
        labels,
        weights,
        soft_cap=lm.config.logit_soft_cap,
        rules=lm.rules,
    )
    return total, jnp.sum(counts), *routers
