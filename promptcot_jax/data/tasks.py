"""The seqio tasks `p_theta`, `q_phi` and `p_direct` over `triples.jsonl` (cold start, paper section 3.2).

`p_theta` reads c and writes z, x; `q_phi` reads c, x and writes z; `p_direct`, the EM study's baseline
without rationale, reads c and writes x. The ids come from `examples`, so seqio and the EM loop see one token
split. Importing this module or registering reads no file; a bad line is refused when a data set is asked for.
"""

import json
import re
from collections.abc import Callable, Mapping

import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from promptcot_jax.core import jsonl, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import examples
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.data.vocabulary import TokenizerVocabulary

TASKS = {"p_theta": "theta", "q_phi": "phi", "p_direct": "direct"}  # task -> role


def register_tasks(
    tokenizer: Tokenizer, train_path: epath.PathLike, validation_path: epath.PathLike | None = None
) -> None:
    """Registers the tasks of `TASKS`; `inputs` is the prompt, `targets` what is trained on.

    A later call replaces the tasks of an earlier one: one process may use several tokenizers or files.
    """
    paths = {"train": train_path} | ({} if validation_path is None else {"validation": validation_path})
    feature = seqio.Feature(vocabulary=TokenizerVocabulary(tokenizer), add_eos=False, dtype=tf.int32)
    for name, role in TASKS.items():
        seqio.TaskRegistry.remove(name)
        seqio.TaskRegistry.add(
            name,
            source=_triples_source(paths),  # pyright: ignore[reportArgumentType]  # seqio's own class
            preprocessors=[_tokenizing(tokenizer, examples.BUILDERS[role])],
            output_features={"inputs": feature, "targets": feature},
        )


def task_examples(name: str, split: str = "train") -> list[examples.TokenExample]:
    """All examples of a registered task (or mixture) in file order, whole: nothing is trimmed here.

    Raises:
        WrongUse: a line of the file is corrupt or lacks a field, or a text cannot be written as a block.
    """
    try:
        dataset = seqio.get_mixture_or_task(name).get_dataset(
            sequence_length=None, split=split, shuffle=False
        )
        return [
            examples.TokenExample(
                prompt_ids=tuple(row["inputs"].tolist()), completion_ids=tuple(row["targets"].tolist())
            )
            for row in dataset.as_numpy_iterator()
        ]
    except tf.errors.OpError as error:
        raise _wrong_use_within(error) or error from None


def _triples_source(paths: Mapping[str, epath.PathLike]) -> seqio.FunctionDataSource:
    """Reads one split of triples; rows travel through TensorFlow as JSON lines."""

    def read_split(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # a split is one file in memory; seqio shuffles its rows
        triples = jsonl.read_records(paths[split], records.Triple)
        if not triples:
            raise WrongUse(f"{paths[split]}: there are no triples in this file.")
        lines = tf.data.Dataset.from_tensor_slices([jsonl.to_line(triple) for triple in triples])
        return lines.map(lambda line: {"triple": line})

    return seqio.FunctionDataSource(read_split, splits=tuple(paths))


def _tokenizing(
    tokenizer: Tokenizer, build: Callable[[Tokenizer, records.Triple], examples.TokenExample]
) -> Callable[..., tf.data.Dataset]:
    """A seqio preprocessor from triples to `inputs` and `targets`.

    It refuses a row over the lengths that the caller asks of seqio, which would cut it without a word.
    """

    def tokenize(dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None) -> tf.data.Dataset:
        def ids_of(line: bytes) -> tuple[np.ndarray, np.ndarray]:
            triple = jsonl.record_from_row(records.Triple, json.loads(line), where="triple")
            example = build(tokenizer, triple)
            for feature, ids in (("inputs", example.prompt_ids), ("targets", example.completion_ids)):
                if sequence_length is not None and len(ids) > sequence_length.get(feature, len(ids)):
                    raise WrongUse(
                        f"Row '{triple.id}': '{feature}' has {len(ids)} tokens, over the length of "
                        f"{sequence_length[feature]} asked for; raise it, or leave such rows out."
                    )
            return np.array(example.prompt_ids, np.int32), np.array(example.completion_ids, np.int32)

        @tf.autograph.experimental.do_not_convert
        def to_features(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            inputs, targets = tf.numpy_function(ids_of, [row["triple"]], (tf.int32, tf.int32), stateful=False)
            return {"inputs": tf.ensure_shape(inputs, [None]), "targets": tf.ensure_shape(targets, [None])}

        return dataset.map(to_features, num_parallel_calls=tf.data.AUTOTUNE)

    return tokenize


def _wrong_use_within(error: tf.errors.OpError) -> WrongUse | None:
    """The `WrongUse` that TensorFlow wrapped on its way out of a preprocessor, if that is what failed."""
    match = re.search(r"WrongUse: (.*?)\s*(?:\nTraceback|\n\n|\Z)", error.message, re.DOTALL)
    return WrongUse(match[1]) if match else None
