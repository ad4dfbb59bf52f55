"""A run's record files as a TFDS data set, `promptcot/CONFIG`, for programs that read TFDS or ArrayRecord.

    builder = tfds_builder.Promptcot(config="problems", data_dir=DIR, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=WORKDIR))

or by the command line of TFDS, which does not start without Apache Beam and mlcroissant. They ask for older
versions of pyarrow and beartype than this package: install them after it, in an environment for this alone.

    tfds build promptcot/problems --imports=promptcot_jax.data.seqio.tfds_builder --manual_dir=WORKDIR \\
        --data_dir=DIR --file_format=array_record

then `tfds.load("promptcot/problems", data_dir=DIR)` where this module is imported, or anywhere
`tfds.builder_from_directory("DIR/promptcot/problems/1.0.0")`. An ArrayRecord set is read by
`builder.as_data_source()` alone, any example by its number; a TFRecord one by `as_dataset()`.

The configurations `exported_KIND_DOMAIN` are of what `promptcot export` wrote: WORKDIR/export is their manual
directory.

Examples are in the order of the records. TFDS knows no absent feature: what a record does not have is empty
(a programming problem's `answer`, a mathematics problem's `tests`). Of nested records TFDS reads back a dict
of lists: `tests` is {"input": [...], "output": [...]}. Its files hold numbers in single precision.
"""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from promptcot_jax.core import file_sets, jsonl, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import exported_sets, rows

_SCALARS = {bool: tf.bool, int: tf.int64, float: tf.float32}
_EMPTY: dict[Any, Any] = {bool: False, int: 0, float: 0.0}


@dataclasses.dataclass(kw_only=True)
class RecordsConfig(tfds.core.BuilderConfig):
    """Which files become which splits, and what records they hold; files that are not there are left out."""

    record_types: tuple[type, ...]
    files: dict[str, str]  # split -> file in the manual directory


class Promptcot(tfds.core.GeneratorBasedBuilder):
    """The record files of a workdir, given as the manual directory."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The manual directory is a workdir that `promptcot` wrote."
    BUILDER_CONFIGS = [
        RecordsConfig(
            name="triples",
            description="Concepts, rationales, problems; with solutions where `promptcot corpus` wrote them.",
            record_types=(records.MathCorpusRow, records.ProgramCorpusRow, records.Triple),
            files={
                "train": "triples.jsonl",
                "heldout": "triples_heldout.jsonl",
                "novel": "triples_novel.jsonl",
            },
        ),
        RecordsConfig(
            name="problems",
            description="Problems that `promptcot synthesize` wrote, with their lineage.",
            record_types=(records.Problem,),
            files={"train": "problems.jsonl"},
        ),
        RecordsConfig(
            name="verified_prompts",
            description="Problems with a checked answer or tests.",
            record_types=(exported_sets.FixedMathPrompt, exported_sets.FixedProgramPrompt),
            files={"train": "verified_prompts.jsonl"},
        ),
        RecordsConfig(
            name="sft_traces",
            description="Prompts and a teacher's solutions.",
            record_types=(records.SftTrace,),
            files={"train": "sft_traces.jsonl"},
        ),
        *(
            RecordsConfig(
                name=f"exported_{kind}_{domain}",
                description=f"Rows of {kind} that `promptcot export` wrote; the manual directory is its own.",
                record_types=(record_type,),
                files={split: f"data/{domain}/{split}.parquet" for split in exported_sets.SPLITS},
            )
            for kind, record_types in exported_sets.RECORD_TYPES.items()
            for domain, record_type in record_types.items()
        ),
    ]

    def _config(self) -> RecordsConfig:
        config = self.builder_config
        assert isinstance(config, RecordsConfig)
        return config

    def _info(self) -> tfds.core.DatasetInfo:
        features = {name: _feature(hint) for name, hint in _hints(self._config().record_types).items()}
        return tfds.core.DatasetInfo(
            builder=self,
            description=self._config().description,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        directory = epath.Path(dl_manager.manual_dir)
        files = {split: directory / name for split, name in self._config().files.items()}
        found = {split: file for split, file in files.items() if file_sets.files_named(file)}
        if not found:
            names = ", ".join(self._config().files.values())
            raise WrongUse(
                f"{directory} has no records of '{self._config().name}' ({names}); "
                "give the workdir of a run as --manual_dir."
            )
        return {split: self._generate_examples(file) for split, file in found.items()}

    def _generate_examples(self, file: epath.Path) -> Iterator[tuple[int, dict[str, Any]]]:
        record_types = self._config().record_types
        hints = _hints(record_types)
        for i, record in enumerate(rows.iter_records(file, typing.Union[record_types])):  # noqa: UP007
            fields = dataclasses.asdict(record)
            yield i, {name: fields.get(name, _empty(hint)) for name, hint in hints.items()}


def _hints(record_types: tuple[type, ...]) -> dict[str, Any]:
    """The fields of all the types together."""
    hints: dict[str, Any] = {}
    for record_type in record_types:
        hints |= jsonl.type_hints(record_type)
    return hints


def _feature(hint: Any) -> Any:
    """A field's type as TFDS says it."""
    if typing.get_origin(hint) is tuple:
        return tfds.features.Sequence(_feature(typing.get_args(hint)[0]))
    if dataclasses.is_dataclass(hint):
        return {name: _feature(field) for name, field in jsonl.type_hints(hint).items()}
    return tfds.features.Scalar(_SCALARS[hint]) if hint in _SCALARS else tfds.features.Text()


def _empty(hint: Any) -> Any:
    """What stands for a field that a record does not have."""
    return [] if typing.get_origin(hint) is tuple else _EMPTY.get(hint, "")
