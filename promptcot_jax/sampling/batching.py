"""Shapes of the batches that sampling and scoring compile for: few of them, whatever lengths come in."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from promptcot_jax.core.arrays import Int
from promptcot_jax.parallel import placing
from promptcot_jax.parallel import rules as rules_lib

_SMALLEST_BUCKET = 32


def bucket(length: int) -> int:
    """The next of 32, 48, 64, 96, 128, 192, ...: little padding, and two programs for each doubling."""
    return few_counts(max(_SMALLEST_BUCKET, length))


def few_counts(count: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, ...: counts that calls of many sizes share."""
    power = 1 << (count - 1).bit_length()
    return power // 4 * 3 if power >= 4 and count <= power // 4 * 3 else power


def num_data_shards(rules: rules_lib.LogicalRules) -> int:
    """Over how many shards a model's rules spread rows on the mesh entered with `jax.set_mesh`."""
    mesh = jax.sharding.get_mesh()
    return rules_lib.num_shards(mesh, "batch", rules) if rules and not mesh.empty else 1


def full_and_small_batches(
    rows: Sequence[int], limit: int, rules: rules_lib.LogicalRules
) -> list[tuple[Sequence[int], int]]:
    """Cuts rows into batches of `limit`, what is left into batches of an eighth; with each its size.

    Two sizes whatever number of rows comes in: calls of many different sizes share two programs, and a call
    of a few rows does not compute `limit` of them.
    """
    full, small = whole_shards(limit, rules), whole_shards(max(1, limit // 8), rules)
    batches, start = [], 0
    while start < len(rows):
        size = full if len(rows) - start > full // 2 else small
        batches.append((rows[start : start + size], size))
        start += size
    return batches


def whole_shards(num_rows: int, rules: rules_lib.LogicalRules) -> int:
    """The next multiple of the data shards of the mesh entered."""
    shards = num_data_shards(rules)
    return -(-num_rows // shards) * shards


def place_rows(arrays: Any, rules: rules_lib.LogicalRules) -> Any:
    """Puts the rows of host arrays where the model's rules want them on the mesh entered, if one is."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty or not rules:
        return arrays
    return placing.place(arrays, rules_lib.batch_sharding(mesh, rules))


def shapes_of_rows(arrays: Any, rules: rules_lib.LogicalRules) -> Any:
    """What `place_rows` would place on the mesh entered, as shapes with shardings."""
    mesh = jax.sharding.get_mesh()
    sharding = None if mesh.empty or not rules else rules_lib.batch_sharding(mesh, rules)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arrays)


def right_padded(
    rows: Sequence[Sequence[int]], num_rows: int, width: int, pad_id: int
) -> Int[np.ndarray, "B T"]:
    """Token ids at the left end of `num_rows` rows; rows beyond `rows` hold none."""
    token_ids = np.full((num_rows, width), pad_id, np.int32)
    for i, row in enumerate(rows):
        token_ids[i, : len(row)] = row
    return token_ids


def check_token_ids(rows: Sequence[Sequence[int]], vocab_size: int, what: str) -> None:
    """Refuses ids that an embedding lookup would clamp without a word.

    Raises:
        ValueError: names the row, the id and the vocabulary size.
    """
    for i, row in enumerate(rows):
        if len(row) and not 0 <= min(row) <= max(row) < vocab_size:
            worst = min(row) if min(row) < 0 else max(row)
            raise ValueError(
                f"{what} {i} holds token id {worst}, but the model's vocabulary has {vocab_size} ids; "
                "encode it with the model's own tokenizer."
            )
