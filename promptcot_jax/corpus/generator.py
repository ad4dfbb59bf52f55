"""Seed corpus: rows of concepts, rationale, problem and solution, drawn from a seed (stage `corpus`).

Stands in for the paper's annotated seed problems (section 3.2) where none are at hand. A row is a family, an
ending and an annotator style. Each split and row has its own stream, so asking for more training rows changes
no held-out row. Splits are disjoint by construction, in every corpus alike: a digest of a family's parameters
says to which split they belong, and each family keeps one ending, hence one pair of concepts, for the novel
split alone. So a model trained on one seed's rows, as `promptcot-tiny` is, has seen no held-out row of
another.
"""

import dataclasses
import functools
import hashlib
import random
from typing import Literal, TypeVar

from promptcot_jax.core.records import CorpusRow
from promptcot_jax.core.settings import NonNegativeInt, Share, settings
from promptcot_jax.corpus import endings, math_families, program_families, rows, styles
from promptcot_jax.corpus.families import (
    Family,
    MathEnding,
    MathFamily,
    ProgramEnding,
    ProgramFamily,
    Values,
)

E = TypeVar("E", MathEnding, ProgramEnding)
Split = Literal["train", "heldout", "novel"]

_SPLIT_LIMITS: dict[Split, float] = {"train": 0.7, "heldout": 0.85, "novel": 1.0}  # cumulative
_PLAIN_SHARE = 0.3  # of the rows of the train and held-out splits
_MAX_TRIES = 2000


@functools.cache
def families() -> dict[str, MathFamily | ProgramFamily]:
    """All families by name, those of mathematics first."""
    return {family.name: family for family in (*math_families.families(), *program_families.families())}


@settings
class CorpusConfig:
    """How many rows of which families and annotator styles."""

    seed: int = 0
    num_train: NonNegativeInt = 3000
    num_heldout: NonNegativeInt = 256
    num_novel: NonNegativeInt = 128  # rows whose (family, ending) pair of concepts occurs in no other split
    families: Literal["all"] | tuple[str, ...] = "all"
    styles: tuple[str, ...] = styles.STYLES  # drawn with equal chances
    swapped_share: Share = 0.0  # of the rows below that have the rationale of another one of their family
    swapped_rows: NonNegativeInt = 0  # the first training rows, among which rationales are swapped; 0: all

    def __post_init__(self) -> None:
        for field, chosen, known in (
            ("families", self.family_names(), tuple(families())),
            ("styles", self.styles, styles.STYLES),
        ):
            if not chosen or len(set(chosen)) < len(chosen):
                raise ValueError(
                    f"{field} must name at least one of {list(known)}, each once, got {chosen!r}."
                )
            if unknown := [name for name in chosen if name not in known]:
                raise ValueError(f"{field} has unknown names {unknown}; choose from {list(known)}.")

    def family_names(self) -> tuple[str, ...]:
        """In the order in which rows go through the families."""
        return tuple(families()) if self.families == "all" else self.families


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """Rows of the three splits; no problem text occurs twice."""

    train: list[CorpusRow]
    heldout: list[CorpusRow]
    novel: list[CorpusRow]


def generate(config: CorpusConfig) -> Corpus:
    """The corpus of a config: the same rows for the same seed, on every machine.

    Raises:
        ValueError: a family cannot give as many distinct problems as asked for.
    """
    return Corpus(
        train=_with_swapped_rationales(config, _split_rows(config, "train", config.num_train)),
        heldout=_split_rows(config, "heldout", config.num_heldout),
        novel=_split_rows(config, "novel", config.num_novel),
    )


def _with_swapped_rationales(config: CorpusConfig, train: list[CorpusRow]) -> list[CorpusRow]:
    """An annotator who mixes problems up: the drawn rows of a family pass their rationales round."""
    draw = random.Random(f"{config.seed}/swapped rationales")
    drawn: dict[str, list[int]] = {}
    for index, row in enumerate(train[: config.swapped_rows or None]):
        if draw.random() < config.swapped_share:
            drawn.setdefault(row.family, []).append(index)
    mixed = list(train)
    for of_family in drawn.values():
        for index, other in zip(of_family, (*of_family[1:], of_family[0]), strict=True):
            theirs = train[other]
            mixed[index] = dataclasses.replace(train[index], rationale=theirs.rationale, style=theirs.style)
    return mixed


@functools.cache
def novel_endings() -> dict[str, str]:
    """For each family the name of the ending that only the novel split joins it with.

    Endings are dealt out in turn, so that each stays in training with most families of its domain.
    """
    draw = random.Random("novel endings")
    held_out: dict[str, str] = {}
    for of_domain, (_, *others) in (
        (math_families.families(), endings.math_endings()),
        (program_families.families(), endings.program_endings()),
    ):
        names = [family.name for family in of_domain]
        draw.shuffle(names)
        order = [ending.name for ending in others]
        draw.shuffle(order)
        held_out |= {name: order[i % len(order)] for i, name in enumerate(names)}
    return held_out


def _split_rows(config: CorpusConfig, split: Split, num_rows: int) -> list[CorpusRow]:
    chosen = [families()[name] for name in config.family_names()]
    held_out = novel_endings()
    taken: set[str] = set()
    split_rows: list[CorpusRow] = []
    for index in range(num_rows):
        family = chosen[index % len(chosen)]
        # Unlike a tuple, a text seeds alike in every process.
        draw = random.Random(f"{config.seed}/{split}/{index}")
        row = _new_row(config, split, index, family, held_out[family.name], draw, taken)
        taken.add(row.problem)
        split_rows.append(row)
    return split_rows


def _new_row(
    config: CorpusConfig,
    split: Split,
    index: int,
    family: MathFamily | ProgramFamily,
    held_out: str,
    draw: random.Random,
    taken: set[str],
) -> CorpusRow:
    """Draws until parameters of this split give a new problem whose rationale does not show the answer."""
    row_id, style = f"{split}-{index:06d}", draw.choice(config.styles)
    for _ in range(_MAX_TRIES):
        parameters = family.draw(draw)
        if split_of(family, parameters) != split:
            continue
        if isinstance(family, MathFamily):
            ending = _draw_ending(draw, endings.math_endings(), held_out, split)
            row = rows.math_row(draw, row_id, style, family, ending, parameters)
        else:
            ending = _draw_ending(draw, endings.program_endings(), held_out, split)
            row = rows.program_row(draw, row_id, style, family, ending, parameters)
        if row is not None and row.problem not in taken:
            return row
    raise ValueError(
        f"Family '{family.name}' gave no new {split} problem in {_MAX_TRIES} tries at row {index}; "
        f"lower num_{split} or choose more families."
    )


def split_of(family: Family, parameters: Values) -> Split:
    """The only split in which these parameters of a family may occur."""
    text = f"{family.name}/{sorted(parameters.items())}"
    share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
    return next(split for split, upper in _SPLIT_LIMITS.items() if share < upper)


def _draw_ending(draw: random.Random, known: tuple[E, ...], held_out: str, split: Split) -> E:
    plain, *others = known
    if split == "novel":
        return next(ending for ending in others if ending.name == held_out)
    if draw.random() < _PLAIN_SHARE:
        return plain
    return draw.choice([ending for ending in others if ending.name != held_out])
