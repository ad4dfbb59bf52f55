"""What training makes of the routers of a mixture of experts: losses to add, and figures of their load.

Off by default, as in transformers: a term beside the likelihood would take from the M-step that it never
lowers the bound it ascends. The figures are always there, so that a router whose experts run idle is seen.

The loss of balance is no sum over tokens, but of products of two means: each micro-batch has its own, over
its real tokens, and counts as its labels do.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from promptcot_jax.core.arrays import Array
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.settings import NonNegativeFloat, settings
from promptcot_jax.models.language_model import LanguageModel, has_routers
from promptcot_jax.models.layers import RouterTotals


@settings
class RouterLossConfig:
    """Weights of the routers' losses beside the loss per label; each is a mean over tokens and layers."""

    load_balancing: NonNegativeFloat = 0.0
    z: NonNegativeFloat = 0.0

    @property
    def is_on(self) -> bool:
        return self.load_balancing > 0 or self.z > 0

    def check(self, lm: LanguageModel) -> None:
        """Refuses losses of routers that a model does not have.

        Raises:
            WrongUse: it has none.
        """
        if self.is_on and not has_routers(lm):
            raise WrongUse(f"{self} is for mixtures of experts, and this model has none; set both to 0.")


def total(config: RouterLossConfig, routers: RouterTotals, count: Array) -> Array:
    """The weighted losses of one micro-batch, times the count by which its likelihood will be divided."""
    weighted = config.load_balancing * routers.load_balancing + config.z * routers.router_z
    return count * jnp.mean(weighted / jnp.maximum(routers.num_tokens, 1.0))


def figures(routers: list[RouterTotals]) -> dict[str, float]:
    """Metrics of some steps, from their totals by layer [L] and loads [L, E] on the host.

    `max_over_mean_load` is of the layer where it is largest, the others are means over layers; `idle_share`
    is that of experts without a token.
    """
    sums: Any = jax.tree.map(lambda *of_steps: np.sum(of_steps, axis=0, dtype=np.float64), *routers)
    num_tokens, load = np.maximum(sums.num_tokens, 1.0), sums.tokens_per_expert
    fullest = load.max(axis=-1) / np.maximum(load.mean(axis=-1), 1e-9)
    values = {
        "max_over_mean_load": fullest.max(),
        "idle_share": (load == 0).mean(),
        "load_balancing": (sums.load_balancing / num_tokens).mean(),
        "z": (sums.router_z / num_tokens).mean(),
    }
    return {f"routers/{name}": round(float(value), 6) for name, value in values.items()}
