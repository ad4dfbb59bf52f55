"""`samples.html` of a self-play run: the completions picked of some iterations, to be read while it runs.

No script: what a reader may want to pass over, thinking above all, is folded. The page is a function of the
samples, so that a resumed run writes the same one.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import CompletionSample, SampleKind
from promptcot_jax.report import page

FILE = "samples.html"
NUM_ITERATIONS_SHOWN = 10  # the first one beside the newest; `samples.jsonl` has all
_KINDS: dict[SampleKind, str] = {"best": "Best", "worst": "Worst", "random": "At random"}


def write(path: epath.PathLike, samples: Sequence[CompletionSample]) -> None:
    """Writes the page of a run's samples."""
    jsonl.write_atomically(path, render(samples).encode("utf-8", errors="replace"))


def render(samples: Sequence[CompletionSample]) -> str:
    """The page as one HTML document, newest iteration first."""
    by_iteration: dict[int, list[dict[str, Any]]] = collections.defaultdict(list)
    for sample in samples:
        by_iteration[sample.iteration].append(card(sample))
    newest = sorted(by_iteration, reverse=True)
    shown = [*newest[: NUM_ITERATIONS_SHOWN - 1], *newest[NUM_ITERATIONS_SHOWN - 1 :][-1:]]
    return page.render(
        "samples.html",
        iterations=[(iteration, by_iteration[iteration]) for iteration in shown],
        num_iterations=len(newest),
    )


def card(sample: CompletionSample) -> dict[str, Any]:
    """A completion as the template's card shows it."""
    verdict = "not graded" if not sample.graded else "right" if sample.correct else "wrong"
    return {
        **dataclasses.asdict(sample),
        "name": _KINDS[sample.kind],
        "verdict": verdict,
        "parts": _parts(sample.completion),
    }


def _parts(completion: str) -> list[tuple[str, str]]:
    """The text cut at its thinking, each part after its heading; what is said has none."""
    before, is_closed, said = completion.rpartition("</think>")
    said = said.lstrip("\n") if is_closed else said
    opened, starts, unfinished = said.partition("<think>")
    parts = []
    if is_closed:
        parts.append(("Thinking", before.replace("<think>", "", 1)))
    if opened or not starts:
        parts.append(("", opened))
    if starts:
        parts.append(("Thinking that was not ended", unfinished))
    return parts
