"""kill -9 in an epoch, then any number of hosts and reader threads: the batches of the uninterrupted run."""

import collections
import dataclasses
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.data import packing
from tests import toys
from tests.data import batch_reader
from tests.run import killing

MIXTURE = {
    "task": "p_theta_by_domain",
    "rates": {"math": 1.0, "code": 2.0},  # three quarters of the rows are of mathematics
    "overlong": "truncate",
    "row_length": 640,
    "num_epochs": 3,
}
ALL_ROWS = MIXTURE | {"task": "p_theta", "rates": None, "overlong": "drop", "row_length": 512}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A file of triples of many lengths, each with concepts of its own; some are too long for a row."""
    rng = random.Random(0)
    made = [
        dataclasses.replace(
            triple,
            id=f"{triple.id}-{i}",
            concepts=(*triple.concepts, str(i)),
            rationale=f"{triple.rationale} {'Go on. ' * rng.randrange(12)}",
        )
        for i in range(40)
        for triple in toys.toy_triples()
    ]
    jsonl.write_records(tmp_path / "triples.jsonl", made)
    return tmp_path


def uninterrupted(directory: Path, settings: dict) -> list[np.ndarray]:
    """The batches of one host that nothing disturbs, read without threads."""
    epochs = batch_reader.epochs_of(directory, settings)
    return [batch_reader.arrays_of(epochs.batch(step)) for step in range(epochs.num_steps)]


def segments(batches: list[np.ndarray]) -> collections.Counter:
    """Multiset of the examples: their ids, the trained ones apart."""
    found = collections.Counter()
    for ids, segment_ids, _, loss_mask in (row for batch in batches for row in batch.swapaxes(0, 1)):
        for segment in range(1, segment_ids.max() + 1):
            of_prompt, of_completion = ((segment_ids == segment) & (loss_mask == part) for part in (0, 1))
            found[tuple(ids[of_prompt].tolist()), tuple(ids[of_completion].tolist())] += 1
    return found


def kill_before(directory: Path, settings: dict, step: int, **how: int) -> None:
    """Kills a reader when it has come to a step."""
    process = batch_reader.start(directory, settings, halt=step, **how)
    deadline = time.monotonic() + killing.DEADLINE_SECONDS
    while batch_reader.position_in(directory) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert (directory / "position").read_text() == str(step)  # all that a checkpoint has to keep


@pytest.mark.slow
def test_killed_three_times_on_changing_hosts_it_reads_what_one_undisturbed_host_reads(directory):
    expected = uninterrupted(directory, MIXTURE)
    third = len(expected) // 3  # an epoch, nearly
    rng = random.Random(1)
    for epoch, (num_hosts, num_threads) in enumerate([(1, 3), (4, 1), (2, 7)]):
        middle = epoch * third + rng.randrange(3, third - 3)
        kill_before(directory, MIXTURE, middle, num_hosts=num_hosts, num_threads=num_threads)
    process = batch_reader.start(directory, MIXTURE, num_hosts=8, num_threads=packing.READER_THREADS)
    _, errors = process.communicate(timeout=killing.DEADLINE_SECONDS)
    assert process.returncode == 0, errors
    found = [np.load(path) for path in sorted(directory.glob("batch-*.npy"))]
    assert len(found) == batch_reader.position_in(directory) == len(expected)
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_array_equal(one, other, err_msg=f"step {step}")


@pytest.mark.parametrize(("num_hosts", "num_threads"), [(1, 5), (2, 1), (4, 5)])
@pytest.mark.parametrize("settings", [MIXTURE, ALL_ROWS], ids=["mixture", "task"])
def test_any_number_of_hosts_goes_on_from_a_position(directory, settings, num_hosts, num_threads):
    expected = uninterrupted(directory, settings)
    for position in (1, len(expected) // 2):
        (directory / "position").write_text(str(position))
        batch_reader.read(directory, settings, num_hosts=num_hosts, num_threads=num_threads)
        for step in range(position, len(expected)):
            np.testing.assert_array_equal(np.load(directory / f"batch-{step:04d}.npy"), expected[step])


@pytest.mark.parametrize("settings", [MIXTURE, ALL_ROWS], ids=["mixture", "task"])
def test_what_is_read_in_all_epochs_is_what_the_settings_promise(directory, settings):
    """So that the other tests do not compare one wrong order with another."""
    found = segments(uninterrupted(directory, settings))
    decode = toys.byte_tokenizer().decode
    is_code = {example: "one programming problem" in decode(example[0]) for example in found}
    code, math = ([n for example, n in found.items() if is_code[example] is kind] for kind in (True, False))
    for of_domain in (code, math):  # none again before all others of its part
        assert max(of_domain) - min(of_domain) <= 1
    lengths = [len(completion) for _, completion in found]
    assert max(lengths) <= 150
    if settings["rates"] is None:
        assert set(code) == set(math) == {settings["num_epochs"]}
        assert len(found) < 160
    else:
        assert len(found) == 160
        assert sum(code) / (sum(code) + sum(math)) == pytest.approx(2 / 3, abs=0.01)
        assert lengths.count(150) > 10  # cut
