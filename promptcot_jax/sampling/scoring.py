"""Teacher-forced log-probabilities of completions: the reward of the E-step, and the log q of its samples.

R(c, x, z) = log p_theta(z | c) + log p_theta(x | z, c) of the paper's section 3 is the *sum* of what comes
back for a completion. Prompt tokens are read and never scored. The output matrix is applied at completion
positions only, some hundred tokens at a time, so no [B, T, V] array of logits ever exists.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from promptcot_jax.core.arrays import Array, Float, Int, Params
from promptcot_jax.models import flops, language_model
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.objectives import token_log_probs
from promptcot_jax.parallel import launching, placing, sequence_shards
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.parallel.programs import Program
from promptcot_jax.sampling import batching

_HEAD_TOKENS = 256  # tokens of a data shard whose logits exist at one time; 50 MB at V = 49,152


def score(
    lm: language_model.LanguageModel,
    params: Params,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
    batch_tokens: int = 4096,
    pad_id: int = 0,
) -> list[Float[np.ndarray, " n"]]:
    """log p of each completion token given its prompt and the tokens before it, in the order of the rows.

    An empty completion gives an empty array. `params` are in the canonical (scanned) layout.

    Args:
        temperature: of the softmax, as in sampling; to score what greedy decoding wrote, 1.
        batch_tokens: padded tokens per batch; a single row longer than that is a batch of its own.

    Raises:
        ValueError: unequal numbers of prompts and completions, an empty prompt, ids outside the vocabulary, a
            row longer than the model's positions.
    """
    _check(lm, prompts, completions, temperature, batch_tokens)
    scores = [np.zeros(0, np.float32) for _ in prompts]
    for width, members in _batches(prompts, completions):
        for rows, num_rows in batching.full_and_small_batches(
            members, max(1, batch_tokens // width), lm.rules
        ):
            log_probs = _score_rows(
                lm,
                params,
                *batching.place_rows(_arrays(prompts, completions, rows, num_rows, width, pad_id), lm.rules),
                np.int32(max(len(completions[i]) for i in rows)),
                np.float32(temperature),
                head_tokens=_head_tokens(lm),
            )
            for i, row_log_probs in zip(rows, np.asarray(log_probs), strict=False):  # padding rows come last
                scores[i] = row_log_probs[: len(completions[i])]
    return scores


def _batches(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> list[tuple[int, list[int]]]:
    """Rows of each width, those with completions of like length together."""
    by_width: dict[int, list[int]] = {}
    for i, completion in enumerate(completions):
        if len(completion):
            # The last token is predicted and never read.
            by_width.setdefault(batching.bucket(len(prompts[i]) + len(completion) - 1), []).append(i)
    return [(w, sorted(rows, key=lambda i: len(completions[i]))) for w, rows in sorted(by_width.items())]


def _arrays(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    rows: Sequence[int],
    num_rows: int,
    width: int,
    pad_id: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, segment ids, position of each row's first predicting token, and labels."""
    texts = [[*prompts[i], *completions[i]][:-1] for i in rows]
    token_ids = batching.right_padded(texts, num_rows, width, pad_id)
    segment_ids = batching.right_padded([[1] * len(text) for text in texts], num_rows, width, 0)
    labels = batching.right_padded([completions[i] for i in rows], num_rows, width, pad_id)
    first = np.zeros(num_rows, np.int32)
    first[: len(rows)] = [len(prompts[i]) - 1 for i in rows]
    return token_ids, segment_ids, first, labels


def program(
    name: str,
    lm: CausalLM,
    mesh: Mesh,
    params: Params,
    *,
    length: int,
    batch_tokens: int,
    resident: Mapping[str, Any],
) -> Program:
    """Scoring of full rows of `length` tokens, all but one of them scored, for the planner.

    Args:
        params: shapes with shardings.
    """
    width = batching.bucket(length)
    with jax.set_mesh(mesh):
        num_rows = batching.whole_shards(max(1, batch_tokens // width), lm.rules)
        rows = batching.shapes_of_rows(_arrays([], [], [], num_rows, width, 0), lm.rules)
        head_tokens = _head_tokens(lm)
        num_chunks = -(-width // _chunk_length(lm, num_rows, width, head_tokens))
    return Program(
        name=name,
        mesh=mesh,
        lower=functools.partial(
            _score_rows.lower, lm, params, *rows, np.int32(width), np.float32(1.0), head_tokens=head_tokens
        ),
        parts={"parameters": params},
        resident=resident,
        loop_steps=num_chunks,
        work=flops.scoring_work(lm.config, mesh, num_rows=num_rows, length=width),
        settings=("score_tokens", "mesh"),
    )


def _head_tokens(lm: language_model.LanguageModel) -> int:
    return _HEAD_TOKENS * batching.num_data_shards(lm.rules)


def _chunk_length(lm: language_model.LanguageModel, num_rows: int, length: int, head_tokens: int) -> int:
    """Labels of a row that one step of the head takes; devices that share a row share its chunk."""
    _, of_length = sequence_shards.shards(num_rows, length, lm.rules)
    return min(length, of_length * max(1, head_tokens // num_rows))


@launching.serialized
@functools.partial(jax.jit, static_argnames=("lm", "head_tokens"))
def _score_rows(
    lm: language_model.LanguageModel,
    params: Params,
    token_ids: Int[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    first: Int[Array, " B"],
    labels: Int[Array, "B T"],
    longest: Int[Array, ""],
    temperature: Float[Array, ""],
    *,
    head_tokens: int,
) -> Float[Array, "B _"]:
    """log p(labels[b, j]) at position first[b] + j, for j below `longest`; what lies beyond means nothing.

    The head runs on chunks of `labels` and only on as many as `longest` asks for: their number is traced,
    so completions of all lengths share a program.
    """
    num_rows, length = labels.shape
    chunk = _chunk_length(lm, num_rows, length, head_tokens)
    labels = jnp.pad(labels, ((0, 0), (0, -length % chunk)))
    hidden = lm.hidden_states(params, token_ids, segment_ids)  # [B, T, D]
    # Gathered once, and not for every chunk: whole rows, and the output matrix in D.
    hidden = rules_lib.constrain(hidden, ("batch", None, "act_embed"), lm.rules)
    output_embedding = lm.output_embedding(params).astype(hidden.dtype)
    output_embedding = rules_lib.constrain(output_embedding, ("act_embed", "vocab"), lm.rules)

    def add_chunk(i: Int[Array, ""], log_probs: Float[Array, "B _"]) -> Float[Array, "B _"]:
        columns = i * chunk + jnp.arange(chunk)
        positions = jnp.minimum(first[:, None] + columns, length - 1)  # [B, chunk]
        of_chunk = token_log_probs.chunked_label_log_probs(
            jnp.take_along_axis(hidden, positions[:, :, None], axis=1),
            output_embedding,
            jnp.take(labels, columns, axis=1),
            temperature=temperature,
            soft_cap=lm.config.logit_soft_cap,
            chunk=num_rows * chunk,
            rules=lm.rules,
        )
        return lax.dynamic_update_slice(log_probs, of_chunk, (0, i * chunk))

    num_chunks = (longest + chunk - 1) // chunk
    log_probs = lax.fori_loop(0, num_chunks, add_chunk, jnp.zeros(labels.shape, jnp.float32))
    return placing.for_hosts(log_probs)


def _check(
    lm: language_model.LanguageModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    temperature: float,
    batch_tokens: int,
) -> None:
    if len(prompts) != len(completions):
        raise ValueError(f"{len(prompts)} prompts need as many completions, got {len(completions)}.")
    if not (temperature > 0.0 and np.isfinite(temperature)):
        raise ValueError(f"temperature must be positive, got {temperature}; score greedy completions at 1.")
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens must be at least 1, got {batch_tokens}.")
    batching.check_token_ids(prompts, lm.config.vocab_size, "Prompt")
    batching.check_token_ids(completions, lm.config.vocab_size, "Completion")
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        if not len(prompt):
            raise ValueError(
                f"Prompt {i} is empty; begin it with at least one token, such as the model's bos."
            )
        if len(prompt) + len(completion) > lm.config.max_positions:
            raise ValueError(
                f"Row {i} has {len(prompt)} prompt and {len(completion)} completion tokens, more than the "
                f"model's max_positions={lm.config.max_positions}; shorten it."
            )
