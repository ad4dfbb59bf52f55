"""Cold start: maximum likelihood of p_theta and q_phi on annotated triples (paper section 3.2).

`direct` is a third model, c -> x without a rationale: the paper's "without rationale" baseline of its NLL study.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from typing import Literal

from etils import epath
from jax.sharding import Mesh

from promptcot_jax.checkpoints import store
from promptcot_jax.checkpoints.load import LoadedModel
from promptcot_jax.core.records import Triple
from promptcot_jax.data import examples
from promptcot_jax.data.packing import PackedEpochs
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.em.settings import FitConfig
from promptcot_jax.trainers import loop, sft
from promptcot_jax.trainers.optimizer import OptimizerConfig

Role = Literal["theta", "phi", "direct"]
log = logging.getLogger(__name__)

EXAMPLES: dict[Role, Callable[[Tokenizer, Triple], examples.TokenExample]] = {
    "theta": examples.theta_example,
    "phi": examples.phi_example,
    "direct": examples.direct_example,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitter:
    """What every maximum-likelihood fit of EM shares: where it runs and how it steps."""

    fit: FitConfig
    optimizer: OptimizerConfig
    loop: loop.LoopConfig
    mesh: Mesh
    seed: int

    def batches(self, rows: Sequence[examples.TokenExample], *, stream_offset: int = 0) -> PackedEpochs:
        """Rows of fixed length in an order that is a function of (seed, epoch) alone."""
        return PackedEpochs(
            rows,
            row_length=self.fit.row_length,
            rows_per_batch=self.fit.rows_per_batch,
            num_epochs=self.fit.num_epochs,
            seed=self.seed + stream_offset,
            pack=self.fit.pack,
        )

    def within_length(self, rows: Sequence[examples.TokenExample]) -> tuple[list[examples.TokenExample], dict[str, int]]:
        """Applies the length policy; returns what is left and the counts of what was dropped or cut."""
        return examples.LengthPolicy(max_length=self.fit.row_length, overlong=self.fit.overlong).apply(rows)


def cold_start_role(
    role: Role,
    base: LoadedModel,
    rows: Sequence[examples.TokenExample],
    held_out_rows: Sequence[examples.TokenExample],
    *,
    directory: epath.PathLike,
    fitter: Fitter,
) -> dict[str, int]:
    """Fits one role and writes `directory/role`, loadable with `load_model`; returns row counts.

    Nothing is done where the model is there already, so a stage that was killed goes on with the next role.
    """
    target = epath.Path(directory) / role
    rows, counts = fitter.within_length(rows)
    counts = {f"{role}_{name}": count for name, count in counts.items()} | {f"{role}_rows": len(rows)}
    batches = fitter.batches(rows)
    counts |= {f"{role}_tokens": batches.num_tokens, f"{role}_steps": batches.num_steps}
    if store.is_complete(target):
        log.info("cold start of %s: already complete", role)
        return counts
    held_out_rows, _ = fitter.within_length(held_out_rows)

    def evaluate(params) -> dict[str, float]:
        total, count = sft.nll(base.lm, params, _one_pass(held_out_rows, fitter))
        return {"nll": total / max(count, 1)}

    state = loop.fit(
        base.lm,
        base.params,
        batches,
        loss=sft.sft_loss,
        optimizer=fitter.optimizer,
        config=fitter.loop,
        mesh=fitter.mesh,
        directory=epath.Path(directory) / f"{role}_training",
        evaluate=evaluate if held_out_rows else None,
        name=f"cold start {role}",
    )
    store.save_model(target, base.lm, state.params, base.tokenizer, provenance={"stage": "cold_start", "role": role})
    loop.remove_checkpoints(epath.Path(directory) / f"{role}_training")
    log.info("cold start of %s: %d steps, written to %s", role, batches.num_steps, os.fspath(target))
    return counts


def _one_pass(rows: Sequence[examples.TokenExample], fitter: Fitter) -> PackedEpochs:
    """The rows once, packed: for evaluation."""
    return PackedEpochs(
        rows, row_length=fitter.fit.row_length, rows_per_batch=fitter.fit.rows_per_batch, num_epochs=1, seed=0
    )
