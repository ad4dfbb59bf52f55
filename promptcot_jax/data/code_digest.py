"""Which code decides what becomes of a row: part of the name of everything that is kept of its work."""

import functools
import hashlib
import os

# Modules that rows pass through on their way to ids; read as text, since some import TensorFlow.
CODE = (
    "core.file_sets",
    "core.jsonl",
    "core.literals",
    "core.records",
    "core.tfds_sets",
    "data.formats.arrow",
    "data.formats.json_lines",
    "data.formats.parquet",
    "data.formats.records",
    "data.formats.source",
    "data.formats.tf_examples",
    "data.formats.tfds_examples",
    "data.rows",
    "data.validity",
    "data.decontamination",
    "data.phrases",
    "data.benchmark_files",
    "data.templates",
    "data.examples",
    "data.tokenizer",
    "data.tasks",
)


@functools.cache
def code_digest(*also_by: str) -> str:
    """Digest of `CODE` and of further modules: a changed template makes another store.

    Args:
        also_by: names of modules, such as "data.packing".
    """
    sources = "".join(source_of(name) for name in (*CODE, *also_by))
    return hashlib.sha256(sources.encode()).hexdigest()[:16]


def source_of(name: str) -> str:
    """The text of one of the package's modules."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with open(os.path.join(package, *name.split(".")) + ".py", encoding="utf-8") as file:
        return file.read()
