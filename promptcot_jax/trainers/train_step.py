"""The one train step: micro-batches, one division, one update, compiled with shardings and donated state.

A `Loss` gives (total, count) of a batch; gradients of the totals are summed over micro-batches and divided
once by the summed count, so k micro-batches are one big batch however unequal their counts.

Parameters in training are float32 whatever `lm.config.param_dtype` says (that is how they are stored
elsewhere): at the paper's learning rates an update is below bfloat16's resolution. The decoder casts them to
its compute dtype where it uses them.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Array, Params
from promptcot_jax.data.packing import BatchSource, PackedBatch
from promptcot_jax.models import flops, lora
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.models.decoder import Remat
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.models.layers import RouterTotals
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.objectives import token_log_probs
from promptcot_jax.parallel import launching, placing
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.parallel.programs import Program
from promptcot_jax.trainers import optimizer as optimizer_lib
from promptcot_jax.trainers import router_losses
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.trainers.router_losses import RouterLossConfig

# Numbers; "routers" of a mixture of experts are their `RouterTotals`, "figures" of a loss its `LossFigures`.
Metrics = dict[str, Any]


class LossFigures(NamedTuple):
    """What a loss reports beside its total: scalars by name; a minimum is the maximum of the negative."""

    sums: dict[str, Array]
    maxima: dict[str, Array]


def over_steps(steps: Sequence[LossFigures]) -> tuple[dict[str, float], dict[str, float]]:
    """Sums and maxima of some steps, whose figures are on the host; sums in float64."""
    sums = {name: float(np.sum([step.sums[name] for step in steps], dtype=float)) for name in steps[0].sums}
    maxima = {name: float(np.max([step.maxima[name] for step in steps])) for name in steps[0].maxima}
    return sums, maxima


# Sum of a batch's losses and what to divide it by; of a mixture of experts also what its routers did, and of
# some losses figures to report.
LossSums = tuple[Array, Array, *tuple[RouterTotals | LossFigures, ...]]


# XLA may keep float32 inside a fusion where the program says bfloat16. Two programs fuse differently, so that
# a forward pass by itself would differ from that of a step, which has to store what its gradient needs.
ROUND_AS_WRITTEN = {"xla_allow_excess_precision": False}


@runtime_checkable
class Loss(Protocol):
    """A loss with its settings: a frozen dataclass, since a step is compiled once for equal ones."""

    def __call__(
        self, lm: LanguageModel, params: Params, batch: PackedBatch, *, remat: Remat = "projections"
    ) -> LossSums:
        """Sums over a batch."""
        ...

    def metrics_of(self, steps: Sequence[LossFigures]) -> dict[str, float]:
        """Metrics from the figures that the loss reported in some steps, which are on the host."""
        ...


class Trainable(NamedTuple):
    """A model's parameters by whether training changes them."""

    trained: Params  # of an adapted model its adapter's matrices, else all
    frozen: Params  # of an adapted model the rest, else {}

    @classmethod
    def of(cls, params: Params) -> "Trainable":
        """The parameters of a model, which share their arrays with it."""
        return cls(*lora.split(params))

    @classmethod
    def adapted(
        cls, lm: LanguageModel, params: Params, adapter: LoraConfig | None, *, seed: int, mesh: Mesh
    ) -> "Trainable":
        """As `of`, for a run that trains an adapter; a model without one gets a new one first.

        Raises:
            WrongUse: the model has an adapter of another shape, or one though none is to be trained.
        """
        if adapter is not None and not lora.is_adapted(params):
            params = lora.attach(lm, params, adapter, prng.stream_key(seed, "adapter"), mesh)
        lora.check(lm, params, adapter)
        return cls.of(params)

    def model(self, trained: Params) -> Params:
        """The whole model with what training made of the first part."""
        return lora.join(trained, self.frozen) if self.frozen else trained


def delete_arrays(arrays: Any) -> None:
    """Frees the memory of arrays that callers still refer to; nobody may use them any more."""
    for leaf in jax.tree.leaves(arrays):
        leaf.delete()


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("step", "params", "opt_state", "num_skipped"),
    meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a run carries from step to step. Fields are arrays, or their shapes or shardings."""

    step: Any  # int32 scalar: batches read, skipped ones included
    params: Any  # float32
    opt_state: Any  # float32 moments
    num_skipped: Any  # int32 scalar: updates left out because gradient or loss was not finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What a train step computes.

    Attributes:
        adapter: only an adapter of this shape is trained; None: all parameters are.
        router_losses: added to the loss of a mixture of experts.
        remat: what the backward pass keeps of each layer instead of computing it again.
    """

    loss: Loss
    optimizer: OptimizerConfig
    adapter: LoraConfig | None = None
    router_losses: RouterLossConfig = RouterLossConfig()
    micro_batches: int = 1
    remat: Remat = "projections"


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """The compiled functions of one training configuration.

    `run(state, batch, schedule_end, frozen)` gives the next state and metrics, both still on the device; the
    state given is donated. Every call needs `jax.set_mesh(mesh)` around it.
    """

    # jitted (TrainState, PackedBatch, int, frozen parameters) -> (TrainState, Metrics); nothing frozen: {}
    run: Any
    # jitted (trained parameters) -> TrainState at step 0, of copies: donation leaves the caller's arrays
    # alone
    start: Any
    abstract_state: TrainState
    batch_sharding: NamedSharding
    rows_multiple: int  # the rows of a batch must be a multiple of this
    config: StepConfig

    @property
    def shardings(self) -> TrainState:
        """NamedSharding of every array of the state."""
        return jax.tree.map(lambda x: x.sharding, self.abstract_state)

    def first_state(
        self, trained: Params, opt_state: optax.OptState | None = None, *, donate: bool = False
    ) -> TrainState:
        """The state before the first step, of arrays that nobody else has: the step will donate them.

        Args:
            opt_state: moments to carry on; None: start anew.
            donate: deletes the arrays of the arguments once they are copied.
        """
        shardings = self.shardings
        state = self.start(jax.device_put(trained, shardings.params))
        if donate:
            delete_arrays(trained)
        if opt_state is None:
            return state
        delete_arrays(state.opt_state)  # before the moments to carry on are copied
        own = opt_state if donate else jax.tree.map(jnp.copy, opt_state)
        return dataclasses.replace(state, opt_state=jax.device_put(own, shardings.opt_state))

    def place(self, batch: PackedBatch, batches: BatchSource) -> PackedBatch:
        """A host's rows of a batch on its devices, as its part of the whole batch.

        Raises:
            ValueError: the batch does not divide over micro-batches and devices.
        """
        self.check_rows(batches.rows_per_batch)
        return placing.from_own_rows(batch, batches.own_rows, batches.rows_per_batch, self.batch_sharding)

    def check_rows(self, num_rows: int) -> None:
        """Refuses a batch that does not divide over micro-batches and devices.

        Raises:
            ValueError: it does not.
        """
        if num_rows % self.rows_multiple:
            raise ValueError(
                f"A batch of {num_rows} rows does not divide over micro-batches and data shards; use a "
                f"multiple of {self.rows_multiple} rows, fewer micro-batches, or another mesh."
            )


@functools.lru_cache(maxsize=32)
def make_train_step(lm: LanguageModel, config: StepConfig, mesh: Mesh) -> TrainStep:
    """The step of one configuration; asked again, the same object, so that EM's rounds compile it once.

    Raises:
        WrongUse: losses of routers are asked for of a model without experts.
    """
    optimizer, adapter, num_micro_batches = config.optimizer, config.adapter, config.micro_batches
    config.router_losses.check(lm)
    direction = optimizer.build()
    like = abstract_state(lm, optimizer, mesh, adapter)
    _, frozen_shapes = lora.split(lora.abstract_params(lm, mesh, "float32", adapter))
    frozen_shardings = jax.tree.map(lambda x: x.sharding, frozen_shapes)
    shardings = jax.tree.map(lambda x: x.sharding, like)
    rules = lm.rules or rules_lib.DEFAULT_RULES
    batch_sharding = rules_lib.batch_sharding(mesh, rules)
    whole = NamedSharding(mesh, PartitionSpec())

    def total_of(params: Params, frozen: Params, batch: PackedBatch) -> tuple[Array, LossSums]:
        """What is differentiated, and the sums that are reported."""
        sums = config.loss(lm, Trainable(params, frozen).model(params), batch, remat=config.remat)
        total, count, *reports = sums
        for report in reports:
            if config.router_losses.is_on and isinstance(report, RouterTotals):
                total = total + router_losses.total(config.router_losses, report, count)
        return total, sums

    def gradient_of(params: Params, frozen: Params, batch: PackedBatch) -> tuple[LossSums, Params]:
        (_, sums), gradient = jax.value_and_grad(total_of, has_aux=True)(params, frozen, batch)
        return sums, gradient

    def sums_of(params: Params, frozen: Params, batch: PackedBatch) -> tuple[LossSums, Params]:
        """Totals, counts and gradients of the totals, over all micro-batches."""
        if num_micro_batches == 1:
            return gradient_of(params, frozen, batch)
        micro_batches = in_micro_batches(batch, num_micro_batches, batch_sharding)

        def add(sums: tuple[LossSums, Params], micro_batch: PackedBatch):
            (before, gradient), (more, more_gradient) = sums, gradient_of(params, frozen, micro_batch)
            return (_merged(before, more), jax.tree.map(jnp.add, gradient, more_gradient)), None

        first = jax.tree.map(lambda x: x[0], micro_batches)
        shapes, _ = jax.eval_shape(gradient_of, params, frozen, first)
        return jax.lax.scan(add, (_none_yet(shapes), jax.tree.map(jnp.zeros_like, params)), micro_batches)[0]

    def run(
        state: TrainState, batch: PackedBatch, schedule_end: Array, frozen: Params
    ) -> tuple[TrainState, Metrics]:
        (total, count, *reports), gradient = sums_of(state.params, frozen, batch)
        # No label at all: nan, and the update is skipped.
        gradient = jax.tree.map(lambda g: g / count, gradient)
        gradient_norm = optax.tree.norm(gradient)
        is_finite = jnp.isfinite(gradient_norm) & jnp.isfinite(total)
        rate = optimizer.learning_rate_at(optimizer_lib.num_updates(state.opt_state), schedule_end)
        updates, opt_state = direction.update(gradient, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(is_finite, new, old),
            (params, opt_state),
            (state.params, state.opt_state),
        )
        num_skipped = state.num_skipped + jnp.where(is_finite, 0, 1)
        metrics = {
            "total": total,
            "count": count,
            "gradient_norm": gradient_norm,
            "learning_rate": rate,
            "num_skipped": num_skipped,
            **_tokens(lm, batch),
            **{_name_of(report): report for report in reports},
        }
        return TrainState(state.step + 1, params, opt_state, num_skipped), metrics

    def start(params: Params) -> TrainState:
        params = optimizer_lib.to_float32(params)
        return TrainState(jnp.int32(0), params, direction.init(params), jnp.int32(0))

    return TrainStep(
        run=launching.serialized(
            jax.jit(
                run,
                in_shardings=(shardings, batch_sharding, whole, frozen_shardings),
                out_shardings=(shardings, whole),
                donate_argnums=0,
                compiler_options=ROUND_AS_WRITTEN,
            )
        ),
        start=jax.jit(start, out_shardings=shardings),
        abstract_state=like,
        batch_sharding=batch_sharding,
        rows_multiple=num_micro_batches * rules_lib.num_shards(mesh, "batch", rules),
        config=config,
    )


def abstract_state(
    lm: LanguageModel, optimizer: OptimizerConfig, mesh: Mesh, adapter: LoraConfig | None = None
) -> TrainState:
    """Shapes and shardings of a state; Adam's moments lie where their parameters lie."""
    shapes, _ = lora.split(lora.abstract_params(lm, mesh, "float32", adapter))
    params = jax.tree.map(lambda x: x.sharding, shapes)
    whole = NamedSharding(mesh, PartitionSpec())
    direction = optimizer.build()
    moments = jax.eval_shape(direction.init, shapes)
    opt_state = optax.tree_utils.tree_map_params(
        direction,
        lambda _, sharding: sharding,
        moments,
        params,
        transform_non_params=lambda _: whole,
    )
    number = jax.ShapeDtypeStruct((), jnp.int32)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        TrainState(number, shapes, moments, number),
        TrainState(whole, params, opt_state, whole),
    )


def program(
    name: str,
    lm: CausalLM,
    config: StepConfig,
    mesh: Mesh,
    *,
    num_rows: int,
    row_length: int,
    resident: Mapping[str, Any],
    token_values: tuple[str, ...] = (),
    shares_prompts: bool = False,
) -> Program:
    """One step on full rows, for the planner.

    Args:
        token_values: names of a batch's numbers by token, of losses that read some.
        shares_prompts: completions may share a prompt.
    """
    step, adapter = make_train_step(lm, config, mesh), config.adapter
    dtype = "float32" if adapter is None else lm.config.param_dtype
    trained, frozen = lora.split(lora.abstract_params(lm, mesh, dtype, adapter))
    state = step.abstract_state
    batch = batch_shapes(num_rows, row_length, token_values, step.batch_sharding, shares_prompts)
    end = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec()))
    rows_of_shard = num_rows // step.rows_multiple
    length_of_shard = row_length // rules_lib.num_shards(mesh, "length", lm.rules)
    return Program(
        name=name,
        mesh=mesh,
        lower=functools.partial(step.run.lower, state, batch, end, frozen),
        parts={"parameters": (state.params, frozen), "optimizer": state.opt_state, "batch": batch},
        resident=resident,
        loop_steps=token_log_probs.num_chunks(rows_of_shard, length_of_shard),
        work=flops.training_work(
            lm.config,
            mesh,
            num_rows=num_rows,
            length=row_length,
            micro_batches=config.micro_batches,
            remat=config.remat,
            num_trained=sum(leaf.size for leaf in jax.tree.leaves(trained)),
            is_adapter=adapter is not None,
        ),
        settings=("micro_batches", "remat", "mesh"),
    )


def batch_shapes(
    num_rows: int,
    length: int,
    token_values: tuple[str, ...],
    sharding: NamedSharding,
    shares_prompts: bool = False,
) -> PackedBatch:
    """Shapes of a batch, with the names of its numbers by token."""

    def array(dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((num_rows, length), dtype, sharding=sharding)

    # Past the checks of the fields, which are for arrays.
    arrays = (array(jnp.int32), array(jnp.int32), array(jnp.int32), array(jnp.bool_))
    values = {name: array(jnp.float32) for name in token_values}
    prefix_ids = array(jnp.int32) if shares_prompts else None
    return PackedBatch.tree_unflatten(None, (*arrays, values, prefix_ids))


def _name_of(report: RouterTotals | LossFigures) -> str:
    """Its name among the metrics."""
    return "figures" if isinstance(report, LossFigures) else "routers"


def _merged(one: LossSums, other: LossSums) -> Any:
    """The sums of two micro-batches together."""

    def merge(a: Any, b: Any) -> Any:
        if not isinstance(a, LossFigures):
            return jax.tree.map(jnp.add, a, b)
        maxima = jax.tree.map(jnp.maximum, a.maxima, b.maxima)
        return LossFigures(jax.tree.map(jnp.add, a.sums, b.sums), maxima)

    return tuple(map(merge, one, other))


def _none_yet(shapes: LossSums) -> Any:
    """The sums of no micro-batch."""

    def full(tree: Any, value: float) -> Any:
        return jax.tree.map(lambda x: jnp.full(x.shape, value, jnp.float32), tree)

    return tuple(
        LossFigures(full(part.sums, 0.0), full(part.maxima, -jnp.inf))
        if isinstance(part, LossFigures)
        else full(part, 0.0)
        for part in shapes
    )


def _tokens(lm: LanguageModel, batch: PackedBatch) -> Metrics:
    """How many tokens a batch has without padding, and how many tokens these see, themselves included."""
    is_token = batch.segment_ids != 0
    seen = jnp.where(is_token, flops.tokens_seen(lm.config, batch.positions + 1), 0)
    return {"tokens": jnp.sum(is_token, dtype=jnp.float32), "tokens_seen": jnp.sum(seen, dtype=jnp.float32)}


def in_micro_batches(batch: PackedBatch, num_micro_batches: int, sharding: NamedSharding) -> PackedBatch:
    """[B, T] -> [micro-batches, B / micro-batches, T]; each takes rows of every device."""

    def split(x: Array) -> Array:
        parts = x.reshape(-1, num_micro_batches, *x.shape[1:]).swapaxes(0, 1)
        spec = PartitionSpec(None, *sharding.spec)
        return jax.lax.with_sharding_constraint(parts, NamedSharding(sharding.mesh, spec))

    return jax.tree.map(split, batch)
