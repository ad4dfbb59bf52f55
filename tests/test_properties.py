"""Equalities that hold for all inputs, tried by hypothesis: packing, paging, grading, records on disk.

The examples of each run are the same (`derandomize`), so that a failure is a failure everywhere.
"""

import collections
import dataclasses
import fractions
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from promptcot_jax.core import jsonl, records
from promptcot_jax.data import example_sets, examples, packing
from promptcot_jax.sampling import scheduler
from promptcot_jax.verify import math_answers

TRIED = settings(
    derandomize=True, deadline=None, max_examples=60, database=None, suppress_health_check=list(HealthCheck)
)
LENGTHS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=30)


def numbered(lengths: list[tuple[int, int]]) -> list[examples.TokenExample]:
    """Examples of these lengths of prompt and completion, each token of all a number of its own."""
    ids, found = iter(range(10**6)), []
    for prompt, completion in lengths:
        prompt_ids = [next(ids) for _ in range(prompt)]
        completion_ids = [next(ids) for _ in range(completion)]
        found.append(examples.TokenExample(prompt_ids=prompt_ids, completion_ids=completion_ids))
    return found


def segments_of(batch: packing.PackedBatch) -> list[tuple[tuple[int, ...], tuple[bool, ...]]]:
    """Token ids and loss mask of each segment of a batch, whose positions must count from 0."""
    found = []
    for row in range(batch.token_ids.shape[0]):
        for segment in range(1, int(batch.segment_ids[row].max()) + 1):
            inside = np.flatnonzero(batch.segment_ids[row] == segment)
            assert batch.positions[row][inside].tolist() == list(range(len(inside)))
            mask = tuple(bool(label) for label in batch.loss_mask[row][inside])
            found.append((tuple(int(token) for token in batch.token_ids[row][inside]), mask))
    return found


@TRIED
@given(lengths=LENGTHS, rows_per_batch=st.integers(1, 4), seed=st.integers(0, 9), more=st.integers(0, 20))
def test_packed_and_unpacked_rows_hold_the_same_examples_once(lengths, rows_per_batch, seed, more):
    rows = numbered(lengths)
    wanted = collections.Counter(
        (
            (*row.prompt_ids, *row.completion_ids),
            (False,) * len(row.prompt_ids) + (True,) * len(row.completion_ids),
        )
        for row in rows
    )
    for pack in (True, False):
        epochs = packing.PackedEpochs(
            example_sets.Listed(rows),
            row_length=18 + more,
            rows_per_batch=rows_per_batch,
            num_epochs=2,
            seed=seed,
            pack=pack,
        )
        batches = [epochs.batch(step) for step in range(epochs.num_steps)]
        found = collections.Counter(segment for batch in batches for segment in segments_of(batch))
        assert found == collections.Counter({key: 2 * count for key, count in wanted.items()})
        for batch in batches:
            assert batch.token_ids.shape == (rows_per_batch, 18 + more)
            assert not batch.loss_mask[batch.segment_ids == 0].any()


@TRIED
@given(lengths=st.lists(st.integers(0, 12), max_size=60), capacity=st.integers(12, 30))
def test_each_length_is_in_the_first_row_that_had_room(lengths, capacity):
    room = collections.defaultdict(lambda: capacity)
    for length, row in zip(lengths, packing.first_fit(lengths, capacity).tolist(), strict=True):
        assert row == next(i for i in range(len(lengths) + 1) if room[i] >= length)
        room[row] -= length


class Paging(RuleBasedStateMachine):
    """Any order of prompts that come and go: a page has one owner, and none is lost."""

    PAGES, SIZE = 9, 2

    def __init__(self):
        super().__init__()
        self.allocator = scheduler.BlockAllocator(self.PAGES, self.SIZE)
        self.in_use: list[tuple[tuple[int, ...], list[scheduler.Block]]] = []
        self.own: list[int] = []

    @rule(prompt=st.lists(st.integers(0, 1), max_size=9).map(tuple))
    def use(self, prompt):
        wanted, available = self.allocator.num_to_take(prompt), self.allocator.num_available
        taken = self.allocator.use_blocks(prompt)
        assert (taken is not None) == (wanted <= available)
        if taken is not None:
            blocks, new_blocks = taken
            assert sum((block.token_ids for block in blocks), ()) == prompt
            for block in new_blocks:
                block.is_read = True
            self.in_use.append((prompt, blocks))

    @precondition(lambda self: self.in_use)
    @rule(data=st.data())
    def release(self, data):
        _, blocks = self.in_use.pop(data.draw(st.integers(0, len(self.in_use) - 1)))
        self.allocator.release_blocks(blocks)

    @rule()
    def take(self):
        available = self.allocator.num_available
        page = self.allocator.take_page()
        assert (page is None) == (available == 0)
        if page is not None:
            self.own.append(page)

    @precondition(lambda self: self.own)
    @rule(data=st.data())
    def give_back(self, data):
        self.allocator.give_back([self.own.pop(data.draw(st.integers(0, len(self.own) - 1)))])

    @invariant()
    def a_page_has_one_owner(self):
        shared = {block.page: block for _, blocks in self.in_use for block in blocks}
        for _, blocks in self.in_use:
            assert all(shared[block.page] is block for block in blocks)
        assert len({*shared, *self.own}) == len(shared) + len(self.own)
        assert self.allocator.num_available == self.PAGES - 1 - len(shared) - len(self.own)

    def teardown(self):
        for _, blocks in self.in_use:
            self.allocator.release_blocks(blocks)
        self.allocator.give_back(self.own)
        assert self.allocator.num_available == self.PAGES - 1


test_pages = Paging.TestCase
test_pages.settings = settings(TRIED, stateful_step_count=30)

NUMBERS = st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=99)


def written(value: fractions.Fraction, form: int) -> str:
    """One of the ways to write a number."""
    sign, top, bottom = "-" if value < 0 else "", abs(value.numerator), value.denominator
    plain = f"{sign}{top}" if bottom == 1 else f"{sign}{top}/{bottom}"
    doubled = f"{sign}\\frac{{{2 * top}}}{{{2 * bottom}}}"
    return (plain, f"{sign}\\frac{{{top}}}{{{bottom}}}", doubled, f"$ {plain} $", f"\\boxed{{{plain}}}")[form]


@TRIED
@given(one=NUMBERS, other=NUMBERS, forms=st.tuples(st.integers(0, 4), st.integers(0, 4)))
def test_numbers_are_equal_by_value_in_every_writing_and_both_ways_round(one, other, forms):
    first, second, again = written(one, forms[0]), written(other, forms[1]), written(one, forms[1])
    assert math_answers.grade_math(first, again)
    assert math_answers.grade_math(again, first)
    assert math_answers.grade_math(first, second) == (one == other) == math_answers.grade_math(second, first)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXTS | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)
RECORDS = [
    found
    for found in vars(records).values()
    if dataclasses.is_dataclass(found) and not {"args", "expected"} & set(jsonl.type_hints(found))
]


CALL_TESTS = st.fixed_dictionaries(
    {"function": TEXTS, "args": st.lists(VALUES, max_size=3).map(tuple), "expected": VALUES}
)
st.register_type_strategy(str, TEXTS)
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))


def fields_of(record_type: type) -> st.SearchStrategy[dict[str, object]]:
    """Values of a record's fields; finite floats, since JSON has no others and the writer refuses them."""
    hints = jsonl.type_hints(record_type)
    of_fields = {name: st.from_type(hint) for name, hint in hints.items()}
    if "id" in of_fields:
        of_fields["id"] = TEXTS.filter(bool)  # the reader names a row without one
    if "tests" in of_fields:
        one = st.builds(records.StdioTest, input=TEXTS, output=TEXTS)
        of_fields["tests"] = st.lists(one, max_size=3).map(tuple)
    return st.fixed_dictionaries(of_fields)


# The checks of types that the tests switch on look at a random item of a list, of nested records too.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize("record_type", RECORDS, ids=lambda record_type: record_type.__name__)
def test_a_record_is_read_as_it_was_written(record_type):
    @settings(TRIED, max_examples=10)
    @given(fields=fields_of(record_type))
    def check(fields):
        record = record_type(**fields)
        line = jsonl.to_line(record)
        assert "\n" not in line
        assert jsonl.record_from_row(record_type, json.loads(line), where="t.jsonl:1") == record

    check()


@TRIED
@given(fields=CALL_TESTS)
def test_values_of_tests_keep_their_types(fields):
    test = records.CallTest(**fields)
    read = jsonl.record_from_row(records.CallTest, json.loads(jsonl.to_line(test)), where="t.jsonl:1")
    assert read == test
    assert list(map(_types, (*read.args, read.expected))) == list(map(_types, (*test.args, test.expected)))


def _types(value: object) -> object:
    """The types of a value, inside containers too: True equals 1, which a test must tell apart."""
    if isinstance(value, dict):
        return [(_types(key), _types(item)) for key, item in value.items()]
    inner = [_types(item) for item in value] if isinstance(value, list | tuple) else []
    return type(value), inner


def test_every_kind_of_record_is_tried():
    assert len(RECORDS) > 15
    with pytest.raises(ValueError, match="not JSON compliant"):
        jsonl.to_line({"score": float("nan")})
