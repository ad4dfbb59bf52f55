"""One fit as the stages state it: token examples and settings in, trained parameters out.

Cold start, the fits of an EM round and the solver's SFT differ in examples, loss and where they start.
"""

import dataclasses
from collections.abc import Callable, Mapping

import optax
from etils import epath
from jax.sharding import Mesh

from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import example_sets
from promptcot_jax.data.packing import PackedEpochs
from promptcot_jax.models import lora
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import placing
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.trainers import loop, sft
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.trainers.router_losses import RouterLossConfig
from promptcot_jax.trainers.train_step import Loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Rows of `row_length` tokens, `rows_per_batch` of them a step, `num_epochs` times over the examples.

    `task_feature_lengths` (T5X's setting) bounds "inputs" and "targets" each as well. With `pack=False` a row
    is one example, so that `rows_per_batch=16` is the paper's batch of 16 sequences. `load_balancing` and
    `router_z` weigh the routers' losses of a mixture of experts (`router_losses`).
    """

    row_length: int
    rows_per_batch: int = 16
    num_epochs: int = 1
    pack: bool = True
    overlong: example_sets.Overlong = "drop"
    task_feature_lengths: Mapping[str, int] | None = None
    load_balancing: float = 0.0
    router_z: float = 0.0

    @property
    def router_losses(self) -> RouterLossConfig:
        """What is added to the loss of a mixture of experts."""
        return RouterLossConfig(load_balancing=self.load_balancing, z=self.router_z)

    @property
    def length_policy(self) -> example_sets.LengthPolicy:
        """What becomes of examples that are too long."""
        of_features = self.task_feature_lengths or {}
        return example_sets.LengthPolicy(
            max_length=self.row_length,
            max_prompt_length=of_features.get("inputs"),
            max_completion_length=of_features.get("targets"),
            overlong=self.overlong,
        )

    def __post_init__(self):
        for name in ("row_length", "rows_per_batch", "num_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if unknown := (self.task_feature_lengths or {}).keys() - {"inputs", "targets"}:
            raise ValueError(
                f"task_feature_lengths speaks of '{min(unknown)}'; a fit has 'inputs' and 'targets'."
            )
        _ = self.length_policy, self.router_losses  # refuse what makes no sense


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitter:
    """What the fits of a stage share: how examples become batches, how they step, and on which devices."""

    fit: FitConfig
    optimizer: OptimizerConfig
    loop: loop.LoopConfig
    mesh: Mesh
    seed: int
    adapter: LoraConfig | None = None  # shape of the adapters that models have, or get with their first fit
    rules: rules_lib.LogicalRules = ()  # of the models; without any, the default table

    def __post_init__(self):
        """Refuses a batch that does not divide, before a stage has spent time on anything else.

        Raises:
            WrongUse: `rows_per_batch` is no multiple of micro-batches times data shards.
        """
        multiple = self.loop.micro_batches * rules_lib.num_shards(self.mesh, "batch", self._table)
        if self.fit.rows_per_batch % multiple:
            raise WrongUse(
                f"rows_per_batch={self.fit.rows_per_batch} does not divide over micro_batches="
                f"{self.loop.micro_batches} and the data shards of the mesh; use a multiple of {multiple}."
            )

    @property
    def _table(self) -> rules_lib.LogicalRules:
        return self.rules or rules_lib.DEFAULT_RULES

    def within_length(
        self, examples: example_sets.ExampleSet
    ) -> tuple[example_sets.ExampleSet, dict[str, int]]:
        """Applies the length policy; returns what is left and the counts of what was dropped or cut."""
        return example_sets.within_length(examples, self.fit.length_policy)

    def batches(self, examples: example_sets.ExampleSet, *, label: int = 0) -> PackedEpochs:
        """Rows of fixed length in an order that is a function of (seed, label, epoch) alone.

        Args:
            label: tells apart the fits of one stage, such as the rounds of EM.
        """
        return PackedEpochs(
            examples,
            row_length=self.fit.row_length,
            rows_per_batch=self.fit.rows_per_batch,
            num_epochs=self.fit.num_epochs,
            seed=prng.derived_seed(self.seed, label),
            pack=self.fit.pack,
            own_rows=placing.own_rows(
                rules_lib.batch_sharding(self.mesh, self._table), self.fit.rows_per_batch
            ),
        )

    def held_out_nll(
        self, lm: LanguageModel, examples: example_sets.ExampleSet | None
    ) -> Callable[[Params], dict[str, float]] | None:
        """What a fit calls to measure the mean NLL per trained token of the examples; None without any."""
        if examples is None or not len(examples):
            return None
        once = PackedEpochs(
            examples,
            row_length=self.fit.row_length,
            rows_per_batch=self.fit.rows_per_batch,
            num_epochs=1,
            seed=0,
        )

        def measure(params: Params) -> dict[str, float]:
            total, count = sft.nll(lm, params, once, mesh=self.mesh)
            return {"nll": total / max(count, 1)}

        return measure

    def train(
        self,
        lm: LanguageModel,
        params: Params,
        batches: PackedEpochs,
        *,
        directory: epath.PathLike,
        name: str,
        loss: Loss = sft.sft_loss,
        opt_state: optax.OptState | None = None,
        held_out: example_sets.ExampleSet | None = None,
        donate: bool = False,
    ) -> Params:
        """Parameters after `loop.fit` with these settings; resumes what a killed attempt left in `directory`.

        Where adapters are trained, a model without one gets it first, and what comes back shares its arrays.

        Args:
            donate: gives up the arrays of `opt_state`, and of what is trained of `params` (see `loop.fit`).

        Raises:
            WrongUse: the model has an adapter of another shape, or one though none is to be trained; or rules
                other than the fitter's.
        """
        if (lm.rules or self._table) != self._table:
            raise WrongUse("The model's sharding rules are not the fitter's; make Fitter(rules=lm.rules).")
        if self.adapter is not None and not lora.is_adapted(params):
            key = prng.stream_key(self.seed, "adapter")
            params = lora.attach(lm, params, self.adapter, key, self.mesh)
        lora.check(lm, params, self.adapter)
        state = loop.fit(
            lm,
            params,
            batches,
            loss=loss,
            optimizer=self.optimizer,
            config=self.loop,
            mesh=self.mesh,
            directory=directory,
            opt_state=opt_state,
            evaluate=self.held_out_nll(lm, held_out),
            adapter=self.adapter,
            router_losses=self.fit.router_losses,
            name=name,
            donate=donate,
        )
        return lora.join(state.params, lora.split(params)[1])
