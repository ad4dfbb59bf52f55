"""What the feature converters share: rows laid out by `packing`, so that the package has one layout.

A converter collects `window` elements and gives out the rows that `packing.first_fit` and `packing.pack_rows`
make of them, as the trainers' own batches are made. Rows come in the order in which first-fit opened them.
The price of windows is the last few rows of each, which may stay open; 1,024 examples leave little of it.

What is too long for a row is refused by name, dropped or cut, as `overlong` says, and counted. seqio cuts
before that: `Task.get_dataset` trims every feature to `task_feature_lengths` without a word, and a converter
never sees the whole. So either seqio is told not to (`trim_output_features=False`, in T5X a field of
`DatasetConfig`; or lengths of None, with the converter's `row_length`), or the task refuses such rows while
they are whole (`length_filter.within_lengths` as its last preprocessor, as this package's tasks do). Where
neither is done, an example just as long as a limit may have been cut: these are counted, and a warning tells.
"""

import abc
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import packing
from promptcot_jax.data.example_sets import Overlong
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.data.packing import PackedBatch
from promptcot_jax.data.seqio import windows
from promptcot_jax.data.seqio.windows import Element

log = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True)
class RowCounts:
    """What a converter has laid out since its latest pass over a data set began."""

    elements: int = 0  # examples, pairs or groups read
    dropped_overlong: int = 0
    cut: int = 0  # elements of which at least one completion lost its end
    at_limit: int = 0  # elements with a feature as long as seqio lets it be: maybe cut by seqio
    rows: int = 0
    tokens: int = 0
    positions: int = 0

    @property
    def fill_share(self) -> float:
        """Share of the positions of all rows that hold a token; nan before the first row."""
        return self.tokens / self.positions if self.positions else float("nan")


class RowConverter(seqio.FeatureConverter):
    """Base of the converters; a subclass says which examples an element holds and which fields rows have.

    `counts` and `fill_share` tell of the latest pass (use a converter for one data set at a time); both are
    logged after the first window and at the end.
    """

    VALUE_NAMES: tuple[str, ...] = ()  # token values that `_examples` sets
    PACKING_FEATURE_DTYPES = {}

    def __init__(
        self,
        *,
        pack: bool,
        pad_id: int = 0,
        row_length: int | None = None,
        overlong: Overlong = "error",
        window: int = 1024,
        use_custom_packing_ops: bool = False,
    ):
        """Settings of every converter.

        Args:
            pad_id: what fills rows up; padding is told by segment ids, not by this id.
            row_length: None takes what `task_feature_lengths` add up to.
            overlong: what an element does that is longer than a row.
            window: elements laid out together; more fill rows better and take more memory.
            use_custom_packing_ops: T5X passes it; there are none here.

        Raises:
            ValueError: a setting is out of range.
        """
        if use_custom_packing_ops:
            raise ValueError("use_custom_packing_ops must be False: rows are laid out by data.packing.")
        if overlong not in ("error", "drop", "truncate"):
            raise ValueError(f"overlong must be 'error', 'drop' or 'truncate', got {overlong!r}.")
        if window < 1 or (row_length is not None and row_length < 2):
            raise ValueError(
                f"window must be at least 1 and row_length at least 2, got {window} and {row_length}."
            )
        # seqio's length check would refuse, unnamed, what `overlong` decides on.
        super().__init__(pack=pack, apply_length_check=False)
        self._pad_id = pad_id
        self._row_length = row_length
        self._overlong: Overlong = overlong
        self._window = window
        self.counts = RowCounts()

    @property
    def fill_share(self) -> float:
        """Share of the positions of the rows so far that hold a token."""
        return self.counts.fill_share

    @abc.abstractmethod
    def _examples(self, element: Element) -> Sequence[TokenExample]:
        """The sequences of one element, kept, dropped or cut together."""

    @abc.abstractmethod
    def _fields(self, batch: PackedBatch, elements: Sequence[Element]) -> Mapping[str, np.ndarray]:
        """The model features of a window's rows; `elements` are those that were kept."""

    @abc.abstractmethod
    def _shapes(self, row_length: int) -> Mapping[str, tuple[int, ...]]:
        """The shape of each model feature of one output element."""

    def _natural_row_length(self, lengths: Mapping[str, int]) -> int:
        return lengths["inputs"] + lengths["targets"]

    def row_length(self, task_feature_lengths: Mapping[str, Any]) -> int:
        """Positions of a row.

        Raises:
            WrongUse: the lengths do not say it and `row_length` was not set, or a length is no number.
        """
        for name, length in task_feature_lengths.items():
            if length is not None and not isinstance(length, int):
                raise WrongUse(
                    f"task_feature_lengths['{name}'] = {length!r} must be one number: with several, seqio "
                    "cuts each part of the feature without a word."
                )
        if self._row_length is not None:
            return self._row_length
        lengths = {name: length for name, length in task_feature_lengths.items() if length is not None}
        if len(lengths) < len(task_feature_lengths):
            unset = sorted(task_feature_lengths.keys() - lengths.keys())
            raise WrongUse(f"task_feature_lengths of {unset} are None: set row_length of the converter.")
        return self._natural_row_length(lengths)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, Any]) -> Mapping[str, int]:
        """The last axis of every field: the length of a row, or the size of a group."""
        shapes = self._shapes(self.row_length(task_feature_lengths))
        return {name: shape[-1] for name, shape in shapes.items()}

    def _convert_features(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, Any]
    ) -> tf.data.Dataset:
        row_length = self.row_length(task_feature_lengths)
        shapes = self._shapes(row_length)
        dtypes = {name: spec.dtype for name, spec in self.MODEL_FEATURES.items()}
        dtypes |= self.PACKING_FEATURE_DTYPES if self.pack else {}
        return windows.map_windows(
            ds,
            lambda elements: self._lay_out(elements, row_length, task_feature_lengths),
            features=[*self.TASK_FEATURES, *(["id"] if "id" in windows.spec_of(ds) else [])],
            outputs={name: (dtype, shapes[name]) for name, dtype in dtypes.items()},
            window=self._window,
            at_end=self._report,
        )

    def _lay_out(
        self, elements: Sequence[Element], row_length: int, limits: Mapping[str, int | None]
    ) -> Mapping[str, np.ndarray]:
        """The rows of one window."""
        is_first = elements[0]["index"] == 0
        if is_first:
            self.counts = RowCounts()
        kept: list[Element] = []
        examples: list[TokenExample] = []
        for element in elements:
            group = self._fitted(element, row_length)
            if group is not None:
                kept.append(element)
                examples.extend(group)
        rows = _first_fit(examples, row_length) if self.pack else [[example] for example in examples]
        batch = packing.pack_rows(
            rows,
            num_rows=len(rows),
            row_length=row_length,
            value_names=self.VALUE_NAMES,
            pad_id=self._pad_id,
        )
        self.counts.elements += len(elements)
        self.counts.at_limit += sum(self._is_at_limit(element, limits) for element in elements)
        self.counts.rows += len(rows)
        self.counts.tokens += sum(example.length for example in examples)
        self.counts.positions += len(rows) * row_length
        if is_first:
            log.info("first window of %s: %s", type(self).__name__, self._summary())
        return self._fields(batch, kept)

    def _fitted(self, element: Element, row_length: int) -> Sequence[TokenExample] | None:
        """The examples of an element as they go into rows; None: the element is dropped."""
        try:
            group = self._examples(element)
        except (ValueError, WrongUse) as error:
            raise WrongUse(f"{windows.name_of(element)}: {error}") from None
        longest = max(group, key=lambda example: example.length)
        if longest.length <= row_length:
            return group
        if self._overlong == "error":
            raise WrongUse(
                f"{windows.name_of(element)} has {longest.length} tokens, a row holds {row_length}; "
                "use longer rows, or set overlong to 'drop' or 'truncate'."
            )
        if self._overlong == "truncate" and len(longest.prompt_ids) < row_length:
            self.counts.cut += 1
            return [example.cut(row_length - len(example.prompt_ids)) for example in group]
        self.counts.dropped_overlong += 1
        return None

    def _is_at_limit(self, element: Element, limits: Mapping[str, int | None]) -> bool:
        """Whether a feature of tokens is as long as seqio lets it be."""
        return any(
            spec.rank == 1 and spec.dtype == tf.int32 and len(element[name]) == limits[name]
            for name, spec in self.TASK_FEATURES.items()
        )

    def _report(self) -> None:
        """Logs the counts at the end of a pass."""
        log.info("end of a pass of %s: %s", type(self).__name__, self._summary())
        if self.counts.at_limit:
            log.warning(
                "%d examples have a feature just as long as the length where seqio cuts; in case it did, end "
                "the task in length_filter.within_lengths, or set trim_output_features to False.",
                self.counts.at_limit,
            )

    def _summary(self) -> str:
        return f"{self.fill_share:.1%} of the positions hold a token, {self.counts}"


def _first_fit(examples: Sequence[TokenExample], row_length: int) -> list[list[TokenExample]]:
    """Which examples share a row."""
    if not examples:
        return []
    places = packing.first_fit([example.length for example in examples], row_length)
    rows: list[list[TokenExample]] = [[] for _ in range(int(places.max()) + 1)]
    for example, place in zip(examples, places.tolist(), strict=True):
        rows[place].append(example)
    return rows
