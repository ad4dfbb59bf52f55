"""The same tasks as seqio tasks and mixtures, for those who feed T5X or a seqio pipeline of their own.

`register_tasks` is called once, by gin or by hand, with a vocabulary and paths; importing or registering
reads no file. What is registered:

| name | features | from |
|---|---|---|
| those of `tasks.TASKS` and `tasks.MIXTURES` | `inputs`, `targets` | triples, worked solutions |
| `verified_prompts` | `inputs`; the answer or the tests as the text `reference` | verified prompts |
| `preference_pairs` | `inputs`, `chosen`, `rejected` | preference pairs |
| `evaluate_NAME` | `inputs`, `targets` | an evaluation set; for `seqio.Evaluator` |

Texts and ids come from the functions of `tasks`, a few hundred rows a call. Each task can be cached by
`seqio_cache`, or by seqio's own script; a cache that `seqio_cache` made from other content is refused. seqio
shuffles within a buffer; the order of the stages' epochs is a permutation of all.
"""

import collections
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from promptcot_jax.core import jsonl, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import example_sets, examples, tasks
from promptcot_jax.data.seqio import seqio_registry
from promptcot_jax.data.seqio.vocabulary import TokenizerVocabulary
from promptcot_jax.data.tokenizer import Tokenizer

_RaggedTensor: Any = tf.RaggedTensor  # its constructors are missing from the type stubs

Splits = Mapping[str, str]  # split -> path
MetricFn = Callable[[Sequence[Any], Sequence[Any]], Mapping[str, float]]
Features = dict[str, Sequence[int] | np.ndarray | str]  # one row's: ids, or text that travels along
FeatureFn = Callable[[Sequence[Any], Tokenizer], list[Features]]  # of many rows in one call


@dataclasses.dataclass(frozen=True)
class _Setting:
    """What all tasks of one registration share."""

    tokenizer: Tokenizer
    rules: tasks.RowRules
    overlong: example_sets.Overlong
    counts: collections.Counter[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Kind:
    """A kind of task as seqio sees it: the last of `features` is what `overlong` may cut."""

    record_type: Any
    to_features: FeatureFn
    features: tuple[str, ...] = ("inputs", "targets")
    texts: tuple[str, ...] = ("id",)
    domain: records.Domain | None = None


def register_tasks(
    vocabulary: TokenizerVocabulary | str,
    *,
    triples: Splits | None = None,
    sft_traces: Splits | None = None,
    verified_prompts: Splits | None = None,
    preference_pairs: Splits | None = None,
    evaluation_sets: Splits | None = None,
    metric_fns: Sequence[MetricFn] = (),
    rates: Mapping[str, float] | None = None,
    rules: tasks.RowRules = tasks.NO_RULES,
    overlong: example_sets.Overlong = "error",
) -> collections.Counter[str]:
    """Registers the tasks whose files are given; a later call replaces the tasks of an earlier one.

    Args:
        vocabulary: or the path that `TokenizerVocabulary.from_path` takes.
        triples: paths by split, such as {"train": ..., "validation": ...}; so are the next three.
        evaluation_sets: path by name; each becomes `evaluate_NAME` with the one split "test".
        metric_fns: of the evaluation tasks, such as those of `evaluation.seqio_metrics`: functions of
            reference answers and completions, called `targets` and `predictions`.
        rates: of "math" and "code" in the mixtures; without them in proportion to their rows.
        rules: for bad rows and for those that overlap with a benchmark.
        overlong: a row longer than the lengths that seqio is asked for is refused, dropped and counted, or
            cut at the end of its last feature and counted. seqio itself would cut without a word.

    Returns:
        Counts of rows read and left out by reason; each reading of a task adds to them.
    """
    if isinstance(vocabulary, str):
        vocabulary = TokenizerVocabulary.from_path(vocabulary)
    setting = _Setting(vocabulary.tokenizer, rules, overlong, collections.Counter())
    for name, task in tasks.TASKS.items():
        paths = sft_traces if name == "sft_traces" else triples
        if paths is not None:
            _register(name, _kind_of(task), paths, setting)
    if triples is not None:
        for name, members in tasks.MIXTURES.items():
            _register_mixture(name, members, rates)
    if verified_prompts is not None:
        _register("verified_prompts", _PROMPTS, verified_prompts, setting)
    if preference_pairs is not None:
        _register("preference_pairs", _PAIRS, preference_pairs, setting)
    for name, path in (evaluation_sets or {}).items():
        of_evaluation = {"metric_fns": list(metric_fns), "postprocess_fn": _reference_or_completion}
        _register(f"evaluate_{name}", _EVALUATION, {"test": path}, setting, **of_evaluation)
    return setting.counts


def registered(mixture_or_task_name: str, vocabulary: TokenizerVocabulary | str, **settings: Any) -> str:
    """Registers the tasks and returns a name of them, so that a gin macro can do both.

    In a gin file for T5X: `MIXTURE_OR_TASK_NAME = @seqio_tasks.registered()`. Each use of the macro registers
    anew, which changes nothing. Settings: `register_tasks`.

    Raises:
        WrongUse: nothing of that name was registered.
    """
    register_tasks(vocabulary, **settings)
    seqio_registry.provider_named(mixture_or_task_name)
    return mixture_or_task_name


def register_over(
    names: Sequence[str], vocabulary: TokenizerVocabulary | str, files: Splits, rules: tasks.RowRules
) -> None:
    """Registers the tasks of this package among `names`, all of them over the same files.

    Args:
        files: path by split; `evaluate_NAME` takes the split "test".

    Raises:
        WrongUse: `files` lacks a split, or there is no tokenizer that can be read.
    """
    arguments = {name: name for name in ("sft_traces", "verified_prompts", "preference_pairs")}
    arguments = dict.fromkeys((*tasks.TASKS, *tasks.MIXTURES), "triples") | arguments
    settings: dict[str, Any] = {arguments[name]: files for name in names if name in arguments}
    if sets := [name.removeprefix("evaluate_") for name in names if _is_evaluation(name)]:
        if "test" not in files:
            raise WrongUse(f"'evaluate_{sets[0]}' has the one split 'test'; give FILES its file.")
        settings["evaluation_sets"] = dict.fromkeys(sets, files["test"])
    if settings:
        register_tasks(vocabulary, rules=rules, **settings)


def _is_evaluation(name: str) -> bool:
    """Whether a name is that of an evaluation set, and of no task that somebody else has registered."""
    known = seqio.TaskRegistry.get(name) if name in seqio.TaskRegistry.names() else None
    return name.startswith("evaluate_") and isinstance(known, seqio_registry.CheckedTask | None)


def _kind_of(task: tasks.Task) -> _Kind:
    """A task of `tasks` as seqio sees it, the texts of its features beside their ids."""

    def to_features(some: Sequence[Any], tokenizer: Tokenizer) -> list[Features]:
        texts = [task.to_text(row, tokenizer) for row in some]
        return [
            {
                "id": text.row_id,
                "inputs": example.prompt_ids,
                "targets": example.completion_ids,
                "inputs_pretokenized": text.prompt,
                "targets_pretokenized": "".join(text.blocks),
            }
            for text, example in zip(texts, examples.tokenize(tokenizer, texts), strict=True)
        ]

    texts = ("id", "inputs_pretokenized", "targets_pretokenized")
    return _Kind(record_type=task.record_type, to_features=to_features, texts=texts, domain=task.domain)


def _prompt_features(some: Sequence[Any], tokenizer: Tokenizer) -> list[Features]:
    """What a solver reads; the answer, or the tests as JSON, as text."""
    return [
        {"id": row.id, "inputs": ids, "reference": _reference(row)}
        for row, ids in zip(some, examples.solver_prompt_ids(tokenizer, some), strict=True)
    ]


def _evaluation_features(some: Sequence[Any], tokenizer: Tokenizer) -> list[Features]:
    """The same with the reference as `targets`, which `seqio.Evaluator` decodes and compares with."""
    prompts = _prompt_features(some, tokenizer)
    references = tokenizer.encode_many([_reference(row) for row in some])
    return [
        {**features, "targets": [*ids, tokenizer.eos_id]}
        for features, ids in zip(prompts, references, strict=True)
    ]


def _pair_features(some: Sequence[records.PreferencePair], tokenizer: Tokenizer) -> list[Features]:
    """One prompt and its two solutions."""
    texts = [text for row in some for text in examples.pair_texts(row, tokenizer)]
    tokenized = examples.tokenize(tokenizer, texts)
    return [
        {
            "id": row.id,
            "inputs": chosen.prompt_ids,
            "chosen": chosen.completion_ids,
            "rejected": rejected.completion_ids,
        }
        for row, chosen, rejected in zip(some, tokenized[::2], tokenized[1::2], strict=True)
    ]


_PROMPTS = _Kind(
    record_type=records.Prompt,
    to_features=_prompt_features,
    features=("inputs",),
    texts=("id", "reference"),
)
_EVALUATION = dataclasses.replace(_PROMPTS, to_features=_evaluation_features, features=("inputs", "targets"))
_PAIRS = _Kind(
    record_type=records.PreferencePair,
    to_features=_pair_features,
    features=("inputs", "chosen", "rejected"),
)


def _reference(row: records.Prompt) -> str:
    if isinstance(row, records.MathPrompt):
        return row.answer
    return json.dumps([jsonl.to_row(test) for test in row.tests])


def _reference_or_completion(text: str, example: Mapping[str, Any], is_target: bool) -> str:
    """What the metric functions compare: the row's own reference, as it stood in the file."""
    return example["reference"].decode() if is_target else text


def _register(name: str, kind: _Kind, paths: Splits, setting: _Setting, **of_task: Any) -> None:
    seqio_registry.add_task(
        name,
        _Rows(kind, paths, setting),
        TokenizerVocabulary(setting.tokenizer),
        kind.features,
        preprocessors=[_features_of_rows(kind, setting)],
        overlong=setting.overlong,
        counts=setting.counts,
        made_from=lambda split: tasks.made_from(name, paths[split], setting.tokenizer, setting.rules),
        **of_task,
    )


def _register_mixture(name: str, members: Mapping[str, str], rates: Mapping[str, float] | None) -> None:
    seqio.MixtureRegistry.remove(name)
    if rates is None:
        seqio.MixtureRegistry.add(name, list(members.values()), default_rate=seqio.mixing_rate_num_examples)
        return
    if missing := members.keys() - rates.keys():
        raise WrongUse(f"The rates {dict(rates)} name no '{min(missing)}'; give each of {list(members)} one.")
    seqio.MixtureRegistry.add(name, [(member, rates[label]) for label, member in members.items()])


class _Rows(seqio.FunctionDataSource):
    """Rows of this package's files as JSON text; they are counted when a mixture asks how many there are."""

    def __init__(self, kind: _Kind, paths: Splits, setting: _Setting):
        self._kind, self._paths, self._setting = kind, paths, setting
        self._num_rows: dict[str, int] = {}
        super().__init__(self._read, splits=tuple(paths))

    def _read(self, split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # rows come in the order of the files; seqio shuffles them
        counts = self._setting.counts
        return tf.data.Dataset.from_generator(
            lambda: ({"row": jsonl.to_line(row)} for row in self._rows(split, counts)),
            output_signature={"row": tf.TensorSpec([], tf.string)},
        )

    def _rows(self, split: str, counts: collections.Counter[str]) -> Iterator[Any]:
        kind, rules = self._kind, self._setting.rules
        return iter(
            tasks.iter_task_rows(
                kind.record_type, self._paths[split], rules, domain=kind.domain, counts=counts
            )
        )

    def num_input_examples(self, split: str) -> int:
        """Rows of a split, by reading it once."""
        if split not in self._num_rows:
            self._num_rows[split] = sum(1 for _ in self._rows(split, collections.Counter()))
        return self._num_rows[split]


def _features_of_rows(kind: _Kind, setting: _Setting) -> Callable[..., tf.data.Dataset]:
    """A seqio preprocessor from rows to features; many rows are tokenized in one call, on all cores."""

    def make(some: Sequence[Any]) -> list[Features]:
        return kind.to_features(some, setting.tokenizer)

    def features_of(lines: np.ndarray) -> list[np.ndarray]:
        found = [
            jsonl.record_from_row(kind.record_type, json.loads(line), where="row") for line in lines.tolist()
        ]
        made = tasks.made_of(found, make, setting.rules, setting.counts)
        arrays = []
        for name in kind.features:
            arrays.append(
                np.concatenate([np.zeros(0, np.int32), *(row[name] for row in made)], dtype=np.int32)
            )
            arrays.append(np.array([len(row[name]) for row in made], np.int64))
        for name in kind.texts:
            arrays.append(np.array([str(row[name]).encode() for row in made], np.object_))
        return arrays

    @tf.autograph.experimental.do_not_convert
    def to_features(batch: Mapping[str, tf.Tensor]) -> dict[str, Any]:
        types = [*[tf.int32, tf.int64] * len(kind.features), *[tf.string] * len(kind.texts)]
        arrays = iter(tf.numpy_function(features_of, [batch["row"]], types, stateful=False))
        features = {}
        for name in kind.features:
            ids, lengths = tf.ensure_shape(next(arrays), [None]), tf.ensure_shape(next(arrays), [None])
            features[name] = _RaggedTensor.from_row_lengths(ids, lengths)
        return features | {name: tf.ensure_shape(next(arrays), [None]) for name in kind.texts}

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        # One batch at a time: rows are counted and refused in order, and each call uses all cores as it is.
        return dataset.batch(tasks.ROWS_AT_ONCE).map(to_features).unbatch()

    return preprocess
