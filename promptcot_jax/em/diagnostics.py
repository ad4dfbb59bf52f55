"""What an E-step's candidates say beyond the arg-max: the faults that the reward itself does not show.

A summed log-likelihood favours short z, and a z that copies x raises p(x | z, c): correlation with length and
copy rate are measured each round, over all samples and over the chosen ones. Nearly tied rewards mean that
the choice is noise; few distinct samples mean that there was none.
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

TIE = 1e-6  # nats
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
        "tied_share": _share(_is_tied(*both) for both in zip(rows, rewards, strict=True)),
        "elbo_mean": _mean(bounds.elbo(log_weights)[usable]),
        "importance_bound_mean": _mean(bounds.importance_bound(log_weights)[usable]),
        "effective_samples": _mean(bounds.effective_sample_size(log_weights)[usable]),
        "reward_length_correlation": within_pair_correlation(rewards, lengths, is_valid),
        "length_mean": _mean(lengths[is_valid]),
        "length_chosen_mean": _mean([c.length for c in chosen]),
        "copy_rate": _mean(copies[is_valid]),
        "copy_rate_chosen": _mean([copies[best] for best in won]),
        "distinct_rationales": _mean([len({c.token_ids for c in row}) / len(row) for row in rows]),
        **_style_figures([c for row in rows for c in row if c.valid], chosen, style_of),
    }


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


def _is_tied(row: Sequence[Candidate], rewards: np.ndarray) -> bool:
    """Whether the best two different rationales of a pair are rewarded alike."""
    best: dict[tuple[int, ...], float] = {}
    for candidate, reward in zip(row, rewards, strict=True):
        if candidate.valid:
            best[candidate.token_ids] = max(reward, best.get(candidate.token_ids, -np.inf))
    top = sorted(best.values())[-2:]
    return len(top) == 2 and bool(top[1] - top[0] < TIE)


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
