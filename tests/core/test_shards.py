"""Facts of sharded work: a killed run ends in the same bytes and never repeats a finished shard."""

import dataclasses

import pytest

from promptcot_jax.core import shards
from promptcot_jax.core.errors import WrongUse


@dataclasses.dataclass(frozen=True, kw_only=True)
class Square:
    """A record of the toy work."""

    of: int
    value: int


def squares(requests):
    return [Square(of=request, value=request * request) for request in requests]


class Killed(Exception):
    """Stands for a kill: nothing of ours catches it."""


@pytest.mark.parametrize("finished", [0, 1, 3])
def test_a_killed_run_goes_on_with_the_missing_shards_and_ends_in_the_same_bytes(tmp_path, finished):
    whole = tmp_path / "whole.jsonl"
    shards.map_in_shards(whole, range(10), squares, Square, shard_size=3, name="squares")
    path, done = tmp_path / "killed.jsonl", []

    def dies(requests):
        if len(done) == finished:
            raise Killed
        done.append(list(requests))
        return squares(requests)

    with pytest.raises(Killed):
        shards.map_in_shards(path, range(10), dies, Square, shard_size=3, name="squares")
    assert not path.exists()

    def goes_on(requests):
        done.append(list(requests))
        return squares(requests)

    records = shards.map_in_shards(path, range(10), goes_on, Square, shard_size=3, name="squares")
    assert done == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert records == squares(range(10))
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.jsonl", "whole.jsonl"]


def test_finished_work_is_read_and_not_done_again(tmp_path):
    path = tmp_path / "squares.jsonl"
    shards.map_in_shards(path, range(4), squares, Square, shard_size=4, name="squares")

    def never(requests):
        raise AssertionError(requests)

    left = tmp_path / "squares-00000-of-00001.jsonl"  # killed before the shard was removed
    left.write_bytes(b"")
    assert shards.map_in_shards(path, range(4), never, Square, shard_size=4, name="squares") == squares(
        range(4)
    )
    assert not left.exists()


def test_shards_of_other_settings_are_refused(tmp_path):
    (tmp_path / "squares-00000-of-00002.jsonl").write_text('{"of": 0, "value": 0}\n')
    with pytest.raises(WrongUse, match="00000-of-00002"):
        shards.map_in_shards(
            tmp_path / "squares.jsonl", range(9), squares, Square, shard_size=3, name="squares"
        )


def test_no_requests_give_an_empty_file(tmp_path):
    assert (
        shards.map_in_shards(tmp_path / "none.jsonl", [], squares, Square, shard_size=3, name="squares") == []
    )
    assert (tmp_path / "none.jsonl").read_bytes() == b""
