"""The rationales that the held-out bound weighs: samples of three proposals, and their exact mixture density.

With n_k samples of proposal q_k, N in all, each sample z of a pair has the log weight

    log p_theta(z, x | c) - log sum_k (n_k / N) q_k(z | c, x),

whichever proposal it came from (multiple importance sampling with the balance heuristic, Veach & Guibas
1995). The mean of the weights is an unbiased estimate of p_theta(x | c), and no sample weighs more than
N / n_k times what it would by its own proposal alone. The proposals are the cold-started q_phi, the round's
q_phi and p_theta(z | c). A sample that did not end in its budget has weight zero.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Float, Params
from promptcot_jax.data import examples
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.em import generators
from promptcot_jax.em.generators import PromptModel, RationaleModel, Round
from promptcot_jax.em.pairs import Pair
from promptcot_jax.objectives import bounds

Block = tuple[int, ...]  # a z block, with its markers and without an end token


@dataclasses.dataclass(frozen=True)
class Proposals:
    """N samples of each pair: first those of the cold-started q_phi, then q_phi's, then p_theta's.

    Attributes:
        blocks: by pair and sample; None where a sample did not end.
        counts: how many are of each proposal.
    """

    pairs: Sequence[Pair]
    blocks: Sequence[Sequence[Block | None]]
    counts: tuple[int, int, int]

    @property
    def samples(self) -> list[tuple[int, Block | None]]:
        """The number of its pair, and the block, of each sample in order."""
        return [(i, block) for i, row in enumerate(self.blocks) for block in row]


def draw(
    theta: Params,
    phi: Params,
    pairs: Sequence[Pair],
    counts: tuple[int, int, int],
    prompt_model: PromptModel,
    rationale_model: RationaleModel,
    *,
    cold_phi: Callable[[], Params],
    em_round: Round,
) -> Proposals:
    """Draws a round's proposals; those of the cold-started q_phi only once, into `held_out_proposals.jsonl`.

    Args:
        counts: samples of a pair by the cold-started q_phi, by phi and by theta.
        cold_phi: reads the cold-started q_phi; called where its samples are missing.
    """
    seed, tokenizer = em_round.config.seed, rationale_model.tokenizer
    of_cold = rationale_model.stored_rationales(
        lambda: rationale_model.sampler(
            cold_phi(), temperature=1.0, key=prng.stream_key(seed, "held_out", 2)
        ),
        pairs,
        counts[0],
        path=em_round.em_directory / "held_out_proposals.jsonl",
        pairs_per_shard=em_round.config.pairs_per_shard,
        name="held-out proposals",
    )
    from_phi = rationale_model.sampler(phi, temperature=1.0, key=prng.stream_key(seed, "held_out"))
    of_phi = rationale_model.rationales(from_phi, pairs, counts[1])
    del from_phi  # and its copy of the parameters, before the other model's is made
    # Noise of its own: models that are alike would draw the same rationales from the same.
    from_theta = prompt_model.sampler(theta, temperature=1.0, key=prng.stream_key(seed, "held_out", 3))
    completions = from_theta.complete(
        generators.draws_of_pairs(pairs, counts[2]), generators.theta_prompt_ids
    )
    of_theta = [_ended_block(tokenizer, completion.ids_without_end) for completion in completions]
    blocks = [
        [
            *(z.block_ids if z.finish_reason == "stop" else None for z in (*cold_row, *phi_row)),
            *of_theta[i * counts[2] : (i + 1) * counts[2]],
        ]
        for i, (cold_row, phi_row) in enumerate(zip(of_cold, of_phi, strict=True))
    ]
    return Proposals(pairs, blocks, counts)


def measure(
    theta: Params,
    phi: Params,
    proposals: Proposals,
    prompt_model: PromptModel,
    rationale_model: RationaleModel,
    *,
    cold_phi: Callable[[], Params],
) -> tuple[dict[str, Any], Float[np.ndarray, " B"]]:
    """The bound with what says how far to trust it, and nats of each pair, inf where no sample ended.

    What is bounded is -log of the probability that a rationale which ended comes before x. `nll_bound` is in
    nats per token of x. `nll_bound_error` is its standard error by the spread of the weights, for these
    pairs: it does not say how other pairs would differ. `nll_bound_slack` is about how far it is above.
    """
    x_tokens = np.array([len(pair.problem_ids) for pair in proposals.pairs])
    log_joint, log_q = _scores(theta, phi, proposals, prompt_model, rationale_model, cold_phi)
    log_weights = log_joint - mixture_log_density(log_q, proposals.counts)
    of_phi = slice(proposals.counts[0], sum(proposals.counts[:2]))
    bound, error = bounds.importance_bound(log_weights), bounds.importance_bound_error(log_weights)
    effective, measured = bounds.effective_sample_size(log_weights), np.isfinite(bound)
    elbo = bounds.elbo((log_joint - log_q[1])[:, of_phi])
    has_elbo = np.isfinite(elbo)
    tokens = x_tokens[measured].sum() or np.nan
    samples = proposals.samples
    return {
        "nll_bound": -bound[measured].sum() / tokens,
        "nll_bound_error": np.sqrt((error[measured] ** 2).sum()) / tokens,
        "nll_bound_slack": (error[measured] ** 2).sum() / 2 / tokens,
        "nll_elbo": -elbo[has_elbo].sum() / (x_tokens[has_elbo].sum() or np.nan),
        "bound_pairs": len(measured),
        "bound_pairs_unmeasured": int((~measured).sum()),
        "held_out_samples": len(samples),
        "held_out_samples_scored": len({sample for sample in samples if sample[1] is not None}),
        "held_out_effective_samples": effective.mean(),
        "held_out_effective_samples_least": effective.min(),
        "unfinished_samples": sum(block is None for _, block in samples),
    }, -bound


def _scores(
    theta: Params,
    phi: Params,
    proposals: Proposals,
    prompt_model: PromptModel,
    rationale_model: RationaleModel,
    cold_phi: Callable[[], Params],
) -> tuple[Float[np.ndarray, "B N"], Float[np.ndarray, "K B N"]]:
    """log p_theta(z, x | c) of each sample, -inf where it did not end, and its log density by each proposal.

    Equal samples of a pair are scored once.
    """
    samples = proposals.samples
    distinct = dict.fromkeys((i, block) for i, block in samples if block is not None)
    shape = len(proposals.pairs), sum(proposals.counts)
    if not distinct:
        return np.full(shape, -np.inf), np.zeros((3, *shape))
    pairs, blocks = [proposals.pairs[i] for i, _ in distinct], [block for _, block in distinct]
    log_p_z, log_p_x = prompt_model.log_joint(theta, pairs, [[block] for block in blocks])
    ends = [_ended_block(prompt_model.tokenizer, block) == block for block in blocks]
    scored = np.stack(
        [
            (log_p_z + log_p_x)[:, 0],
            log_densities(rationale_model, cold_phi(), pairs, blocks),
            log_densities(rationale_model, phi, pairs, blocks),
            np.where(ends, log_p_z[:, 0], -np.inf),
        ]
    )
    scored = np.pad(scored, ((0, 0), (0, 1)))  # the last column stands for samples that did not end
    scored[0, -1] = -np.inf
    column: dict[tuple[int, Block | None], int] = {sample: n for n, sample in enumerate(distinct)}
    columns = np.array([column.get(sample, len(distinct)) for sample in samples])
    found = scored[:, columns].reshape(4, *shape)
    return found[0], found[1:]


def mixture_log_density(log_q: Float[np.ndarray, "K ..."], counts: Sequence[int]) -> Float[np.ndarray, "..."]:
    """log sum_k (n_k / N) q_k(z) of each z, by its log density under each proposal."""
    shares = np.array(counts, np.float64) / sum(counts)
    with np.errstate(divide="ignore"):
        return np.logaddexp.reduce(log_q + np.log(shares).reshape(-1, *[1] * (log_q.ndim - 1)), axis=0)


def log_densities(
    model: RationaleModel, phi: Params, pairs: Sequence[Pair], blocks: Sequence[Block]
) -> Float[np.ndarray, " n"]:
    """log q_phi(z | c, x) of blocks, the end token included; -inf where the budget has no room for it."""
    completions = [(*block, model.tokenizer.eos_id) for block in blocks]
    scores = model.token_log_probs(phi, [pair.phi_prompt_ids for pair in pairs], completions)
    return np.array(
        [row.sum(dtype=np.float64) if len(row) <= model.max_rationale_tokens else -np.inf for row in scores]
    )


def _ended_block(tokenizer: Tokenizer, token_ids: Sequence[int]) -> Block | None:
    """The z block that p_theta's output starts with, if it ended it: with the marker and a newline."""
    block, ended = examples.leading_rationale(tokenizer, token_ids)
    return block if ended and tokenizer.decode(block[-1:]).endswith("\n") else None
