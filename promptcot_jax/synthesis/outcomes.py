"""What came of a stage's rows: rejects with their reasons, and the figures of `report.json`.

The manifest counts under `dropped_REASON` what the rejects say row by row.
"""

import collections
import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from promptcot_jax.core import jsonl
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling.text_model import Reply, reasons

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Reject:
    """Something that a stage did not keep, and why.

    Attributes:
        subject: what it is, and at which check it was refused; the first columns of its row.
        reason: the word under which it is counted.
        evidence: a message, figures, the text in question; the last columns of its row.
    """

    subject: Mapping[str, Any]
    reason: str
    evidence: Mapping[str, Any]

    @property
    def row(self) -> dict[str, Any]:
        """The reject as a row of `rejects.jsonl`."""
        return {**self.subject, "reason": self.reason, **self.evidence}


def in_order(rejects: Iterable[Reject], ids: Iterable[str]) -> list[Reject]:
    """Rejects in the order of the rows that they are about, those of one row by sample."""
    order = {row_id: number for number, row_id in enumerate(ids)}
    return sorted(rejects, key=lambda own: (order[own.subject["id"]], own.subject.get("sample", 0)))


def by_reason(rejects: Iterable[Reject], column: str = "") -> dict[str, int]:
    """How many rejects have each reason; with a column, each `VALUE_REASON`."""
    return counted(
        f"{reject.subject[column]}_{reject.reason}" if column else reject.reason for reject in rejects
    )


def dropped(*counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by reason as the manifest has them."""
    return {f"dropped_{name}": count for own in counts for name, count in own.items()}


def publish(
    stage: str,
    workdir: str,
    *,
    files: Mapping[str, Sequence[Any]],
    rejects: Sequence[Reject],
    report: Mapping[str, Any],
    lines: Iterable[str],
) -> None:
    """Writes a stage's `rejects.jsonl`, `report.json` and records, on the first host, and logs the report.

    Args:
        files: records by the name of their file in the workdir.
        lines: the report in a few sentences.
    """

    def write() -> None:
        directory = os.path.join(workdir, stage)
        jsonl.write_records(os.path.join(directory, "rejects.jsonl"), [reject.row for reject in rejects])
        jsonl.write_json(os.path.join(directory, "report.json"), report)
        for name, records in files.items():
            jsonl.write_records(os.path.join(workdir, name), records)

    hosts.wait_for_first(f"write the records of {stage}", write)
    for line in lines:
        log.info("%s: %s", stage, line)


def held_out_files(
    name: str, records: Sequence[Any], is_held_out: Callable[[Any], bool]
) -> dict[str, Sequence[Any]]:
    """Records as `NAME_heldout.jsonl` and `NAME.jsonl`."""
    return {
        f"{name}_heldout.jsonl": [record for record in records if is_held_out(record)],
        f"{name}.jsonl": [record for record in records if not is_held_out(record)],
    }


def counted(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, by name."""
    return dict(sorted(collections.Counter(values).items()))


def spread(values: Sequence[int] | Sequence[float]) -> dict[str, float]:
    """Minimum, quartiles, 95th percentile, maximum and mean; empty without values."""
    if not values:
        return {}
    names = ("min", "q1", "median", "q3", "p95", "max")
    found = np.quantile(values, (0.0, 0.25, 0.5, 0.75, 0.95, 1.0))
    figures = {name: round(float(value), 4) for name, value in zip(names, found, strict=True)}
    return figures | {"mean": round(float(np.mean(values)), 4)}


def mean(values: Sequence[int] | Sequence[float]) -> float | None:
    """The mean to four places; None without values."""
    return round(float(np.mean(values)), 4) if values else None


def of_replies(replies: Sequence[Reply]) -> dict[str, int]:
    """How many replies ended for each reason, and their tokens."""
    return reasons(replies) | {
        "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
        "completion_tokens": sum(reply.completion_tokens for reply in replies),
    }


def listed(counts: Mapping[str, int]) -> str:
    """Counts in a line of the log."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
