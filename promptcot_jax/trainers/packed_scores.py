"""Log-probabilities of an update's labels, computed as the update does: the same rows and micro-batches.

Old and reference log-probabilities from other rows, or from a program with padding of its own, differ from
the update's in the last bits of bfloat16. Clipping sees that: the band of a sequence's ratio is a few 1e-4
(GSPO, arXiv 2507.18071, section 5.1), and would be left before anything was learned. Both programs round to
bfloat16 where they are written to (`train_step.ROUND_AS_WRITTEN`), wherever the compiler fuses.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding

from promptcot_jax.core.arrays import Array, Float, Params
from promptcot_jax.data.packing import PackedBatch
from promptcot_jax.models import flops, language_model
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.models.decoder import Remat
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.objectives import token_log_probs
from promptcot_jax.parallel import launching, placing
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.parallel.programs import Program
from promptcot_jax.trainers import sft, train_step


def label_log_probs(
    lm: LanguageModel, params: Params, batch: PackedBatch, *, temperature: float, remat: Remat
) -> Float[Array, "B T"]:
    """log p of the token after each position, at a temperature; it means nothing where that is no label."""
    labels, is_label = sft.next_token_labels(batch)
    hidden, *_ = sft.hidden_states(lm, params, batch, remat=remat)
    return token_log_probs.chunked_label_log_probs(
        hidden,
        lm.output_embedding(params),
        labels,
        is_label=is_label,
        temperature=temperature,
        soft_cap=lm.config.logit_soft_cap,
        rules=lm.rules,
    )


@launching.serialized
@functools.partial(
    jax.jit,
    static_argnames=("lm", "temperature", "micro_batches", "remat", "sharding"),
    compiler_options=train_step.ROUND_AS_WRITTEN,
)
def score(
    lm: LanguageModel,
    params: Params,
    batch: PackedBatch,
    *,
    temperature: float,
    micro_batches: int,
    remat: Remat,
    sharding: NamedSharding,
) -> Float[Array, "B T"]:
    """`label_log_probs` of a placed batch, one micro-batch after another, on every host.

    Args:
        sharding: of the batch.
    """
    of_batch = functools.partial(label_log_probs, lm, params, temperature=temperature, remat=remat)
    if micro_batches == 1:
        return placing.for_hosts(of_batch(batch))
    parts = lax.map(of_batch, train_step.in_micro_batches(batch, micro_batches, sharding))
    return placing.for_hosts(parts.swapaxes(0, 1).reshape(batch.token_ids.shape))


def program(
    name: str,
    lm: CausalLM,
    mesh: Mesh,
    params: Params,
    *,
    num_rows: int,
    row_length: int,
    micro_batches: int,
    remat: Remat,
    resident: Mapping[str, Any],
) -> Program:
    """Scoring of one minibatch, for the planner.

    Args:
        params: shapes with shardings.
    """
    rules = lm.rules or rules_lib.DEFAULT_RULES
    sharding = rules_lib.batch_sharding(mesh, rules)
    rows_of_shard = num_rows // (micro_batches * rules_lib.num_shards(mesh, "batch", rules))
    length_of_shard = row_length // rules_lib.num_shards(mesh, "length", lm.rules)
    return Program(
        name=name,
        mesh=mesh,
        lower=functools.partial(
            score.lower,
            lm,
            params,
            train_step.batch_shapes(
                num_rows, row_length, (), sharding, language_model.prefix_capacity(lm, row_length) > 0
            ),
            temperature=1.0,
            micro_batches=micro_batches,
            remat=remat,
            sharding=sharding,
        ),
        parts={"parameters": params},
        resident=resident,
        loop_steps=token_log_probs.num_chunks(rows_of_shard, length_of_shard),
        work=flops.scoring_work(lm.config, mesh, num_rows=num_rows, length=row_length),
        settings=("micro_batches", "mesh"),
    )
