"""The report's section on training: the loss of every fit of the workdir, over its steps."""

import itertools
import os
import re

from etils import epath

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.report import charts, page, workdir_files

NUM_SHOWN = 8  # fits; further ones are folded
NUM_DRAWN = 60


def is_there(workdir: epath.Path) -> bool:
    """Whether a fit has left its metrics here."""
    return bool(_metrics(workdir))


def _metrics(workdir: epath.Path) -> list[tuple[str, epath.Path]]:
    """The file of each fit by its directory's name; self-play has a section of its own."""
    paths = workdir_files.metrics_files(workdir)
    named = [(os.path.relpath(os.fspath(path.parent), os.fspath(workdir)), path) for path in paths]
    return [(name, path) for name, path in named if name != "self_play"]


def training_section(workdir: epath.Path) -> str:
    """Loss curves of every fit in the workdir, the EM rounds folded from the third on."""
    lead = "Loss per trained token of every fit, over its own steps."
    fits = _metrics(workdir)
    figures, damaged = [], []
    for name, path in fits:
        try:
            if len(figures) < NUM_DRAWN and (figure := _figure(name, path)):
                figures.append(figure)
        except WrongUse as error:
            damaged.append(page.missing(f"{name}: {error}"))
    if not figures and not damaged:
        said = "No metrics.jsonl with a loss is there."
        return page.section("training", "Training curves", lead, page.missing(said))
    first, rest = figures[:NUM_SHOWN], figures[NUM_SHOWN:]
    parts = [*damaged, f'<div class="charts">{"".join(first)}</div>' if first else ""]
    if rest:
        parts.append(page.folded(f"{len(rest)} more fits", f'<div class="charts">{"".join(rest)}</div>'))
    if len(fits) > NUM_DRAWN:
        parts.append(f'<p class="note">{len(fits)} fits in all; the first {NUM_DRAWN} are drawn.</p>')
    return page.section("training", "Training curves", lead, *parts)


def _figure(name: str, path: epath.Path) -> str:
    rows = [row for row in workdir_files.rows(path) if isinstance(row.get("step"), int | float)]
    fields = [
        field
        for field in dict.fromkeys(itertools.chain.from_iterable(rows))
        if re.search("loss|nll", field.lower()) and "seconds" not in field
    ]
    lines = [
        charts.line_of_rows(rows, field, page.words(field), i % charts.NUM_COLOURS, x="step")
        for i, field in enumerate(fields)
    ]
    return charts.line_chart(name, lines, x_label="step")
