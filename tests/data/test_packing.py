"""Packed rows: nothing lost, nothing doubled, and a step's batch depends on its number alone."""

import collections
import dataclasses
import time

import jax
import numpy as np
import pytest

from promptcot_jax.data import example_sets, examples, packing


def make_examples(count: int, seed: int = 0, longest: int = 24) -> list[examples.TokenExample]:
    """Random examples whose tokens include id 0."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        prompt, completion = rng.integers(1, longest // 2, 2)
        result.append(
            examples.TokenExample(
                prompt_ids=rng.integers(0, 9, prompt),
                completion_ids=rng.integers(0, 9, completion),
                token_values={"weight": rng.random(completion)},
            )
        )
    return result


def epochs_of(rows: list[examples.TokenExample], **settings) -> packing.PackedEpochs:
    """Epochs over rows in memory."""
    return packing.PackedEpochs(example_sets.Listed(rows), **settings)


def unpack(batch: packing.PackedBatch) -> list[examples.TokenExample]:
    """The examples of a batch, read back by segment, each with the prompt that it sees."""
    found = []
    for row in range(batch.token_ids.shape[0]):
        for segment in range(1, batch.segment_ids[row].max() + 1):
            inside = batch.segment_ids[row] == segment
            np.testing.assert_array_equal(np.diff(np.flatnonzero(inside)), 1)
            if batch.prefix_ids is not None:
                if not batch.loss_mask[row][inside].any():
                    continue  # a prompt that others share
                (prefix,) = {*batch.prefix_ids[row][inside]}
                inside |= batch.segment_ids[row] == prefix
            ids, labels = batch.token_ids[row][inside], batch.loss_mask[row][inside]
            first_label = int(np.argmax(labels))
            assert not labels[:first_label].any()
            assert labels[first_label:].all()
            np.testing.assert_array_equal(batch.positions[row][inside], np.arange(len(ids)))
            found.append(
                examples.TokenExample(
                    prompt_ids=ids[:first_label],
                    completion_ids=ids[first_label:],
                    token_values={
                        name: value[row][inside][first_label:] for name, value in batch.values.items()
                    },
                )
            )
    return found


def content(rows: list[examples.TokenExample]) -> collections.Counter:
    """A multiset of examples."""
    return collections.Counter(
        (tuple(r.prompt_ids), tuple(r.completion_ids), tuple(r.token_values["weight"])) for r in rows
    )


def test_a_small_row_by_hand():
    rows = [
        examples.TokenExample(prompt_ids=(7,), completion_ids=(8, 9), token_values={"weight": (0.5, 2.0)}),
        examples.TokenExample(prompt_ids=(4, 5), completion_ids=(0,), token_values={"weight": (3.0,)}),
    ]
    batch = packing.pack_rows([rows], num_rows=2, row_length=7, value_names=("weight",), pad_id=1)
    np.testing.assert_array_equal(batch.token_ids, [[7, 8, 9, 4, 5, 0, 1], [1] * 7])
    np.testing.assert_array_equal(batch.segment_ids, [[1, 1, 1, 2, 2, 2, 0], [0] * 7])
    np.testing.assert_array_equal(batch.positions, [[0, 1, 2, 0, 1, 2, 0], [0] * 7])
    np.testing.assert_array_equal(batch.loss_mask, [[0, 1, 1, 0, 0, 1, 0], [0] * 7])
    np.testing.assert_array_equal(batch.values["weight"], [[0, 0.5, 2, 0, 0, 3, 0], [0] * 7])


def example_of(prompt, completion):
    return examples.TokenExample(
        prompt_ids=prompt,
        completion_ids=completion,
        token_values={"weight": np.arange(len(completion)) + 1.0},
    )


def test_a_row_that_shares_prompts_by_hand():
    """Both prompts but for their last tokens, then each completion after its prompt's last token."""
    one, other = (1, 2, 3), (4, 5)
    row = [example_of(one, (10, 11)), example_of(one, (12,)), example_of((6,), (13,))]
    row += [example_of(other, (14,)), example_of(other, (15,))]
    batch = packing.pack_rows(
        [row], num_rows=1, row_length=20, value_names=("weight",), pad_id=0, prefix_capacity=10
    )
    rows = [
        (batch.token_ids, [1, 2, 4, 3, 10, 11, 3, 12, 6, 13, 5, 14, 5, 15, 0, 0, 0, 0, 0, 0]),
        (batch.segment_ids, [6, 6, 7, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 0, 0, 0, 0, 0, 0]),
        (batch.prefix_ids, [6, 6, 7, 6, 6, 6, 6, 6, 3, 3, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0]),
        (batch.positions, [0, 1, 0, 2, 3, 4, 2, 3, 0, 1, 1, 2, 1, 2, 0, 0, 0, 0, 0, 0]),
        (batch.loss_mask, [0, 0, 0, 0, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]),
        (batch.values["weight"], [0, 0, 0, 0, 1, 2, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]),
    ]
    for actual, expected in rows:
        np.testing.assert_array_equal(actual, [expected])
    spans = packing.row_spans(row, row_length=20, prefix_capacity=10)
    assert [span.predictions for span in spans] == [
        slice(3, 5),
        slice(6, 7),
        *map(slice, (8, 10, 12), (9, 11, 13)),
    ]


@pytest.mark.parametrize(
    ("prompt", "sizes", "capacity", "counts"),
    [
        (9, [3, 3, 3], 8, [3]),  # 8 + 3 * 4
        (9, [3, 3, 3], 7, [1, 1, 1]),  # one token more than may be shared
        (9, [3, 3, 3], 0, [1, 1, 1]),
        (9, [7, 7, 7, 7], 8, [3, 1]),  # the row has room for 8 + 3 * 8
        (5, [1], 8, [1]),
        (1, [1, 1], 8, [1, 1]),  # nothing to share
        (8, [1, 1], 8, [1, 1]),  # a prompt's place takes more of the row than it saves: 7 * 32 / 8 > 18
    ],
)
def test_runs_share_a_prompt_where_that_saves_something(prompt, sizes, capacity, counts):
    units = [[example_of((1,) * prompt, (2,) * size)] for size in sizes]
    run_of, lengths = packing.prompt_runs(units, row_length=32, prefix_capacity=capacity)
    assert [int(n) for n in np.bincount(run_of)] == counts
    assert len(lengths) == len(counts)
    assert max(lengths) <= 32


def test_rows_hold_every_example_and_no_more_shared_tokens_than_may_be():
    generator = np.random.default_rng(0)
    for capacity in (0, 6, 16, 32):
        units = []
        for _ in range(12):
            prompt, num = generator.integers(1, 50, generator.integers(1, 20)), generator.integers(1, 6)
            for _ in range(num):
                completions = (generator.integers(1, 50, generator.integers(1, 12)) for _ in range(2))
                units.append([example_of(prompt, c) for c in completions][: generator.integers(1, 3)])
        run_of, lengths = packing.prompt_runs(units, row_length=64, prefix_capacity=capacity)
        row_of = packing.first_fit(lengths, 64)[run_of]
        rows = [[] for _ in range(int(row_of.max()) + 1)]
        for unit, row in zip(units, row_of, strict=True):
            rows[row] += unit
        batch = packing.pack_rows(
            rows, num_rows=len(rows), row_length=64, value_names=("weight",), prefix_capacity=capacity
        )
        assert content(unpack(batch)) == content([e for unit in units for e in unit])
        if capacity:
            is_shared = (batch.segment_ids[:, :, None] == batch.prefix_ids[:, None, :]) & (
                batch.segment_ids[:, :, None] != batch.segment_ids[:, None, :]
            )
            assert not is_shared[:, capacity:].any()
            assert is_shared.any()
        assert (batch.prefix_ids is None) == (capacity == 0)


@pytest.mark.parametrize("pack", [True, False])
def test_every_epoch_holds_every_example_once(pack):
    rows = make_examples(101)
    epochs = epochs_of(rows, row_length=32, rows_per_batch=4, num_epochs=3, seed=5, pack=pack)
    batches = [epochs.batch(step) for step in range(epochs.num_steps)]
    assert content([e for batch in batches for e in unpack(batch)]) == content(rows * 3)
    assert sum(int((batch.segment_ids > 0).sum()) for batch in batches) == epochs.num_tokens
    assert sum(int(batch.loss_mask.sum()) for batch in batches) == epochs.num_labels
    assert {batch.token_ids.shape for batch in batches} == {(4, 32)}
    one = epochs_of(rows, row_length=32, rows_per_batch=4, num_epochs=1, seed=5, pack=pack)
    assert content([e for step in range(one.num_steps) for e in unpack(one.batch(step))]) == content(rows)


def test_without_packing_a_row_holds_one_example():
    epochs = epochs_of(make_examples(10), row_length=32, rows_per_batch=4, num_epochs=2, seed=0, pack=False)
    assert epochs.num_steps == 6
    last = epochs.batch(2)
    np.testing.assert_array_equal(last.segment_ids.max(axis=1), [1, 1, 0, 0])  # filled up with empty rows
    assert not last.loss_mask[2:].any()


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[examples.TokenExample]:
        epochs = epochs_of(
            make_examples(40), row_length=32, rows_per_batch=40, num_epochs=2, seed=seed, pack=False
        )
        return unpack(epochs.batch(epoch))

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_any_step_can_be_asked_for_first():
    rows = make_examples(60)
    settings = {"row_length": 32, "rows_per_batch": 3, "num_epochs": 3, "seed": 9}
    whole = epochs_of(rows, **settings)
    run = [whole.batch(step) for step in range(whole.num_steps)]
    for step in (whole.num_steps - 1, 7, 0):
        resumed = epochs_of(rows, **settings).batch(step)
        jax.tree.map(np.testing.assert_array_equal, resumed, run[step])
    # A longer run begins with the same steps.
    more = epochs_of(rows, **(settings | {"num_epochs": 4}))
    jax.tree.map(np.testing.assert_array_equal, more.batch(whole.num_steps - 1), run[-1])


def test_fill_share_counts_every_position():
    epochs = epochs_of(make_examples(300), row_length=64, rows_per_batch=5, num_epochs=2, seed=0)
    batches = [epochs.batch(step) for step in range(epochs.num_steps)]
    filled = np.mean([batch.segment_ids > 0 for batch in batches])
    assert epochs.fill_share == pytest.approx(filled)
    loose = epochs_of(make_examples(300), row_length=64, rows_per_batch=5, num_epochs=2, seed=0, pack=False)
    assert loose.fill_share < 0.25 < 0.9 < epochs.fill_share


def naive_first_fit(lengths, capacity):
    """The definition."""
    room, rows = [], []
    for length in lengths:
        row = next((r for r, free in enumerate(room) if free >= length), None)
        if row is None:
            room.append(capacity)
            row = len(room) - 1
        room[row] -= length
        rows.append(row)
    return rows


@pytest.mark.parametrize("pack", [True, False])
def test_a_group_stays_in_one_batch(pack):
    """Groups of one to four examples, in batches of four rows."""
    sizes = np.random.default_rng(2).integers(1, 5, 40)
    of_group = np.repeat(np.arange(40), sizes)
    rows = [
        dataclasses.replace(row, prompt_ids=[*row.prompt_ids, 100 + group], group=int(group))
        for row, group in zip(make_examples(len(of_group)), of_group, strict=True)
    ]
    epochs = epochs_of(rows, row_length=26, rows_per_batch=4, num_epochs=2, seed=3, pack=pack)
    batches = [unpack(epochs.batch(step)) for step in range(epochs.num_steps)]
    assert content([row for batch in batches for row in batch]) == content(rows * 2)
    groups = [[int(row.prompt_ids[-1]) - 100 for row in batch] for batch in batches]
    half = next(i for i in range(len(groups)) if sum(map(len, groups[:i])) == len(rows))
    for of_epoch in (groups[:half], groups[half:]):
        assert sum(len(set(batch)) for batch in of_epoch) == 40
    orders = [list(dict.fromkeys(sum(of_epoch, []))) for of_epoch in (groups[:half], groups[half:])]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == list(range(40)) != orders[0]
    if pack:
        filled = sum(epochs.batch(step).loss_mask.any(axis=1).sum() for step in range(epochs.num_steps))
        assert filled < 2 * len(rows)  # several examples share a row


def test_examples_of_a_group_share_their_prompt():
    """Rows are fewer, and hold what they held; a group of two prompts shares neither."""
    of_group = np.repeat(np.arange(30), 4)
    rows = [
        dataclasses.replace(row, prompt_ids=[*range(7), 100 + group + (group == 3) * i % 2], group=int(group))
        for i, (row, group) in enumerate(zip(make_examples(120), of_group, strict=True))
    ]
    settings = {"row_length": 48, "rows_per_batch": 4, "num_epochs": 2, "seed": 3}
    plain, shared = (epochs_of(rows, prefix_capacity=capacity, **settings) for capacity in (0, 12))
    assert shared.num_steps < plain.num_steps
    for epochs in (plain, shared):
        batches = [unpack(epochs.batch(step)) for step in range(epochs.num_steps)]
        assert content([row for batch in batches for row in batch]) == content(rows * 2)
        groups = [{int(row.prompt_ids[-1]) for row in batch} for batch in batches]
        assert sum(map(len, groups)) == 2 * 31  # none is in two batches
    assert plain.batch(0).prefix_ids is None
    assert (shared.batch(0).prefix_ids != shared.batch(0).segment_ids).any()
    loose = epochs_of(rows, prefix_capacity=12, pack=False, **settings)
    assert loose.batch(0).prefix_ids is None
    alone = [dataclasses.replace(row, group=None) for row in rows]
    assert epochs_of(alone, prefix_capacity=12, **settings).batch(0).prefix_ids is None


def test_examples_that_a_run_did_not_join_share_only_where_that_takes_less_of_a_row():
    """Else prompts of lone pairs would fill more of a row's beginning than a kernel reads."""
    pairs = [example_of((prompt,) * 5, (9,)) for prompt in (1, 1, 2, 2, 3, 3)]  # 4 * 40 / 5 > 12
    spans = packing.row_spans(pairs, row_length=40, prefix_capacity=5)
    assert [span.num_shared for span in spans] == [0] * 6
    middle = [example_of((prompt,) * 5, (9,) * 9) for prompt in (1, 2, 1)]
    run_of, lengths = packing.prompt_runs([middle, middle], row_length=90, prefix_capacity=30)
    assert run_of.tolist() == [0, 1]
    assert lengths.tolist() == [42, 42]


def test_groups_of_one_prompt_are_packed_each_by_itself():
    """Two groups of one prompt, four examples each, which fill a batch; together they would not be cut."""
    rows = [
        dataclasses.replace(row, prompt_ids=range(9), group=i // 4) for i, row in enumerate(make_examples(8))
    ]
    epochs = epochs_of(rows, row_length=64, rows_per_batch=4, num_epochs=1, seed=0, prefix_capacity=16)
    run_of, _ = epochs._runs(np.arange(8))
    assert run_of[3] < run_of[4]


def test_a_group_whose_runs_do_not_fit_is_packed_without():
    """50 + 50 and 60 + 40 fill two rows of 100; runs in order are 50, 60 and 50 + 40 less a token."""
    rows = [
        examples.TokenExample(
            prompt_ids=(1, 2),
            completion_ids=(3,) * (size - 2),
            token_values={"weight": (1.0,) * (size - 2)},
            group=0,
        )
        for size in (50, 60, 50, 40)
    ]
    for capacity in (0, 25):
        epochs = epochs_of(
            rows, row_length=100, rows_per_batch=2, num_epochs=1, seed=0, prefix_capacity=capacity
        )
        assert epochs.num_steps == 1
        assert content(unpack(epochs.batch(0))) == content(rows)


def test_groups_by_hand():
    """Rows of 10, two a batch: a and b fill one, c leaves a hole and has the next, d fits beside it."""
    lengths, groups = [6, 6, 4, 4, 4, 6, 6, 4], [7, 7, 3, 3, 9, 9, 9, 1]
    with pytest.raises(ValueError, match="The 3 examples of group 9 do not fit into a batch of 1 rows"):
        packing.first_fit_of_groups(lengths[4:], groups[4:], 10, 1)
    rows = packing.first_fit_of_groups(lengths, groups, 10, 2)
    assert rows.tolist() == [0, 1, 0, 1, 2, 2, 3, 3]
    assert packing.first_fit_of_groups([4, 8, 8, 4], [0, 1, 1, 2], 10, 2).tolist() == [0, 2, 3, 4]


@pytest.mark.parametrize("count", [1, 2, 3, 64, 257])
def test_first_fit_agrees_with_its_definition(count):
    lengths = np.random.default_rng(count).integers(1, 31, count)
    assert packing.first_fit(lengths, 30).tolist() == naive_first_fit(lengths.tolist(), 30)


def test_twenty_thousand_examples_are_planned_in_a_moment():
    lengths = np.random.default_rng(0).integers(50, 500, 20_000)
    start = time.process_time()
    packing.first_fit(lengths, 512)
    assert time.process_time() - start < 2.0


def test_a_batch_is_a_pytree_that_holds_anything():
    batch = packing.pack_rows([make_examples(1)], num_rows=1, row_length=32, value_names=("weight",))
    names = jax.tree.map(lambda leaf: leaf.dtype.name, batch)
    assert isinstance(names, packing.PackedBatch)
    assert (names.token_ids, names.loss_mask, names.values["weight"]) == ("int32", "bool", "float32")
    on_device = jax.jit(lambda b: b)(batch)
    jax.tree.map(np.testing.assert_array_equal, on_device, batch)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(batch)]
    assert paths == [".token_ids", ".segment_ids", ".positions", ".loss_mask", ".values['weight']"]


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([], {}, "no examples"),
        (make_examples(3), {"row_length": 1}, "a row holds 1"),
        (make_examples(3), {"num_epochs": 0}, "at least 1"),
    ],
)
def test_wrong_settings_are_refused(rows, changes, message):
    settings = {"row_length": 32, "rows_per_batch": 2, "num_epochs": 1, "seed": 0} | changes
    with pytest.raises(ValueError, match=message):
        epochs_of(rows, **settings)


def test_a_step_outside_the_run_is_refused():
    epochs = epochs_of(make_examples(3), row_length=32, rows_per_batch=2, num_epochs=1, seed=0)
    for step in (-1, epochs.num_steps):
        with pytest.raises(IndexError):
            epochs.batch(step)


@pytest.mark.parametrize("num_hosts", [2, 4])
def test_hosts_share_the_rows_of_each_batch(num_hosts):
    rows = make_examples(101)
    settings = {"row_length": 32, "rows_per_batch": 4, "num_epochs": 2, "seed": 5}
    whole = epochs_of(rows, **settings)
    shares = np.split(np.arange(4), num_hosts)
    hosts = [epochs_of(rows, own_rows=share.tolist(), **settings) for share in shares]
    for step in range(whole.num_steps):
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *(host.batch(step) for host in hosts))
        jax.tree.map(np.testing.assert_array_equal, joined, whole.batch(step))


@pytest.mark.parametrize("num_threads", [1, 7])
def test_reading_ahead_gives_the_batches_in_order_from_any_step(num_threads):
    epochs = epochs_of(make_examples(60), row_length=32, rows_per_batch=3, num_epochs=3, seed=9)
    for first in (0, 5, epochs.num_steps):
        read = list(packing.read_ahead(epochs, first, num_threads=num_threads))
        assert len(read) == epochs.num_steps - first
        for step, batch in enumerate(read, start=first):
            jax.tree.map(np.testing.assert_array_equal, batch, epochs.batch(step))
