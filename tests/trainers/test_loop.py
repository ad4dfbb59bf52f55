import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.core.errors import Interrupted
from promptcot_jax.data import example_sets, packing
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.sampling import generation
from promptcot_jax.sampling.token_choice import SamplingConfig
from promptcot_jax.trainers import loop, metrics, nonfinite_batches, optimizer, sft
from promptcot_jax.trainers.watching import WatchConfig
from tests.trainers import toy_fit


def _rows(directory, *, wall_time=False):
    rows = [json.loads(line) for line in (directory / metrics.FILE).read_text().splitlines()]
    dropped = () if wall_time else metrics.WALL_TIME_FIELDS
    return [{name: value for name, value in row.items() if name not in dropped} for row in rows]


def _assert_equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


class Interruption(Exception):
    """Stands for whatever ends a run."""


def _interrupt():
    raise Interruption


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The toy's fit without interruption: final state and directory."""
    directory = tmp_path_factory.mktemp("straight")
    return toy_fit.fit(directory), directory


def test_rows_at_logged_evaluated_and_saved_steps_hold_the_window_since_the_last(straight):
    _, directory = straight
    rows = _rows(directory, wall_time=True)
    assert [row["step"] for row in rows] == [3, 4, 6, 8, 9, 12]  # every 3, 4 and 6 steps
    assert [row["step"] for row in rows if "eval/nll" in row] == [6, 12]
    batches = toy_fit.toy_batches()
    labels = [int(batches.batch(step).loss_mask.sum()) for step in range(batches.num_steps)]
    assert [row["labels"] for row in rows] == [
        sum(labels[a:b]) for a, b in zip([0, 3, 4, 6, 8, 9], [3, 4, 6, 8, 9, 12], strict=True)
    ]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(set(seconds))


def test_the_loss_of_a_window_is_per_label_over_all_its_steps(straight, tmp_path):
    _, directory = straight
    toy_fit.fit(tmp_path, config=dataclasses.replace(toy_fit.CONFIG, log_every=1))
    totals = np.array([row["loss"] * row["labels"] for row in _rows(tmp_path)])
    labels = np.array([row["labels"] for row in _rows(tmp_path)])
    start = 0
    for row in _rows(directory):
        window = slice(start, row["step"])
        assert row["loss"] == pytest.approx(totals[window].sum() / labels[window].sum(), rel=1e-9)
        start = row["step"]


@pytest.mark.parametrize("step", [2, 5, 8, 11])
def test_resumed_equals_uninterrupted(straight, tmp_path, step):
    state, directory = straight
    with pytest.raises(Interruption):
        toy_fit.fit(tmp_path, toy_fit.FailingAt(toy_fit.toy_batches(), step, _interrupt))
    _assert_equal(toy_fit.fit(tmp_path), state)
    assert _rows(tmp_path) == _rows(directory)


def test_sigterm_ends_a_fit_at_a_row_with_a_checkpoint(straight, tmp_path):
    """Of step 3 or 6, where none is due: a window is never cut in two."""
    state, directory = straight
    batches = toy_fit.FailingAt(toy_fit.toy_batches(), 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    config = dataclasses.replace(toy_fit.CONFIG, checkpoint_every=100)
    with pytest.raises(Interrupted, match="after step [369] of 12 for SIGTERM, with a checkpoint"):
        toy_fit.fit(tmp_path, batches, config=config)
    last = _rows(tmp_path)[-1]["step"]
    assert (tmp_path / loop.CHECKPOINTS / f"step_{last:08d}" / "COMPLETE").exists()
    _assert_equal(toy_fit.fit(tmp_path, config=config), state)
    toy_fit.fit(tmp_path / "undisturbed", config=config)
    assert _rows(tmp_path) == _rows(tmp_path / "undisturbed")


def test_a_deadline_ends_a_fit_but_not_at_its_last_step(tmp_path):
    late = dataclasses.replace(toy_fit.CONFIG, watch=WatchConfig(deadline_minutes=1e-6))
    with pytest.raises(Interrupted, match="after step 3 of 12 for the deadline in 0.0 minutes"):
        toy_fit.fit(tmp_path / "late", config=late)
    at_the_end = dataclasses.replace(late, log_every=12, checkpoint_every=12, eval_every=0)
    assert int(toy_fit.fit(tmp_path / "end", config=at_the_end).step) == 12


def test_a_finished_fit_returns_its_state_without_a_step(straight, tmp_path):
    state, directory = straight
    before = (directory / metrics.FILE).read_bytes()
    _assert_equal(toy_fit.fit(directory, toy_fit.FailingAt(toy_fit.toy_batches(), 11, _interrupt)), state)
    assert (directory / metrics.FILE).read_bytes() == before


def _program(directory, *arguments):
    command = [sys.executable, "-m", "tests.trainers.toy_fit", str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_killed_with_signal_9_and_started_again_it_ends_bit_equal(straight, tmp_path):
    """The kill comes while the checkpoint of step 8 may still be under way."""
    state, directory = straight
    assert _program(tmp_path, "8").returncode == -signal.SIGKILL
    result = _program(tmp_path)
    assert result.returncode == 0, result.stderr
    final = np.load(tmp_path / "final.npz")
    _assert_equal(dict(final), toy_fit.named_leaves(state))
    assert _rows(tmp_path) == _rows(directory)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_bit_equal(tmp_path):
    rng = np.random.default_rng(0)
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    began = time.monotonic()
    assert _program(straight).returncode == 0
    seconds = time.monotonic() - began
    for _ in range(10):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.trainers.toy_fit", str(killed)], stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=seconds * rng.uniform(0.3, 1.0))
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
    assert _program(killed).returncode == 0
    assert (killed / "final.npz").read_bytes() == (straight / "final.npz").read_bytes()
    assert _rows(killed) == _rows(straight)


def test_the_callers_arrays_stay_valid_and_unchanged(tmp_path):
    lm = toy_fit.toy_lm()
    params = lm.init(jax.random.key(0))
    before = jax.tree.map(jnp.copy, params)
    state = toy_fit.fit(tmp_path / "1", params=params)
    _assert_equal(params, before)
    moments = jax.tree.map(jnp.copy, state.opt_state)  # a view on the host would keep them from donation
    toy_fit.fit(tmp_path / "2", params=state.params, opt_state=state.opt_state)
    _assert_equal(state.opt_state, moments)


def test_carried_moments_go_on_where_they_ended(tmp_path):
    """Two fits of 4 steps with the moments handed over are one fit of 8, under a constant schedule."""
    constant = dataclasses.replace(toy_fit.OPTIMIZER, schedule="constant")
    batches = [toy_fit.toy_batches().batch(step) for step in range(8)]
    whole = toy_fit.fit(tmp_path / "whole", toy_fit.Fixed(batches), optimizer=constant)
    first = toy_fit.fit(tmp_path / "1", toy_fit.Fixed(batches[:4]), optimizer=constant)
    second = toy_fit.fit(
        tmp_path / "2",
        toy_fit.Fixed(batches[4:]),
        params=first.params,
        opt_state=first.opt_state,
        optimizer=constant,
    )
    _assert_equal(second.params, whole.params)
    _assert_equal(second.opt_state, whole.opt_state)
    assert (int(second.step), int(optimizer.num_updates(second.opt_state))) == (4, 8)


def test_a_cosine_of_carried_moments_ends_with_the_fit(tmp_path):
    """The second of two fits of 4 steps goes down from the middle of 8 steps, not along the floor."""
    config = dataclasses.replace(toy_fit.CONFIG, log_every=1)
    batches = [toy_fit.toy_batches().batch(step) for step in range(8)]
    first = toy_fit.fit(tmp_path / "1", toy_fit.Fixed(batches[:4]), config=config)
    toy_fit.fit(
        tmp_path / "2",
        toy_fit.Fixed(batches[4:]),
        params=first.params,
        opt_state=first.opt_state,
        config=config,
    )
    rates = [row["learning_rate"] for row in _rows(tmp_path / "2")]
    expected = [toy_fit.OPTIMIZER.learning_rate_at(jnp.int32(step), jnp.int32(8)) for step in range(4, 8)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert rates[0] > 2 * toy_fit.OPTIMIZER.final_fraction * toy_fit.OPTIMIZER.learning_rate


def test_a_second_fit_compiles_nothing_though_it_is_longer(tmp_path):
    """EM fits every round: new batches, another number of steps under a cosine, the same shapes."""
    lm, mesh = toy_fit.toy_lm(), mesh_lib.make_mesh(mesh_lib.MeshConfig())
    params = lm.init(jax.random.key(0))
    toy_fit.fit(tmp_path / "1", toy_fit.toy_batches(num_epochs=1), mesh=mesh, params=params)
    compiled = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        toy_fit.fit(tmp_path / "2", toy_fit.toy_batches(num_epochs=2, seed=5), mesh=mesh, params=params)
        in_second_fit = len(compiled)
        jax.jit(lambda x: x * 3)(jnp.ones(7)).block_until_ready()
        assert len(compiled) > in_second_fit  # the listener hears compilations at all
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert in_second_fit == 0


@dataclasses.dataclass(frozen=True)
class _NeverFinite(sft.SftLoss):
    def __call__(self, lm, params, batch, *, remat="projections"):
        total, count = super().__call__(lm, params, batch, remat=remat)
        return total * jnp.nan, count


def test_too_many_skipped_updates_end_the_fit_with_the_reason(tmp_path):
    config = dataclasses.replace(toy_fit.CONFIG, max_skipped=2)
    with pytest.raises(
        nonfinite_batches.TooManySkippedUpdates, match="By step 3, 3 updates .* learning_rate"
    ):
        toy_fit.fit(tmp_path, loss=_NeverFinite(), config=config)


def test_a_loss_that_is_not_finite_is_null_in_the_metrics(tmp_path):
    one_step = toy_fit.Fixed([toy_fit.toy_batches().batch(0)])
    state = toy_fit.fit(tmp_path, one_step, loss=_NeverFinite(), evaluate=None)
    row = _rows(tmp_path)[-1]
    assert (row["loss"], row["gradient_norm"], row["num_skipped"]) == (None, None, 1)
    assert int(state.num_skipped) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [
        {"data": 2, "fsdp": 2, "tensor": 2},
        pytest.param({"data": 4, "tensor": 2}, marks=pytest.mark.slow),
        pytest.param({"fsdp": 4, "tensor": 2}, marks=pytest.mark.slow),
        pytest.param({"data": 4}, marks=pytest.mark.slow),
    ],
)
def test_resumed_on_a_mesh_equals_one_device(straight, tmp_path, sizes):
    state, directory = straight
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(**sizes))
    with pytest.raises(Interruption):
        toy_fit.fit(tmp_path, toy_fit.FailingAt(toy_fit.toy_batches(), 6, _interrupt), mesh=mesh)
    sharded = toy_fit.fit(tmp_path, mesh=mesh)
    # 12 Adam steps at a rate of 1e-2 carry the rounding differences of each on
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), sharded.params, state.params)
    for row, expected in zip(_rows(tmp_path), _rows(directory), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-3)


def test_remove_checkpoints_keeps_the_metrics(tmp_path):
    toy_fit.fit(tmp_path, toy_fit.toy_batches(num_epochs=1))
    loop.remove_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [metrics.FILE]


@pytest.mark.slow
def test_sft_learns_a_toy_by_heart_and_says_it_again(tmp_path):
    lm = toy_fit.toy_lm(embed_dim=32, mlp_dim=64)
    rows = toy_fit.toy_examples(12)
    batches = packing.PackedEpochs(
        example_sets.Listed(rows), row_length=24, rows_per_batch=8, num_epochs=200, seed=0
    )
    quick = optimizer.OptimizerConfig(learning_rate=5e-3, warmup_steps=10, schedule="cosine")
    config = loop.LoopConfig(log_every=50, checkpoint_every=1000, tensorboard=False)
    state = toy_fit.fit(tmp_path, batches, lm=lm, optimizer=quick, config=config, evaluate=None)
    total, count = sft.nll(
        lm,
        state.params,
        packing.PackedEpochs(
            example_sets.Listed(rows), row_length=24, rows_per_batch=8, num_epochs=1, seed=0
        ),
    )
    assert total / count < 0.05 < math.log(toy_fit.VOCAB_SIZE)
    completions = generation.generate(
        lm,
        state.params,
        [row.prompt_ids.tolist() for row in rows],
        sampling=SamplingConfig(temperature=0.0, max_new_tokens=8),
        stop_ids=(toy_fit.END,),
        key=jax.random.key(0),
    )
    assert [list(completion.token_ids) for completion in completions] == [
        row.completion_ids.tolist() for row in rows
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("micro_batches", 0),
        ("log_every", 0),
        ("checkpoint_every", 0),
        ("keep", 0),
        ("profile_first", 0),
        ("profile_steps", -1),
        ("eval_every", -1),
        ("max_skipped", -1),
    ],
)
def test_nonsense_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        loop.LoopConfig(**{field: value})
