"""The EM loop (paper section 2.3): E-step, M-step, held-out likelihoods, until the bound stops falling.

`em/`, with round r:

    rationales.jsonl             (without E-step) one of the cold-started q_phi for each pair, kept
    round_00r/candidates.jsonl   every sampled rationale with its scores          E-step
    round_00r/phi/               q_phi after SFT on the chosen ones
    round_00r/rationales.jsonl   greedy rationales of the updated q_phi           M-step
    round_00r/theta/             p_theta after SFT on (c -> z, x)
    round_00r/diagnostics.json   E-step figures, held-out figures, counts

Each line is a phase. A phase that is there whole is never done again, and within one, finished shards and
training checkpoints are kept: a killed run goes on where it was and ends in the same bits.
"""

import collections
import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from etils import epath

from promptcot_jax.core import jsonl, prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import Candidate
from promptcot_jax.data import examples
from promptcot_jax.em import diagnostics, e_step, held_out, models
from promptcot_jax.em.models import Roles
from promptcot_jax.em.pairs import Pair, Rationale, theta_example
from promptcot_jax.em.role import Role
from promptcot_jax.em.settings import EmConfig, EStepConfig, HeldOutConfig
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling import rollouts, scoring
from promptcot_jax.sampling.completions import Completion

R = TypeVar("R")

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairRationale:
    """The rationale that p_theta is trained on for one pair."""

    pair_id: str
    rationale: str
    token_ids: tuple[int, ...]
    finish_reason: str
    valid: bool
    retokenized: bool
    log_q: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Em:
    """One EM run: its models, data, settings and directory."""

    roles: Roles
    pairs: Sequence[Pair]
    held_out_pairs: Sequence[Pair]
    e_step: EStepConfig
    em: EmConfig
    held_out: HeldOutConfig
    phi_role: Role
    theta_role: Role
    directory: epath.Path

    def run(self, theta: Params, phi: Params, baselines: Callable[[], dict[str, Any]]) -> dict[str, int]:
        """Runs rounds until the stop rule holds; returns counts for the manifest.

        Args:
            theta: parameters of the cold-started p_theta, `phi` of q_phi; their arrays are given up.
            baselines: gives held-out figures that belong beside round -1 (the model without rationale).

        Raises:
            WrongUse: there are no pairs, or none of a round's rationales is usable.
        """
        if not self.pairs:
            raise WrongUse(
                "EM has no pairs to train on; check the triples file, the row range and the lengths."
            )
        if not self.held_out_pairs:
            raise WrongUse("EM has no held-out pairs; give a held-out triples file, the stop rule needs it.")
        fixed = {} if self.em.e_step else {z.pair_id: z for z in self._fixed_rationales(phi)}
        rows = [self._cold_figures(theta, phi, baselines)]
        self._record(rows)
        for round_index in range(self.em.max_rounds):
            reason = stop_reason(rows, tolerance=self.em.tolerance, patience=self.em.patience)
            if reason:
                log.info("EM stops after %d rounds: %s", round_index, reason)
                break
            figures, theta, phi = self._round(round_index, theta, phi, fixed)
            rows.append(figures)
            self._record(rows)
        return self._counts(rows)

    def _counts(self, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
        counts = collections.Counter(pairs=len(self.pairs), held_out_pairs=len(self.held_out_pairs))
        counts["rounds"] = len(rows) - 1
        summed = ("skipped_pairs", "m_step_skipped", "m_step_retokenized", "phi_overlong", "theta_overlong")
        return dict(counts) | {name: sum(row.get(name, 0) for row in rows) for name in summed}

    def _record(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes `nll.jsonl` (likelihoods) and `diagnostics.jsonl` (all); logs where the run stands."""
        if not hosts.is_first():
            return
        tokens, likelihoods = 0, []
        for row in rows:
            tokens += row.get("theta_tokens", 0)
            place = {"variant": self.variant, "seed": self.em.seed, "round": row["round"]}
            figures = {name: row[name] for name in NLL_FIELDS if name in row}
            likelihoods.append(place | {"theta_tokens_seen": tokens} | figures)
        jsonl.write_records(self.directory / "nll.jsonl", likelihoods)
        jsonl.write_records(self.directory / "diagnostics.jsonl", rows)
        last = rows[-1]
        shown = {name: last.get(name) for name in ("nll_bound", "nll_x_given_q", "z_gap")}
        text = ", ".join(
            f"{name} {'none' if value is None else f'{value:.4f}'}" for name, value in shown.items()
        )
        log.info("EM round %d (%s): %s", last["round"], self.variant, text)
        if is_ignored(rows, floor=self.em.z_gap_warning, share=self.em.z_gap_share):
            log.warning(
                "EM round %d: p_theta makes little use of the rationale: another pair's z costs it %.4f nats "
                "per token of x (%.4f at the start). Look at the styles of the chosen rationales; "
                "cold-start longer or on more triples, or take fresh or more pairs a round.",
                last["round"],
                last["z_gap"],
                rows[0]["z_gap"],
            )

    @property
    def variant(self) -> str:
        """Name of this run's curve in `nll.jsonl`."""
        return "with_e_step" if self.em.e_step else "without_e_step"

    def _place(self, round_index: int) -> epath.Path:
        return self.directory / f"round_{round_index:03d}"

    def _round(
        self, round_index: int, theta: Params, phi: Params, fixed: dict[str, PairRationale]
    ) -> tuple[dict[str, Any], Params, Params]:
        """Figures and models of one round, done now or read back."""
        place, roles = self._place(round_index), (self.theta_role, self.phi_role)
        done, next_done = (self._place(i) / "diagnostics.json" for i in (round_index, round_index + 1))
        figures = _read_if_there(done)
        if figures is None:
            figures, theta, phi = self._phases(round_index, theta, phi, fixed)
            figures = _written(done, figures)
        elif _read_if_there(next_done) is None:  # the last one done
            theta, phi = self.theta_role.read(place, theta), self.phi_role.read(place, phi)
        finished = round_index - 1 if self.em.optimizer_between_rounds == "keep" else round_index
        for role in roles:
            role.remove_checkpoints(self._place(finished))
        return figures, theta, phi

    def _phases(
        self, round_index: int, theta: Params, phi: Params, fixed: dict[str, PairRationale]
    ) -> tuple[dict[str, Any], Params, Params]:
        """E-step and fit of phi, M-step and fit of theta, held-out figures."""
        place, last_place = self._place(round_index), self._place(round_index - 1)
        pairs = self.pairs_of_round(round_index)
        parts: list[dict[str, Any]] = [{"round": round_index}]
        if self.em.e_step:
            candidates = self._candidates(place, pairs, theta, phi, round_index)
            parts.append(diagnostics.of_candidates(pairs, candidates, self.e_step))
            targets = e_step.phi_targets(pairs, candidates, self.e_step)
            if targets or self.e_step.objective != "grpo":
                if self.e_step.objective == "grpo":
                    targets = self._with_old_log_probs(phi, targets)
                phi, counts = self.phi_role.fit(place, last_place, targets, phi, round_index)
                parts.append(counts)
            else:
                log.warning(
                    "EM round %d: the samples of each pair are rewarded alike; phi stays", round_index
                )
                self.phi_role.write(place, phi, round_index)
            rationales = self._greedy_rationales(place, pairs, phi, round_index)
        else:
            self.phi_role.write(place, phi, round_index)
            rationales = [fixed[pair.triple.id] for pair in pairs]
        usable = [(pair, z) for pair, z in zip(pairs, rationales, strict=True) if z.valid]
        targets = [theta_example(pair, z.token_ids[:-1]) for pair, z in usable]
        theta, counts = self.theta_role.fit(place, last_place, targets, theta, round_index)
        parts.append(counts)
        parts.append(
            {
                "m_step_skipped": len(pairs) - len(usable),
                "m_step_retokenized": sum(z.retokenized for z in rationales),
            }
        )
        parts.append(self._held_out(theta, phi))
        figures = {name: value for part in parts for name, value in part.items()}
        assert len(figures) == sum(map(len, parts)), "two parts of a round give figures of one name"
        return figures, theta, phi

    def _cold_figures(
        self, theta: Params, phi: Params, baselines: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Round -1: the cold-started models."""
        done = self.directory / "cold_start.json"
        figures = _read_if_there(done)
        if figures is None:
            figures = _written(done, {"round": -1} | self._held_out(theta, phi) | baselines())
        return figures

    def _held_out(self, theta: Params, phi: Params) -> dict[str, Any]:
        return held_out.evaluate(
            self.roles,
            theta,
            phi,
            self.held_out_pairs,
            max_rationale_tokens=self.e_step.max_rationale_tokens,
            config=self.held_out,
            seed=self.em.seed,
        )

    def pairs_of_round(self, round_index: int) -> list[Pair]:
        """The next `pairs_per_round` pairs of one seeded order, wrapping around; all where that is 0."""
        count = min(self.em.pairs_per_round or len(self.pairs), len(self.pairs))
        if count == len(self.pairs):
            return list(self.pairs)
        order = prng.stream_generator(self.em.seed, "pairs").permutation(len(self.pairs))
        start = round_index * count
        return [self.pairs[order[i % len(order)]] for i in range(start, start + count)]

    def _candidates(
        self, place: epath.Path, pairs: Sequence[Pair], theta: Params, phi: Params, round_index: int
    ) -> list[Candidate]:
        """The E-step."""
        sampler = self.roles.sampler(
            self.roles.phi_lm,
            phi,
            temperature=self.e_step.temperature,
            max_tokens=self.e_step.max_rationale_tokens,
            key=prng.stream_key(self.em.seed, "propose", round_index),
        )

        def rank(shard: Sequence[Pair], rationales: list[list[Rationale]]) -> list[Candidate]:
            return e_step.e_step(
                shard,
                propose=lambda _: rationales,
                log_joint=lambda some, drawn: self.roles.log_joint(theta, some, drawn),
                config=self.e_step,
            )

        return self._drawn(
            place / "candidates.jsonl",
            pairs,
            self.e_step.group_size,
            sampler,
            rank,
            Candidate,
            f"E-step {round_index}",
        )

    def _greedy_rationales(
        self, place: epath.Path, pairs: Sequence[Pair], phi: Params, round_index: int
    ) -> list[PairRationale]:
        """The M-step's rationales: greedy ones of the updated q_phi."""
        sampler = self.roles.sampler(
            self.roles.phi_lm,
            phi,
            temperature=0.0,
            max_tokens=self.e_step.max_rationale_tokens,
            key=prng.stream_key(self.em.seed, "propose", round_index),  # greedy decoding draws nothing
        )
        name = f"M-step {round_index}"
        return self._drawn(
            place / "rationales.jsonl", pairs, 1, sampler, _pair_rationales, PairRationale, name
        )

    def _fixed_rationales(self, phi: Params) -> list[PairRationale]:
        """Without E-step: one rationale of the cold-started q_phi for each pair, sampled once and kept."""
        sampler = self.roles.sampler(
            self.roles.phi_lm,
            phi,
            temperature=self.e_step.temperature,
            max_tokens=self.e_step.max_rationale_tokens,
            key=prng.stream_key(self.em.seed, "fixed"),
        )
        wanted = {pair.index for r in range(self.em.max_rounds) for pair in self.pairs_of_round(r)}
        pairs = [pair for pair in self.pairs if pair.index in wanted]
        path, name = self.directory / "rationales.jsonl", "fixed rationales"
        return self._drawn(path, pairs, 1, sampler, _pair_rationales, PairRationale, name)

    def _drawn(
        self,
        path: epath.Path,
        pairs: Sequence[Pair],
        group_size: int,
        sampler: rollouts.Sampler,
        work: Callable[[Sequence[Pair], list[list[Rationale]]], list[R]],
        record_type: type[R],
        name: str,
    ) -> list[R]:
        """What `work` makes of `group_size` rationales of q_phi for each pair, shard by shard of pairs."""

        def of_shard(draws: Sequence[rollouts.Draw[Pair]], drawn: Sequence[Completion]) -> list[R]:
            shard = [draw.row for draw in draws[::group_size]]
            return work(shard, self.roles.rationales(drawn, group_size))

        return rollouts.map_draws(
            path,
            models.draws_of_pairs(pairs, group_size),
            of_shard,
            record_type,
            sampler=sampler,
            prompt_ids=models.phi_prompt_ids,
            shard_size=self.em.pairs_per_shard * group_size,
            name=name,
        )

    def _with_old_log_probs(
        self, phi: Params, targets: Sequence[examples.TokenExample]
    ) -> list[examples.TokenExample]:
        """Adds the log-probs of the phi that drew the samples, which the importance ratio divides by."""
        scores = scoring.score(
            self.roles.phi_lm,
            phi,
            [row.prompt_ids.tolist() for row in targets],
            [row.completion_ids.tolist() for row in targets],
            batch_tokens=self.roles.sizes.score_tokens,
            pad_id=self.roles.tokenizer.pad_id,
        )
        return [
            dataclasses.replace(row, token_values={**row.token_values, "old_log_probs": values})
            for row, values in zip(targets, scores, strict=True)
        ]


def _read_if_there(path: epath.Path) -> dict[str, Any] | None:
    """What a JSON file holds, on all hosts; None where there is none."""
    return hosts.decided_by_first(
        f"look at {path.name}", lambda: jsonl.read_json(path) if path.exists() else None
    )


def _written(path: epath.Path, figures: dict[str, Any]) -> dict[str, Any]:
    """Figures as the first host has written them, and as a later attempt will read them."""

    def write() -> dict[str, Any]:
        jsonl.write_json(path, figures)
        return jsonl.read_json(path)

    return hosts.decided_by_first(f"write {path.name}", write)


def is_ignored(rows: Sequence[dict[str, Any]], *, floor: float, share: float) -> bool:
    """Whether p_theta uses z little: the last row's `z_gap` is small, or small against the first's."""
    gap, first = rows[-1].get("z_gap"), rows[0].get("z_gap")
    return gap is not None and (gap < floor or (first is not None and gap < share * first))


def stop_reason(rows: Sequence[dict[str, Any]], *, tolerance: float, patience: int) -> str | None:
    """Why EM should stop after these rounds, or None: the best bound has not fallen for `patience` rounds."""
    bounds_so_far = [np.inf if row["nll_bound"] is None else row["nll_bound"] for row in rows]
    best, since = np.inf, 0
    for value in bounds_so_far:
        best, since = (value, 0) if value < best - tolerance else (best, since + 1)
    if len(rows) > 1 and since >= patience:
        return f"held-out nll_bound has not fallen by {tolerance} for {since} rounds (best {best:.4f})"
    return None


def _pair_rationales(pairs: Sequence[Pair], drawn: list[list[Rationale]]) -> list[PairRationale]:
    return [
        PairRationale(
            pair_id=pair.triple.id,
            rationale=z.text,
            token_ids=z.token_ids,
            finish_reason=z.finish_reason,
            valid=z.is_valid,
            retokenized=z.retokenized,
            log_q=z.log_q,
        )
        for pair, (z,) in zip(pairs, drawn, strict=True)
    ]
