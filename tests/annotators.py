"""Answers of an annotator in the form that `annotation_requests` asks for."""

import json
from collections.abc import Sequence

from promptcot_jax.synthesis.annotation_requests import RATIONALE_HEADING


def concept_list(concepts: Sequence[str]) -> str:
    return f"```python\n{json.dumps(list(concepts), ensure_ascii=False)}\n```"


def thinking_process(rationale: str) -> str:
    return f"{RATIONALE_HEADING}\n{rationale.strip()}"
