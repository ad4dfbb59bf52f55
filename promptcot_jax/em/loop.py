"""The EM loop (paper section 2.3): E-step first, then M-step, then held-out likelihoods, until the bound stops falling.

Round r of `em/`:

    round_00r/candidates.jsonl   every sampled rationale with its scores          E-step
    round_00r/phi/               q_phi after SFT on the chosen ones
    round_00r/rationales.jsonl   greedy rationales of the updated q_phi           M-step
    round_00r/theta/             p_theta after SFT on (c -> z, x)
    round_00r/diagnostics.json   E-step figures, held-out figures, counts

Each line is a phase. A phase that is there whole is never done again, and within one, finished shards and training
checkpoints are kept: a killed run goes on where it was and ends in the same bits.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from etils import epath

from promptcot_jax.checkpoints import store
from promptcot_jax.core import jsonl, prng, shards
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import Candidate
from promptcot_jax.data import examples
from promptcot_jax.em import diagnostics, e_step, held_out
from promptcot_jax.em.cold_start import Fitter
from promptcot_jax.em.models import Roles, read_params
from promptcot_jax.em.pairs import Pair, Rationale, theta_example
from promptcot_jax.em.settings import EmConfig, EStepConfig, HeldOutConfig
from promptcot_jax.sampling import scoring
from promptcot_jax.trainers import grpo, loop, sft, train_step

R = TypeVar("R")

log = logging.getLogger(__name__)

NLL_FIELDS = (
    "nll_bound", "nll_elbo", "nll_x_given_q", "nll_x_given_p", "nll_joint", "nll_x_given_other", "nll_direct", "z_gap"
)  # fmt: skip


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
    phi_fitter: Fitter
    theta_fitter: Fitter
    directory: epath.Path

    def run(self, theta: Params, phi: Params, baselines: dict[str, Any]) -> dict[str, int]:
        """Runs rounds until the stop rule holds; returns counts for the manifest.

        Args:
            theta: parameters of the cold-started p_theta, `phi` of q_phi.
            baselines: held-out figures that belong beside round -1 (the model without rationale).
        """
        if not self.pairs:
            raise WrongUse("EM has no pairs to train on; check the triples file and the row range.")
        if not self.held_out_pairs:
            raise WrongUse("EM has no held-out pairs; give a held-out triples file, the stop rule needs it.")
        cold_phi = phi
        rows = [self._cold_figures(theta, phi, baselines)]
        for round_index in range(self.em.max_rounds):
            self._record(rows)
            reason = stop_reason(rows, tolerance=self.em.tolerance, patience=self.em.patience)
            if reason:
                log.info("EM stops after %d rounds: %s", round_index, reason)
                break
            figures, theta, phi = self._round(round_index, theta, phi, cold_phi)
            rows.append(figures)
        self._record(rows)
        names = ("skipped_pairs", "m_step_skipped", "phi_overlong", "theta_overlong")
        return {"pairs": len(self.pairs), "held_out_pairs": len(self.held_out_pairs), "rounds": len(rows) - 1} | {
            name: sum(row.get(name, 0) for row in rows) for name in names
        }

    def _record(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes `nll.jsonl` (likelihoods) and `diagnostics.jsonl` (everything) and says where the run stands."""
        tokens, likelihoods = 0, []
        for row in rows:
            tokens += row.get("theta_tokens", 0)
            likelihoods.append(
                {"variant": self.variant, "seed": self.em.seed, "round": row["round"], "theta_tokens_seen": tokens}
                | {name: row[name] for name in NLL_FIELDS if name in row}
            )
        jsonl.write_records(self.directory / "nll.jsonl", likelihoods)
        jsonl.write_records(self.directory / "diagnostics.jsonl", rows)
        last = rows[-1]
        log.info(
            "EM round %d (%s): nll_bound %s, nll_x_given_q %.4f, z_gap %.4f",
            last["round"],
            self.variant,
            "none" if last["nll_bound"] is None else f"{last['nll_bound']:.4f}",
            last["nll_x_given_q"],
            last["z_gap"],
        )
        if last["z_gap"] < self.em.z_gap_warning:
            log.warning(
                "EM round %d: p_theta hardly uses the rationale (another pair's z costs it only %.4f nats per token of "
                "x). Cold-start longer or on more triples, or take fresh or more pairs a round.",
                last["round"],
                last["z_gap"],
            )

    @property
    def variant(self) -> str:
        """Name of this run's curve in `nll.jsonl`."""
        return "with_e_step" if self.em.e_step else "without_e_step"

    # One round ------------------------------------------------------------------------------------------------

    def _round(
        self, round_index: int, theta: Params, phi: Params, cold_phi: Params
    ) -> tuple[dict[str, Any], Params, Params]:
        place = self.directory / f"round_{round_index:03d}"
        done = place / "diagnostics.json"
        if done.exists():
            theta = read_params(place / "theta", self.roles.theta_lm, self.theta_fitter.mesh)
            phi = read_params(place / "phi", self.roles.phi_lm, self.phi_fitter.mesh)
            return jsonl.read_json(done), theta, phi
        pairs = self.pairs_of_round(round_index)
        figures: dict[str, Any] = {"round": round_index}
        if self.em.e_step:
            candidates = self._candidates(place, pairs, theta, phi, round_index)
            figures |= diagnostics.of_candidates(pairs, candidates, self.e_step)
            targets = e_step.phi_targets(pairs, candidates, self.e_step)
            phi, counts = self._fit_phi(place, targets, phi, round_index)
            figures |= counts
            rationales = self._rationales(place, pairs, phi, greedy=True, round_index=round_index)
        else:
            self._save("phi", place, phi, round_index)
            rationales = self._rationales(place, pairs, cold_phi, greedy=False, round_index=round_index)
        theta, counts = self._fit_theta(place, pairs, rationales, theta, round_index)
        figures |= counts | self._held_out(theta, phi)
        jsonl.write_json(done, figures)
        self._remove_checkpoints(round_index if self.em.optimizer_between_rounds == "reset" else round_index - 1)
        return figures, theta, phi

    def _remove_checkpoints(self, round_index: int) -> None:
        """Deletes a round's training checkpoints: its models are written, and no optimizer state is asked for."""
        for role in ("phi", "theta"):
            loop.remove_checkpoints(self.directory / f"round_{round_index:03d}" / f"{role}_training")

    def _cold_figures(self, theta: Params, phi: Params, baselines: dict[str, Any]) -> dict[str, Any]:
        """Round -1: the cold-started models."""
        done = self.directory / "cold_start.json"
        if not done.exists():
            jsonl.write_json(done, {"round": -1} | self._held_out(theta, phi) | baselines)
        return jsonl.read_json(done)

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
        """The next `pairs_per_round` pairs of one seeded order, wrapping around; all of them where that is 0."""
        count = min(self.em.pairs_per_round or len(self.pairs), len(self.pairs))
        if count == len(self.pairs):
            return list(self.pairs)
        order = prng.stream_generator(self.em.seed, "order").permutation(len(self.pairs))
        start = round_index * count
        return [self.pairs[order[i % len(order)]] for i in range(start, start + count)]

    def _candidates(
        self, place: epath.Path, pairs: Sequence[Pair], theta: Params, phi: Params, round_index: int
    ) -> list[Candidate]:
        key = prng.stream_key(self.em.seed, "propose", round_index)

        def rank(shard: Sequence[Pair]) -> list[Candidate]:
            return e_step.e_step(
                shard,
                propose=lambda some: self.roles.propose(
                    phi,
                    some,
                    num_samples=self.e_step.num_samples,
                    temperature=self.e_step.temperature,
                    max_tokens=self.e_step.max_rationale_tokens,
                    key=key,
                ),
                log_joint=lambda some, rationales: self.roles.log_joint(theta, some, rationales),
                config=self.e_step,
            )

        return self._in_shards(place / "candidates.jsonl", pairs, rank, Candidate, f"E-step {round_index}")

    def _rationales(
        self, place: epath.Path, pairs: Sequence[Pair], phi: Params, *, greedy: bool, round_index: int
    ) -> list[PairRationale]:
        """One rationale a pair: greedy from the updated q_phi, or (without E-step) sampled once from the cold one.

        The sampled ones are keyed by the pair alone, so a pair keeps its rationale in every round.
        """
        key = prng.stream_key(self.em.seed, "propose")

        def draw(shard: Sequence[Pair]) -> list[PairRationale]:
            drawn = self.roles.propose(
                phi,
                shard,
                num_samples=1,
                temperature=0.0 if greedy else self.e_step.temperature,
                max_tokens=self.e_step.max_rationale_tokens,
                key=key,
            )
            return [_pair_rationale(pair, row[0]) for pair, row in zip(shard, drawn, strict=True)]

        return self._in_shards(place / "rationales.jsonl", pairs, draw, PairRationale, f"M-step {round_index}")

    def _in_shards(
        self,
        path: epath.Path,
        pairs: Sequence[Pair],
        work: Callable[[Sequence[Pair]], list[R]],
        record_type: type[R],
        name: str,
    ) -> list[R]:
        return shards.map_in_shards(
            path, pairs, work, record_type, shard_size=self.em.pairs_per_shard, name=name
        )

    # Fits -----------------------------------------------------------------------------------------------------

    def _fit_phi(
        self, place: epath.Path, targets: Sequence[examples.TokenExample], phi: Params, round_index: int
    ) -> tuple[Params, dict[str, int]]:
        if self.e_step.objective == "grpo":
            targets = self._with_old_log_probs(phi, targets)
        return self._fit("phi", place, targets, phi, round_index)

    def _fit_theta(
        self,
        place: epath.Path,
        pairs: Sequence[Pair],
        rationales: Sequence[PairRationale],
        theta: Params,
        round_index: int,
    ) -> tuple[Params, dict[str, int]]:
        targets = [theta_example(pair, z.token_ids[:-1]) for pair, z in zip(pairs, rationales, strict=True) if z.valid]
        theta, counts = self._fit("theta", place, targets, theta, round_index)
        return theta, counts | {"m_step_skipped": sum(not z.valid for z in rationales)}

    def _fit(
        self,
        role: str,
        place: epath.Path,
        targets: Sequence[examples.TokenExample],
        params: Params,
        round_index: int,
    ) -> tuple[Params, dict[str, int]]:
        """SFT of one role on this round's targets; reads the model back where it is complete."""
        fitter = self.phi_fitter if role == "phi" else self.theta_fitter
        lm = self.roles.phi_lm if role == "phi" else self.roles.theta_lm
        kept, dropped = fitter.within_length(targets)
        if not kept:
            raise WrongUse(
                f"EM round {round_index}: no pair has a usable rationale for {role}. The cold start is too short for "
                "q_phi to end its rationales, or max_rationale_tokens or row_length is too small."
            )
        batches = fitter.batches(kept, stream_offset=1000 * (round_index + 1))
        counts = {
            f"{role}_targets": len(kept),
            f"{role}_tokens": batches.num_tokens,
            f"{role}_steps": batches.num_steps,
            f"{role}_overlong": sum(count for name, count in dropped.items() if name != "kept"),
        }
        target = place / role
        if store.is_complete(target):
            return read_params(target, lm, fitter.mesh), counts
        state = loop.fit(
            lm,
            params,
            batches,
            loss=self._loss(role),
            optimizer=fitter.optimizer,
            config=fitter.loop,
            mesh=fitter.mesh,
            directory=place / f"{role}_training",
            opt_state=self._carried_optimizer_state(role, round_index, params),
            name=f"EM {round_index} {role}",
        )
        self._save(role, place, state.params, round_index)
        return state.params, counts

    def _loss(self, role: str) -> train_step.Loss:
        if role == "theta" or self.e_step.objective == "best_of_g":
            return sft.sft_loss
        if self.e_step.objective == "reward_weighted":
            return sft.weighted_sft_loss
        return functools.partial(grpo.grpo_loss, clip_epsilon=self.e_step.clip_epsilon)

    def _save(self, role: str, place: epath.Path, params: Params, round_index: int) -> None:
        lm = self.roles.phi_lm if role == "phi" else self.roles.theta_lm
        if not store.is_complete(place / role):
            provenance = {"stage": "em", "role": role, "round": round_index, "variant": self.variant}
            store.save_model(place / role, lm, params, self.roles.tokenizer, provenance=provenance)

    def _carried_optimizer_state(self, role: str, round_index: int, params: Params) -> Any:
        """The state that the last round's fit of this role ended with, where the setting keeps it."""
        if self.em.optimizer_between_rounds == "reset" or round_index == 0:
            return None
        fitter = self.phi_fitter if role == "phi" else self.theta_fitter
        return loop.latest_state(
            self.roles.phi_lm if role == "phi" else self.roles.theta_lm,
            params,
            loss=self._loss(role),
            optimizer=fitter.optimizer,
            mesh=fitter.mesh,
            directory=self.directory / f"round_{round_index - 1:03d}" / f"{role}_training",
        ).opt_state

    def _with_old_log_probs(
        self, phi: Params, targets: Sequence[examples.TokenExample]
    ) -> list[examples.TokenExample]:
        """Adds the sampler's own token log-probs, which the importance ratio divides by."""
        scores = scoring.score(
            self.roles.phi_lm,
            phi,
            [row.prompt_ids for row in targets],
            [row.completion_ids for row in targets],
            batch_tokens=self.roles.sizes.score_tokens,
            pad_id=self.roles.tokenizer.pad_id,
        )
        return [
            dataclasses.replace(
                row, token_values={**row.token_values, "old_log_probs": tuple(float(p) for p in token_log_probs)}
            )
            for row, token_log_probs in zip(targets, scores, strict=True)
        ]


def stop_reason(rows: Sequence[dict[str, Any]], *, tolerance: float, patience: int) -> str | None:
    """Why EM should stop after these rounds, or None: the best bound has not fallen for `patience` rounds."""
    bounds_so_far = [np.inf if row["nll_bound"] is None else row["nll_bound"] for row in rows]
    best, since = np.inf, 0
    for value in bounds_so_far:
        best, since = (value, 0) if value < best - tolerance else (best, since + 1)
    if len(rows) > 1 and since >= patience:
        return f"held-out nll_bound has not fallen by {tolerance} for {since} rounds (best {best:.4f})"
    return None


def _pair_rationale(pair: Pair, z: Rationale) -> PairRationale:
    return PairRationale(
        pair_id=pair.triple.id,
        rationale=z.text,
        token_ids=z.token_ids,
        finish_reason=z.finish_reason,
        valid=z.is_valid,
        retokenized=z.retokenized,
        log_q=z.log_q,
    )
