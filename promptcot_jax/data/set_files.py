"""Records as files that Hugging Face's `datasets` loads by a directory's name: shards, and their description.

A `README.md` with YAML in front says which files are which configuration and split, and of which types: so no
column's type is guessed from rows that happen to be empty.
"""

import dataclasses
import io
import json
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import pyarrow
import pyarrow.parquet
from etils import epath

from promptcot_jax.core import exported, jsonl
from promptcot_jax.core.records import Domain

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


def features_of(record_type: Any) -> list[dict[str, Any]]:
    """The columns as the YAML of a data card names them."""
    return [{"name": name} | _feature(hint) for name, hint in jsonl.type_hints(record_type).items()]


def _feature(hint: Any) -> dict[str, Any]:
    if typing.get_origin(hint) is tuple:
        item = _feature(typing.get_args(hint)[0])
        return {"list": item.get("dtype") or item["struct"]}
    if dataclasses.is_dataclass(hint):
        return {"struct": features_of(hint)}
    return {"dtype": {bool: "bool", int: "int64", float: "float64"}.get(hint, "string")}


def write(
    directory: epath.PathLike,
    splits: Mapping[exported.Split, Sequence[exported.Exported]],
    record_type: type,
    form: Format,
    rows_per_file: int,
) -> None:
    """Writes the shards of each split that has rows."""
    for split, records in splits.items():
        shards = list(_shards(records, rows_per_file))
        for number, shard in enumerate(shards):
            name = exported.shard_name(split, number, len(shards), form)
            data = _parquet(shard, record_type) if form == "parquet" else _json_lines(shard)
            jsonl.write_atomically(os.path.join(directory, name), data)


def _shards(records: Sequence[Any], rows_per_file: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(records), rows_per_file):
        yield records[start : start + rows_per_file]


def _parquet(records: Sequence[Any], record_type: type) -> bytes:
    rows = [dataclasses.asdict(record) for record in records]
    file = io.BytesIO()
    table = pyarrow.Table.from_pylist(rows, schema=schema_of(record_type))
    pyarrow.parquet.write_table(table, file, compression="zstd", row_group_size=_ROW_GROUP)
    return file.getvalue()


def _json_lines(records: Sequence[Any]) -> bytes:
    return "".join(jsonl.to_line(record) + "\n" for record in records).encode()


def front_matter(
    splits: Mapping[Domain, Mapping[exported.Split, Sequence[Any]]],
    kind: exported.Kind,
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
        infos.append({"config_name": domain, "features": features_of(exported.RECORD_TYPES[kind][domain])})
    configs[0]["default"] = True
    fields = {**more, "configs": configs, "dataset_info": infos}
    return "".join(["---\n", *(_yaml(name, value) for name, value in fields.items()), "---\n"])


def _yaml(name: str, value: Any) -> str:
    """A field in YAML, of which JSON is a part; a list's items have a line each."""
    if isinstance(value, list):
        return f"{name}:\n" + "".join(f"- {json.dumps(item, ensure_ascii=False)}\n" for item in value)
    return f"{name}: {json.dumps(value, ensure_ascii=False)}\n"
