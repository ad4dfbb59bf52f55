"""Benchmarks as files of rows: what training data are compared with."""

import os
from collections.abc import Iterator, Mapping, Sequence

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import rows
from promptcot_jax.data.decontamination import Index, Source


def read_index(paths: Mapping[str, str]) -> Index:
    """The problems of benchmark files, name -> path, under the paper's rule.

    Raises:
        WrongUse: a file is missing or empty, or a row has no problem.
    """
    return Index(iter_texts(paths, ("problem",)))


def iter_texts(paths: Mapping[str, str], fields: Sequence[str]) -> Iterator[tuple[Source, str]]:
    """The texts of benchmark files, name -> path, with their sources.

    Raises:
        WrongUse: a file is missing or empty, or a row lacks a field.
    """
    for name, path in paths.items():
        row = None
        for row in rows.iter_rows(path):
            texts = texts_of(row, fields, "BENCHMARK_FIELDS")
            yield from ((Source(name, row_id(row)), text) for text in texts)
        if row is None:
            raise WrongUse(f"{path}: the benchmark '{name}' has no rows; fetch it again, or leave it out.")


def texts_of(row: rows.Row, fields: Sequence[str], setting: str) -> tuple[str, ...]:
    """A row's texts of these fields.

    Raises:
        WrongUse: one is missing or no text; the message names the setting that says which fields.
    """
    for field in fields:
        value = row.fields.get(field)
        if not isinstance(value, str):
            what = f"must be a text, got {type(value).__name__}" if field in row.fields else "is missing"
            raise WrongUse(
                f"{row.where}: field '{field}' {what}; correct the row, or name other fields with {setting} "
                f"(it has {', '.join(map(repr, row.fields)) or 'none'})."
            )
    return tuple(row.fields[field] for field in fields)


def row_id(row: rows.Row) -> str:
    """A row's own id, or its place."""
    given = row.fields.get("id")
    return os.path.basename(row.where) if given in (None, "") else str(given)
