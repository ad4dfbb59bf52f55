"""Parameters as layers declare them, and the matrix product over flat tokens."""

from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from promptcot_jax.core.arrays import Array, Float
from promptcot_jax.models.config import FloatType
from promptcot_jax.parallel import rules as rules_lib

# Unit variance in, unit variance out, whatever the width. The 0.02 of the Llama and Qwen code is meant for
# widths of thousands: with it a decoder of width 96 took three times as many steps to learn to copy from z.
INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


OUTPUT = "projection"  # name of every projection's output, for remat policies


@runtime_checkable
class NumberFormats(Protocol):
    """What a config says of the types of computation and of parameters."""

    @property
    def dtype(self) -> FloatType: ...

    @property
    def param_dtype(self) -> FloatType: ...


@runtime_checkable
class OutputConfig(Protocol):
    """What a config says of its logits."""

    @property
    def dtype(self) -> FloatType: ...

    @property
    def logit_soft_cap(self) -> float | None: ...


def declare(
    module: nn.Module,
    name: str,
    init: nn.initializers.Initializer,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
) -> Array:
    """Declares a parameter of `module` with logical axes, in the configured number format."""
    boxed: Any = nn.with_logical_partitioning(init, axes)  # flax unboxes the value where it is read
    return module.param(name, boxed, shape, module.config.param_dtype)


class Projection(nn.Module):
    """Matrix product over flat tokens, with a bias where the family has one."""

    config: NumberFormats
    features: int
    axes: tuple[str, str]
    has_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        config = self.config
        kernel = declare(self, "kernel", INIT, (x.shape[-1], self.features), self.axes)
        y = x @ kernel.astype(config.dtype)
        if self.has_variable("params", "lora_a"):  # an adapted model, see `models/lora.py`
            a, b, scale = (
                self.get_variable("params", name).astype(config.dtype)
                for name in ("lora_a", "lora_b", "lora_scale")
            )
            y = y + scale * ((x @ a) @ b)
        if self.has_bias:
            bias = declare(self, "bias", nn.initializers.zeros_init(), (self.features,), self.axes[1:])
            y = y + bias.astype(config.dtype)
        return checkpoint_name(y, OUTPUT)


def logits(
    hidden: Float[Array, "... D"],
    output_embedding: Float[Array, "D V"],
    config: OutputConfig,
    rules: rules_lib.LogicalRules,
) -> Float[Array, "... V"]:
    """Logits in float32, of a product in the compute type."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    product = jnp.matmul(flat, output_embedding.astype(config.dtype), preferred_element_type=jnp.float32)
    if (cap := config.logit_soft_cap) is not None:
        product = cap * jnp.tanh(product / cap)
    product = rules_lib.constrain(product, ("batch", "vocab"), rules)
    return product.reshape(*hidden.shape[:-1], -1)
