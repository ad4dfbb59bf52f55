"""The one train step: micro-batches, one division, one update, compiled with shardings and donated state.

`loss` gives (total, count) of a batch; gradients of the totals are summed over micro-batches and divided once
by the summed count, so k micro-batches are one big batch however unequal their counts.

Parameters in training are float32 whatever `lm.config.param_dtype` says (that is how they are stored
elsewhere): at the paper's learning rates an update is below bfloat16's resolution. The decoder casts them to
its compute dtype where it uses them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from promptcot_jax.core.arrays import Array, Params
from promptcot_jax.data.packing import BatchSource, PackedBatch
from promptcot_jax.models import flops, lora
from promptcot_jax.models.decoder import Remat
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.models.layers import RouterTotals
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import launching, placing
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.trainers import loss_figures, sft
from promptcot_jax.trainers import optimizer as optimizer_lib
from promptcot_jax.trainers import router_losses as router_losses_lib
from promptcot_jax.trainers.loss_figures import LossFigures
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.trainers.router_losses import RouterLossConfig

# Numbers; "routers" of a mixture of experts are their `RouterTotals`, "figures" of a loss its `LossFigures`.
Metrics = dict[str, Any]
NO_ROUTER_LOSSES = RouterLossConfig()


@runtime_checkable
class Loss(Protocol):
    """Sum of a batch's losses and what to divide it by. Hashable: a step is compiled once per loss.

    Of a mixture of experts what the routers did may come with them, which the step makes losses and metrics
    of, and last `LossFigures`, which become metrics.
    """

    def __call__(
        self, lm: LanguageModel, params: Params, batch: PackedBatch, *, remat: Remat
    ) -> sft.LossSums: ...


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


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """The compiled functions of one training configuration.

    `run(state, batch, schedule_end, frozen)` gives the next state and metrics, both still on the device; the
    state given is donated. Every call needs `jax.set_mesh(mesh)` around it.
    """

    # jitted (TrainState, PackedBatch, int, frozen parameters) -> (TrainState, Metrics); nothing frozen: {}
    run: Any
    # jitted (trained parameters) -> TrainState at step 0, of copies: donation spares the caller's arrays
    start: Any
    shardings: TrainState
    batch_sharding: NamedSharding
    rows_multiple: int  # the rows of a batch must be a multiple of this

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


def make_train_step(
    lm: LanguageModel,
    loss: Loss,
    optimizer: OptimizerConfig,
    mesh: Mesh,
    *,
    num_micro_batches: int = 1,
    remat: Remat = "projections",
    adapter: LoraConfig | None = None,
    router_losses: RouterLossConfig = NO_ROUTER_LOSSES,
) -> TrainStep:
    """The step of one configuration; asked again, the same object, so that EM's rounds compile it once.

    Args:
        adapter: only an adapter of this shape is trained, and the model itself is `run`'s `frozen`.

    Raises:
        WrongUse: losses of routers are asked for of a model without experts.
    """
    router_losses.check(lm)
    settings: tuple[tuple[str, Any], ...] = ()
    # Two equal partials are not `==`; their parts are.
    if isinstance(loss, functools.partial) and not loss.args:
        loss, settings = loss.func, tuple(sorted(loss.keywords.items()))
    return _make_train_step(
        lm, loss, settings, optimizer, mesh, num_micro_batches, remat, adapter, router_losses
    )


@functools.lru_cache(maxsize=32)
def _make_train_step(
    lm: LanguageModel,
    loss: Callable[..., sft.LossSums],
    loss_settings: tuple[tuple[str, Any], ...],
    optimizer: OptimizerConfig,
    mesh: Mesh,
    num_micro_batches: int,
    remat: Remat,
    adapter: LoraConfig | None,
    router_losses: RouterLossConfig,
) -> TrainStep:
    direction = optimizer.build()
    shardings = state_shardings(lm, optimizer, mesh, adapter)
    rules = lm.rules or rules_lib.DEFAULT_RULES
    batch_sharding = rules_lib.batch_sharding(mesh, rules)
    whole = NamedSharding(mesh, PartitionSpec())

    def total_of(params: Params, frozen: Params, batch: PackedBatch) -> tuple[Array, sft.LossSums]:
        """What is differentiated, and the sums that are reported."""
        whole_model = lora.join(params, frozen) if frozen else params
        sums = loss(lm, whole_model, batch, remat=remat, **dict(loss_settings))
        total, count, *reports = sums
        for report in reports:
            if router_losses.is_on and isinstance(report, RouterTotals):
                total = total + router_losses_lib.total(router_losses, report, count)
        return total, sums

    def gradient_of(params: Params, frozen: Params, batch: PackedBatch) -> tuple[sft.LossSums, Params]:
        (_, sums), gradient = jax.value_and_grad(total_of, has_aux=True)(params, frozen, batch)
        return sums, gradient

    def sums_of(params: Params, frozen: Params, batch: PackedBatch) -> tuple[sft.LossSums, Params]:
        """Totals, counts and gradients of the totals, over all micro-batches."""
        if num_micro_batches == 1:
            return gradient_of(params, frozen, batch)
        micro_batches = _split(batch, num_micro_batches, batch_sharding)

        def add(sums: tuple[sft.LossSums, Params], micro_batch: PackedBatch):
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
        run=launching.in_turn(
            jax.jit(
                run,
                in_shardings=(shardings, batch_sharding, whole, lora.frozen_shardings(lm, adapter, mesh)),
                out_shardings=(shardings, whole),
                donate_argnums=0,
            )
        ),
        start=jax.jit(start, out_shardings=shardings),
        shardings=shardings,
        batch_sharding=batch_sharding,
        rows_multiple=num_micro_batches * rules_lib.num_shards(mesh, "batch", rules),
    )


def state_shardings(
    lm: LanguageModel, optimizer: OptimizerConfig, mesh: Mesh, adapter: LoraConfig | None = None
) -> TrainState:
    """NamedSharding of every array of the state; Adam's moments lie where their parameters lie."""
    shapes, params = lora.trained_shapes(lm, adapter), lora.trained_shardings(lm, adapter, mesh)
    whole = NamedSharding(mesh, PartitionSpec())
    direction = optimizer.build()
    opt_state = optax.tree_utils.tree_map_params(
        direction,
        lambda _, sharding: sharding,
        jax.eval_shape(direction.init, shapes),
        params,
        transform_non_params=lambda _: whole,
    )
    return TrainState(whole, params, opt_state, whole)


def _name_of(report: RouterTotals | LossFigures) -> str:
    """Its name among the metrics."""
    return "figures" if isinstance(report, LossFigures) else "routers"


def _merged(one: sft.LossSums, other: sft.LossSums) -> Any:
    """The sums of two micro-batches together."""

    def merge(a: Any, b: Any) -> Any:
        return loss_figures.merged(a, b) if isinstance(a, LossFigures) else jax.tree.map(jnp.add, a, b)

    return tuple(map(merge, one, other))


def _none_yet(shapes: sft.LossSums) -> Any:
    """The sums of no micro-batch."""
    return tuple(
        loss_figures.none_yet(part)
        if isinstance(part, LossFigures)
        else jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), part)
        for part in shapes
    )


def _tokens(lm: LanguageModel, batch: PackedBatch) -> Metrics:
    """How many tokens a batch has without padding, and how many tokens these see, themselves included."""
    is_token = batch.segment_ids != 0
    seen = jnp.where(is_token, flops.tokens_seen(lm.config, batch.positions + 1), 0)
    return {"tokens": jnp.sum(is_token, dtype=jnp.float32), "tokens_seen": jnp.sum(seen, dtype=jnp.float32)}


def _split(batch: PackedBatch, num_micro_batches: int, sharding: NamedSharding) -> PackedBatch:
    """[B, T] -> [micro-batches, B / micro-batches, T]; each takes rows of every device."""

    def split(x: Array) -> Array:
        parts = x.reshape(-1, num_micro_batches, *x.shape[1:]).swapaxes(0, 1)
        spec = PartitionSpec(None, *sharding.spec)
        return jax.lax.with_sharding_constraint(parts, NamedSharding(sharding.mesh, spec))

    return jax.tree.map(split, batch)
