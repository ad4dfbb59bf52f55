"""What a run records of its rounds: figures as files, the stop rule, and the warning that z is ignored."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.em.settings import EmConfig
from promptcot_jax.parallel import hosts

Figures = dict[str, Any]

log = logging.getLogger(__name__)

NLL_FIELDS = (
    "nll_bound",
    "nll_elbo",
    "nll_x_given_q",
    "nll_x_given_p",
    "nll_joint",
    "nll_x_given_other",
    "nll_direct",
    "z_gap",
)
_SUMMED = ("skipped_pairs", "m_step_skipped", "m_step_retokenized", "phi_overlong", "theta_overlong")


def read(path: epath.Path) -> Figures | None:
    """What a JSON file holds, on all hosts; None where there is none."""
    return hosts.decided_by_first(
        f"look at {path.name}", lambda: jsonl.read_json(path) if path.exists() else None
    )


def write(path: epath.Path, *parts: Figures) -> Figures:
    """Figures as the first host has written them, and as a later attempt will read them."""
    figures = {name: value for part in parts for name, value in part.items()}
    assert len(figures) == sum(map(len, parts)), "two parts of a round give figures of one name"

    def act() -> Figures:
        jsonl.write_json(path, figures)
        return jsonl.read_json(path)

    return hosts.decided_by_first(f"write {path.name}", act)


def record(directory: epath.Path, rows: Sequence[Figures], config: EmConfig) -> None:
    """Writes `nll.jsonl` (likelihoods) and `diagnostics.jsonl` (all figures); logs where the run stands."""
    if not hosts.is_first():
        return
    variant = "with_e_step" if config.with_e_step else "without_e_step"  # the name of the run's curve
    tokens, likelihoods = 0, []
    for row in rows:
        tokens += row.get("theta_tokens", 0)
        figures = {name: row[name] for name in NLL_FIELDS if name in row}
        which = {"variant": variant, "seed": config.seed, "round": row["round"], "theta_tokens_seen": tokens}
        likelihoods.append(which | figures)
    jsonl.write_records(directory / "nll.jsonl", likelihoods)
    jsonl.write_records(directory / "diagnostics.jsonl", rows)
    last = rows[-1]
    shown = {name: last.get(name) for name in ("nll_bound", "nll_x_given_q", "z_gap")}
    texts = [f"{name} {'none' if value is None else f'{value:.4f}'}" for name, value in shown.items()]
    log.info("EM round %d (%s): %s", last["round"], variant, ", ".join(texts))
    if is_ignored(rows, floor=config.z_gap_warning, share=config.z_gap_share):
        log.warning(
            "EM round %d: p_theta makes little use of the rationale: another pair's z costs it %.4f nats "
            "per token of x (%.4f at the start). Look at the winners in candidates.jsonl; "
            "cold-start longer or on more triples, or take fresh or more pairs a round.",
            last["round"],
            last["z_gap"],
            rows[0]["z_gap"],
        )


def is_ignored(rows: Sequence[Figures], *, floor: float, share: float) -> bool:
    """Whether p_theta uses z little: the last row's `z_gap` is small, or small against the first's."""
    gap, first = rows[-1].get("z_gap"), rows[0].get("z_gap")
    return gap is not None and (gap < floor or (first is not None and gap < share * first))


def stop_reason(rows: Sequence[Figures], *, tolerance: float, patience: int) -> str | None:
    """Why EM should stop after these rounds, or None: the best bound has not fallen for `patience` rounds."""
    best, since = np.inf, 0
    for row in rows:
        value = np.inf if row["nll_bound"] is None else row["nll_bound"]
        best, since = (value, 0) if value < best - tolerance else (best, since + 1)
    if len(rows) > 1 and since >= patience:
        return f"held-out nll_bound has not fallen by {tolerance} for {since} rounds (best {best:.4f})"
    return None


def counts(rows: Sequence[Figures]) -> dict[str, int]:
    """Sums over the rounds, for the manifest."""
    return {"rounds": len(rows) - 1} | {name: sum(row.get(name, 0) for row in rows) for name in _SUMMED}
