"""EM (paper section 2.3): E-step, M-step, held-out likelihoods, until the bound stops falling.

Files below `em/`, NNN being the round:

    rationales.jsonl             (without E-step) the one rationale of each pair
    cold_start.json              held-out figures of the cold-started models: round -1
    held_out_proposals.jsonl     samples of the cold-started q_phi, weighed by every round's held-out bound
    held_out_rationales.jsonl    its greedy rationales, whose worth to p_theta every round measures
    round_NNN/candidates.jsonl   every sampled rationale with its scores           E-step
    round_NNN/phi/               q_phi after its fit
    round_NNN/rationales.jsonl   greedy rationales of the updated q_phi            M-step
    round_NNN/theta/             p_theta after SFT on (c -> z, x)
    round_NNN/diagnostics.json   E-step figures, held-out figures, counts          held-out measurement
    nll.jsonl                    a row for each round: held-out likelihoods, and the best round so far
    diagnostics.jsonl            a row for each round: all figures

`round_NNN/phi_training/` and `theta_training/` hold the metrics of the two fits, and their checkpoints while
these are needed; `round_NNN/cold_rationales.jsonl`, with `num_cold_samples`, the samples of the cold-started
q_phi. Both `.jsonl` files of rows are rewritten after each round. Each other line is a phase. A complete
phase is never done again, and within a phase finished shards and training checkpoints are kept: a killed run
resumes where it was, with bit-identical results.
"""

import dataclasses
from collections.abc import Callable, Sequence

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.em.e_step import e_step
from promptcot_jax.em.generators import PromptModel, RationaleModel, Round
from promptcot_jax.em.held_out import held_out
from promptcot_jax.em.history import Figures, History
from promptcot_jax.em.m_step import fixed_rationales, m_step
from promptcot_jax.em.pairs import Pair, pairs_of_round
from promptcot_jax.em.settings import EmConfig, EStepConfig, HeldOutConfig
from promptcot_jax.parallel import hosts
from promptcot_jax.trainers import driver


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
    cold_phi: Callable[[], Params]  # reads the cold-started q_phi, a proposal of every round's held-out bound
    baselines: Callable[[], Figures] = dict  # figures that stand beside round -1's: a model without rationale

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
        rows, group_size = self.rationale_model.fitter.fit.rows_per_batch, self.e_step.group_size
        if self.e_step.objective != "best_of_g" and rows < group_size:
            raise WrongUse(
                f"Objective '{self.e_step.objective}' keeps the {group_size} samples of a pair in one batch, "
                f"and phi's rows_per_batch is {rows}; raise it (EM_BATCH) to {group_size} or more."
            )


def run(em: Em, theta: Params, phi: Params) -> dict[str, int]:
    """Runs rounds from the cold-started models, whose arrays are donated, until the stop rule holds.

    Returns:
        counts for the manifest.

    Raises:
        WrongUse: none of a round's rationales is usable.
    """
    rounds = _Rounds(em, theta, phi)
    driver.drive(rounds)
    return {"pairs": len(em.pairs), "held_out_pairs": len(em.held_out_pairs)} | rounds.history.counts()


def share_cold_start(directory: epath.Path, of_arm: epath.Path) -> None:
    """Gives another arm round -1, which is the same for all that start from the same models."""

    def copy() -> None:
        # The figures last: where they are, the round is complete.
        for name in ("held_out_proposals.jsonl", "held_out_rationales.jsonl", "cold_start.json"):
            if (directory / name).exists() and not (of_arm / name).exists():
                jsonl.write_atomically(of_arm / name, (directory / name).read_bytes())

    hosts.wait_for_first(f"share the cold start with {of_arm.name}", copy)


def run_round(em: Em, em_round: Round, theta: Params, phi: Params) -> tuple[Params, Params, list[Figures]]:
    """E-step, M-step and held-out measurement: the next theta, phi and figures. Round -1 only measures."""
    models, figures = (em.prompt_model, em.rationale_model), list[Figures]()
    if em_round.index >= 0:
        pairs = pairs_of_round(em.pairs, em_round.index, em.config)
        if em.config.has_e_step:
            theta, phi, winners, of_e_step = e_step(
                theta, phi, pairs, *models, config=em.e_step, em_round=em_round, cold_phi=em.cold_phi
            )
            figures, given = [of_e_step], {"winners": winners}
        else:
            fixed = fixed_rationales(phi, em.pairs, em.rationale_model, em_round=em_round)
            em.rationale_model.write(phi, em_round)
            given = {"fixed": fixed}
        theta, phi, of_m_step = m_step(
            theta, phi, pairs, *models, held_out_pairs=em.held_out_pairs, em_round=em_round, **given
        )
        figures.append(of_m_step)
    measuring = {"config": em.held_out, "em_round": em_round, "cold_phi": em.cold_phi}
    theta, phi, measured = held_out(theta, phi, em.held_out_pairs, *models, **measuring)
    return theta, phi, [*figures, measured]


class _Rounds(driver.Run[tuple[Params, Params]]):
    """Its state is theta and phi; the first step is round -1. The files of a round are its checkpoint."""

    unit, checkpoint_every = "round", 1

    def __init__(self, em: Em, theta: Params, phi: Params):
        self.em, self.num_steps, self.cold_start = em, em.config.max_rounds + 1, (theta, phi)
        self.history = History(em.directory, em.config)

    def restore(self) -> tuple[int, tuple[Params, Params]]:
        (theta, phi), last = self.cold_start, self.history.read()
        if last is not None and last.index >= 0:
            theta, phi = self.em.prompt_model.read(theta, last), self.em.rationale_model.read(phi, last)
        return len(self.history.rows), (theta, phi)

    def begin(self, step: int, state: tuple[Params, Params]) -> bool:
        return self.history.is_over()

    def step(self, step: int, state: tuple[Params, Params]) -> tuple[Params, Params]:
        theta, phi, figures = run_round(self.em, self.history.next_round, *state)
        self.history.add(*figures, *([] if step > 1 else [self.em.baselines()]))
        return theta, phi

    def record(self, step: int, state: tuple[Params, Params]) -> bool:
        self.history.record()
        return self.history.is_over()
