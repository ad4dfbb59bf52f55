"""Shapes of the batches that sampling and scoring compile for: few of them, whatever lengths come in."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from promptcot_jax.parallel import rules as rules_lib

_SMALLEST_BUCKET = 32


def bucket(length: int) -> int:
    """The next of 32, 48, 64, 96, 128, 192, ...: at most a third is padding, and two programs serve each doubling."""
    power = max(_SMALLEST_BUCKET, 1 << (length - 1).bit_length())
    between = power * 3 // 4
    return between if _SMALLEST_BUCKET <= length <= between else power


def rows_of_batch(num_rows: int, limit: int, rules: rules_lib.LogicalRules) -> int:
    """Rows of every batch of a call: `limit`, or the next power of two where fewer are there.

    Rounded up to a multiple of the data shards of the mesh entered with `jax.set_mesh`, if the model has rules.
    """
    rows = min(limit, 1 << (num_rows - 1).bit_length())
    shards = _row_sharding(rules).num_shards if rules else 1
    return -(-rows // shards) * shards
