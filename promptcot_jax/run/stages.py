"""The stages of the command line, as the runner sees them; what a user reads of them is in `configs/stages/`.

The module that does a stage's work is imported as the stage runs, so that `--help` answers at once.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage."""

    outputs: tuple[str, ...] = ()  # in the workdir; a stage none of whose outputs is left starts anew
    is_derived: bool = False  # sees itself what is up to date in the workdir: called each time
    needs_all_hosts: bool = True  # False: no work for devices; the first host does it, the others wait
    environment: tuple[tuple[str, str], ...] = ()  # variables that must be set before JAX is imported
    # Macros that may be given as plain words, in order. With them the stage's own gin file is the default,
    # and the last of them the workdir.
    words: tuple[str, ...] = ()


STAGES: dict[str, Stage] = {
    "corpus": Stage(
        outputs=("triples.jsonl", "triples_heldout.jsonl", "triples_novel.jsonl", "tokenizer"),
        needs_all_hosts=False,
    ),
    "import_data": Stage(
        outputs=("concept_sets.jsonl", "sft_traces.jsonl", "verified_prompts.jsonl"), needs_all_hosts=False
    ),
    "cache_tasks": Stage(outputs=("cached_tasks",), is_derived=True, needs_all_hosts=False),
    "annotate": Stage(outputs=("triples.jsonl", "triples_heldout.jsonl", "annotate")),
    "cold_start": Stage(outputs=("cold_start",)),
    "em": Stage(outputs=("em",)),
    "synthesize": Stage(outputs=("problems.jsonl", "synthesize")),
    "decontaminate": Stage(outputs=("decontamination.jsonl",), needs_all_hosts=False),
    "verify": Stage(outputs=("verified_prompts.jsonl", "verify")),
    "export": Stage(outputs=("export",), needs_all_hosts=False),
    "self_play": Stage(outputs=("policy", "rollouts", "self_play")),
    "distill": Stage(outputs=("sft_traces.jsonl", "sft_traces_heldout.jsonl", "distill")),
    "sft": Stage(outputs=("policy", "sft")),
    "evaluate": Stage(outputs=("results.json", "evaluate")),
    "compare": Stage(is_derived=True, needs_all_hosts=False, words=("BASELINE", "OTHER")),
    "analyze": Stage(outputs=("analyses",), is_derived=True, needs_all_hosts=False),
    "report": Stage(outputs=("report.html",), is_derived=True, needs_all_hosts=False),
    "run": Stage(),
    "plan": Stage(is_derived=True, needs_all_hosts=False, environment=(("JAX_PLATFORMS", "cpu"),)),
    "convert": Stage(is_derived=True),
}


def stage_function(name: str) -> Callable[..., Any]:
    """The function `run/NAME.py:NAME` that does a stage's work."""
    return getattr(importlib.import_module(f"promptcot_jax.run.{name}"), name)
