"""Facts of comparing outputs: what a contest's judge overlooks, and hostile bytes that must not match."""

import json
import time

import pytest

from promptcot_jax.verify.output_match import outputs_match, value_matches
from promptcot_jax.verify.sandbox_driver import encode


@pytest.mark.parametrize(
    ("expected", "printed", "matches"),
    [
        ("1 2\n3\n", b"1 2\n3", True),
        ("1 2\n3", b"1 2  \r\n3 \n\n \n", True),
        ("", b"\n", True),
        ("1 2", b"1  2", False),
        ("1", b" 1", False),
        ("1\n\n2", b"1\n2", False),
        ("1", b"1.0", False),
        ("7", b"\xff7", False),
        ("\ufffd", b"\xff", False),
        ("é", "é".encode(), True),
        ("7", b"7\0", False),
        ("YES", b"yes", False),
    ],
)
def test_text_is_compared_by_lines(expected, printed, matches):
    assert outputs_match(expected, printed) is matches


@pytest.mark.parametrize(
    ("expected", "printed", "matches"),
    [
        ("0.333333", b"0.33333333", True),
        ("1e9 x", b"1000000000.5 x", True),
        ("0.5", b"0.50002", False),
        ("0.0", b"0.000009", True),  # near 0 the tolerance is absolute
        ("0.001", b"0.001009", True),
        ("0.0", b"0.000011", False),
        ("1.0", b"1", True),
        ("100000000000000000001", b"100000000000000000002", False),
        ("007", b"7", True),
        ("nan", b"nan", False),
        ("1.0", b"nan", False),
        ("1.0", b"inf", False),
        ("inf", b"inf", True),
        ("1e400", b"2e400", False),  # both beyond what a float holds
        ("1.0", b"1_0", False),
        ("x 1.0", b"x 1.0 ", True),
        ("1.0 2.0", b"1.0", False),
    ],
)
def test_with_a_tolerance_numbers_are_compared_as_numbers(expected, printed, matches):
    assert outputs_match(expected, printed, 1e-5) is matches


@pytest.mark.parametrize(
    "result",
    [
        b"",
        b"7 7",
        b"7\n8",
        b"{}",
        b'{"int": 7}',
        b'{"int": "x"}',
        b'{"float": "7"} ',
        b'{"kept": 7}',
        b'{"a": 1, "b": 2}',
        b"[7]",
        b'"7"',
        b"\xff",
        b"[" * 100_000,
        b"NaN",
        b"1" + b"0" * 5000,
        b'{"set": [7]}',
        b'{"dict": [7]}',
        b'{"dict": 7}',
        b'{"int": ["7"]}',
    ],
)
def test_what_is_no_typed_json_of_the_value_does_not_match(result):
    for expected in (8, [8], {8}, {8: 8}):
        assert not value_matches(encode(expected), result)


def test_a_set_matches_each_of_its_items_once():
    assert value_matches(encode({1, (2, 3)}), b'{"frozenset": [{"tuple": [2, 3]}, 1.0]}')
    assert not value_matches(encode({1, 2}), b'{"set": [1, 1]}')
    assert not value_matches(encode({1: 2, 3: 4}), b'{"dict": [[1, 2], [1, 2]]}')
    assert not value_matches(encode({1: 2}), b'{"dict": [[true, 2]]}')
    assert value_matches(encode({1: [0.5], "1": None}), b'{"dict": [["1", null], [1, [0.5]]]}')


def test_colliding_values_cost_nothing():
    colliding = json.dumps({"set": [{"set": [n * (2**61 - 1) for n in range(40_000)]}]}).encode()
    started = time.monotonic()
    assert not value_matches(encode({frozenset({1})}), colliding)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("expected", "given", "as_python", "as_call"),
    [
        ((1, 2), [1, 2], False, True),
        ([1, 2], (1, 2), False, True),
        ([(1, "a")], [[1, "a"]], False, True),
        ((1, 2), (1, 2), True, True),
        (True, 1, True, False),
        (0, False, True, False),
        ({True: "x"}, {1: "x"}, True, False),
        ({1, 2}, frozenset({1, 2}), True, True),
        ({(1, 2)}, {(1, 2)}, True, True),
        (1, 1.0, True, True),
        (None, 0, False, False),
        ("1", 1, False, False),
    ],
)
def test_an_assertion_is_equal_as_python_has_it(expected, given, as_python, as_call):
    assert (expected == given) is as_python
    result = json.dumps(encode(given)).encode()
    assert value_matches(encode(expected), result, as_python=True) is as_python
    assert value_matches(encode(expected), result) is as_call
