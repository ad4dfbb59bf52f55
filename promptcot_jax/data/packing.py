"""Batches of packed rows: several examples share a row, told apart by segment ids, so that little is padding.

The batch of a step is a pure function of (examples, settings, seed, step): a resumed run reads what the
first one would have read, and the position to keep is the number of the step. Of several hosts each makes the
rows of that batch which its devices hold, so their number is no part of that function either. Each epoch is
packed on its own, first-fit in the epoch's order, from the lengths alone: examples are read when their batch
is, but for groups that share prompts. Examples of a group stay in one batch: where the rest of a batch has no
room for all of them, it stays empty and the group begins the next one.

Completions of one prompt that follow each other in a row can share it (`prefix_capacity`): such a row begins
with the prompts' tokens but for their last ones, and each completion comes with that last token, which
predicts its first. A completion sees its prompt and itself, by `prefix_ids`, so that its labels, positions
and log-probabilities are those that it has with a prompt of its own.

Reading ahead is Grain's; its packing is not used, which keeps open rows in the state of each host's iterator.
"""

import array
import bisect
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import grain
import jax
import numpy as np

from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Array, Bool, Float, Int
from promptcot_jax.data.example_sets import ExampleSet
from promptcot_jax.data.examples import TokenExample

READER_THREADS = 2  # one hides the other's wait for the disk; more wait for each other: they only copy ids
BATCHES_AHEAD = 8
_LENGTHS_AT_ONCE = 1 << 16


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """Rows of tokens; a pytree of its arrays."""

    token_ids: Int[Array | np.ndarray, "B T"]
    segment_ids: Int[Array | np.ndarray, "B T"]  # 1, 2, ... within a row; 0 is padding
    positions: Int[Array | np.ndarray, "B T"]  # restart at 0 in each segment
    loss_mask: Bool[Array | np.ndarray, "B T"]  # True: this token is a trained label
    # The examples' `token_values`; 0 where the mask is False.
    values: dict[str, Float[Array | np.ndarray, "B T"]]
    # The segment that a token sees beside its own: a shared prompt's, else its own once more. None: no prompt
    # is shared.
    prefix_ids: Int[Array | np.ndarray, "B T"] | None = None

    def tree_flatten_with_keys(self):
        """The arrays by field name."""
        names = [field.name for field in dataclasses.fields(self)]
        return [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names], None

    @classmethod
    def tree_unflatten(cls, _: None, children: Sequence) -> "PackedBatch":
        """Also holds what is not an array (a sharding, a tracer's stand-in), so nothing is checked here."""
        batch = object.__new__(cls)
        for field, child in zip(dataclasses.fields(cls), children, strict=True):
            object.__setattr__(batch, field.name, child)
        return batch


@runtime_checkable
class BatchSource(Protocol):
    """Batches by step, each a pure function of its step; `PackedEpochs` is one."""

    @property
    def num_steps(self) -> int: ...

    @property
    def rows_per_batch(self) -> int:
        """Rows of a batch, of all hosts together."""
        ...

    @property
    def own_rows(self) -> Sequence[int]:
        """Which of them `batch` gives: those that this host's devices hold."""
        ...

    def batch(self, step: int) -> PackedBatch: ...


@dataclasses.dataclass(frozen=True)
class _EpochPlan:
    """Which examples share a row: row r holds `members[starts[r] : starts[r + 1]]`."""

    members: Int[np.ndarray, " N"]
    starts: Int[np.ndarray, " R"]

    @property
    def num_rows(self) -> int:
        return len(self.starts) - 1

    def row(self, number: int) -> Int[np.ndarray, " M"]:
        """The examples of one row; none beyond the last."""
        if number >= self.num_rows:
            return self.members[:0]
        return self.members[self.starts[number] : self.starts[number + 1]]


class PackedEpochs:
    """`num_epochs` passes over the examples, each in its own order, as batches of `rows_per_batch` rows.

    The last batch of an epoch is filled up with empty rows. With `pack=False` each example has its own row.
    A group of as many examples as a batch has rows always fits; a larger one only if packing makes it fit.
    Examples of one group, in one row and of one prompt share it.
    """

    def __init__(
        self,
        examples: ExampleSet,
        *,
        row_length: int,
        rows_per_batch: int,
        num_epochs: int,
        seed: int,
        pack: bool = True,
        pad_id: int = 0,
        own_rows: Sequence[int] | None = None,
        prefix_capacity: int = 0,
    ):
        """Checks the examples' lengths; nothing is packed before it is asked for.

        Args:
            own_rows: those of a batch's rows that this host wants, where there are several; `batch` then
                gives only those, in this order.
            prefix_capacity: of `pack_rows`, for examples in groups that are packed.

        Raises:
            ValueError: there are no examples, or one exceeds `row_length`.
        """
        if min(row_length, rows_per_batch, num_epochs) < 1:
            raise ValueError(
                "row_length, rows_per_batch and num_epochs must be at least 1, "
                f"got {row_length}, {rows_per_batch} and {num_epochs}."
            )
        if not len(examples):
            raise ValueError("There are no examples to train on.")
        self._examples = examples
        self._lengths = examples.prompt_lengths + examples.completion_lengths
        longest = int(self._lengths.argmax())
        if self._lengths[longest] > row_length:
            raise ValueError(
                f"Example {longest} has {self._lengths[longest]} tokens, a row holds {row_length}; "
                "apply a LengthPolicy first, or use longer rows."
            )
        self._row_length = row_length
        self.rows_per_batch = rows_per_batch
        self.own_rows = range(rows_per_batch) if own_rows is None else own_rows
        self._num_epochs = num_epochs
        self._seed = seed
        self._pack = pack
        self._pad_id = pad_id
        self._prefix_capacity = prefix_capacity if pack and examples.groups is not None else 0

    @functools.cached_property
    def _plans(self) -> list[_EpochPlan]:
        return [self._plan(epoch) for epoch in range(self._num_epochs)]

    @functools.cached_property
    def _first_steps(self) -> list[int]:
        """The step at which each epoch begins, and the total."""
        steps = [-(-plan.num_rows // self.rows_per_batch) for plan in self._plans]
        return [0, *np.cumsum(steps).tolist()]

    def _plan(self, epoch: int) -> _EpochPlan:
        """Packs one epoch; the rows are shuffled, since first-fit leaves the long examples to the last."""
        order, groups = self._examples.order(self._seed, epoch), self._examples.groups
        if groups is not None:
            lengths = self._lengths[order] if self._pack else np.full(len(order), self._row_length)
            run_of = np.arange(len(order))
            if self._prefix_capacity:
                run_of, lengths = self._runs(order)
            first = np.flatnonzero(np.diff(run_of, prepend=-1))
            rows = first_fit_of_groups(lengths, groups[order][first], self._row_length, self.rows_per_batch)
            rows = rows[run_of]
            num_rows = int(rows.max()) + 1
        elif self._pack:
            rows = first_fit(self._lengths[order], self._row_length)
            num_rows = int(rows.max()) + 1
            rows = prng.stream_generator(self._seed, "rows", epoch).permutation(num_rows)[rows]
        else:
            return _EpochPlan(order, np.arange(len(order) + 1))
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_rows))])
        return _EpochPlan(order[np.argsort(rows, kind="stable")], starts)

    def _runs(self, order: Int[np.ndarray, " N"]) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " R"]]:
        """Runs of one prompt, within groups: each example's run, and each run's length.

        Each example is one where the group's runs would not fit in a batch. Reads the examples.
        """
        assert self._examples.groups is not None
        run_of, lengths, num_runs = list[np.ndarray](), list[np.ndarray](), 0
        for _, group in itertools.groupby(order, key=self._examples.groups.__getitem__):
            members = [*group]
            units = [[self._examples[int(i)]] for i in members]
            of_group, found = prompt_runs(
                units, row_length=self._row_length, prefix_capacity=self._prefix_capacity
            )
            if _rows_within([self._row_length] * self.rows_per_batch, found) is None:
                of_group, found = np.arange(len(members)), self._lengths[members]
            run_of.append(num_runs + of_group)
            lengths.append(found)
            num_runs += len(found)
        return np.concatenate(run_of), np.concatenate(lengths)

    @property
    def num_steps(self) -> int:
        """Batches of all epochs together."""
        return self._first_steps[-1]

    @functools.cached_property
    def num_tokens(self) -> int:
        """Tokens of all epochs, prompts included, one for each example also where they are shared."""
        return sum(int(self._lengths[plan.members].sum()) for plan in self._plans)

    @functools.cached_property
    def num_labels(self) -> int:
        """Trained tokens of all epochs."""
        lengths = self._examples.completion_lengths
        return sum(int(lengths[plan.members].sum()) for plan in self._plans)

    @property
    def fill_share(self) -> float:
        """Tokens by positions of all batches; above 1 it may be where prompts are shared."""
        return self.num_tokens / (self.num_steps * self.rows_per_batch * self._row_length)

    def batch(self, step: int) -> PackedBatch:
        """The batch of one step, or this host's rows of it.

        Raises:
            IndexError: the step is not in [0, num_steps).
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"Step {step} is outside the {self.num_steps} steps of these epochs.")
        epoch = bisect.bisect_right(self._first_steps, step) - 1
        plan = self._plans[epoch]
        first_row = (step - self._first_steps[epoch]) * self.rows_per_batch
        return pack_rows(
            [[self._examples[int(i)] for i in plan.row(first_row + row)] for row in self.own_rows],
            num_rows=len(self.own_rows),
            row_length=self._row_length,
            value_names=self._examples.value_names,
            pad_id=self._pad_id,
            prefix_capacity=self._prefix_capacity,
        )


def read_ahead(
    batches: BatchSource, first_step: int = 0, *, num_threads: int = READER_THREADS
) -> Iterator[PackedBatch]:
    """The batches of `first_step` and all later ones, in order, made by threads while the device works.

    Args:
        num_threads: changes nothing but the speed.
    """
    if first_step >= batches.num_steps:
        return iter(())
    steps = grain.MapDataset.range(first_step, batches.num_steps)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=BATCHES_AHEAD)
    return iter(steps.map(batches.batch).to_iter_dataset(options))


def pack_rows(
    rows: Sequence[Sequence[TokenExample]],
    *,
    num_rows: int,
    row_length: int,
    value_names: Sequence[str] = (),
    pad_id: int = 0,
    prefix_capacity: int = 0,
) -> PackedBatch:
    """Lays examples out in rows, one after another; rows that are not given stay empty.

    Args:
        prefix_capacity: within so many tokens of a row's beginning prompts lie that examples share, which
            those of one prompt do that follow each other; 0: each example has its own.
    """
    shape = (num_rows, row_length)
    token_ids = np.full(shape, pad_id, np.int32)
    segment_ids = np.zeros(shape, np.int32)
    positions = np.zeros(shape, np.int32)
    loss_mask = np.zeros(shape, np.bool_)
    prefix_ids = np.zeros(shape, np.int32)
    values: dict[str, Array | np.ndarray] = {}
    for name in value_names:
        values[name] = np.zeros(shape, np.float32)
    for row, row_examples in enumerate(rows):
        spans = row_spans(row_examples, row_length=row_length, prefix_capacity=prefix_capacity)
        for segment, span in enumerate(spans, start=1):
            example, middle = span.example, span.stop - len(span.example.completion_ids)
            here, labels = slice(span.start, span.stop), slice(middle, span.stop)
            token_ids[row, span.start : middle] = example.prompt_ids[span.num_shared :]
            token_ids[row, labels] = example.completion_ids
            segment_ids[row, here] = prefix_ids[row, here] = segment
            positions[row, here] = np.arange(span.num_shared, example.length)
            loss_mask[row, labels] = True
            for name, value in values.items():
                value[row, labels] = example.token_values[name]
        prefixes = {span.prefix_start: span for span in spans if span.num_shared}
        # A token beyond it would not be seen where a kernel reads no further.
        assert all(start + span.num_shared <= prefix_capacity for start, span in prefixes.items())
        for segment, (start, span) in enumerate(prefixes.items(), start=len(spans) + 1):
            here = slice(start, start + span.num_shared)
            token_ids[row, here] = span.example.prompt_ids[: span.num_shared]
            segment_ids[row, here] = prefix_ids[row, here] = segment
            positions[row, here] = np.arange(span.num_shared)
            for reader in spans:
                if reader.num_shared and reader.prefix_start == start:
                    prefix_ids[row, reader.start : reader.stop] = segment
    return PackedBatch(
        token_ids=token_ids,
        segment_ids=segment_ids,
        positions=positions,
        loss_mask=loss_mask,
        values=values,
        prefix_ids=prefix_ids if prefix_capacity else None,
    )


class Span(NamedTuple):
    """Where one example lies in its row."""

    example: TokenExample
    start: int  # of its own tokens: the prompt after those it shares, and the completion
    num_shared: int = 0  # of its prompt, which lie from `prefix_start` on
    prefix_start: int = 0

    @property
    def stop(self) -> int:
        """The end of its completion."""
        return self.start + self.example.length - self.num_shared

    @property
    def predictions(self) -> slice:
        """The positions that predict its completion."""
        return slice(self.stop - 1 - len(self.example.completion_ids), self.stop - 1)


def row_spans(row: Sequence[TokenExample], *, row_length: int, prefix_capacity: int) -> list[Span]:
    """Where the examples of a row lie: first what runs of one prompt share, then each example's own."""
    found, start = list[Span](), 0
    for _, run in itertools.groupby(row, key=_prompt_of):
        members = list(run)
        num_shared = len(members[0].prompt_ids) - 1
        if _shared_length(members, row_length, prefix_capacity) >= _length(members):
            num_shared = 0
        found += [Span(example, 0, num_shared, start) for example in members]
        start += num_shared
    for i, span in enumerate(found):
        found[i] = span._replace(start=start)
        start = found[i].stop
    return found


def prompt_runs(
    units: Sequence[Sequence[TokenExample]], *, row_length: int, prefix_capacity: int
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " R"]]:
    """Cuts units into runs that share a prompt and fit in a row: each unit's run, and each run's length.

    The lengths are for `first_fit`: a row that it fills has no more shared tokens than `prefix_capacity`.

    Args:
        units: each one what must share a row; those of one prompt follow each other.
        prefix_capacity: 0: each unit is a run by itself.
    """
    runs: list[list[Sequence[TokenExample]]] = []
    for unit in units:
        if runs:
            longer = [*itertools.chain(*runs[-1]), *unit]
            if _shared_length(longer, row_length, prefix_capacity) <= row_length:
                runs[-1].append(unit)
                continue
        runs.append([unit])
    counts, lengths = list[int](), list[int]()
    for run in runs:
        examples = [*itertools.chain(*run)]
        shared_length = _shared_length(examples, row_length, prefix_capacity)
        if shared_length < _length(examples):
            counts.append(len(run))
            lengths.append(int(shared_length))
        else:
            counts += [1] * len(run)
            lengths += map(_length, run)
    return np.repeat(np.arange(len(counts)), counts), np.array(lengths, np.int64)


def _prompt_of(example: TokenExample) -> bytes:
    return example.prompt_ids.tobytes()


def _length(examples: Sequence[TokenExample]) -> int:
    return sum(example.length for example in examples)


def _shared_length(run: Sequence[TokenExample], row_length: int, prefix_capacity: int) -> int | float:
    """What examples take of a row if they share a prompt, by tokens or by shared ones; infinity: they cannot.

    They share all of it but the last token, which each one needs as the first of its own.
    """
    num_shared = len(run[0].prompt_ids) - 1
    if num_shared > prefix_capacity or len({*map(_prompt_of, run)}) > 1:
        return math.inf
    length = _length(run) - (len(run) - 1) * num_shared
    return max(length, -(-num_shared * row_length // prefix_capacity)) if num_shared else length


def first_fit(lengths: Sequence[int] | Int[np.ndarray, " N"], capacity: int) -> Int[np.ndarray, " N"]:
    """The row of each length: the first row with room for it, else a new one.

    A binary tree over the rows holds the largest room below each node: a row is found in log2(rows) steps.
    All rows but one are at least half full when a new one is begun, which bounds their number.

    Raises:
        ValueError: a length is greater than the capacity.
    """
    lengths = np.asarray(lengths)
    if len(lengths) and lengths.max() > capacity:
        i = int(lengths.argmax())
        raise ValueError(f"Length {lengths[i]} at {i} is greater than the capacity {capacity}.")
    most_rows = min(len(lengths), 2 * int(lengths.sum()) // capacity + 2)
    num_leaves = 1 << max(most_rows - 1, 0).bit_length()
    # Node i has children 2 i and 2 i + 1; the leaves are the rows. An array, and lengths by the block, since
    # Python's own numbers take ten times the memory.
    room = array.array("i", [capacity]) * (2 * num_leaves)
    rows = np.empty(len(lengths), np.int32)
    for start in range(0, len(lengths), _LENGTHS_AT_ONCE):
        block = lengths[start : start + _LENGTHS_AT_ONCE].tolist()
        rows[start : start + len(block)] = [_take_row(room, num_leaves, length) for length in block]
    return rows


def first_fit_of_groups(
    lengths: Sequence[int] | Int[np.ndarray, " N"],
    groups: Sequence[int] | Int[np.ndarray, " N"],
    capacity: int,
    rows_per_batch: int,
) -> Int[np.ndarray, " N"]:
    """The row of each length, by first fit within batches that hold whole groups.

    Args:
        groups: the number of each length's group; a group's lengths follow each other.

    Raises:
        ValueError: a group does not fit into a batch.
    """
    rows, first_row, room = list[int](), 0, [capacity] * rows_per_batch
    for group, members in itertools.groupby(zip(groups, lengths, strict=True), key=lambda pair: pair[0]):
        of_group = [int(length) for _, length in members]
        found = _rows_within(room, of_group)
        if found is None:  # the next batch
            first_row, room = first_row + rows_per_batch, [capacity] * rows_per_batch
            found = _rows_within(room, of_group)
        if found is None:
            raise ValueError(
                f"The {len(of_group)} examples of group {group} do not fit into a batch of {rows_per_batch} "
                f"rows of {capacity} tokens; use {len(of_group)} rows a batch."
            )
        for row, length in zip(found, of_group, strict=True):
            room[row] -= length
        rows += [first_row + row for row in found]
    return np.array(rows, np.int64)


def _rows_within(room: Sequence[int], lengths: Sequence[int] | Int[np.ndarray, " N"]) -> list[int] | None:
    """First fit into rows with so much room; None where one does not fit."""
    left, rows = list(room), list[int]()
    for length in lengths:
        row = next((row for row, free in enumerate(left) if free >= length), None)
        if row is None:
            return None
        left[row] -= length
        rows.append(row)
    return rows


def _take_row(room: array.array, num_leaves: int, length: int) -> int:
    """The first row with room for this length, which is taken from it."""
    node = 1
    while node < num_leaves:
        node *= 2
        if room[node] < length:
            node += 1
    row, largest = node - num_leaves, room[node] - length
    room[node] = largest
    while node > 1:
        beside = room[node ^ 1]
        node //= 2
        largest = max(largest, beside)
        if room[node] == largest:
            break  # so are all nodes above
        room[node] = largest
    return row
