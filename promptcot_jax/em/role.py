"""The SFT of one role in one round: targets in, a written model out."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
from etils import epath

from promptcot_jax.checkpoints import adapters, store
from promptcot_jax.checkpoints.adapters import Adapter
from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import example_sets, examples
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.em.models import read_params
from promptcot_jax.em.settings import EStepConfig
from promptcot_jax.models import lora
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.parallel import hosts
from promptcot_jax.trainers import grpo, loop, sft, train_step
from promptcot_jax.trainers.fitter import Fitter


def phi_loss(e_step: EStepConfig) -> train_step.Loss:
    """What q_phi is fitted by under an E-step's objective."""
    if e_step.objective == "best_of_g":
        return sft.sft_loss
    if e_step.objective == "reward_weighted":
        return sft.weighted_sft_loss
    config = grpo.GrpoConfig(
        clip_low=e_step.clip_epsilon, clip_high=e_step.clip_epsilon, sampler_correction="none"
    )
    return functools.partial(grpo.grpo_loss, config=config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Role:
    """p_theta or q_phi as EM trains it."""

    name: Literal["theta", "phi"]
    lm: LanguageModel
    tokenizer: Tokenizer
    fitter: Fitter
    loss: train_step.Loss
    keeps_optimizer: bool  # between rounds
    adapter: Adapter | None = None  # of an adapted model, of which only that changes

    def fit(
        self,
        place: epath.Path,
        last_place: epath.Path,
        targets: Sequence[examples.TokenExample],
        params: Params,
        round_index: int,
    ) -> tuple[Params, dict[str, int]]:
        """SFT on this round's targets, written to `place`; reads the model back where it is complete.

        Args:
            last_place: directory of the round before, where its optimizer state lies.
            params: their arrays are given up, but for an adapted model's base.

        Raises:
            WrongUse: there is nothing to train on.
        """
        kept, dropped = self.fitter.within_length(example_sets.Listed(targets))
        if not len(kept):
            raise WrongUse(
                f"EM round {round_index}: no pair has a usable rationale for {self.name}. The cold start is "
                "too short for q_phi to end its rationales, or max_rationale_tokens or row_length is small."
            )
        batches = self.fitter.batches(kept, label=round_index + 1)
        counts = {
            f"{self.name}_targets": len(kept),
            f"{self.name}_tokens": batches.num_tokens,
            f"{self.name}_steps": batches.num_steps,
            f"{self.name}_overlong": sum(count for name, count in dropped.items() if name != "kept"),
        }
        if store.is_complete_for_all(place / self.name):
            return self.read(place, params), counts
        params = self.fitter.train(
            self.lm,
            params,
            batches,
            directory=self._training(place),
            name=f"EM {round_index} {self.name}",
            loss=self.loss,
            opt_state=self._carried_optimizer_state(last_place, params),
            donate=True,
        )
        self.write(place, params, round_index)
        return params, counts

    def read(self, place: epath.Path, params: Params) -> Params:
        """This role's parameters as a round wrote them, for `params` of another, which are given up.

        An adapted model's base is kept.
        """
        for leaf in jax.tree.leaves(lora.split(params)[0]):
            leaf.delete()
        if self.adapter is None:
            return read_params(place / self.name, self.lm, self.fitter.mesh)
        base = lora.base_of(params)
        return adapters.load_onto(place / self.name, self.adapter, self.lm, base, self.fitter.mesh)

    def write(self, place: epath.Path, params: Params, round_index: int) -> None:
        """Writes the role's model, unless it is there."""
        if not store.is_complete_for_all(place / self.name):
            provenance = {"stage": "em", "role": self.name, "round": round_index}
            store.save_model(
                place / self.name, self.lm, params, self.tokenizer, provenance, adapter=self.adapter
            )

    def remove_checkpoints(self, place: epath.Path) -> None:
        """Deletes a round's training checkpoints: its model is written, and nothing else is needed of it."""
        loop.remove_checkpoints(self._training(place))

    def _training(self, place: epath.Path) -> epath.Path:
        return place / f"{self.name}_training"

    def _carried_optimizer_state(self, last_place: epath.Path, params: Params) -> Any:
        """The state that the last round's fit ended with, where the setting keeps it."""
        if not self.keeps_optimizer or not hosts.decided_by_first(
            "optimizer state", self._training(last_place).exists
        ):
            return None  # the first round, or the last one left this role as it was
        state = loop.latest_state(
            self.lm,
            params,
            loss=self.loss,
            optimizer=self.fitter.optimizer,
            mesh=self.fitter.mesh,
            directory=self._training(last_place),
            adapter=self.fitter.adapter,
        )
        return state.opt_state


def role_fitter(fitter: Fitter, seed: int, name: Literal["theta", "phi", "direct"]) -> Fitter:
    """The fitter with a data order of the role's own."""
    return dataclasses.replace(fitter, seed=prng.derived_seed(seed, ("theta", "phi", "direct").index(name)))
