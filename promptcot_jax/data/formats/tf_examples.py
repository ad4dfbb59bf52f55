"""`tf.train.Example`s as rows: imported when the first one is met, for TensorFlow takes seconds to import."""

from typing import Any

import tensorflow as tf
from google.protobuf import message


def fields_of(record: bytes) -> dict[str, Any]:
    """The features of a serialized Example: bytes as text; of several values a list, of one the value.

    Raises:
        UnicodeDecodeError: a feature of bytes is not UTF-8.
        ValueError: this is no Example.
    """
    try:
        example = tf.train.Example.FromString(record)
    except message.DecodeError as error:
        raise ValueError(f"neither a JSON object nor a tf.train.Example ({error})") from None
    features = example.features.feature
    return {name: _value(features[name]) for name in sorted(features)}


def _value(feature: Any) -> Any:
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    if kind == "bytes_list":
        values = [value.decode() for value in values]
    return values[0] if len(values) == 1 else values
