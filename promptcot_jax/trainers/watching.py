"""Settings of how a run is watched and when it leaves before its end; none of them changes what comes out."""

import dataclasses
import datetime
from typing import ClassVar


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """Where metrics go beside `metrics.jsonl` and TensorBoard, and until when a run may last.

    Attributes:
        wandb_project: of Weights & Biases; None: nothing is sent there.
        table: print the newest metrics as a line of a table.
        table_columns: the metrics in it; (): those that the kind of run picks.
        deadline_minutes: after the process's start; 0: none.
        deadline: a time such as '2026-05-01T12:00+02:00'; None: none. The earlier of the two counts.
        margin_seconds: before the deadline, for the last checkpoint to be written.
    """

    EXECUTION_ONLY: ClassVar = frozenset(
        {"wandb_project", "table", "table_columns", "deadline_minutes", "deadline", "margin_seconds"}
    )

    wandb_project: str | None = None
    table: bool = False
    table_columns: tuple[str, ...] = ()
    deadline_minutes: float = 0.0
    deadline: str | None = None
    margin_seconds: float = 60.0

    def __post_init__(self):
        for name in ("deadline_minutes", "margin_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        _ = self.deadline_time

    @property
    def deadline_time(self) -> datetime.datetime | None:
        """The deadline as a time, with its zone."""
        if self.deadline is None:
            return None
        try:
            time = datetime.datetime.fromisoformat(self.deadline)
        except ValueError:
            time = None
        if time is None or time.tzinfo is None:
            raise ValueError(
                f"deadline must be a time with its zone, such as '2026-05-01T12:00+02:00', got "
                f"{self.deadline!r}."
            )
        return time


NOT_WATCHED = WatchConfig()
