"""Text formats of the annotators (paper section 3.2): concepts as a list, a rationale after its heading.

An annotator, told in an instruction what to do, answers with `concept_list` or `thinking_process`; what it
wrote is read back leniently, since models add words around.
"""

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

RATIONALE_HEADING = "Thinking Process:"
_FENCED = re.compile(r"```\w*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_LISTED_LINE = re.compile(r"^\W*Knowledge Point\W*\d*\W*[:.]\W*(\S.*?)[\s*_]*$", re.MULTILINE)


def concept_list(concepts: Sequence[str]) -> str:
    """Concepts as an annotator is to write them: a Python list in a code fence."""
    return f"```python\n{json.dumps(list(concepts), ensure_ascii=False)}\n```"


def parse_concepts(text: str) -> list[Any] | None:
    """The list in the last code fence that holds one, or the text as a list, or `Knowledge Point:` lines.

    Python's and JSON's notation are both read; literals only, nothing is run. What the list holds is the
    caller's to check. None: there is no list.
    """
    for written in [*reversed(_FENCED.findall(text)), text]:
        if (found := _as_list(written.strip())) is not None:
            return found
    return _LISTED_LINE.findall(text) or None


def _as_list(written: str) -> list[Any] | None:
    if not written.startswith("["):
        return None
    for read in (ast.literal_eval, json.loads):
        try:
            value = read(written)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list):
            return value
    return None


def thinking_process(rationale: str) -> str:
    """A rationale as an annotator is to write it."""
    return f"{RATIONALE_HEADING}\n{rationale.strip()}"


def parse_rationale(text: str) -> str | None:
    """What follows the heading, bold or not; None where there is no heading or nothing after it."""
    _, found, after = text.partition(RATIONALE_HEADING)
    rationale = after.lstrip("*").strip()
    return rationale if found and rationale else None
