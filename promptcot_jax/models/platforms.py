"""Whose kernels a model uses: those of TPUs, or plain JAX, which runs everywhere."""

from typing import Literal

import jax

Platform = Literal["plain", "tpu"]


def here() -> Platform:
    """The one for the machine that this runs on."""
    return "tpu" if jax.default_backend() == "tpu" else "plain"
