"""What an E-step's candidates say beyond the arg-max: the faults that the reward itself does not show.

A summed log-likelihood favours short z, and a z that copies x raises p(x | z, c): correlation with length and
copy rate are measured each round, over all samples and over the chosen ones. Few distinct samples, or a
choice that q_phi alone would have made, mean that the E-step is exhausted: p_theta decides nothing any more.

q is what the samples were drawn from: q_phi at the temperature that was set, or its mixture with the
cold-started q_phi.
"""

import collections
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from promptcot_jax.core.records import Candidate
from promptcot_jax.em import ranking
from promptcot_jax.em.pairs import Pair
from promptcot_jax.em.settings import EStepConfig
from promptcot_jax.objectives import bounds

StyleOf = Callable[[str], str]  # names the style of a rationale, for data whose styles have names

CLOSE = 0.5  # nats of R: the better of two is then less than twice as likely as the other
COLLAPSED = 0.2  # of `distinct_rationales`; below, R has next to nothing to choose from
COPY_NGRAM = 4  # words, numbers or signs
_PIECES = re.compile(r"\w+|[^\w\s]")


def of_candidates(
    pairs: Sequence[Pair],
    candidates: Sequence[Candidate],
    config: EStepConfig,
    style_of: StyleOf | None = None,
) -> dict[str, Any]:
    """Figures of one E-step; G candidates a pair, in pair order."""
    group_size = config.group_size
    rows = [list(candidates[i : i + group_size]) for i in range(0, len(candidates), group_size)]
    log_p_z, log_p_x, log_q, is_valid, lengths = (
        np.array([[getattr(c, name) for c in row] for row in rows])
        for name in ("log_p_z", "log_p_x", "log_q", "valid", "length")
    )
    x_lengths = np.array([[len(pair.problem_ids)] for pair in pairs])
    rewards = ranking.reward(log_p_z, log_p_x, log_q, lengths + x_lengths, config)
    winners = [next((g for g, c in enumerate(row) if c.won), None) for row in rows]
    won = [(b, g) for b, g in enumerate(winners) if g is not None]
    chosen = [rows[b][g] for b, g in won]
    log_weights = bounds.log_importance_weights(log_p_z + log_p_x, log_q, is_valid)
    usable = is_valid.any(axis=-1)
    copies = np.array(
        [
            [copy_rate(pair.triple.problem, c.rationale) for c in row]
            for pair, row in zip(pairs, rows, strict=True)
        ]
    )
    nats = lengths + x_lengths if config.reward == "log_joint_per_token" else np.ones_like(lengths)
    compared = [reward[valid] for reward, valid in zip(rewards, is_valid, strict=True) if valid.sum() > 1]
    return {
        "pairs": len(rows),
        "skipped_pairs": int((~usable).sum()),
        "valid_share": float(is_valid.mean()),
        "unfinished_share": _share(c.finish_reason == "length" for row in rows for c in row),
        "retokenized": sum(c.retokenized for row in rows for c in row),
        "reward_mean": _mean(rewards[is_valid]),
        "reward_chosen_mean": _mean([rewards[best] for best in won]),
        "reward_spread": _mean([np.ptp(row) for row in compared]),
        "elbo_mean": _mean(bounds.elbo(log_weights)[usable]),
        "importance_bound_mean": _mean(bounds.importance_bound(log_weights)[usable]),
        "kl_q_posterior_estimate": _mean(kl_to_posterior(log_weights[usable])),
        "effective_samples": _mean(bounds.effective_sample_size(log_weights)[usable]),
        "reward_length_correlation": within_pair_correlation(rewards, lengths, is_valid),
        "length_mean": _mean(lengths[is_valid]),
        "length_chosen_mean": _mean([c.length for c in chosen]),
        "copy_rate": _mean(copies[is_valid]),
        "copy_rate_chosen": _mean([copies[best] for best in won]),
        "distinct_rationales": distinct_share(rows),
        **_choice_figures(rows, rewards, nats),
        **_style_figures([c for row in rows for c in row if c.valid], chosen, style_of),
    }


def distinct_share(rows: Sequence[Sequence[Candidate]]) -> float:
    """Of a pair's valid samples but the first, the share that repeats none before it, mean over pairs.

    1 where all differ and 0 where all are alike, whatever G; pairs with fewer than two say nothing.
    """
    of_pairs = [[c.token_ids for c in row if c.valid] for row in rows]
    shares = [(len({*ids}) - 1) / (len(ids) - 1) for ids in of_pairs if len(ids) > 1]
    return _mean(shares) if shares else 1.0


def copy_rate(problem: str, rationale: str) -> float:
    """Share of x that lies in a run of at least COPY_NGRAM words, numbers or signs which also stands in z.

    Counted on text, so that it is comparable between tokenizers and knows no markers.
    """
    x, z = (_PIECES.findall(text) for text in (problem, rationale))
    n = COPY_NGRAM
    in_z = {tuple(z[i : i + n]) for i in range(len(z) - n + 1)}
    copied = np.zeros(len(x), bool)
    for i in range(len(x) - n + 1):
        if tuple(x[i : i + n]) in in_z:
            copied[i : i + n] = True
    return float(copied.mean()) if len(x) else 0.0


def within_pair_correlation(rewards: np.ndarray, lengths: np.ndarray, is_valid: np.ndarray) -> float:
    """Pearson correlation of R with the length of z, each centred on its pair.

    Pairs differ in both for other reasons.
    """
    rewards_centred, lengths_centred = [], []
    for reward, length, valid in zip(rewards, lengths, is_valid, strict=True):
        if valid.sum() > 1:
            rewards_centred.extend(reward[valid] - reward[valid].mean())
            lengths_centred.extend(length[valid] - length[valid].mean())
    scale = float(np.linalg.norm(rewards_centred) * np.linalg.norm(lengths_centred))
    return float(np.dot(rewards_centred, lengths_centred)) / scale if scale else 0.0


def kl_to_posterior(log_weights: np.ndarray) -> np.ndarray:
    """Estimate [B] of KL(q || p_theta(z | c, x)) from samples of q: E_q[-log weight] + log p_theta(x | c).

    In the place of log p(x | c) stands the importance bound of the same samples. That is below it on average,
    so the estimate is low on average; it is 0 where all samples of a pair are equal, however much of the
    posterior they miss. As in the ELBO, q is q given that it ended.

    Args:
        log_weights: [B, G] of pairs of which at least one sample ended.
    """
    return bounds.importance_bound(log_weights) - bounds.elbo(log_weights)


def _choice_figures(
    rows: Sequence[Sequence[Candidate]], rewards: np.ndarray, nats: np.ndarray
) -> dict[str, float | None]:
    """What R decides among the distinct valid rationales of a pair.

    `choice_share`: pairs that have two or more. Of these, and None where there are none, `log_q_agreement`:
    the share whose best by R is also the likeliest under q; `log_q_agreement_chance`: what it would be if R
    were noise; `close_share`: the share whose best two differ by less than `CLOSE`. `log_q_agreement_all` is
    over all pairs with a valid rationale: where there is but one, q has chosen.

    Args:
        nats: [B, G] what a unit of R is in nats of the sample.
    """
    agrees, by_chance, is_close, num_usable = list[bool](), list[float](), list[bool](), 0
    for row, reward, unit in zip(rows, rewards, nats, strict=True):
        best = ranking.distinct_by_reward(reward, [c.valid for c in row], [c.token_ids for c in row])
        num_usable += bool(best)
        if len(best) > 1:
            agrees.append(best[0] == max(best, key=lambda g, row=row: row[g].log_q))
            by_chance.append(1 / len(best))
            is_close.append(bool((reward[best[0]] - reward[best[1]]) * unit[best[0]] < CLOSE))
    num_single = num_usable - len(agrees)
    return {
        "choice_share": len(agrees) / len(rows),
        "log_q_agreement": _mean(agrees) if agrees else None,
        "log_q_agreement_chance": _mean(by_chance) if agrees else None,
        "log_q_agreement_all": (sum(agrees) + num_single) / num_usable if num_usable else None,
        "close_share": _mean(is_close) if agrees else None,
    }


def style_shares(rationales: Iterable[str], style_of: StyleOf) -> dict[str, float]:
    """Share of each style."""
    counts = collections.Counter(map(style_of, rationales))
    return {style: count / counts.total() for style, count in sorted(counts.items())}


def _style_figures(
    valid: Sequence[Candidate], chosen: Sequence[Candidate], style_of: StyleOf | None
) -> dict[str, Any]:
    """Shares of each style, and its mean log p(z | c), what it costs, and log p(x | z, c), what it gains."""
    if style_of is None:
        return {}
    of_style = collections.defaultdict(list)
    for c in valid:
        of_style[style_of(c.rationale)].append((c.log_p_z, c.log_p_x))
    means = {style: np.mean(terms, axis=0) for style, terms in sorted(of_style.items())}
    return {
        "style_share": style_shares((c.rationale for c in valid), style_of),
        "style_share_chosen": style_shares((c.rationale for c in chosen), style_of),
        "style_log_p": {style: {"z": float(mean[0]), "x": float(mean[1])} for style, mean in means.items()},
    }


def _mean(values) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _share(flags) -> float:
    return _mean([bool(flag) for flag in flags])
