"""The right completions of a rollout store as a seqio task, for `sft` or a pipeline of seqio or T5X.

    MIXTURE_OR_TASK_NAME = @rollout_tasks.registered()
    rollout_tasks.registered:
      vocabulary = 'runs/first/policy'
      directory = 'runs/second/rollouts'

`inputs` and `targets` are the ids that the policy read and wrote, end token included, never text tokenized
again. They mean something to its own tokenizer only: a vocabulary that decodes them to another text than the
store has is refused. Splits: `train`, and `validation` with the prompts that a digest of their id picks.
"""

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from typing import Annotated, Any

import seqio
import tensorflow as tf

from promptcot_jax.core import manifest
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import Rollout
from promptcot_jax.core.settings import NonNegativeInt, Range, settings
from promptcot_jax.data import rollout_sets
from promptcot_jax.data.example_sets import Overlong
from promptcot_jax.data.seqio import seqio_registry
from promptcot_jax.data.seqio.vocabulary import TokenizerVocabulary
from promptcot_jax.data.tasks import code_digest
from promptcot_jax.data.tokenizer import Tokenizer

NAME = "right_rollouts"
_SPLITS = ("train", "validation")


@settings
class RolloutRules:
    """Which completions are taken; the first two as `rejection.RejectionSampling` has them, over all of them.

    Attributes:
        validation_share: of the prompts, whose completions are the split `validation`.
    """

    solved_below: float = 0.5
    completions_per_prompt: NonNegativeInt = 0  # 0: all
    validation_share: Annotated[float, Range(above=0, below=1)] = 0.05

    def split_of(self, prompt_id: str) -> str:
        """Where a prompt's completions go, all of them."""
        number = int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "big")
        return "validation" if number < self.validation_share * 2**64 else "train"


def register(
    vocabulary: TokenizerVocabulary | str,
    directory: str,
    *,
    rules: RolloutRules | None = None,
    overlong: Overlong = "error",
    name: str = NAME,
) -> None:
    """Registers the task; no rollout is read yet, and what is registered under the name is replaced.

    Args:
        vocabulary: of the policy that drew them, or the path that `TokenizerVocabulary.from_path` takes.
        directory: the store, `rollouts/` of a workdir.
        overlong: as `seqio_tasks.register_tasks`.
    """
    if isinstance(vocabulary, str):
        vocabulary = TokenizerVocabulary.from_path(vocabulary)
    rules, tokenizer = rules or RolloutRules(), vocabulary.tokenizer
    spec = tf.TensorSpec([None], tf.int32)

    def read(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed
        return tf.data.Dataset.from_generator(
            functools.partial(_features, directory, split, rules, tokenizer),
            output_signature={"inputs": spec, "targets": spec, "id": tf.TensorSpec([], tf.string)},
        )

    def made_from(split: str) -> dict[str, Any]:
        return {
            "task": NAME,
            "rows": manifest.file_digest(f"{directory}/{rollout_sets.FILES}"),
            "rules": dataclasses.asdict(rules),
            "tokenizer": tokenizer.digest,
            "code": code_digest(),
        }

    seqio_registry.add_task(
        name,
        seqio.FunctionDataSource(read, splits=_SPLITS),
        vocabulary,
        ("inputs", "targets"),
        overlong=overlong,
        counts=collections.Counter(),
        made_from=made_from,
    )


def registered(vocabulary: TokenizerVocabulary | str, directory: str, **settings: Any) -> str:
    """Registers the task and returns its name, so that a gin macro can do both. Settings: `register`."""
    register(vocabulary, directory, **settings)
    return settings.get("name", NAME)


def _features(
    directory: str, split: str, rules: RolloutRules, tokenizer: Tokenizer
) -> Iterator[dict[str, Any]]:
    for rollout in rollout_sets.right_ones(
        directory,
        solved_below=rules.solved_below,
        completions_per_prompt=rules.completions_per_prompt,
    ):
        if rules.split_of(rollout.prompt_id) == split:
            _check_tokenizer(rollout, tokenizer, directory)
            name = f"{rollout.prompt_id}/{rollout.index}"
            yield {"inputs": rollout.prompt_ids, "targets": rollout.token_ids, "id": name}


def _check_tokenizer(rollout: Rollout, tokenizer: Tokenizer, directory: str) -> None:
    ended = rollout.finish_reason == "stop"
    ids, end = (rollout.token_ids[:-1], rollout.token_ids[-1:]) if ended else (rollout.token_ids, ())
    if not {*end} <= {*tokenizer.stop_ids} or tokenizer.decode(ids) != rollout.completion:
        raise WrongUse(
            f"{directory}: rollout {rollout.index} is another text by this vocabulary than the one that was "
            "drawn; give the vocabulary of the policy that drew it (policy/ of its workdir)."
        )
