"""What `analyze` writes: the files of each figure, `index.json` that names them, one page that shows them.

A command for one analysis leaves the others where they are, so that the page fills up command by command. The
page is made from `index.json` and the files beside it, and holds the drawings as data: one file to pass on.
"""

import base64
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from promptcot_jax.analyses.figures import AnalysisResult
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.report import page

TITLES = {
    "em_study": "EM study",
    "well_posed": "Well-posed problems",
    "difficulty": "Difficulty",
    "distribution": "Distribution",
    "scaling": "Scaling",
    "accounting": "Contents of the sets",
    "ablations": "Ablations",
    "case_studies": "Case studies",
    "subsets": "Training subsets",
}
_ROWS_SHOWN = 60  # of a figure's numbers; the CSV has all


def write(
    directory: epath.PathLike,
    results: Mapping[str, Sequence[AnalysisResult]],
    left_out: Mapping[str, str],
    commands: Mapping[str, str],
) -> None:
    """Writes the files of the results, `index.json`, then `index.html`.

    Args:
        results: by analysis.
        left_out: why, by analysis; what an earlier command made stays.
        commands: that make each analysis of `results`.
    """
    directory = epath.Path(directory)
    earlier = _earlier(directory)
    contents: dict[str, bytes] = {}
    entries = {}
    for analysis in TITLES:
        if analysis in results:
            shown = [_entry(one, contents) for one in results[analysis]]
            entries[analysis] = {"command": commands[analysis], "made": shown}
        elif analysis in earlier:
            entries[analysis] = earlier[analysis]
    for name, content in contents.items():
        jsonl.write_atomically(directory / name, content)
    for name in _names(earlier) - _names(entries):  # of figures that the new records do not have
        (directory / name).unlink(missing_ok=True)
    reasons = {analysis: why for analysis, why in left_out.items() if analysis not in entries}
    jsonl.write_json(directory / "index.json", {"analyses": entries, "left_out": reasons})
    jsonl.write_atomically(directory / "index.html", render(directory, entries, reasons).encode())


def _entry(result: AnalysisResult, contents: dict[str, bytes]) -> dict[str, Any]:
    """What `index.json` says of a result, whose files are added to `contents`."""
    files = {f"{result.name}.{suffix}": content for suffix, content in result.files().items()}
    contents |= files
    return {
        "name": result.name,
        "title": result.title,
        "caption": result.caption,
        "files": list(files),
        "header": list(result.rows[0]),
        "rows": [list(row.values()) for row in result.rows[:_ROWS_SHOWN]],
        "num_rows": len(result.rows),
    }


def _earlier(directory: epath.Path) -> dict[str, Any]:
    """The entries of earlier commands whose files are all there."""
    path = directory / "index.json"
    if not path.exists():
        return {}
    try:
        entries = jsonl.read_json(path)["analyses"]
        return {
            analysis: entry
            for analysis, entry in entries.items()
            if all((directory / name).exists() for name in _names({analysis: entry}))
        }
    except (KeyError, TypeError, AttributeError):
        raise WrongUse(
            f"{path}: not an index that 'promptcot analyze' wrote; remove it and run again."
        ) from None


def _names(entries: Mapping[str, Any]) -> set[str]:
    return {name for entry in entries.values() for one in entry["made"] for name in one["files"]}


def render(directory: epath.Path, entries: Mapping[str, Any], left_out: Mapping[str, str]) -> str:
    """The page of the entries of `index.json`."""
    return page.render(
        "analyses.html",
        analyses=[
            (name, TITLES[name], entry["command"], [_shown(directory, one) for one in entry["made"]])
            for name, entry in entries.items()
        ],
        left_out=[(TITLES[name], why) for name, why in left_out.items()],
        images=True,
    )


def _shown(directory: epath.Path, one: Mapping[str, Any]) -> dict[str, Any]:
    """One figure as the template shows it."""
    drawing = directory / f"{one['name']}.svg"
    svg = base64.b64encode(drawing.read_bytes()).decode() if drawing.name in one["files"] else ""
    return {**one, "svg": svg, "header": list(map(page.label, one["header"]))}


def command(analysis: str, settings: Mapping[str, Any]) -> str:
    """The command that makes one analysis.

    Args:
        settings: macros that differ from their defaults.
    """
    macros = {"ANALYSES": (analysis,), **settings}
    bindings = [_binding(name, repr(value)) for name, value in macros.items()]
    return " ".join(["promptcot analyze --gin_file=stages/analyze.gin", *bindings, "--workdir=WORKDIR"])


def _binding(name: str, value: str) -> str:
    """A setting as a shell takes it: in double quotes, as the documents have it, where these do."""
    if set(value) & set('"$`\\!'):
        return shlex.quote(f"--gin.{name}={value}")
    return f'--gin.{name}="{value}"'
