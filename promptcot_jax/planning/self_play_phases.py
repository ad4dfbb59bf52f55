"""The programs of self-play: sampling, scoring what was sampled, the updates by one of three algorithms.

What is resident follows `trainers/self_play.py`. Policy and optimizer state lie on the chips all the time:
float32 masters and two moments, or with LoRA a frozen base, the adapter and its moments. The copy to decode
and the cache are there while an iteration is drawn, the policy at the start only where a KL term needs it.
`tests/planning/test_self_play_memory.py` measures it.

Rows of an update are the most that there may be: every prompt gives as many sequences as the algorithm takes
of one, each as long as prompt and completion may be. Shorter completions pack into fewer rows.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import rules
from promptcot_jax.planning import phases
from promptcot_jax.planning.phases import Phase
from promptcot_jax.sampling.rollouts import RolloutConfig
from promptcot_jax.trainers import policy_updates
from promptcot_jax.trainers.algorithm import Algorithm
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.trainers.self_play_config import SelfPlayConfig
from promptcot_jax.trainers.train_step import StepConfig

_Arrays = Mapping[str, Any]


def of_self_play(arguments: Mapping[str, Any], mesh: Mesh, prompt_tokens: int) -> list[Phase]:
    """The programs of one iteration.

    Args:
        prompt_tokens: longest prompt; the prompts themselves are not read.

    Raises:
        WrongUse: a row of the updates is too short for what must share one, or no prompt can be of use.
    """
    config = arguments["config"]
    iteration = _Iteration(
        lm=phases.language_model(arguments["model"]),
        mesh=mesh,
        config=config,
        algorithm=config.resolved(arguments["algorithm"]),
        rollouts=arguments["rollouts"],
        optimizer=arguments["optimizer"],
        adapter=arguments["lora"],
        prompt_tokens=prompt_tokens,
    )
    training = iteration.update()
    moments = {"optimizer": training.parts["optimizer"]}
    return [*iteration.drawing(moments), *iteration.scoring(moments), training]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Iteration:
    lm: CausalLM
    mesh: Mesh
    config: SelfPlayConfig
    algorithm: Algorithm
    rollouts: RolloutConfig
    optimizer: OptimizerConfig
    adapter: LoraConfig | None
    prompt_tokens: int

    @property
    def longest(self) -> int:
        """Tokens of a prompt and its completion."""
        return self.prompt_tokens + self.rollouts.sampling.max_new_tokens

    @functools.cached_property
    def policy(self) -> Params:
        """As it is trained: masters, or the base in its own type with the adapter."""
        stored = "float32" if self.adapter is None else self.lm.config.dtype
        return phases.parameters(self.lm, self.mesh, stored, self.adapter)

    @property
    def own(self) -> Params:
        """What of the policy it shares with no other model on the chips."""
        return self.policy if self.adapter is None else phases.adapter_of(self.lm, self.mesh, self.adapter)

    @property
    def start(self) -> _Arrays:
        """The policy at the start, as it was loaded, where it is kept: what it does not share."""
        if not self.algorithm.keeps_reference:
            return {}
        whole = phases.parameters(self.lm, self.mesh, self.lm.config.dtype)
        return {"the policy at the start": whole if self.adapter is None else self.own}

    def drawing(self, moments: _Arrays) -> list[Phase]:
        """Prefill and decoding, by a copy in the compute type where masters or their places are others."""
        to_decode = phases.decoding_parameters(self.lm, self.mesh, self.lm.config.dtype, self.adapter)
        trained = {"the policy as trained": self.policy} if to_decode != self.policy else {}
        return phases.sampling(
            "self_play: iteration",
            self.lm,
            self.mesh,
            dtype=self.lm.config.dtype,
            adapter=self.adapter,
            config=self.rollouts.engine,
            max_tokens=self.longest,
            resident={**moments, **trained, **self.start},
        )

    def scoring(self, moments: _Arrays) -> list[Phase]:
        """Log-probabilities under the policy before the first update, and under the one at the start."""
        names, loaded = self.algorithm.value_names, self.lm.config.dtype
        is_start_scored = "reference_log_probs" in names and self.algorithm.keeps_reference
        is_policy_scored = "old_log_probs" in names and self.config.old_log_probs == "scored"
        is_policy_scored |= "reference_log_probs" in names and not self.algorithm.keeps_reference
        stored = "float32" if self.adapter is None else loaded
        found = [self._score("the policy", stored, {**moments, **self.start})] if is_policy_scored else []
        if is_start_scored:
            found.append(self._score("the start", loaded, {**moments, "the policy": self.own}))
        return found

    def _score(self, name: str, dtype: Any, resident: _Arrays) -> Phase:
        return phases.score(
            f"self_play: score under {name}",
            self.lm,
            self.mesh,
            dtype=dtype,
            adapter=self.adapter,
            length=self.longest,
            batch_tokens=self.config.score_tokens,
            resident=resident,
        )

    def update(self) -> Phase:
        """A training step on the fullest minibatch that there may be."""
        config, of_unit = self.config, self.algorithm.sequences_per_unit * self.longest
        row_length = config.tokens_of_row(of_unit)
        if row_length < of_unit:
            raise WrongUse(
                f"row_length={row_length}, but what must share a row may have {of_unit} tokens; raise it, "
                "set it to 0, or plan for shorter prompts (PROMPT_TOKENS)."
            )
        num_units = config.most_units(self.algorithm, self.rollouts.group_size)
        if not num_units:
            raise WrongUse(f"No prompt can be of use with group_size={self.rollouts.group_size}.")
        num_rows = policy_updates.most_rows(
            num_units,
            of_unit,
            row_length=row_length,
            rows_multiple=config.micro_batches * rules.num_shards(self.mesh, "batch", self.lm.rules),
        )
        return phases.update(
            "self_play: update",
            self.lm,
            self.mesh,
            StepConfig(
                loss=self.algorithm.loss(self.rollouts.sampling.temperature),
                optimizer=self.optimizer,
                adapter=self.adapter,
                micro_batches=config.micro_batches,
                remat=config.remat,
            ),
            num_rows=num_rows,
            row_length=row_length,
            resident=self.start,
            values=self.algorithm.value_names,
        )
