"""Rows of an exported set: a stage's record, and what came with its row that readers must know."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from promptcot_jax.core import records

Kind = Literal["verified_prompts", "problems", "triples"]
Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedMathPrompt(records.VerifiedMathPrompt):
    source: str = ""  # what its licence is that of
    given_answer: str = ""  # which the problem's row stated, before the votes


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedProgramPrompt(records.StdioProgramPrompt):
    source: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedProblem(records.Problem):
    source: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedTriple(records.Triple):
    source: str = ""
    annotator: str = ""
    answer: str = ""
    solution: str = ""


Exported = ExportedMathPrompt | ExportedProgramPrompt | ExportedProblem | ExportedTriple

# Of each kind, the type of its mathematics and of its programming rows: the two configurations of a set.
RECORD_TYPES: Mapping[Kind, Mapping[records.Domain, type[Exported]]] = {
    "verified_prompts": {"math": ExportedMathPrompt, "code": ExportedProgramPrompt},
    "problems": {"math": ExportedProblem, "code": ExportedProblem},
    "triples": {"math": ExportedTriple, "code": ExportedTriple},
}


def shard_name(split: str, number: int, total: int, extension: str) -> str:
    """Name of a file of a split, as Hugging Face and `file_sets` number them."""
    return f"{split}-{number:05d}-of-{total:05d}.{extension}"
