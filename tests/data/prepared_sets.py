"""Small prepared TFDS data sets: of record files, and of any examples."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from promptcot_jax.data.seqio import tfds_builder

F = tfds.features


def prepare(
    data_dir: pathlib.Path,
    name: str,
    features: Mapping[str, Any],
    num_shards: int = 1,
    *,
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    **settings: Any,
) -> pathlib.Path:
    """The directory of a data set of such examples, in their order."""
    builder = tfds.dataset_builders.AdhocBuilder(
        name=name,
        features=F.FeaturesDict(dict(features)),
        split_datasets={split: list(enumerate(examples)) for split, examples in splits.items()},
        data_dir=str(data_dir),
        disable_shuffling=True,
        **{"version": "1.0.0", "file_format": "array_record"} | settings,
    )
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=num_shards))
    return pathlib.Path(builder.data_path)


def texts(*names: str) -> dict[str, Any]:
    """Features that are texts."""
    return {name: F.Text() for name in names}


def prepare_records(data_dir: pathlib.Path, workdir: pathlib.Path, config: str, file_format: str) -> None:
    """What `tfds_builder` makes of a workdir."""
    builder = tfds_builder.Promptcot(config=config, data_dir=str(data_dir), file_format=file_format)
    download_config = tfds.download.DownloadConfig(manual_dir=str(workdir), num_shards=2)
    builder.download_and_prepare(download_config=download_config)
