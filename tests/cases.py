"""Cases of tests that cost seconds each: some in `make test`, all of them in CI."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def some_fast(cases: Iterable[Any], fast: Collection[int] = (0,)) -> list[Any]:
    """What `parametrize` takes: the cases at the indices `fast` as they are, the others marked slow."""
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)), marks=() if i in fast else pytest.mark.slow
        )
        for i, case in enumerate(cases)
    ]
