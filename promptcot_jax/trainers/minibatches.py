"""The updates of one iteration: its units, shuffled and cut into minibatches, each packed into rows.

A unit is a sequence, or several that must share a row, such as a pair of DPO's, whose segments then follow
each other. A minibatch has its share of the units, however long they are, so that an iteration makes the same
number of updates whatever was drawn. Its rows are as many as the fullest minibatch needs, rounded up to one
of a few counts: an iteration's shape is one of a few, and a function of the iteration alone.
"""

from collections.abc import Sequence

import numpy as np

from promptcot_jax.core import prng
from promptcot_jax.data import packing
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.data.packing import PackedBatch
from promptcot_jax.sampling import batching


class Minibatches:
    """A `BatchSource` of `num_passes` over the units in `num_minibatches` each, fewer where units are few.

    Attributes:
        rows_per_batch: a multiple of `rows_multiple`.
        own_rows: all of them, until a host sets its own.
    """

    def __init__(
        self,
        units: Sequence[tuple[TokenExample, ...]],
        *,
        num_minibatches: int,
        num_passes: int,
        row_length: int,
        rows_multiple: int,
        seed: int,
        value_names: Sequence[str],
        pad_id: int = 0,
    ):
        """Draws the orders and packs the lengths.

        Raises:
            ValueError: there are no units, or one is longer than a row.
        """
        if not units:
            raise ValueError("There is nothing to train on.")
        self._units, self._row_length = units, row_length
        self._value_names, self._pad_id = value_names, pad_id
        num_minibatches = min(num_minibatches, len(units))
        self._members: list[np.ndarray] = []
        for number in range(num_passes):
            order = prng.stream_generator(seed, "order", number).permutation(len(units))
            self._members += np.array_split(order, num_minibatches)
        most_rows = 1 + max(int(self._rows_of(members).max()) for members in self._members)
        self.rows_per_batch = _whole(most_rows, rows_multiple)
        self.own_rows: Sequence[int] = range(self.rows_per_batch)

    def _rows_of(self, members: np.ndarray) -> np.ndarray:
        lengths = [sum(example.length for example in self._units[i]) for i in members]
        return packing.first_fit(lengths, self._row_length)

    @property
    def num_steps(self) -> int:
        """Updates of the iteration."""
        return len(self._members)

    def batch(self, step: int) -> PackedBatch:
        """The minibatch of one update, or this host's rows of it."""
        members = self._members[step]
        rows: list[list[TokenExample]] = [[] for _ in range(self.rows_per_batch)]
        for i, row in zip(members, self._rows_of(members), strict=True):
            rows[row] += self._units[i]
        return packing.pack_rows(
            [rows[row] for row in self.own_rows],
            num_rows=len(self.own_rows),
            row_length=self._row_length,
            value_names=self._value_names,
            pad_id=self._pad_id,
        )


def most_rows(num_units: int, unit_length: int, *, row_length: int, rows_multiple: int) -> int:
    """`rows_per_batch` of so many units in a minibatch, each as long as one may be."""
    return _whole(-(-num_units // (row_length // unit_length)), rows_multiple)


def _whole(num_rows: int, multiple: int) -> int:
    return batching.few_counts(-(-num_rows // multiple)) * multiple
