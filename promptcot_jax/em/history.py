"""What a run records of its rounds: figures as files, the stop rule, and the warning that z is ignored."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.em.generators import Round
from promptcot_jax.em.settings import EmConfig
from promptcot_jax.objectives import paired
from promptcot_jax.parallel import hosts

Figures = dict[str, Any]

log = logging.getLogger(__name__)

NLL_FIELDS = (
    "nll_bound",
    "nll_bound_error",
    "nll_bound_slack",
    "nll_elbo",
    "nll_x_given_q",
    "nll_x_given_p",
    "nll_z",
    "nll_z_and_x",
    "nll_x_given_like",
    "nll_x_given_other",
    "nll_direct",
    "bound_pairs",
    "held_out_effective_samples",
    "z_gap",
    "z_gap_error",
    "z_gap_cold",
    "z_gap_cold_error",
    "z_gap_other",
)
_SUMMED = (
    "skipped_pairs",
    "m_step_fallback",
    "m_step_skipped",
    "m_step_retokenized",
    "phi_dropped_weights",
    "phi_overlong",
    "theta_overlong",
)


class History:
    """Figures of the cold start, which is round -1, and of each round that is complete.

    Attributes:
        rows: a row for each, in order.
    """

    def __init__(self, directory: epath.Path, config: EmConfig):
        self._directory, self._config, self.rows = directory, config, list[Figures]()

    @property
    def next_round(self) -> Round:
        """The first round that is not complete."""
        return Round(len(self.rows) - 1, self._directory, self._config)

    def read(self) -> Round | None:
        """Reads the rows that earlier attempts left, up to the stop rule; the last round of these, if any."""
        while not self.is_over() and (figures := _read(self.next_round.figures_path)):
            if "held_out_by_pair" not in figures:
                raise WrongUse(
                    f"{self.next_round.figures_path}: it has no held_out_by_pair: EM was begun by an older "
                    "version, whose figures do not compare with today's. Use another workdir."
                )
            self.rows.append(figures)
        if not self.rows:
            return None
        self.record()
        return self.next_round.previous

    def add(self, *parts: Figures) -> None:
        """Completes a round: its figures, as the first host writes them and a later attempt reads them."""
        path, parts = self.next_round.figures_path, ({"round": self.next_round.index}, *parts)
        figures = {name: value for part in parts for name, value in part.items()}
        assert len(figures) == sum(map(len, parts)), "two parts of a round give figures of one name"

        def act() -> Figures:
            jsonl.write_json(path, figures)
            return jsonl.read_json(path)

        self.rows.append(hosts.decided_by_first(f"write {path.name}", act))

    def is_over(self) -> bool:
        """Whether all rounds are complete, or the stop rule holds."""
        return len(self.rows) == self._config.max_rounds + 1 or has_converged(self.rows, self._config)

    def counts(self) -> dict[str, int]:
        """Sums over the rounds, for the manifest."""
        sums = {name: sum(row.get(name, 0) for row in self.rows) for name in _SUMMED}
        return {"rounds": len(self.rows) - 1} | sums

    def record(self) -> None:
        """Writes `nll.jsonl` (likelihoods) and `diagnostics.jsonl` (all figures); logs the last row."""
        if not hosts.is_first():
            return
        rows, config = self.rows, self._config
        tokens, likelihoods = 0, []
        for i, row in enumerate(rows):
            tokens += row.get("theta_tokens", 0)
            change, width = change_of_bound(row, rows[0])
            likelihoods.append(
                {
                    "variant": config.arm,
                    "seed": config.seed,
                    "round": row["round"],
                    "theta_tokens_seen": tokens,
                }
                | {name: row[name] for name in NLL_FIELDS if name in row}
                | ({"bound_change": change, "bound_change_half_width": width} if np.isfinite(width) else {})
                | _against_direct(row, rows[0])
                | {"best_round": best_round(rows[: i + 1])}
            )
        jsonl.write_records(self._directory / "nll.jsonl", likelihoods)
        jsonl.write_records(self._directory / "diagnostics.jsonl", rows)
        self._log(likelihoods[-1])

    def _log(self, last: Figures) -> None:
        """The last round's likelihoods, and what is to be done about them."""
        arm = self._config.arm
        shown = {name: last.get(name) for name in ("nll_bound", "nll_x_given_q", "z_gap")}
        texts = [f"{name} {'none' if value is None else f'{value:.4f}'}" for name, value in shown.items()]
        if last["round"] >= 0 and "bound_change" in last:
            texts.append(
                f"bound {last['bound_change']:+.4f} +- {last['bound_change_half_width']:.4f} since the start"
            )
        log.info("EM round %d (%s): %s", last["round"], arm, ", ".join(texts))
        if not _is_reliable(self.rows[-1]):
            log.warning(
                "EM round %d (%s): the held-out bound rests on %.1f effective samples of a pair's %d, too "
                "few to compare rounds by it: none is called better or worse. Raise HELD_OUT_SAMPLES.",
                last["round"],
                arm,
                last["held_out_effective_samples"],
                _samples_of_a_pair(self.rows[-1]),
            )
        if is_ignored(self.rows, share=self._config.z_gap_share):
            log.warning(
                "EM round %d (%s): q_phi's rationales are worth little to p_theta: that of a pair with like "
                "concepts costs it %.4f +- %.4f nats per token of x (%.4f at the start). With the cold "
                "start's rationales it is %.4f: if that has stayed, today's say less of x; if it has fallen "
                "too, p_theta ignores them. Look at the winners in candidates.jsonl; cold-start longer, or "
                "take more triples or fresh pairs.",
                last["round"],
                arm,
                *(
                    np.nan if figure is None else figure
                    for figure in (
                        last["z_gap"],
                        last.get("z_gap_error"),
                        self.rows[0].get("z_gap"),
                        last.get("z_gap_cold"),
                    )
                ),
            )
        if last["best_round"] < 0 <= last["round"]:
            log.warning(
                "EM round %d (%s): its held-out bound is surely above the cold start's, which counts as the "
                "best round%s. Lower EM_LEARNING_RATE, or take more or fresh pairs a round "
                "(EM_PAIRS_PER_ROUND).",
                last["round"],
                arm,
                ""  # of an arm to compare with, which nothing else reads
                if self._directory.name == arm
                else ": 'synthesize' will write problems with the cold-started p_theta",
            )
        if has_converged(self.rows, self._config):
            stop = "EM stops after round %d (%s): nll_bound has surely not fallen by %g for %d rounds"
            log.info(stop, last["round"], arm, self._config.tolerance, self._config.patience)
        elif self.is_over():
            self._log_what_pairs_tell()

    def _log_what_pairs_tell(self) -> None:
        """Why the stop rule could not hold, where the held-out pairs are too few for it."""
        _, width = change_of_bound(self.rows[-1], self.rows[0])
        pairs, tolerance = self.rows[-1].get("bound_pairs"), self._config.tolerance
        if pairs and np.isfinite(width) and width > tolerance > 0:
            log.info(
                "EM (%s): %d pairs tell the bound's changes to +- %.4f nats per token of x, and the "
                "tolerance is %g: the stop rule can hardly hold. About %d pairs would do "
                "(HELD_OUT_BOUND_PAIRS).",
                self._config.arm,
                pairs,
                width,
                tolerance,
                round(pairs * (width / tolerance) ** 2, -1),
            )


def _read(path: epath.Path) -> Figures | None:
    """What a JSON file holds, on all hosts; None where there is none."""
    return hosts.decided_by_first(
        f"look at {path.name}", lambda: jsonl.read_json(path) if path.exists() else None
    )


def change_of_bound(row: Figures, other: Figures, *, comparisons: int = 1) -> tuple[float, float]:
    """How much higher the bound is in `row`, nats per token of x, and half the width of its interval.

    Over the pairs that both rounds have measured. The interval is that of the mean over pairs, wider by the
    slack that either bound may have, and without end where that slack cannot be told.
    """
    if not (_is_reliable(row) and _is_reliable(other)):
        return math.nan, math.inf
    ours, theirs = row["held_out_by_pair"], other["held_out_by_pair"]
    change, error, count = paired.difference(ours["bound"], theirs["bound"], ours["x_tokens"])
    slack = max(figures.get("nll_bound_slack") or 0.0 for figures in (row, other))
    return change, paired.half_width(error, count, comparisons=comparisons) + slack


def _is_reliable(row: Figures) -> bool:
    """Whether the bound's own estimate of its slack holds, as far as its weights tell.

    That estimate cannot exceed half a nat a pair. By simulation with log-normal weights, 96 to 2,048 samples
    of a pair, it keeps what it promises while the effective samples are the square root of all or more
    (`tests/em/test_held_out.py`).
    """
    effective = row.get("held_out_effective_samples")
    return effective is None or effective >= math.sqrt(_samples_of_a_pair(row))


def _samples_of_a_pair(row: Figures) -> int:
    return row["held_out_samples"] // row["bound_pairs"]


def _against_direct(row: Figures, first: Figures) -> Figures:
    """How far the bound is above the NLL of the model without rationale, on the same pairs."""
    direct = first.get("direct_by_pair")
    if direct is None:
        return {}
    ours = row["held_out_by_pair"]
    change, error, count = paired.difference(ours["bound"], direct, ours["x_tokens"])
    return {"bound_above_direct": change, "bound_above_direct_half_width": paired.half_width(error, count)}


def best_round(rows: Sequence[Figures]) -> int:
    """The last round, or the lowest of the earlier ones whose bound surely is lower; -1: the cold start."""
    last, best, gain = rows[-1], rows[-1], 0.0
    for row in rows[:-1]:
        change, width = change_of_bound(last, row, comparisons=len(rows) - 1)
        if change - width > 0 and change > gain:
            best, gain = row, change
    return best["round"]


def is_ignored(rows: Sequence[Figures], *, share: float) -> bool:
    """Whether p_theta uses z little: `z_gap` is hardly above zero, or small against the first row's."""
    gap, error, first = rows[-1].get("z_gap"), rows[-1].get("z_gap_error") or 0.0, rows[0].get("z_gap")
    return gap is not None and (
        gap <= paired.CONFIDENT * error or (first is not None and gap < share * first)
    )


def has_converged(rows: Sequence[Figures], config: EmConfig) -> bool:
    """The stop rule: `patience` rounds have surely not lowered the bound by `tolerance`.

    Rounds are compared with the cold start, and from a round on that surely lowered the bound, by `tolerance`
    or more as estimated, with that one; the count then begins anew. A round that may or may not have lowered
    it by `tolerance` decides nothing.
    """
    since, references = 0, list(rows[:1])
    for row in rows[1:]:
        change, width = change_of_bound(row, references[-1])
        if change + width < 0 and change <= -config.tolerance:
            since = 0
            references.append(row)
        elif change - width > -config.tolerance:
            since += 1
    return since >= config.patience
