"""`samples.html` of a self-play run: the completions picked of some iterations, to be read while it runs.

No script: what a reader may want to pass over, thinking above all, is folded. The page is a function of the
samples, so that a resumed run writes the same one.
"""

import collections
from collections.abc import Mapping, Sequence

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import CompletionSample, SampleKind
from promptcot_jax.report import charts, page

FILE = "samples.html"
NUM_ITERATIONS_SHOWN = 10  # the first one beside the newest; `samples.jsonl` has all
KINDS: dict[SampleKind, str] = {"best": "Best", "worst": "Worst", "random": "At random"}


def write(path: epath.PathLike, samples: Sequence[CompletionSample]) -> None:
    """Writes the page of a run's samples."""
    jsonl.write_atomically(path, render(samples).encode("utf-8", errors="replace"))


def render(samples: Sequence[CompletionSample]) -> str:
    """The page as one HTML document, newest iteration first."""
    by_iteration = iterations_of(samples)
    iterations = sorted(by_iteration, reverse=True)
    shown = [*iterations[: NUM_ITERATIONS_SHOWN - 1], *iterations[NUM_ITERATIONS_SHOWN - 1 :][-1:]]
    if len(shown) < len(iterations):
        which = f"Here are the newest {len(shown) - 1} and the first of {len(iterations)} with samples; "
        which += "samples.jsonl beside this page has all of them"
    else:
        which = "samples.jsonl beside this page has the same as records"
    lead = (
        "Completions of the policy as it was before an iteration's updates: those of the highest and of the "
        "lowest reward, one of a prompt, ties broken by lot, and some drawn from all of the iteration. "
        f"{which}, rollouts/ every completion of the run."
    )
    links = "".join(f'<a href="#iteration-{iteration}">iteration {iteration}</a>' for iteration in shown)
    header = (
        f'<h1>Self-play: sample completions</h1><p class="lead">{page.text(lead)}</p>'
        f'<nav aria-label="Iterations">{links}</nav>'
    )
    body = "".join(
        _iteration_section(iteration, by_iteration[iteration]) for iteration in shown
    ) or page.missing("There are none yet.")
    return page.document("Self-play: sample completions", body, header=header, styles=("samples.css",))


def iterations_of(samples: Sequence[CompletionSample]) -> dict[int, list[CompletionSample]]:
    """Samples by iteration."""
    by_iteration: dict[int, list[CompletionSample]] = collections.defaultdict(list)
    for sample in samples:
        by_iteration[sample.iteration].append(sample)
    return by_iteration


def _iteration_section(iteration: int, samples: Sequence[CompletionSample]) -> str:
    return page.section(
        f"iteration-{iteration}",
        f"Iteration {iteration}",
        f"Row {iteration + 1} of metrics.jsonl.",
        *map(card, samples),
    )


def card(sample: CompletionSample, fields: Mapping[str, str] | None = None, before: str = "") -> str:
    """One completion with its problem, answers, reward and verdict.

    Args:
        fields: for a page that filters its cards.
        before: what its place is told after.
    """
    name = (
        f"{KINDS[sample.kind]}: reward {charts.number(sample.reward)}"
        if sample.graded
        else KINDS[sample.kind]
    )
    where = f"{before}prompt {sample.prompt_id}, sample {sample.sample}"
    data = "".join(f' data-{field}="{page.text(value)}"' for field, value in (fields or {}).items())
    return (
        f'<article class="card"{data}><h3>{page.text(name)} {_tags(sample)}'
        f'<small class="mono">{page.text(where)}</small></h3>'
        f"<h4>Problem</h4>{page.prose(sample.problem)}<h4>Completion</h4>{_completion(sample)}"
        f"{_verdict(sample)}{page.folded('What the policy read', _pre(sample.prompt))}</article>"
    )


def verdict(sample: CompletionSample) -> str:
    """In a word."""
    return "not graded" if not sample.graded else "right" if sample.correct else "wrong"


def _tags(sample: CompletionSample) -> str:
    is_right = sample.graded and sample.correct
    tags = f'<span class="tag {"win" if is_right else "no"}">{verdict(sample)}</span>'
    return tags + ('<span class="tag no">cut off</span>' if sample.finish_reason == "length" else "")


def _completion(sample: CompletionSample) -> str:
    """The text, its thinking folded."""
    before, is_closed, said = sample.completion.rpartition("</think>")
    said = said.lstrip("\n") if is_closed else said
    opened, starts, unfinished = said.partition("<think>")
    parts = []
    if is_closed:
        parts.append(_thinking("Thinking", before.replace("<think>", "", 1)))
    if opened or not starts:
        parts.append(_said(opened, sample))
    if starts:
        parts.append(_thinking("Thinking that was not ended", unfinished))
    return "".join(parts)


def _thinking(name: str, text: str) -> str:
    return page.folded(f"{name}, {len(text):,} characters", page.prose(text))


def _said(text: str, sample: CompletionSample) -> str:
    if not text.strip():
        return '<p class="soft">(nothing but white space)</p>' if text else '<p class="soft">(empty)</p>'
    look = "prose said mono" if sample.domain == "code" else "prose said"
    return f'<div class="{look}">{page.text(text)}</div>'


def _verdict(sample: CompletionSample) -> str:
    """Answer against reference, and where the reward comes from."""
    terms = f"correct {charts.number(sample.correct)}, format {charts.number(sample.format)}, "
    terms += f"length {charts.number(sample.length)} (unweighted)"
    reward = f"{charts.number(sample.reward, 4)}: {terms}" if sample.graded else "none: not graded"
    facts = []
    if sample.domain == "math":
        facts += [("Answer", sample.answer or "none"), ("Reference", sample.reference)]
    facts += [("Verdict", sample.status), ("Reward", reward)]
    facts.append(
        ("Tokens", f"{sample.num_tokens:,}{', cut off' if sample.finish_reason == 'length' else ''}")
    )
    rows = "".join(f"<dt>{name}</dt><dd>{page.text(value)}</dd>" for name, value in facts)
    program = ""
    if sample.domain == "code":
        program = (
            page.folded("The program that was tested", _pre(sample.answer))
            if sample.answer
            else '<p class="soft">No program was found in it.</p>'
        )
    return f'<dl class="verdict">{rows}</dl>{program}'


def _pre(text: str) -> str:
    return (
        f'<pre class="mono">\n{page.text(text)}</pre>'  # a line break right after the tag is none of the text
    )
