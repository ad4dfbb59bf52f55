"""p_theta and q_phi as EM uses them: propose rationales, score them, decode greedily.

Both may be of one architecture or two; they must share a tokenizer, since p_theta scores the ids that q_phi
sampled.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from promptcot_jax.checkpoints import store
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.em.pairs import Pair, Rationale, to_rationale
from promptcot_jax.models import language_model
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.sampling import engine as engine_lib
from promptcot_jax.sampling import rollouts, scoring
from promptcot_jax.sampling.completions import Completion
from promptcot_jax.sampling.token_choice import SamplingConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSizes:
    """How much is decoded and scored at once; larger is faster until memory ends.

    Results do not depend on it beyond float rounding.
    """

    EXECUTION_ONLY: ClassVar = frozenset({"score_tokens"})
    engine: engine_lib.EngineConfig = engine_lib.EngineConfig(num_slots=64)
    score_tokens: int = 16384

    def __post_init__(self):
        if self.score_tokens < 1:
            raise ValueError(f"score_tokens must be at least 1, got {self.score_tokens}.")


@dataclasses.dataclass(frozen=True)
class Roles:
    """The two architectures, the tokenizer they share, and the batch sizes of their rollouts."""

    theta_lm: LanguageModel
    phi_lm: LanguageModel
    tokenizer: Tokenizer
    sizes: BatchSizes

    def sampler(
        self, lm: LanguageModel, params: Params, *, temperature: float, max_tokens: int, key: jax.Array
    ) -> rollouts.Sampler:
        """Draws from one of the two models, from its plain, untruncated distribution (greedily at 0).

        Args:
            params: in training layout.
        """
        return rollouts.Sampler(
            lm=lm,
            params=lm.decoding_layout(params),
            sampling=SamplingConfig(temperature=temperature, max_new_tokens=max_tokens),
            stop_ids=(self.tokenizer.eos_id,),
            key=key,
            engine=self.sizes.engine,
        )

    def rationales(self, completions: Sequence[Completion], group_size: int) -> list[list[Rationale]]:
        """What q_phi wrote, as rationales, `group_size` for each pair."""
        parsed = [to_rationale(self.tokenizer, completion) for completion in completions]
        return [parsed[i : i + group_size] for i in range(0, len(parsed), group_size)]

    def propose(
        self, sampler: rollouts.Sampler, pairs: Sequence[Pair], group_size: int
    ) -> list[list[Rationale]]:
        """`group_size` rationales z ~ q_phi(z | c, x) for each pair, drawn now."""
        drawn = sampler.complete(draws_of_pairs(pairs, group_size), phi_prompt_ids)
        return self.rationales(drawn, group_size)

    def log_joint(
        self, theta: Params, pairs: Sequence[Pair], rationales: Sequence[Sequence[Rationale]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """log p_theta(z | c) and log p_theta(x | z, c), each [B, G]: sums over completion tokens alone."""
        return self.log_joint_of_blocks(theta, pairs, [[z.block_ids for z in row] for row in rationales])

    def log_joint_of_blocks(
        self, theta: Params, pairs: Sequence[Pair], blocks: Sequence[Sequence[Sequence[int]]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """`log_joint` for z blocks given as token ids."""
        token_log_probs = scoring.score(
            self.theta_lm,
            theta,
            [pair.theta_prompt_ids for pair, row in zip(pairs, blocks, strict=True) for _ in row],
            [(*block, *pair.problem_ids) for pair, row in zip(pairs, blocks, strict=True) for block in row],
            batch_tokens=self.sizes.score_tokens,
            pad_id=self.tokenizer.pad_id,
        )
        lengths = [len(block) for row in blocks for block in row]
        shape = (len(blocks), len(blocks[0]) if blocks else 0)
        parts = list(zip(token_log_probs, lengths, strict=True))
        log_p_z = [scores[:n].sum(dtype=np.float64) for scores, n in parts]
        log_p_x = [scores[n:].sum(dtype=np.float64) for scores, n in parts]
        return np.array(log_p_z).reshape(shape), np.array(log_p_x).reshape(shape)


def greedily(sampler: rollouts.Sampler) -> rollouts.Sampler:
    """The same model and budget without noise (the M-step's rationales)."""
    return dataclasses.replace(sampler, sampling=dataclasses.replace(sampler.sampling, temperature=0.0))


def draws_of_pairs(pairs: Sequence[Pair], group_size: int) -> list[rollouts.Draw[Pair]]:
    """Sample g of pair i draws the noise of request i * G + g, so its tokens depend on no other pair."""
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


def read_params(directory: epath.PathLike, lm: LanguageModel, mesh: Mesh) -> Params:
    """Parameters of a model that this run wrote, in float32: the next fit starts from the last one's bits.

    At the paper's learning rates an update is below bfloat16's resolution, so the masters are float32
    whatever dtype the model computes in.
    """
    return store.load_params(directory, language_model.abstract_params(lm, mesh, "float32"))


def check_roles(theta_tokenizer: Tokenizer, phi_tokenizer: Tokenizer) -> None:
    """Refuses two tokenizers.

    Raises:
        WrongUse: the two models were trained with different tokenizers.
    """
    if theta_tokenizer.digest != phi_tokenizer.digest:
        raise WrongUse(
            "p_theta and q_phi have different tokenizers, so p_theta cannot score q_phi's token ids; "
            "cold-start both from bases that share one."
        )
