"""Forward pass of all-MiniLM-L6-v2: a small BERT; the mean of its token states is a sentence's vector.

The encoder of the paper's distribution analysis (section 4.3), and of synthesis where its weights are
installed. Parameters are a flat dict under Hugging Face's names, as `checkpoints/sentence_encoder.py` reads
them; dropout is for training and absent.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_EPSILON = 1e-12


def embed(
    params: Mapping[str, Array],
    token_ids: Int[Array, "B T"],
    is_token: Bool[Array, "B T"],
    *,
    num_layers: int,
    num_heads: int,
) -> Float[Array, "B D"]:
    """Unit vectors of padded rows of tokens; every row has at least one."""
    length = token_ids.shape[1]
    states = params["embeddings.word_embeddings.weight"][token_ids]  # [B, T, D]
    states += params["embeddings.position_embeddings.weight"][:length]
    states += params["embeddings.token_type_embeddings.weight"][0]
    states = _norm(params, "embeddings.LayerNorm", states)
    for layer in range(num_layers):
        states = _layer(params, f"encoder.layer.{layer}", states, is_token, num_heads)
    summed = jnp.einsum("BTD,BT->BD", states, is_token.astype(states.dtype))
    return summed / jnp.linalg.norm(summed, axis=-1, keepdims=True)  # the mean's length does not matter


def _layer(
    params: Mapping[str, Array],
    name: str,
    states: Float[Array, "B T D"],
    is_token: Bool[Array, "B T"],
    num_heads: int,
) -> Float[Array, "B T D"]:
    def heads(part: str) -> Float[Array, "B T N H"]:
        projected = _dense(params, f"{name}.attention.self.{part}", states)
        return projected.reshape(*projected.shape[:2], num_heads, -1)

    # Queries are scaled by sqrt(H) inside; a padded key has no weight.
    mixed = jax.nn.dot_product_attention(
        heads("query"), heads("key"), heads("value"), mask=is_token[:, None, None, :]
    )
    mixed = _dense(params, f"{name}.attention.output.dense", mixed.reshape(states.shape))
    states = _norm(params, f"{name}.attention.output.LayerNorm", states + mixed)
    inner = jax.nn.gelu(_dense(params, f"{name}.intermediate.dense", states), approximate=False)
    return _norm(params, f"{name}.output.LayerNorm", states + _dense(params, f"{name}.output.dense", inner))


def _dense(params: Mapping[str, Array], name: str, inputs: Float[Array, "B T D"]) -> Float[Array, "B T F"]:
    return jnp.einsum("BTD,FD->BTF", inputs, params[f"{name}.weight"]) + params[f"{name}.bias"]


def _norm(params: Mapping[str, Array], name: str, states: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    centred = states - states.mean(-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + _EPSILON)
    return scaled * params[f"{name}.weight"] + params[f"{name}.bias"]
