"""Sets of training examples: what every batch of the package is made from.

A set gives any example by its number and knows all lengths beforehand, so that the rows of an epoch can be
planned without reading it. Examples lie in memory (`Listed`: an EM round's targets) or on disk
(`token_store.TokenStore`: a task); `within_length` and `Mixed` are views of other sets.

The order of an epoch is a function of (seed, epoch) and of nothing else: neither hosts nor reader threads
have a part in it.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np

from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Int
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.settings import PositiveInt, Range, settings
from promptcot_jax.data.examples import TokenExample


class ExampleSet:
    """Numbered examples; `value_names` are those of their `token_values`, the same for all."""

    prompt_lengths: Int[np.ndarray, " N"]
    completion_lengths: Int[np.ndarray, " N"]
    value_names: tuple[str, ...] = ()
    groups: Int[np.ndarray, " N"] | None = None  # examples of one number stay in one batch; None: none do

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    def __getitem__(self, index: int) -> TokenExample:
        raise NotImplementedError

    def order(self, seed: int, epoch: int) -> Int[np.ndarray, " M"]:
        """Numbers of the examples of one epoch: each once, in a permutation for each (seed, epoch).

        Groups are permuted, and the examples of one follow each other.
        """
        generator = prng.stream_generator(seed, "order", epoch)
        if self.groups is None:
            return generator.permutation(len(self))
        numbers, group_of = np.unique(self.groups, return_inverse=True)
        return np.argsort(generator.permutation(len(numbers))[group_of], kind="stable")


class Listed(ExampleSet):
    """Examples in memory."""

    def __init__(self, examples: Sequence[TokenExample]):
        """Looks at all examples.

        Raises:
            ValueError: their `token_values` differ in name, or some have a group and some have none.
        """
        self._examples = examples
        self.value_names = tuple(sorted(examples[0].token_values)) if examples else ()
        for index, example in enumerate(examples):
            if tuple(sorted(example.token_values)) != self.value_names:
                raise ValueError(
                    f"Example {index} has token values {sorted(example.token_values)}, "
                    f"the first example has {list(self.value_names)}."
                )
        self.prompt_lengths = np.array([len(example.prompt_ids) for example in examples], np.int32)
        self.completion_lengths = np.array([len(example.completion_ids) for example in examples], np.int32)
        groups = [example.group for example in examples if example.group is not None]
        if len(groups) not in (0, len(examples)):
            raise ValueError(f"{len(groups)} of {len(examples)} examples have a group; give all of them one.")
        self.groups = np.array(groups, np.int64) if groups else None

    def __getitem__(self, index: int) -> TokenExample:
        return self._examples[index]


Overlong = Literal["drop", "truncate", "error"]


@settings
class LengthPolicy:
    """What happens to examples of more than `max_length` tokens; `truncate` cuts the completion's end.

    `max_prompt_length` and `max_completion_length` bound the parts as well (T5X's `TASK_FEATURE_LENGTHS`).
    A prompt is never cut: an example whose prompt is too long, or leaves no room, is dropped.
    """

    max_length: Annotated[int, Range(at_least=2, note="to leave room for a prompt and a completion")]
    max_prompt_length: PositiveInt | None = None
    max_completion_length: PositiveInt | None = None
    overlong: Overlong = "drop"

    def completion_room(self, prompt_lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Room for completion tokens beside each prompt; 0 where the prompt is too long."""
        room = np.maximum(self.max_length - prompt_lengths, 0)
        if self.max_completion_length is not None:
            room = np.minimum(room, self.max_completion_length)
        if self.max_prompt_length is not None:
            room = np.where(prompt_lengths > self.max_prompt_length, 0, room)
        return room


def within_length(examples: ExampleSet, policy: LengthPolicy) -> tuple[ExampleSet, dict[str, int]]:
    """What the policy leaves, and counts for the manifest: `kept`, of these `cut`; `dropped_overlong`.

    A mixture is mixed anew from what is left of its parts, at the same rates.

    Raises:
        WrongUse: the policy is `error` and an example is too long, or a mixture's part with a rate loses all.
    """
    if isinstance(examples, Mixed):
        return _mixture_within_length(examples, policy)
    prompts, completions = examples.prompt_lengths, examples.completion_lengths
    room = policy.completion_room(prompts)
    is_over = completions > room
    if policy.overlong == "error" and is_over.any():
        index = int(is_over.argmax())
        raise WrongUse(
            f"Example {index} has {prompts[index] + completions[index]} tokens, {prompts[index]} of its "
            f"prompt, over {_limits(policy)}; raise it, or set overlong to 'drop' or 'truncate'."
        )
    keeps = room > 0 if policy.overlong == "truncate" else ~is_over
    kept = np.flatnonzero(keeps)
    view = WithinLength(examples, kept, np.minimum(completions[kept], room[kept]))
    num_cut = int((is_over & keeps).sum())
    return view, {"kept": len(kept), "cut": num_cut, "dropped_overlong": len(examples) - len(kept)}


def _mixture_within_length(mixed: "Mixed", policy: LengthPolicy) -> tuple["Mixed", dict[str, int]]:
    parts, counts = {}, collections.Counter[str]()
    for name, examples in mixed.parts.items():
        try:
            parts[name], of_part = within_length(examples, policy)
        except WrongUse as error:
            raise WrongUse(f"'{name}': {error}") from None
        counts.update(of_part)
        if mixed.rates is not None and not len(parts[name]):
            raise WrongUse(
                f"'{name}' has a rate of {mixed.rates[name]}, and none of its {len(examples)} examples is "
                f"within {_limits(policy)}; raise it, or set the rate to 0."
            )
    if not counts["kept"]:
        raise WrongUse(f"None of the {len(mixed)} examples is within {_limits(policy)}; raise it.")
    return Mixed(parts, mixed.rates), dict(counts)


def _limits(policy: LengthPolicy) -> str:
    names = ("max_length", "max_prompt_length", "max_completion_length")
    return ", ".join(f"{name}={getattr(policy, name)}" for name in names if getattr(policy, name) is not None)


class WithinLength(ExampleSet):
    """The examples `kept` of another set, their completions cut to the given lengths."""

    def __init__(
        self, examples: ExampleSet, kept: Int[np.ndarray, " N"], completion_lengths: Int[np.ndarray, " N"]
    ):
        self._examples, self._kept = examples, kept
        self.prompt_lengths = examples.prompt_lengths[kept]
        self.completion_lengths = completion_lengths
        self.value_names = examples.value_names
        self.groups = None if examples.groups is None else examples.groups[kept]

    def __getitem__(self, index: int) -> TokenExample:
        return self._examples[int(self._kept[index])].cut(int(self.completion_lengths[index]))


class Mixed(ExampleSet):
    """Several sets mixed by rate; an epoch is as long as all of them together.

    Each set gives a share of the epoch in proportion to its rate, from its own epochs one after another: a
    small set with a high rate is gone through several times, and no example comes again before all others of
    its set have come. With rates equal to the sizes (the default) an epoch holds each example once.
    """

    def __init__(self, sets: Mapping[str, ExampleSet], rates: Mapping[str, float] | None = None):
        """Joins the sets that have examples and a rate.

        Raises:
            WrongUse: a rate is missing, negative or too small, or nothing is left to mix.
            ValueError: the sets' `token_values` differ in name, or a set has groups.
        """
        of_all = {name: float(len(examples)) for name, examples in sets.items()} if rates is None else rates
        for name in sets:
            if name not in of_all or of_all[name] < 0:
                raise WrongUse(
                    f"The rate of '{name}' is {of_all.get(name, 'missing')}; give each of {list(sets)} a "
                    "rate of 0 or more."
                )
            if of_all[name] > 0 and not len(sets[name]):
                raise WrongUse(f"'{name}' has a rate of {of_all[name]} and no examples; set its rate to 0.")
        if unknown := of_all.keys() - sets.keys():
            raise WrongUse(f"There is no '{min(unknown)}' to mix; there are {list(sets)}.")
        self.parts = {name: examples for name, examples in sets.items() if of_all[name] > 0}
        self.rates = None if rates is None else {name: rates[name] for name in self.parts}
        self._sets = list(self.parts.values())
        if not self._sets:
            raise WrongUse(f"Nothing to mix: all of {list(sets)} have a rate of 0 or no examples.")
        if len({examples.value_names for examples in self._sets}) > 1:
            raise ValueError("The mixed sets have different token values.")
        if any(examples.groups is not None for examples in self._sets):
            raise ValueError("Sets of groups cannot be mixed.")
        self.value_names = self._sets[0].value_names
        self.prompt_lengths = np.concatenate([examples.prompt_lengths for examples in self._sets])
        self.completion_lengths = np.concatenate([examples.completion_lengths for examples in self._sets])
        self._starts = np.cumsum([0, *map(len, self._sets)])
        self._shares = _apportioned(len(self), [of_all[name] for name in self.parts])
        for name, share in zip(self.parts, self._shares, strict=True):
            if not share:
                raise WrongUse(
                    f"The rate of '{name}', {of_all[name]}, is so small beside the others that none of an "
                    f"epoch's {len(self)} examples is its; raise it, or set it to 0."
                )

    def __getitem__(self, index: int) -> TokenExample:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._sets[part][index - int(self._starts[part])]

    def order(self, seed: int, epoch: int) -> Int[np.ndarray, " M"]:
        """Each set's next share, shuffled among each other."""
        parts = [
            int(start) + _stretch(examples, prng.derived_seed(seed, number), epoch * share, share)
            for number, (examples, start, share) in enumerate(
                zip(self._sets, self._starts[:-1], self._shares, strict=True)
            )
        ]
        return prng.stream_generator(seed, "order", epoch).permutation(np.concatenate(parts))


def _apportioned(total: int, rates: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `total` in proportion to the rates: largest remainders get the rest."""
    exact = np.array(rates, np.float64) / sum(rates) * total
    shares = np.floor(exact).astype(np.int64)
    remainders = np.argsort(shares - exact, kind="stable")  # ascending: the largest remainder first
    shares[remainders[: total - int(shares.sum())]] += 1
    return shares.tolist()


def _stretch(examples: ExampleSet, seed: int, start: int, count: int) -> Int[np.ndarray, " M"]:
    """Positions [start, start + count) of a set's epochs laid end to end."""
    epochs, epoch, found = [], 0, 0
    size = len(examples)
    epoch = start // size
    skip = start - epoch * size
    while found < count:
        order = examples.order(seed, epoch)[skip : skip + count - found]
        epochs.append(order)
        found, skip, epoch = found + len(order), 0, epoch + 1
    return np.concatenate(epochs) if epochs else np.zeros(0, np.int64)
