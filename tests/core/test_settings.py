"""Settings refuse what their annotations exclude, and say field, limit and value."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest

from promptcot_jax.core.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Range,
    Share,
    ShareBelowOne,
    settings,
)


@settings
class Example:
    tries: PositiveInt = 8
    spare: NonNegativeInt = 0
    rate: PositiveFloat = 1.0
    weight: NonNegativeFloat = 0.0
    share: Share = 0.5
    part: PositiveShare = 1.0
    heldout: ShareBelowOne = 0.0
    pause: Annotated[float, Range(above=-2, at_most=60)] = 1.0
    votes: Annotated[int, Range(at_least=2, note="for a vote")] = 2
    keep: PositiveInt | None = None
    order: Literal["first", "best"] = "first"
    method: Literal["a", "b"] | None = None
    families: Literal["all"] | tuple[str, ...] = "all"
    sizes: tuple[PositiveInt, ...] = ()
    rates: Mapping[str, PositiveFloat] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tries", 0, "tries must be at least 1, got 0."),
        ("spare", -1, "spare must be 0 or more, got -1."),
        ("rate", 0.0, "rate must be positive, got 0.0."),
        ("rate", math.inf, "rate must be positive and finite, got inf."),
        ("weight", math.nan, "weight must be 0 or more and finite, got nan."),
        ("share", 1.5, "share must lie in [0, 1], got 1.5."),
        ("part", 0.0, "part must lie in (0, 1], got 0.0."),
        ("heldout", 1.0, "heldout must lie in [0, 1), got 1.0."),
        ("pause", 61.0, "pause must lie in (-2, 60], got 61.0."),
        ("votes", 1, "votes must be at least 2 for a vote, got 1."),
        ("keep", 0, "keep must be at least 1 or be None, got 0."),
        ("order", "last", "order must be one of ['first', 'best'], got 'last'."),
        ("method", "c", "method must be one of ['a', 'b'] or be None, got 'c'."),
        ("families", "one", "families must be one of ['all'], got 'one'."),
        ("sizes", (1, 0), "sizes must be at least 1 (each), got (1, 0)."),
        ("rates", {"math": 0.0}, "rates must be positive (each), got {'math': 0.0}."),
    ],
)
def test_a_value_outside_its_limit_is_refused_by_name(name: str, value: Any, message: str):
    with pytest.raises(ValueError) as refusal:
        Example(**{name: value})
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"keep": 3, "method": "a", "families": ("x",), "sizes": (1, 2), "rates": {"math": 0.5}},
        {"share": 1},
    ],
)
def test_values_within_their_limits_stay_as_they_are(values: dict[str, Any]):
    example = Example(**values)
    assert {name: getattr(example, name) for name in values} == values
    with pytest.raises(dataclasses.FrozenInstanceError):
        example.tries = 3  # type: ignore[misc]


def test_a_class_checks_its_fields_together_after_each_of_them():
    @settings
    class Base:
        least: PositiveInt = 1

    @settings
    class Span(Base):
        most: PositiveInt = 1

        def __post_init__(self):
            if self.least > self.most:
                raise ValueError(f"least={self.least} is above most={self.most}.")

    with pytest.raises(ValueError, match="least must be at least 1, got 0"):
        Span(least=0)
    with pytest.raises(ValueError, match="most must be at least 1, got 0"):
        Span(most=0)
    with pytest.raises(ValueError, match="least=2 is above most=1"):
        Span(least=2)
    with pytest.raises(ValueError, match="most must be at least 1, got -1"):
        dataclasses.replace(Span(), most=-1)
