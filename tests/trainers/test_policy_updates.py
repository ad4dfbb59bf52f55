import collections
import dataclasses
import itertools

import jax
import numpy as np
import pytest
from etils import epath

from promptcot_jax.data import examples
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.sampling import batching
from promptcot_jax.trainers import optimizer, train_step
from promptcot_jax.trainers.grpo import Grpo
from promptcot_jax.trainers.policy_updates import Minibatches, PolicyUpdates, most_rows
from promptcot_jax.trainers.rejection import RejectionSampling
from promptcot_jax.trainers.self_play_config import SelfPlayConfig
from tests.trainers import toy_fit


def _units(sizes):
    """Units of one sequence, each of tokens of its own number; a size is prompt and completion together."""
    return [
        (
            examples.TokenExample(
                prompt_ids=(i,),
                completion_ids=(i,) * (size - 1),
                token_values={"x": (float(i),) * (size - 1)},
            ),
        )
        for i, size in enumerate(sizes, start=1)
    ]


def _source(units, **changes):
    settings = {"num_minibatches": 4, "num_passes": 2, "row_length": 16, "rows_multiple": 1, "seed": 3}
    return Minibatches(units, value_names=("x",), **(settings | changes))


def _members(batch):
    """How often each unit is in a batch, by its number."""
    return collections.Counter(
        int(row[(segments == s).argmax()])
        for row, segments in zip(batch.token_ids, batch.segment_ids, strict=True)
        for s in range(1, segments.max() + 1)
    )


RATE = 1e-2
SIZES = [2, 16, 5, 9, 3, 3, 12, 7, 4, 4, 8, 2, 2]


def test_each_pass_has_each_unit_once_in_an_order_of_its_own():
    source = _source(_units(SIZES))
    assert source.num_steps == 8
    batches = [source.batch(i) for i in range(8)]
    for first in (0, 4):
        together = sum((_members(batch) for batch in batches[first : first + 4]), collections.Counter())
        assert together == dict.fromkeys(range(1, 14), 1)
    assert [_members(b) for b in batches[:4]] != [_members(b) for b in batches[4:]]
    counts = [sum(_members(batch).values()) for batch in batches]
    assert max(counts) - min(counts) <= 1  # equal shares of the units, not of the tokens
    again = _source(_units(SIZES))
    np.testing.assert_array_equal(again.batch(5).token_ids, batches[5].token_ids)
    assert not np.array_equal(_source(_units(SIZES), seed=4).batch(5).token_ids, batches[5].token_ids)


@pytest.mark.parametrize("rows_multiple", [1, 4])
def test_all_batches_have_one_shape_of_few(rows_multiple):
    found = set()
    for seed in range(20):
        source = _source(_units(SIZES), seed=seed, rows_multiple=rows_multiple)
        shapes = {source.batch(i).token_ids.shape for i in range(source.num_steps)}
        assert shapes == {(source.rows_per_batch, 16)}
        assert source.rows_per_batch % rows_multiple == 0
        found.add(source.rows_per_batch // rows_multiple)
    assert all(count == batching.few_counts(count) for count in found)


def test_the_sequences_of_a_unit_share_a_row_in_order():
    units = [
        tuple(
            examples.TokenExample(prompt_ids=(i,), completion_ids=(side,) * n)
            for side, n in ((100, 2), (200, 3))
        )
        for i in range(1, 8)
    ]
    source = Minibatches(
        units, num_minibatches=2, num_passes=1, row_length=20, rows_multiple=1, seed=0, value_names=()
    )
    for step in range(2):
        batch = source.batch(step)
        for row, segments in zip(batch.token_ids, batch.segment_ids, strict=True):
            for s in range(1, segments.max() + 1):
                prompt, side = row[segments == s][:2]
                assert side == (100 if s % 2 else 200)
                partner = row[segments == (s + 1 if s % 2 else s - 1)]
                assert partner[0] == prompt


@pytest.mark.parametrize(
    ("num_units", "num_updates"),
    [(1, 1), (5, 1), (8, 1), (16, 1), (17, 2), (130, 9), (512, 32), (10_000, 625)],
)
def test_an_update_is_of_its_size_however_many_there_are(num_units, num_updates):
    """Never many updates of few: where there are several, each has at least half of what one may have."""
    config = SelfPlayConfig(num_iterations=1, units_per_update=16)
    number = config.num_minibatches(num_units)
    assert number == num_updates
    source = _source(_units([2] * num_units), num_minibatches=number, num_passes=1)
    sizes = [sum(_members(source.batch(i)).values()) for i in range(source.num_steps)]
    assert sum(sizes) == num_units
    assert max(sizes) <= 16
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 8 or num_units < 16


def test_minibatches_without_units_are_refused():
    with pytest.raises(ValueError, match="0 units do not make 4 minibatches"):
        _source([])


def test_places_are_where_a_batch_predicts_the_completions():
    units = [one + other for one, other in itertools.pairwise(_units([5, 2, 7, 4, 6]))]
    source = _source(units, num_minibatches=2, num_passes=1, row_length=24)
    found = []
    for step in range(2):
        batch = source.batch(step)
        for unit, sequence, row, where in source.places(step):
            example = units[unit][sequence]
            after = slice(where.start + 1, where.stop + 1)
            np.testing.assert_array_equal(batch.token_ids[row, after], example.completion_ids)
            assert batch.loss_mask[row, after].all()
            assert not batch.loss_mask[row, where.start]
            found.append((unit, sequence))
    assert sorted(found) == [(unit, sequence) for unit in range(4) for sequence in range(2)]


def _units_of_prompts(num_prompts, num_units, longest=4):
    """Units of two sequences, in another order than their prompts'."""
    generator = np.random.default_rng(0)

    def example(prompt):
        completion = generator.integers(0, 9, generator.integers(1, longest + 1))
        values = {"x": np.zeros(len(completion))}
        return examples.TokenExample(
            prompt_ids=range(prompt, prompt + 5), completion_ids=completion, token_values=values
        )

    found = [(example(p), example(p)) for p in range(num_prompts) for _ in range(num_units)]
    return [found[i] for i in generator.permutation(len(found))]


def test_units_of_a_prompt_are_learned_from_together():
    """In one minibatch, or the last ones of one and the first ones of the next; passes differ."""
    units = _units_of_prompts(num_prompts=9, num_units=5)
    prompts = [int(unit[0].prompt_ids[0]) for unit in units]
    source = _source(units, row_length=64, keeps_prompts_together=True, prefix_capacity=16)
    orders = []
    for first in (0, 4):
        steps = [{unit for unit, *_ in source.places(step)} for step in range(first, first + 4)]
        assert sorted(len(step) for step in steps) == [11, 11, 11, 12]
        assert set().union(*steps) == set(range(45))
        for prompt in range(9):
            found = [i for i, step in enumerate(steps) if any(prompts[unit] == prompt for unit in step)]
            assert found in ([found[0]], [found[0], found[0] + 1])
        orders.append([sorted(prompts[unit] for unit in step) for step in steps])
    assert orders[0] != orders[1]


def test_units_without_advantages_are_dealt_out_whatever_their_prompts():
    """As many prompts an update as shuffled units have; those of one prompt lie side by side in it."""
    units = _units_of_prompts(num_prompts=16, num_units=4)
    prompts = [int(unit[0].prompt_ids[0]) for unit in units]
    counts = {}
    for together in (False, True):
        settings = {"num_passes": 1, "row_length": 640, "prefix_capacity": 160}
        source = _source(units, keeps_prompts_together=together, **settings)
        steps = [[prompts[i] for i, j, *_ in source.places(step) if j == 0] for step in range(4)]
        assert all(len(list(itertools.groupby(step))) == len({*step}) for step in steps)
        counts[together] = [len({*step}) for step in steps]
    assert counts[True] == [4, 4, 4, 4]
    assert min(counts[False]) > 8


@pytest.mark.parametrize("prefix_capacity", [0, 10])
def test_places_of_completions_that_share_a_prompt(prefix_capacity):
    units = _units_of_prompts(num_prompts=4, num_units=3)
    source = _source(units, num_minibatches=2, num_passes=1, row_length=40, prefix_capacity=prefix_capacity)
    for step in range(2):
        batch = source.batch(step)
        for unit, sequence, row, where in source.places(step):
            after, example = slice(where.start + 1, where.stop + 1), units[unit][sequence]
            np.testing.assert_array_equal(batch.token_ids[row, after], example.completion_ids)
            assert batch.token_ids[row, where.start] == example.prompt_ids[-1]
            assert batch.positions[row, where.start] == len(example.prompt_ids) - 1
            assert len({*batch.segment_ids[row, where.start : where.stop + 1]}) == 1


def test_a_host_gets_its_own_rows():
    source = _source(_units(SIZES))
    whole = source.batch(1)
    source.own_rows = [0, source.rows_per_batch - 1]
    np.testing.assert_array_equal(source.batch(1).token_ids, whole.token_ids[source.own_rows])


def test_the_most_rows_are_those_of_units_that_are_all_as_long_as_may_be():
    generator = np.random.default_rng(0)
    for longest in (3, 5, 8, 9, 16):
        for multiple in (1, 4):
            bound = most_rows(7, longest, row_length=16, rows_multiple=multiple)
            sizes = {"num_minibatches": 3, "num_passes": 1, "rows_multiple": multiple}
            assert _source(_units([longest] * 20), **sizes).rows_per_batch == bound
            for _ in range(20):
                units = _units(generator.integers(2, longest + 1, 20).tolist())
                assert _source(units, **sizes).rows_per_batch <= bound


def test_the_most_rows_hold_units_that_share_prompts_too():
    """Runs of three take 51 of 100 places, two of which fit in no row, but four units apart do."""
    generator = np.random.default_rng(0)
    for row_length in (20, 40, 100):
        for _ in range(60):
            num_prompt, longest = generator.integers(1, row_length // 3), row_length // 4
            units = [
                (
                    examples.TokenExample(
                        prompt_ids=[p + 1] * num_prompt,
                        completion_ids=[0] * int(generator.integers(1, longest + 1)),
                        token_values={},
                    ),
                )
                for p in range(12)
                for _ in range(generator.integers(1, 5))
            ]
            of_unit = max(unit[0].length for unit in units)
            source = Minibatches(
                units,
                num_minibatches=1,
                num_passes=1,
                row_length=row_length,
                rows_multiple=1,
                seed=0,
                value_names=(),
                prefix_capacity=row_length // 4,
            )
            bound = most_rows(len(units), of_unit, row_length=row_length, rows_multiple=1)
            assert source.rows_per_batch <= bound
            batch = source.batch(0)
            assert batch.loss_mask.sum() == sum(len(unit[0].completion_ids) for unit in units)
            if batch.prefix_ids is not None:
                is_shared = (batch.segment_ids[:, :, None] == batch.prefix_ids[:, None, :]) & (
                    batch.segment_ids[:, :, None] != batch.segment_ids[:, None, :]
                )
                assert not is_shared[:, row_length // 4 :].any()


@pytest.fixture(scope="module")
def updated(tmp_path_factory):
    """Figures and batches of two iterations of two passes, both over the same units."""
    return _updates_of(tmp_path_factory.mktemp("updated"), [12, 12])


def _updates_of(directory, numbers):
    """Of iterations of so many units, two passes each."""
    lm, mesh, batches = toy_fit.toy_lm(), mesh_lib.make_mesh(mesh_lib.MeshConfig()), []
    config = SelfPlayConfig(num_iterations=len(numbers), units_per_update=6, passes_per_iteration=2)
    step_config = config.step_config(
        RejectionSampling(),
        temperature=1.0,
        optimizer=optimizer.OptimizerConfig(learning_rate=RATE, schedule="cosine", final_fraction=0.0),
        adapter=None,
    )
    step = train_step.make_train_step(lm, step_config, mesh)
    updates = PolicyUpdates(
        lm=lm,
        algorithm=RejectionSampling(),
        config=config,
        step=step,
        row_length=12,
        temperature=1.0,
        pad_id=0,
        directory=epath.Path(directory),
        seed=0,
    )
    place, figures = train_step.TrainStep.place, []

    def watched(self, batch, source):
        batches.append(batch.token_ids)
        return place(self, batch, source)

    with jax.set_mesh(mesh), pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_step.TrainStep, "place", watched)
        state = step.first_state(lm.init(jax.random.key(0)))
        for iteration, number in enumerate(numbers):
            units = [(example,) for example in toy_fit.toy_examples(number)]
            state, of_iteration = updates.update(iteration, units, state, {})
            figures.append(of_iteration)
    return figures, batches


def test_a_cosine_ends_with_the_last_update_however_many_each_iteration_makes(tmp_path):
    """An iteration of 12 units, then one of 5: four updates and two."""
    figures, _ = _updates_of(tmp_path, [12, 5])
    assert [row["updates"] for row in figures] == [4, 2]
    rates = [RATE * (1 + np.cos(np.pi * update / end)) / 2 for update, end in ((3, 8), (5, 6))]
    np.testing.assert_allclose([row["learning_rate"] for row in figures], rates, rtol=1e-5)


def test_a_cosine_ends_with_the_last_pass_of_the_last_iteration(updated):
    figures, _ = updated
    assert [row["updates"] for row in figures] == [4, 4]
    rates = [RATE * (1 + np.cos(np.pi * update / 8)) / 2 for update in (3, 7)]
    np.testing.assert_allclose([row["learning_rate"] for row in figures], rates, rtol=1e-5)


def test_each_iteration_has_orders_of_its_own(updated):
    _, batches = updated
    assert len(batches) == 8
    orders = [tuple(map(tuple, batch.tolist())) for batch in batches]
    assert not {*orders[:4]} & {*orders[4:]}


def test_the_most_updates_of_an_iteration_count_its_passes():
    """One minibatch gone through twice is two updates, the second of which is not on policy."""
    config = SelfPlayConfig(
        num_iterations=1, prompts_per_iteration=4, units_per_update=64, passes_per_iteration=2
    )
    assert config.most_updates(Grpo(), 8) == 2
    assert "old_log_probs" in config.resolved(Grpo(), 8).value_names
    once = dataclasses.replace(config, passes_per_iteration=1)
    assert "old_log_probs" not in once.resolved(Grpo(), 8).value_names
