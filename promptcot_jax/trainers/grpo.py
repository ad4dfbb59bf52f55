"""Policy-gradient loss of packed completions; the E-step's `grpo` objective trains phi with it."""

import jax.numpy as jnp

from promptcot_jax.core.arrays import Array, Float, Params
from promptcot_jax.data.packing import PackedBatch
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.objectives import policy_gradient, token_log_probs
from promptcot_jax.trainers import sft
