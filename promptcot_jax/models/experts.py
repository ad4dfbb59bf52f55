"""Mixture of experts without capacity limits: every token reaches every expert that it chose.

Rows (a token and one of its choices) are sorted by expert; each projection is then one product of groups of
rows, each group with its own matrix (`grouped_dot`), and the results return to their tokens, weighted.

On a mesh the experts are split over the axes of `experts`, their mlp over those of `expert_mlp`, and tokens
over all of these and the axes of `batch` and `length`. With 8 choices a token, nearly every token needs
nearly every shard of experts; so a shard reads the tokens of its whole group of shards, computes the rows of
its own experts, and a sum that scatters brings the results home. No token is held twice on entry or exit,
which makes the backward pass the mirror of the forward pass. `expert_embed` is gathered like any sharded
parameter, in the type that computes.

Tokens go through in chunks, and the backward pass computes each chunk again: what is kept is the input, and
buffers have some k * chunk rows. Chunks add up their weights' gradients in float32.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from promptcot_jax.core.arrays import Array, Bool, Float, Int
from promptcot_jax.models import grouped_dots
from promptcot_jax.models.config import RoutingOrder
from promptcot_jax.parallel import hardware
from promptcot_jax.parallel import rules as rules_lib

Activation = Callable[[Array, Array], Array]  # of (gate, up)

CHUNK_TOKENS = 8192  # of a group of shards; 270 MB a buffer of rows in bfloat16 at k = 8, D = 2,048


class Routing(NamedTuple):
    """What the router decided for each token."""

    chosen: Int[Array, "tokens k"]
    weights: Float[Array, "tokens k"]  # float32
    logits: Float[Array, "tokens E"]  # float32, of all experts


class ExpertWeights(NamedTuple):
    """Matrices of E gated experts, and their biases where the family has some."""

    gate: Float[Array, "E D F"]
    up: Float[Array, "E D F"]
    down: Float[Array, "E F D"]
    gate_bias: Float[Array, "E F"] | None = None
    up_bias: Float[Array, "E F"] | None = None
    down_bias: Float[Array, "E D"] | None = None


_AXES = {
    "gate": ("experts", "expert_embed", "expert_mlp"),
    "up": ("experts", "expert_embed", "expert_mlp"),
    "down": ("experts", "expert_mlp", "expert_embed"),
    "gate_bias": ("experts", "expert_mlp"),
    "up_bias": ("experts", "expert_mlp"),
    "down_bias": ("experts", "expert_embed"),
}


def route(
    router_logits: Float[Array, "tokens E"],
    *,
    num_selected: int,
    order: RoutingOrder,
    renormalize: bool = False,
) -> Routing:
    """Chooses `num_selected` experts for each token; on a tie, those of lower number.

    Args:
        order: Qwen3-MoE takes the largest of all probabilities, gpt-oss the softmax of the largest logits.
        renormalize: makes the chosen probabilities sum to 1 (Hugging Face's `norm_topk_prob`); the softmax
            of the largest does anyway.

    Raises:
        ValueError: there are fewer experts than are to be chosen.
    """
    num_experts = router_logits.shape[-1]
    if not 1 <= num_selected <= num_experts:
        raise ValueError(
            f"num_selected must be between 1 and the number of experts, {num_experts}; got {num_selected}."
        )
    logits = router_logits.astype(jnp.float32)
    if order == "top_k_then_softmax":
        largest, chosen = lax.top_k(logits, num_selected)
        return Routing(chosen, jax.nn.softmax(largest, axis=-1), logits)
    weights, chosen = lax.top_k(jax.nn.softmax(logits, axis=-1), num_selected)
    if renormalize:
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return Routing(chosen, weights, logits)


def apply_experts(
    x: Float[Array, "tokens D"],
    routing: Routing,
    weights: ExpertWeights,
    *,
    activation: Activation,
    rules: rules_lib.LogicalRules = (),
    platform: hardware.Platform | None = None,
    chunk: int = CHUNK_TOKENS,
) -> Float[Array, "tokens D"]:
    """Sum over each token's experts of weight * down(activation(gate(x), up(x))).

    Args:
        weights: cast to the type of `x`.
        activation: elementwise.
        rules: with rules, runs over the mesh entered with `jax.set_mesh`.
        platform: whose grouped product; None takes the one of the machine this runs on.
        chunk: tokens that a group of shards works on at one time; changes memory and speed, not the result.

    Raises:
        ValueError: rules are given and no mesh is entered.
    """
    platform = platform or hardware.platform()
    present = {name: w.astype(x.dtype) for name, w in weights._asdict().items() if w is not None}
    split = _split(present, rules)
    of_shard = functools.partial(_of_shard, split, activation, platform, chunk)
    count, num_shards = x.shape[0], split.size(split.tokens)
    arrays = _padded((x, routing.weights, routing.chosen), -count % num_shards, weights.gate.shape[0])
    if rules:
        tokens = PartitionSpec(split.tokens, None)
        # Kernels do not say over which axes their results vary, so this cannot be checked.
        of_shard = jax.shard_map(
            of_shard, in_specs=(split.specs, tokens, tokens, tokens), out_specs=tokens, check_vma=False
        )
    return of_shard(present, *arrays)[:count]


class _Split(NamedTuple):
    """Mesh axes of everything that is split."""

    sizes: dict[str, int]  # of the mesh
    specs: dict[str, PartitionSpec]  # of the weights
    tokens: tuple[str, ...]
    experts: tuple[str, ...]
    embed: tuple[str, ...]
    mlp: tuple[str, ...]

    @property
    def group(self) -> tuple[str, ...]:
        """Axes whose shards read the same tokens, for different experts or other parts of them."""
        return self.experts + self.mlp

    def size(self, axes: tuple[str, ...]) -> int:
        return math.prod(self.sizes[axis] for axis in axes)


def _split(weights: dict[str, Array], rules: rules_lib.LogicalRules) -> _Split:
    if not rules:
        return _Split({}, dict.fromkeys(weights, PartitionSpec()), (), (), (), ())
    mesh = rules_lib.entered_mesh()
    specs = {name: rules_lib.partition_spec(mesh, _AXES[name], w.shape, rules) for name, w in weights.items()}
    experts, embed, mlp = (rules_lib.names(axes) for axes in specs["gate"])
    rows, length = (rules_lib.mesh_axes(axis, rules) for axis in ("batch", "length"))
    tokens = dict.fromkeys(rows + length + experts + mlp)
    return _Split(dict(mesh.shape), specs, tuple(tokens), experts, embed, mlp)


def _padded(arrays: tuple[Array, Array, Array], missing: int, num_experts: int) -> tuple[Array, ...]:
    """Tokens, weights and choices with tokens added that are no expert's."""
    fills = (0, 0, num_experts)
    return tuple(
        jnp.pad(array, ((0, missing), (0, 0)), constant_values=fill)
        for array, fill in zip(arrays, fills, strict=True)
    )


def _of_shard(
    split: _Split,
    activation: Activation,
    platform: hardware.Platform,
    chunk: int,
    weights: dict[str, Array],
    x: Float[Array, "tokens D"],
    choice_weights: Float[Array, "tokens k"],
    chosen: Int[Array, "tokens k"],
) -> Float[Array, "tokens D"]:
    """A shard's tokens, chunk after chunk, through the experts of its whole group."""
    count, group_size = x.shape[0], split.size(split.group)
    num_experts = weights["gate"].shape[0] * split.size(split.experts)
    width = min(count, max(1, chunk // group_size))
    padded = _padded((x, choice_weights, chosen), -count % width, num_experts)
    chunks = tuple(array.reshape(-1, width, array.shape[-1]) for array in padded)
    of_chunk = functools.partial(_of_chunk, split.group, activation, platform)
    y: Any = _map_chunks(of_chunk, _of_group(split, weights), *chunks, _first_expert(split, weights))
    return y.reshape(-1, x.shape[-1])[:count]


def _of_group(split: _Split, weights: dict[str, Array]) -> dict[str, Array]:
    """Weights whole in D; the bias of a sum over shards is left to the first of them."""
    whole = dict(weights)
    for name in weights if split.embed else ():
        if "expert_embed" in _AXES[name]:
            dimension = _AXES[name].index("expert_embed")
            whole[name] = lax.all_gather(weights[name], split.embed, axis=dimension, tiled=True)
    if split.mlp and "down_bias" in whole:
        is_first = lax.axis_index(split.mlp) == 0
        whole["down_bias"] = jnp.where(is_first, whole["down_bias"], 0)
    return whole


def _first_expert(split: _Split, weights: dict[str, Array]) -> Int[Array, ""]:
    """Number of the first expert that this shard holds."""
    shard = lax.axis_index(split.experts) if split.experts else 0
    return jnp.int32(shard * weights["gate"].shape[0])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _map_chunks(
    of_chunk: Callable[..., Array],
    weights: dict[str, Array],
    x: Float[Array, "chunks width D"],
    choice_weights: Float[Array, "chunks width k"],
    chosen: Int[Array, "chunks width k"],
    first_expert: Int[Array, ""],
) -> Float[Array, "chunks width D"]:
    return lax.map(lambda chunk: of_chunk(weights, *chunk, first_expert), (x, choice_weights, chosen))


def _map_chunks_forward(of_chunk: Callable[..., Array], *arguments: Any) -> tuple[Array, Any]:
    return _map_chunks(of_chunk, *arguments), arguments


def _map_chunks_backward(of_chunk: Callable[..., Array], arguments: Any, cotangent: Array) -> Any:
    """Each chunk again, and its gradients; those of the weights add up in float32, whatever computes."""
    weights, x, choice_weights, chosen, first_expert = arguments
    first_expert = jnp.asarray(first_expert)  # a constant may come back as numpy's

    def add_chunk(total: Any, chunk: tuple[Array, ...]) -> tuple[Any, tuple[Array, Array]]:
        chunk_x, chunk_weights, chunk_chosen, chunk_cotangent = chunk

        def forward(*differentiable: Any) -> Array:
            return of_chunk(*differentiable, chunk_chosen, first_expert)

        _, backward = jax.vjp(forward, weights, chunk_x, chunk_weights)
        d_weights, *d_tokens = backward(chunk_cotangent)
        return jax.tree.map(lambda sum_, d: sum_ + d.astype(sum_.dtype), total, d_weights), tuple(d_tokens)

    start = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), weights)
    total, d_tokens = lax.scan(add_chunk, start, (x, choice_weights, chosen, cotangent))
    return jax.tree.map(lambda sum_, w: sum_.astype(w.dtype), total, weights), *d_tokens, None, None


_map_chunks.defvjp(_map_chunks_forward, _map_chunks_backward)


def _of_chunk(
    group: tuple[str, ...],
    activation: Activation,
    platform: hardware.Platform,
    weights: dict[str, Array],
    x: Float[Array, "tokens D"],
    choice_weights: Float[Array, "tokens k"],
    chosen: Int[Array, "tokens k"],
    first_expert: Int[Array, ""],
) -> Float[Array, "tokens D"]:
    """The group's tokens through this shard's experts, and what all shards found for this one's tokens."""
    if group:
        gather = functools.partial(lax.all_gather, axis_name=group, tiled=True)
        x, choice_weights, chosen = gather(x), gather(choice_weights), gather(chosen)
    plan = _plan(chosen - first_expert, weights["gate"].shape[0])
    product = functools.partial(grouped_dots.grouped_dot, group_sizes=plan.group_sizes, platform=platform)

    def project(rows: Float[Array, "rows _"], name: str) -> Float[Array, "rows _"]:
        y = product(rows, weights[name])
        bias = weights.get(f"{name}_bias")
        return y if bias is None else y + _of_rows(bias, plan)

    rows = _dispatch(x, plan)
    y = project(activation(project(rows, "gate"), project(rows, "up")), "down")
    y = _return(y, plan).astype(jnp.float32)  # [tokens, k, D]
    y = jnp.sum(y * choice_weights[..., None], axis=1).astype(x.dtype)
    return lax.psum_scatter(y, group, tiled=True) if group else y


class _Plan(NamedTuple):
    """Where the rows (tokens * k of them) go."""

    order: Int[Array, " rows"]  # the row, counted token after token, at each sorted position
    position: Int[Array, "tokens k"]  # the sorted position of each of a token's choices
    expert: Int[Array, " rows"]  # of each sorted position; their number for rows that belong to other shards
    group_sizes: Int[Array, " E"]


def _plan(chosen: Int[Array, "tokens k"], num_experts: int) -> _Plan:
    """Sorts by expert; rows of other shards' experts come last."""
    mine = (chosen >= 0) & (chosen < num_experts)
    expert = jnp.where(mine, chosen, num_experts).reshape(-1)
    order = jnp.argsort(expert, stable=True)
    position = jnp.argsort(order).reshape(chosen.shape)
    sizes = jnp.sum(expert[:, None] == jnp.arange(num_experts), axis=0, dtype=jnp.int32)
    return _Plan(order, position, expert[order], sizes)


def _of_rows(bias: Float[Array, "E _"], plan: _Plan) -> Float[Array, "rows _"]:
    """Each row's bias, none for rows of others. A product, whose gradient is one: adding by index is slow."""
    one_hot = jax.nn.one_hot(plan.expert, bias.shape[0], dtype=bias.dtype)
    return jnp.dot(one_hot, bias, precision=lax.Precision.HIGHEST)


# Both ways between tokens and sorted rows are reads, and each is the other's gradient; JAX would make the
# gradients writes by index, which TPUs do one after the other.


@jax.custom_vjp
def _dispatch(x: Float[Array, "tokens D"], plan: _Plan) -> Float[Array, "rows D"]:
    """Copies tokens to the sorted positions of their choices."""
    return x.at[plan.order // plan.position.shape[1]].get(mode="promise_in_bounds")


@jax.custom_vjp
def _return(y: Float[Array, "rows D"], plan: _Plan) -> Float[Array, "tokens k D"]:
    """Rows back to their tokens."""
    return y.at[plan.position].get(mode="promise_in_bounds")


def _dispatch_backward(plan: _Plan, cotangent: Float[Array, "rows D"]) -> tuple[Array, None]:
    of_choices = _return(cotangent, plan)
    return jnp.sum(of_choices, axis=1, dtype=jnp.float32).astype(cotangent.dtype), None


def _return_backward(plan: _Plan, cotangent: Float[Array, "tokens k D"]) -> tuple[Array, None]:
    rows = cotangent.reshape(-1, cotangent.shape[-1])
    return rows.at[plan.order].get(mode="promise_in_bounds"), None


_dispatch.defvjp(lambda x, plan: (_dispatch(x, plan), plan), _dispatch_backward)
_return.defvjp(lambda y, plan: (_return(y, plan), plan), _return_backward)


def load_balancing_total(
    routing: Routing, is_token: Bool[Array, " tokens"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Load-balancing loss (Switch Transformers, equation 4; k choices as in Mixtral), times real tokens.

    E * sum over experts of (choices of it per token) * (its mean probability): k if all experts are alike.
    Of one layer and one batch: the loss is not a sum over tokens, so that batches added up as (total, count)
    give the mean of their losses, each weighted by its tokens. Hugging Face takes the tokens of all layers
    together, where one layer's favourites hide behind another's.
    """
    num_experts = routing.logits.shape[-1]
    count = jnp.sum(is_token, dtype=jnp.float32)
    probabilities = jnp.where(is_token[:, None], jax.nn.softmax(routing.logits, axis=-1), 0.0)
    times_count = jnp.sum(tokens_per_expert(routing, is_token) * jnp.sum(probabilities, axis=0))
    return num_experts * times_count / jnp.maximum(count, 1.0), count


def router_z_total(
    routing: Routing, is_token: Bool[Array, " tokens"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Router z-loss (ST-MoE, equation 5) summed over real tokens, and how many these are."""
    squares = jnp.square(jax.nn.logsumexp(routing.logits, axis=-1))
    return jnp.sum(jnp.where(is_token, squares, 0.0)), jnp.sum(is_token, dtype=jnp.float32)


def tokens_per_expert(routing: Routing, is_token: Bool[Array, " tokens"]) -> Float[Array, " E"]:
    """How many real tokens chose each expert; `trainers.router_losses` makes metrics of it."""
    experts = jnp.arange(routing.logits.shape[-1])
    chose = (routing.chosen[..., None] == experts) & is_token[:, None, None]  # [tokens, k, E]
    return jnp.sum(chose, axis=(0, 1), dtype=jnp.float32)
