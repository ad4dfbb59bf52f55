"""Cold start: maximum likelihood of p_theta and q_phi on annotated triples (paper section 3.2).

`direct` is a third model, c -> x without a rationale: the "without rationale" baseline of the paper's NLL
study.
"""

import logging
import os

from etils import epath

from promptcot_jax.checkpoints import adapters, store
from promptcot_jax.checkpoints.load import LoadedModel
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.example_sets import ExampleSet
from promptcot_jax.em.settings import Role
from promptcot_jax.trainers import loop, sft
from promptcot_jax.trainers.loop import Fitter

log = logging.getLogger(__name__)


def cold_start(
    role: Role,
    base: LoadedModel,
    rows: ExampleSet,
    held_out: ExampleSet,
    *,
    directory: epath.PathLike,
    fitter: Fitter,
) -> dict[str, int]:
    """Fits one model and writes `directory/role`, loadable with `load_model`; returns row counts.

    Nothing is done where the model is there already, so a stage that was killed goes on with the next model.

    Raises:
        WrongUse: there are no rows, or all are too long.
    """
    target = epath.Path(directory) / role
    rows, counts = fitter.within_length(rows)
    if not len(rows):
        raise WrongUse(
            f"Cold start of {role}: no row is left to train on ({counts}); check the triples file, or raise "
            "row_length."
        )
    counts = {f"{role}_{name}": count for name, count in counts.items()} | {f"{role}_rows": len(rows)}
    batches = fitter.batches(rows)
    counts |= {f"{role}_tokens": batches.num_tokens, f"{role}_steps": batches.num_steps}
    training = epath.Path(directory) / f"{role}_training"
    held_out, held_out_counts = fitter.within_length(held_out)
    counts |= {f"{role}_heldout_{name}": count for name, count in held_out_counts.items()}
    if store.is_complete_for_all(target):
        log.info("cold start of %s: already complete", role)
        loop.remove_checkpoints(training)
        return counts
    params = fitter.train(
        base.lm,
        base.params,
        batches,
        directory=training,
        name=f"cold start {role}",
        loss=sft.SftLoss(),
        held_out=held_out,
    )
    provenance = {"stage": "cold_start", "role": role}
    adapter = adapters.after_fit(base.adapter, fitter.adapter, base.source, base.params)
    store.save_model(target, base.lm, params, base.tokenizer, provenance=provenance, adapter=adapter)
    loop.remove_checkpoints(training)
    log.info("cold start of %s: %d steps, written to %s", role, batches.num_steps, os.fspath(target))
    return counts
