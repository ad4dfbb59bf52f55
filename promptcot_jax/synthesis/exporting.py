"""Which rows make an exported set, which of them are held out, and whose licence each is under."""

import collections
import dataclasses
import os
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from etils import epath

from promptcot_jax.core import file_sets, prng
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import Domain
from promptcot_jax.core.settings import PositiveInt, ShareBelowOne, settings
from promptcot_jax.data import exported_sets, rows
from promptcot_jax.data.exported_sets import Exported, RecordKind, Split

Splits = Mapping[Domain, Mapping[Split, Sequence[Exported]]]

# Sources of rows that name none.
SYNTHESIZED = "synthesized"  # by a model, from concepts
CORPUS = "corpus"  # of `promptcot corpus`
UNNAMED = "unnamed"

UNKNOWN = "unknown"  # licence of a source that no setting names

_MODELS = ("solver", "annotator")  # fields that name one, by its path if it was in JAX


@settings
class ExportConfig:
    """How a set is laid out and what its card says."""

    name: str = "Problems by PromptCoT"  # of the set, the card's heading
    # Of the rows, by their ids and `seed`: rows that join later move no other.
    heldout_share: ShareBelowOne = 0.05
    seed: int = 0
    rows_per_file: PositiveInt = 50_000
    json_lines: bool = True
    source: str = ""  # of rows that name none
    licences: dict[str, str] = dataclasses.field(default_factory=dict)  # by source; not named: unknown
    browse_rows: PositiveInt = 20_000  # of the browser page at most, evenly spaced

    def __post_init__(self):
        if not self.name.strip():
            raise ValueError("SET_NAME is empty; it is the heading of the data card.")
        for source, licence in self.licences.items():
            if not licence.strip():
                raise ValueError(f"LICENCES has nothing for '{source}'; leave it out if it is unknown.")


def kind_of(path: str, kind: RecordKind | None) -> RecordKind:
    """What the rows are: as the setting says, or as the file's name does.

    Raises:
        WrongUse: neither says it.
    """
    if kind is not None:
        return kind
    name = re.sub(r"[*?\[].*|\.jsonl$|\.parquet$|-\d{5}-of-\d{5}.*", "", os.path.basename(path))
    for known in exported_sets.RECORD_TYPES:
        if name == known:
            return known
    raise WrongUse(
        f"{path}: the name does not tell what its rows are; set EXPORT_KIND to one of "
        f"{', '.join(map(repr, exported_sets.RECORD_TYPES))}."
    )


@dataclasses.dataclass(frozen=True)
class Origins:
    """Where rows are from: how many of each source, and the licences that they state."""

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    stated: dict[str, set[str]] = dataclasses.field(default_factory=dict)

    def add(self, fields: Mapping[str, Any], default: str = "") -> str:
        """Takes in a row; gives its source."""
        source = source_of(fields, default)
        self.counts[source] += 1
        if licence := str(fields.get("license") or "").strip():
            self.stated.setdefault(source, set()).add(licence)
        return source


def read(
    path: epath.PathLike,
    kind: RecordKind,
    *,
    source: str,
    bad_rows: rows.BadRows,
    counts: collections.Counter[str],
    origins: Origins,
) -> list[Exported]:
    """The rows of a set, each with its source; paths of models are cut as `shown_path` does.

    Args:
        source: of rows that name none; "": what `source_of` makes of them.
        counts: see `rows.iter_rows`.
        origins: takes in where the rows are from.

    Raises:
        WrongUse: the file is missing or empty, or a row is bad and not to be skipped.
    """
    record_types = tuple(dict.fromkeys(exported_sets.RECORD_TYPES[kind].values()))

    def make(row: rows.Row) -> Exported:
        record = rows.record_of(row, typing.Union[record_types])  # noqa: UP007
        if not record.problem.strip():
            raise WrongUse(f"{row.where}: the problem is empty.")
        names = {name: shown_path(getattr(record, name)) for name in _MODELS if hasattr(record, name)}
        return dataclasses.replace(record, source=origins.add(row.fields, source), **names)

    records: list[Exported] = list(rows.map_rows(path, make, bad_rows=bad_rows, counts=counts))
    if not records:
        raise WrongUse(f"{os.fspath(path)} has no rows to export; EXPORT_ROWS names another file.")
    return records


def source_of(fields: Mapping[str, Any], default: str = "") -> str:
    """Where a row is from."""
    if named := str(fields.get("source") or default):
        return named
    return SYNTHESIZED if fields.get("model_digest") else CORPUS if "family" in fields else UNNAMED


def seed_origins(path: epath.PathLike) -> Origins:
    """Of the triples that the concepts of new problems come from; nothing without a file."""
    origins = Origins()
    for row in rows.iter_rows(path) if file_sets.files_named(path) else ():
        origins.add(row.fields)
    return origins


def licences_of(own: Origins, seeds: Origins, config: ExportConfig) -> dict[str, str]:
    """Licence of each source of a set, of its seeds' too: as the setting says, or as the rows do.

    Raises:
        WrongUse: the setting names what is no source (a misspelt name would leave one unknown), or rows of
            one source state two licences.
    """
    sources = sorted(own.counts.keys() | seeds.counts.keys())
    for name in config.licences:
        if name not in sources:
            raise WrongUse(
                f"LICENCES names '{name}', which is no source of this set; its sources are "
                f"{', '.join(map(repr, sources))}."
            )
    licences = {}
    for source in sources:
        stated = sorted(own.stated.get(source, set()) | seeds.stated.get(source, set()))
        if len(stated) > 1 and source not in config.licences:
            raise WrongUse(
                f"Rows of '{source}' state the licences {', '.join(map(repr, stated))}; give each kind a "
                f"`source` of its own, or set LICENCES={{'{source}': '...'}}."
            )
        licences[source] = config.licences.get(source) or (stated[0] if stated else UNKNOWN)
    return licences


def split(
    records: Sequence[Exported], config: ExportConfig, held_out: Collection[str] | None = None
) -> Splits:
    """The rows by domain and split; a domain without rows is not there.

    Args:
        held_out: ids; None: they are drawn.
    """

    def is_held_out(row_id: str) -> bool:
        if held_out is not None:
            return row_id in held_out
        return prng.row_draw("heldout_export", row_id, config.seed) < config.heldout_share

    found: dict[Domain, dict[Split, list[Exported]]] = {}
    for record in records:
        name = "heldout" if is_held_out(record.id) else "train"
        found.setdefault(record.domain, {known: [] for known in exported_sets.SPLITS})[name].append(record)
    return {domain: found[domain] for domain in ("math", "code") if domain in found}


def shown_path(value: str) -> str:
    """An absolute path by its end: where a user keeps files is nobody's business."""
    parts = value.split("/")
    is_path = value.startswith("/") and len(parts) > 2
    return "/".join(("...", *parts[-2 if len(parts) > 4 else -1 :])) if is_path else value
