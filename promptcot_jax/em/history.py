"""What a run records of its rounds: figures as files, the stop rule, and the warning that z is ignored."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.em.generators import Round
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
        variant = "with_e_step" if config.with_e_step else "without_e_step"  # the name of the run's curve
        tokens, likelihoods = 0, []
        for row in rows:
            tokens += row.get("theta_tokens", 0)
            which = {
                "variant": variant,
                "seed": config.seed,
                "round": row["round"],
                "theta_tokens_seen": tokens,
            }
            likelihoods.append(which | {name: row[name] for name in NLL_FIELDS if name in row})
        jsonl.write_records(self._directory / "nll.jsonl", likelihoods)
        jsonl.write_records(self._directory / "diagnostics.jsonl", rows)
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
        if has_converged(rows, config):
            stop = "EM stops after round %d: held-out nll_bound has not fallen by %g for %d rounds"
            log.info(stop, last["round"], config.tolerance, config.patience)


def _read(path: epath.Path) -> Figures | None:
    """What a JSON file holds, on all hosts; None where there is none."""
    return hosts.decided_by_first(
        f"look at {path.name}", lambda: jsonl.read_json(path) if path.exists() else None
    )


def is_ignored(rows: Sequence[Figures], *, floor: float, share: float) -> bool:
    """Whether p_theta uses z little: the last row's `z_gap` is small, or small against the first's."""
    gap, first = rows[-1].get("z_gap"), rows[0].get("z_gap")
    return gap is not None and (gap < floor or (first is not None and gap < share * first))


def has_converged(rows: Sequence[Figures], config: EmConfig) -> bool:
    """The stop rule: the best bound has not fallen by `tolerance` for `patience` rounds."""
    best, since = np.inf, 0
    for row in rows:
        value = np.inf if row["nll_bound"] is None else row["nll_bound"]
        best, since = (value, 0) if value < best - config.tolerance else (best, since + 1)
    return len(rows) > 1 and since >= config.patience
