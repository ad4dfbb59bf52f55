"""p_theta(z, x | c) and q_phi(z | c, x) as EM uses them: sampled, scored, fitted and stored.

Both may be of one architecture or two; they must share a tokenizer, since p_theta scores the ids that q_phi
sampled.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import jax
import numpy as np
from etils import epath

from promptcot_jax.checkpoints import adapters, store
from promptcot_jax.checkpoints.adapters import Adapter
from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import example_sets, examples
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.em.pairs import Pair, Rationale, to_rationale
from promptcot_jax.em.settings import BatchSizes, EmConfig, Role
from promptcot_jax.models import language_model, lora
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling import rollouts, scoring
from promptcot_jax.sampling.completions import Completion
from promptcot_jax.sampling.token_choice import SamplingConfig
from promptcot_jax.trainers import loop, sft, train_step
from promptcot_jax.trainers.loop import Fitter

Record = TypeVar("Record")

_SFT = sft.SftLoss()


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of a run: its number, its directory, and the run's settings."""

    index: int
    em_directory: epath.Path
    config: EmConfig

    @property
    def directory(self) -> epath.Path:
        """Where the round's records and models lie."""
        return self.em_directory / f"round_{self.index:03d}"

    @property
    def figures_path(self) -> epath.Path:
        """Written last: a round that has it is complete. Round -1 measures the cold start."""
        return (
            self.em_directory / "cold_start.json" if self.index < 0 else self.directory / "diagnostics.json"
        )

    @property
    def previous(self) -> "Round":
        """The round before."""
        return dataclasses.replace(self, index=self.index - 1)

    @property
    def keeps_optimizer(self) -> bool:
        """Whether a fit starts from the optimizer state that the last round's fit ended with."""
        return self.config.optimizer_between_rounds == "keep"

    def key(self, stream: str) -> jax.Array:
        """Noise of this round."""
        return prng.stream_key(self.config.seed, stream, self.index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generator:
    """One of the two models; its parameters are passed in and handed back, for each round has its own."""

    role: ClassVar[Role]
    lm: LanguageModel
    tokenizer: Tokenizer
    fitter: Fitter
    adapter: Adapter | None = None  # of an adapted model, of which only that is trained
    max_rationale_tokens: int
    batch_sizes: BatchSizes

    def sampler(self, params: Params, *, temperature: float, key: jax.Array) -> rollouts.Sampler:
        """The rollout engine on the plain, untruncated distribution of the model (greedy at 0)."""
        return rollouts.Sampler(
            lm=self.lm,
            params=self.lm.decoding_layout(params),
            sampling=SamplingConfig(temperature=temperature, max_new_tokens=self.max_rationale_tokens),
            stop_ids=(self.tokenizer.eos_id,),
            key=key,
            engine=self.batch_sizes.engine,
        )

    def token_log_probs(
        self,
        params: Params,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        *,
        temperature: float = 1.0,
    ) -> list[np.ndarray]:
        """Log-probabilities of each completion's tokens."""
        return scoring.score(
            self.lm,
            params,
            prompts,
            completions,
            temperature=temperature,
            batch_tokens=self.batch_sizes.score_tokens,
            pad_id=self.tokenizer.pad_id,
        )

    def fit(
        self,
        params: Params,
        targets: Sequence[examples.TokenExample],
        em_round: Round,
        *,
        held_out: Sequence[examples.TokenExample] = (),
        loss: train_step.Loss = _SFT,
    ) -> tuple[Params, dict[str, int]]:
        """Fits a round's targets, and writes the model to its directory; reads it back where it is complete.

        Args:
            params: their arrays are donated, but for an adapted model's base.
            held_out: what the fit measures its NLL per token on, every `eval_every` steps, as far as it fits.

        Raises:
            WrongUse: there is nothing to train on.
        """
        kept, dropped = self.fitter.within_length(example_sets.Listed(targets))
        if not len(kept):
            raise WrongUse(
                f"EM round {em_round.index}: no pair has a usable rationale for {self.role}. "
                "The cold start is too short for q_phi to end its rationales, or max_rationale_tokens or "
                "row_length is small."
            )
        batches = self.fitter.batches(
            kept,
            label=em_round.index + 1,
            prefix_capacity=language_model.prefix_capacity(self.lm, self.fitter.fit.row_length),
        )
        if store.is_complete_for_all(em_round.directory / self.role):
            params = self.read(params, em_round)
        else:
            measured, _ = self.fitter.within_length(example_sets.Listed(held_out))
            params = self.fitter.train(
                self.lm,
                params,
                batches,
                directory=self._training(em_round),
                name=f"EM {em_round.index} {self.role}",
                loss=loss,
                opt_state=self._carried_optimizer_state(em_round),
                held_out=measured,
                donate=True,
            )
        self.write(params, em_round)
        return params, {
            f"{self.role}_targets": len(kept),
            f"{self.role}_tokens": batches.num_tokens,
            f"{self.role}_steps": batches.num_steps,
            f"{self.role}_overlong": sum(count for name, count in dropped.items() if name != "kept"),
        }

    def read(self, params: Params, em_round: Round) -> Params:
        """The parameters that a round wrote, in float32: the next fit starts from the last one's bits.

        At the paper's learning rates an update is below bfloat16's resolution, so the masters are float32
        whatever type the model computes in.

        Args:
            params: of another round; their arrays are donated, but for an adapted model's base.
        """
        train_step.delete_arrays(train_step.Trainable.of(params).trained)
        directory, mesh = em_round.directory / self.role, self.fitter.mesh
        if self.adapter is None:
            return store.load_params(directory, language_model.abstract_params(self.lm, mesh, "float32"))
        return adapters.load_onto(directory, self.adapter, self.lm, lora.base_of(params), mesh)

    def write(self, params: Params, em_round: Round) -> None:
        """Writes a round's model, unless it is there, and deletes the training checkpoints not needed now."""
        if not store.is_complete_for_all(em_round.directory / self.role):
            provenance = {"stage": "em", "role": self.role, "round": em_round.index}
            store.save_model(
                em_round.directory / self.role,
                self.lm,
                params,
                self.tokenizer,
                provenance,
                adapter=self.adapter,
            )
        if not em_round.keeps_optimizer:
            loop.remove_checkpoints(self._training(em_round))
        elif (self._training(em_round) / loop.CHECKPOINTS).exists():
            for earlier in range(em_round.index):
                loop.remove_checkpoints(self._training(dataclasses.replace(em_round, index=earlier)))

    def _training(self, em_round: Round) -> epath.Path:
        return em_round.directory / f"{self.role}_training"

    def _carried_optimizer_state(self, em_round: Round) -> Any:
        """The state that the last fit of an earlier round ended with, where the setting keeps it."""

        def last() -> int | None:
            rounds = (dataclasses.replace(em_round, index=i) for i in reversed(range(em_round.index)))
            kept = (r.index for r in rounds if (self._training(r) / loop.CHECKPOINTS).exists())
            return next(kept, None)

        if not em_round.keeps_optimizer or (index := hosts.decided_by_first("optimizer state", last)) is None:
            return None  # no round before has fitted this model
        training = self._training(dataclasses.replace(em_round, index=index))
        return self.fitter.latest_state(self.lm, training).opt_state


class PromptModel(Generator):
    """p_theta(z, x | c): one model that writes z, then x."""

    role = "theta"

    def log_joint(
        self, theta: Params, pairs: Sequence[Pair], blocks: Sequence[Sequence[Sequence[int]]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """log p_theta(z | c) and log p_theta(x | z, c), each [B, G]: sums over completion tokens alone.

        Args:
            blocks: G z blocks of each pair, as token ids without end token.
        """
        rows = [(pair, block) for pair, of_pair in zip(pairs, blocks, strict=True) for block in of_pair]
        scores = self.token_log_probs(
            theta,
            [pair.theta_prompt_ids for pair, _ in rows],
            [(*block, *pair.problem_ids) for pair, block in rows],
        )
        split = [(row[: len(block)], row[len(block) :]) for row, (_, block) in zip(scores, rows, strict=True)]
        log_p_z = np.array([of_z.sum(dtype=np.float64) for of_z, _ in split])
        log_p_x = np.array([of_x.sum(dtype=np.float64) for _, of_x in split])
        return log_p_z.reshape(len(pairs), -1), log_p_x.reshape(len(pairs), -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RationaleModel(Generator):
    """q_phi(z | c, x): writes the rationale of a problem that it reads."""

    role = "phi"
    style_of: Callable[[str], str] | None = None  # names the style of a rationale, where styles have names

    def rationales(
        self, sampler: rollouts.Sampler, pairs: Sequence[Pair], group_size: int
    ) -> list[list[Rationale]]:
        """`group_size` rationales z ~ q_phi(z | c, x) of each pair."""
        return self._parsed(pairs, sampler.complete(draws_of_pairs(pairs, group_size), phi_prompt_ids))

    def stored_rationales(
        self,
        sampler: Callable[[], rollouts.Sampler],
        pairs: Sequence[Pair],
        group_size: int,
        *,
        path: epath.Path,
        pairs_per_shard: int,
        name: str,
    ) -> list[list[Rationale]]:
        """As `rationales`, also written to `path`; the arguments are those of `map_rationales`."""
        stored = self.map_rationales(
            sampler,
            pairs,
            group_size,
            lambda _, rows: [z for row in rows for z in row],
            Rationale,
            path=path,
            pairs_per_shard=pairs_per_shard,
            name=name,
        )
        return [stored[i : i + group_size] for i in range(0, len(stored), group_size)]

    def map_rationales(
        self,
        sampler: Callable[[], rollouts.Sampler],
        pairs: Sequence[Pair],
        group_size: int,
        make_records: Callable[[Sequence[Pair], list[list[Rationale]]], list[Record]],
        record_type: type[Record],
        *,
        path: epath.Path,
        pairs_per_shard: int,
        name: str,
    ) -> list[Record]:
        """Records made of `group_size` rationales of each pair, in order, also written to `path`.

        Args:
            sampler: makes it, where rationales are missing.
            make_records: of one shard of pairs, as soon as its rationales are there.
            name: of the work, for the log.
        """

        def of_shard(draws: Sequence[rollouts.Draw[Pair]], completions: Sequence[Completion]) -> list[Record]:
            shard = [draw.row for draw in draws[::group_size]]
            return make_records(shard, self._parsed(shard, completions))

        return rollouts.map_draws(
            path,
            draws_of_pairs(pairs, group_size),
            of_shard,
            record_type,
            sampler=sampler,
            prompt_ids=phi_prompt_ids,
            shard_size=pairs_per_shard * group_size,
            name=name,
        )

    def _parsed(self, pairs: Sequence[Pair], completions: Sequence[Completion]) -> list[list[Rationale]]:
        group_size = len(completions) // len(pairs)
        groups = [completions[i : i + group_size] for i in range(0, len(completions), group_size)]
        return [
            [to_rationale(self.tokenizer, pair, completion) for completion in group]
            for pair, group in zip(pairs, groups, strict=True)
        ]


def draws_of_pairs(pairs: Sequence[Pair], group_size: int) -> list[rollouts.Draw[Pair]]:
    """Sample g of pair i has the noise of request i * G + g, so its tokens depend on no other pair."""
    return [
        rollouts.Draw(index=pair.index * group_size + g, row=pair, sample=g)
        for pair in pairs
        for g in range(group_size)
    ]


def phi_prompt_ids(pair: Pair) -> tuple[int, ...]:
    """What q_phi reads: c and x."""
    return pair.phi_prompt_ids


def theta_prompt_ids(pair: Pair) -> tuple[int, ...]:
    """What p_theta reads: c."""
    return pair.theta_prompt_ids
