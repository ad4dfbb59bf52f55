"""Classes of settings: frozen, by keyword, and what a field may be stands in its annotation.

    @settings
    class SearchConfig:
        num_tries: PositiveInt = 8  # of each row
        pause: Annotated[float, Range(above=0, at_most=60)] = 1.0  # seconds
        keep: NonNegativeInt | None = None  # of the newest; None: all
        order: Literal["first", "best"] = "first"
        weights: tuple[Share, ...] = ()

        def __post_init__(self):  # only rules across fields; each field by itself has been checked
            if self.keep is not None and self.keep > self.num_tries: ...

`SearchConfig(num_tries=0)` raises ValueError "num_tries must be at least 1, got 0."; `order="last"` raises
"order must be one of ['first', 'best'], got 'last'." A field's meaning is the comment on its line, or above.
Types are not looked at here: `run/configuration` checks those of a gin file, the type checker those of code.
"""

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, dataclass_transform

Class = TypeVar("Class")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """The finite numbers that a setting may be, as a mark in `Annotated`."""

    at_least: int | float = -math.inf
    above: int | float = -math.inf
    at_most: int | float = math.inf
    below: int | float = math.inf
    note: str = ""  # a reason or remedy for the message: "must be at least 2 for a vote, got 1."

    def __contains__(self, value: Any) -> bool:
        is_inside = self.at_least <= value <= self.at_most and self.above < value < self.below
        return bool(is_inside and math.isfinite(value))  # NumPy's comparisons give its own booleans

    def __str__(self) -> str:
        low, high = max(self.at_least, self.above), min(self.at_most, self.below)
        opening, closing = "(" if self.above == low else "[", ")" if self.below == high else "]"
        if math.isfinite(low) and math.isfinite(high):
            text = f"lie in {opening}{low}, {high}{closing}"
        elif math.isfinite(high):
            text = f"be {'below' if closing == ')' else 'at most'} {high}"
        elif low == 0:
            text = "be positive" if opening == "(" else "be 0 or more"
        else:
            text = f"be {'above' if opening == '(' else 'at least'} {low}"
        return f"{text} {self.note}".rstrip()


PositiveInt = Annotated[int, Range(at_least=1)]
NonNegativeInt = Annotated[int, Range(at_least=0)]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(at_least=0)]
Share = Annotated[float, Range(at_least=0, at_most=1)]
PositiveShare = Annotated[float, Range(above=0, at_most=1)]
ShareBelowOne = Annotated[float, Range(at_least=0, below=1)]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def settings(cls: type[Class]) -> type[Class]:
    """Makes a frozen dataclass, by keyword, whose fields are checked before its own `__post_init__`."""
    own = cls.__dict__.get("__post_init__")

    def __post_init__(self: Any) -> None:
        check_fields(self)
        if own is not None:
            own(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def check_fields(value: Any) -> None:
    """Refuses a dataclass with a field outside the range or the choices of its annotation.

    Raises:
        ValueError: names the field, the limit and the value.
    """
    for name, hint in _checked_fields(type(value)):
        given = getattr(value, name)
        if limit := _broken_limit(given, hint):
            raise ValueError(f"{name} must {limit}, got {given!r}.")


@functools.cache
def _checked_fields(cls: Any) -> list[tuple[str, Any]]:
    """Fields that have a limit, with their annotations."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return [
        (field.name, hints[field.name]) for field in dataclasses.fields(cls) if _has_limit(hints[field.name])
    ]


def _has_limit(hint: Any) -> bool:
    if typing.get_origin(hint) is Literal or isinstance(hint, Range):
        return True
    return any(_has_limit(member) for member in (*typing.get_args(hint), *getattr(hint, "__metadata__", ())))


def _broken_limit(value: Any, hint: Any) -> str:
    """The limit in an annotation that a value breaks, as a phrase; "" where there is none."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        for mark in hint.__metadata__:
            if isinstance(mark, Range) and isinstance(value, numbers.Real) and value not in mark:
                return str(mark) if math.isfinite(value) else f"{mark} and finite"
        return _broken_limit(value, hint.__origin__)
    if origin is Literal:
        is_alike = isinstance(value, tuple({type(choice) for choice in members}))
        return f"be one of {list(members)}" if is_alike and value not in members else ""
    if origin in (Union, types.UnionType):
        limits = [limit for member in members if (limit := _broken_limit(value, member))]
        return " or ".join([*limits, "be None"] if type(None) in members else limits) if limits else ""
    if isinstance(value, Mapping):
        values, parts = [*value.values()], members[-1:]
    elif isinstance(value, list | tuple):
        values, parts = [*value], [member for member in members if member is not Ellipsis]
    else:
        return ""
    parts = parts if len(parts) == len(values) else [part for part in parts[:1] for _ in values]
    limits = (_broken_limit(item, part) for item, part in zip(values, parts, strict=True))
    return next((f"{limit} (each)" for limit in limits if limit), "")
