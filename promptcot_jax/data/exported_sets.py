"""Records as files that Hugging Face's `datasets` loads by a directory's name: shards, and their description.

A `README.md` with YAML in front says which files are which configuration and split, and of which types: so no
column's type is guessed from rows that happen to be empty.
"""

import dataclasses
import io
import json
import os
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow
import pyarrow.parquet
from etils import epath

from promptcot_jax.core import jsonl, records
from promptcot_jax.core.records import Domain

RecordKind = Literal["verified_prompts", "problems", "triples"]
Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedMathPrompt(records.VerifiedMathPrompt):
    """For sets whose columns are fixed: an answer that was given has an agreement of 1, without votes."""

    agreement: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedProgramPrompt(records.VerifiedProgramPrompt):
    """For sets whose columns are fixed: all tests read and print."""

    tests: tuple[records.StdioTest, ...]
    agreement: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedMathPrompt(FixedMathPrompt):
    """A verified problem with its answer, as a row of a set to pass on."""

    source: str = ""  # what its licence is that of
    given_answer: str = ""  # which the problem's row stated, before the votes


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedProgramPrompt(FixedProgramPrompt):
    """A verified problem with its tests, as a row of a set to pass on."""

    source: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedProblem(records.Problem):
    """A problem that nobody has verified, as a row of a set to pass on."""

    source: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedTriple(records.Triple):
    """A triple as a row of a set to pass on."""

    source: str = ""
    annotator: str = ""
    answer: str = ""
    solution: str = ""


Exported = ExportedMathPrompt | ExportedProgramPrompt | ExportedProblem | ExportedTriple

# Of each kind, the type of its mathematics and of its programming rows: the two configurations of a set.
RECORD_TYPES: Mapping[RecordKind, Mapping[records.Domain, type[Exported]]] = {
    "verified_prompts": {"math": ExportedMathPrompt, "code": ExportedProgramPrompt},
    "problems": {"math": ExportedProblem, "code": ExportedProblem},
    "triples": {"math": ExportedTriple, "code": ExportedTriple},
}

Format = Literal["parquet", "jsonl"]

_ARROW = {bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64()}
_ROW_GROUP = 10_000  # rows that a reader of a part takes into memory


def schema_of(record_type: type) -> pyarrow.Schema:
    """The columns of a record type."""
    return pyarrow.schema([(name, _arrow(hint)) for name, hint in jsonl.type_hints(record_type).items()])


def _arrow(hint: Any) -> pyarrow.DataType:
    if typing.get_origin(hint) is tuple:
        return pyarrow.list_(_arrow(typing.get_args(hint)[0]))
    if dataclasses.is_dataclass(hint):
        return pyarrow.struct([(name, _arrow(part)) for name, part in jsonl.type_hints(hint).items()])
    return _ARROW.get(hint, pyarrow.string())


def _features_of(record_type: Any) -> list[dict[str, Any]]:
    """The columns as the YAML of a data card names them."""
    return [{"name": column.name} | _feature(column.type) for column in schema_of(record_type)]


def _feature(kind: pyarrow.DataType) -> dict[str, Any]:
    if isinstance(kind, pyarrow.ListType):
        item = _feature(kind.value_type)
        return {"list": item.get("dtype") or item["struct"]}
    if isinstance(kind, pyarrow.StructType):
        return {"struct": [{"name": field.name} | _feature(field.type) for field in kind]}
    return {"dtype": {"double": "float64"}.get(str(kind), str(kind))}


def write(
    directory: epath.PathLike,
    splits: Mapping[Split, Sequence[Exported]],
    record_type: type,
    form: Format,
    rows_per_file: int,
) -> None:
    """Writes the shards of each split that has rows."""
    for split, of_split in splits.items():
        shards = [of_split[start : start + rows_per_file] for start in range(0, len(of_split), rows_per_file)]
        for number, shard in enumerate(shards):
            name = f"{split}-{number:05d}-of-{len(shards):05d}.{form}"
            data = _parquet(shard, record_type) if form == "parquet" else _json_lines(shard)
            jsonl.write_atomically(os.path.join(directory, name), data)


def _parquet(records: Sequence[Any], record_type: type) -> bytes:
    rows = [dataclasses.asdict(record) for record in records]
    file = io.BytesIO()
    table = pyarrow.Table.from_pylist(rows, schema=schema_of(record_type))
    pyarrow.parquet.write_table(table, file, compression="zstd", row_group_size=_ROW_GROUP)
    return file.getvalue()


def _json_lines(records: Sequence[Any]) -> bytes:
    return "".join(jsonl.to_line(record) + "\n" for record in records).encode()


def front_matter(
    splits: Mapping[Domain, Mapping[Split, Sequence[Any]]],
    kind: RecordKind,
    folder: str,
    form: Format,
    more: Mapping[str, Any],
) -> str:
    """The YAML in front of a `README.md`: one configuration for each domain, and what else is given.

    Args:
        folder: of the configurations' folders, beginning at the README; "" where they lie beside it.
    """
    configs, infos = [], []
    for domain, of_domain in splits.items():
        present = [split for split, rows in of_domain.items() if rows]
        place = f"{folder}/{domain}" if folder else domain
        files = [{"split": split, "path": f"{place}/{split}-*.{form}"} for split in present]
        configs.append({"config_name": domain, "data_files": files})
        infos.append({"config_name": domain, "features": _features_of(RECORD_TYPES[kind][domain])})
    configs[0]["default"] = True
    fields = {**more, "configs": configs, "dataset_info": infos}
    return "".join(["---\n", *(_yaml(name, value) for name, value in fields.items()), "---\n"])


def _yaml(name: str, value: Any) -> str:
    """A field in YAML, of which JSON is a part; a list's items have a line each."""
    if isinstance(value, list):
        return f"{name}:\n" + "".join(f"- {json.dumps(item, ensure_ascii=False)}\n" for item in value)
    return f"{name}: {json.dumps(value, ensure_ascii=False)}\n"
