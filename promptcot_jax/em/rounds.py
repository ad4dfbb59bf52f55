"""EM (paper section 2.3): E-step, M-step, held-out likelihoods, until the bound stops falling.

Files below `em/`, NNN being the round:

    rationales.jsonl             (without E-step) one of the cold-started q_phi for each pair
    cold_start.json              held-out figures of the cold-started models: round -1
    round_NNN/candidates.jsonl   every sampled rationale with its scores           E-step
    round_NNN/phi/               q_phi after its fit
    round_NNN/rationales.jsonl   greedy rationales of the updated q_phi            M-step
    round_NNN/theta/             p_theta after SFT on (c -> z, x)
    round_NNN/diagnostics.json   E-step figures, held-out figures, counts          held-out measurement
    nll.jsonl                    a row for each round: held-out likelihoods
    diagnostics.jsonl            a row for each round: all figures

`round_NNN/phi_training/` and `theta_training/` hold the metrics of the two fits, and their checkpoints while
these are needed. Both `.jsonl` files of rows are rewritten after each round. Each other line is a phase. A
complete phase is never done again, and within a phase finished shards and training checkpoints are kept: a
killed run resumes where it was, with bit-identical results.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.em import history
from promptcot_jax.em.e_step import e_step, phi_loss
from promptcot_jax.em.generators import PromptModel, RationaleModel, Round
from promptcot_jax.em.held_out import held_out
from promptcot_jax.em.history import Figures
from promptcot_jax.em.m_step import fixed_rationales, m_step
from promptcot_jax.em.pairs import Pair, Rationale, pairs_of_round
from promptcot_jax.em.ranking import PHI_TOKEN_VALUES
from promptcot_jax.em.settings import BatchSizes, EmConfig, EStepConfig, HeldOutConfig
from promptcot_jax.models import lora
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.parallel.programs import Program
from promptcot_jax.sampling import engine, scoring
from promptcot_jax.trainers import driver
from promptcot_jax.trainers.loop import Fitter
from promptcot_jax.trainers.sft import SftLoss

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Em:
    """One EM run: its models, data, settings and directory."""

    prompt_model: PromptModel  # p_theta(z, x | c)
    rationale_model: RationaleModel  # q_phi(z | c, x)
    pairs: Sequence[Pair]
    held_out_pairs: Sequence[Pair]
    e_step: EStepConfig
    held_out: HeldOutConfig
    config: EmConfig
    directory: epath.Path

    def __post_init__(self):
        if self.prompt_model.tokenizer.digest != self.rationale_model.tokenizer.digest:
            raise WrongUse(
                "p_theta and q_phi have different tokenizers, so p_theta cannot score q_phi's token ids; "
                "cold-start both from bases that share one."
            )
        if not self.pairs:
            raise WrongUse(
                "EM has no pairs to train on; check the triples file, the row range and the lengths."
            )
        if not self.held_out_pairs:
            raise WrongUse("EM has no held-out pairs; give a held-out triples file, the stop rule needs it.")


def run(em: Em, theta: Params, phi: Params, baselines: Callable[[], Figures] = dict) -> dict[str, int]:
    """Runs rounds until the stop rule holds; returns counts for the manifest.

    Args:
        theta: parameters of the cold-started p_theta, `phi` of q_phi; their arrays are donated.
        baselines: gives held-out figures that belong beside round -1 (the model without rationale).

    Raises:
        WrongUse: none of a round's rationales is usable.
    """
    rounds = _Rounds(em, theta, phi, baselines)
    driver.drive(rounds)
    return {"pairs": len(em.pairs), "held_out_pairs": len(em.held_out_pairs)} | history.counts(rounds.rows)


class _Rounds(driver.Run[tuple[Params, Params]]):
    """A step is a round, a state theta and phi; what a round writes is its checkpoint."""

    unit = "round"
    checkpoint_every = 1

    def __init__(self, em: Em, theta: Params, phi: Params, baselines: Callable[[], Figures]):
        self.em, self.num_steps, self.rows = em, em.config.max_rounds, list[Figures]()
        self._cold_start, self._baselines = (theta, phi), baselines
        self._fixed: Mapping[str, Rationale] | None = None  # rationales, without E-step

    def restore(self) -> tuple[int, tuple[Params, Params]]:
        """The models of the last round that is complete, and the figures of all that are."""
        em, (theta, phi), em_round = self.em, self._cold_start, self._round(0)
        prompt_model, rationale_model = em.prompt_model, em.rationale_model
        if not em.config.with_e_step:
            self._fixed = fixed_rationales(
                phi, em.pairs, rationale_model, config=em.e_step, em_round=em_round
            )
        path = em.directory / "cold_start.json"
        if (figures := history.read(path)) is None:
            theta, phi, figures = held_out(
                theta,
                phi,
                em.held_out_pairs,
                prompt_model,
                rationale_model,
                config=em.held_out,
                em_round=em_round,
            )
            figures = history.write(path, {"round": -1}, figures, self._baselines())
        self.rows.append(figures)
        done = 0
        while done < self.num_steps and not self._stop_reason():
            if (figures := history.read(self._round(done + 1).figures_path)) is None:
                break
            self.rows.append(figures)
            done += 1
        history.record(em.directory, self.rows, em.config)
        if done:
            em_round = self._round(done)
            theta, phi = prompt_model.read(theta, em_round), rationale_model.read(phi, em_round)
        return done, (theta, phi)

    def begin(self, step: int, state: tuple[Params, Params]) -> bool:
        return self._is_over(step)

    def step(self, step: int, state: tuple[Params, Params]) -> tuple[Params, Params]:
        theta, phi, figures = run_round(self.em, self._round(step), *state, self._fixed)
        self.rows.append(figures)
        return theta, phi

    def record(self, step: int, state: tuple[Params, Params]) -> bool:
        history.record(self.em.directory, self.rows, self.em.config)
        return self._is_over(step)

    def _round(self, step: int) -> Round:
        """The round that makes a step; before the first it is the cold start."""
        return Round(step - 1, self.em.directory, self.em.config)

    def _is_over(self, step: int) -> bool:
        if step < self.num_steps and (reason := self._stop_reason()):
            log.info("EM stops after %d rounds: %s", step, reason)
            return True
        return step == self.num_steps

    def _stop_reason(self) -> str | None:
        config = self.em.config
        return history.stop_reason(self.rows, tolerance=config.tolerance, patience=config.patience)


def run_round(
    em: Em, em_round: Round, theta: Params, phi: Params, fixed: Mapping[str, Rationale] | None
) -> tuple[Params, Params, Figures]:
    """E-step, M-step and held-out measurement: the next theta, phi and figures."""
    prompt_model, rationale_model = em.prompt_model, em.rationale_model
    pairs, of_e_step = pairs_of_round(em.pairs, em_round.index, em.config), {}
    if em.config.with_e_step:
        theta, phi, of_e_step = e_step(
            theta, phi, pairs, prompt_model, rationale_model, config=em.e_step, em_round=em_round
        )
    else:
        rationale_model.write(phi, em_round)
    theta, phi, of_m_step = m_step(
        theta, phi, pairs, prompt_model, rationale_model, em_round=em_round, fixed=fixed
    )
    theta, phi, of_held_out = held_out(
        theta, phi, em.held_out_pairs, prompt_model, rationale_model, config=em.held_out, em_round=em_round
    )
    figures = history.write(
        em_round.figures_path, {"round": em_round.index}, of_e_step, of_m_step, of_held_out
    )
    return theta, phi, figures


def programs(
    lm: CausalLM,
    *,
    e_step: EStepConfig,
    batch_sizes: BatchSizes,
    theta_fitter: Fitter,
    phi_fitter: Fitter,
) -> list[Program]:
    """What a round runs, for the planner: rationales drawn and ranked, and a fit of each model.

    Both models lie on the chips all the time: each a set of float32 masters, or both one base with two
    adapters. A fit donates the parameters that it starts from.

    Args:
        lm: of both models.
    """
    mesh, adapter = theta_fitter.mesh, theta_fitter.adapter
    params = lora.abstract_params(lm, mesh, lm.config.param_dtype, adapter)
    own = params if adapter is None else lora.abstract_adapter(lm, adapter, mesh)
    length = max(theta_fitter.fit.row_length, phi_fitter.fit.row_length)
    drawing = engine.programs(
        "em: rationales",
        lm,
        mesh,
        params,
        batch_sizes.engine,
        max_tokens=length,
        resident={"the other role": own},
        params_name="the role as trained",
    )
    ranking = scoring.program(
        "em: score under theta",
        lm,
        mesh,
        params,
        length=length,
        batch_tokens=batch_sizes.score_tokens,
        resident={"phi": own, **engine.resident_between_bursts(drawing, params, "phi to decode")},
    )
    fit_phi = phi_fitter.program(
        "em: fit phi",
        lm,
        phi_loss(e_step),
        token_values=PHI_TOKEN_VALUES[e_step.objective],
        resident={"theta": own},
    )
    fit_theta = theta_fitter.program("em: fit theta", lm, SftLoss(), resident={"phi": own})
    return [*drawing, ranking, fit_phi, fit_theta]
