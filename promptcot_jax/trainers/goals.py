"""Stop-at-metric: a run ends once a metric reaches its goal, such as "eval/avg_at_k >= 0.9"."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, cast

_FORM = re.compile(r"\s*([\w/.]+)\s*(>=|<=)\s*(\S+)\s*")


@dataclasses.dataclass(frozen=True)
class Goal:
    """A metric and the bound at which a run ends."""

    metric: str
    sign: Literal[">=", "<="]
    bound: float

    @classmethod
    def of(cls, text: str) -> "Goal":
        """A goal as settings state it.

        Raises:
            ValueError: the text is none.
        """
        found = _FORM.fullmatch(text)
        try:
            bound = float(found[3]) if found else math.nan
        except ValueError:
            bound = math.nan
        if found is None or not math.isfinite(bound):
            raise ValueError(f"{text!r} is no goal; write it as in 'eval/avg_at_k >= 0.9', with >= or <=.")
        return cls(found[1], cast(Literal[">=", "<="], found[2]), bound)

    def is_reached(self, row: Mapping[str, Any]) -> bool:
        """Whether an iteration's row is there; not where it lacks the metric or has no number for it."""
        value = row.get(self.metric)
        if value is None:
            return False
        return value >= self.bound if self.sign == ">=" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {self.bound:g}"
