"""Which traces and problems are fit to train on: the paper's rules, and those of its released scripts.

The paper keeps a teacher's trace if it has a boxed answer or a program to run (section 3.5), after its
thinking if it thinks. The scripts ask more of a trace, that it thinks and that its answer holds no Chinese,
Japanese or Korean, and of a problem: a finished statement that asks for no proof, and an answer that cannot
be guessed. Each fault has a name, under which it is counted.
"""

import re
from typing import Any, Literal

from promptcot_jax.core import records, thinking
from promptcot_jax.data import statement_rules, templates

Validity = Literal["off", "paper", "release"]

_EAST_ASIAN = re.compile(r"[\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")
_GUESSABLE = re.compile(r"\b(?:no|none|inf(?:inity|inite)?)\b|\\infty", re.IGNORECASE)


def fault_of(row: Any, rules: Validity) -> str | None:
    """The name of the first rule that a record breaks; None: it is valid, or nothing is asked of its kind."""
    if rules == "off":
        return None
    if isinstance(row, records.SftTrace):
        return trace_fault(row.completion, row.domain, rules)
    if isinstance(row, records.SolvedMathProblem | records.SolvedProgramProblem):
        domain: records.Domain = "math" if isinstance(row, records.SolvedMathProblem) else "code"
        fault = trace_fault(row.solution, domain, "paper")  # worked solutions do not think aloud
        return fault or (problem_fault(row) if rules == "release" else None)
    if rules == "release" and isinstance(row, records.Prompt):
        return problem_fault(row)
    return None


def trace_fault(completion: str, domain: records.Domain, rules: Validity) -> str | None:
    """The rule that a trace breaks: `no_answer`, a fault of its thinking, or one of the scripts' own."""
    if fault := thinking.fault_of(completion):
        return fault
    answer = thinking.answer_part(completion)
    if rules == "release":
        thoughts, ended, _ = completion.partition(thinking.CLOSE)
        if not ended:
            return "not_one_thinking_block"
        if not thoughts.strip():
            return "empty_part"
        if _EAST_ASIAN.search(answer):
            return "east_asian_answer"
    has_answer = "\\boxed{" in answer if domain == "math" else templates.last_code_fence(answer) is not None
    return None if has_answer else "no_answer"


def problem_fault(
    row: records.SolvedMathProblem | records.SolvedProgramProblem | records.Prompt,
) -> str | None:
    """The rule of the released scripts that a problem breaks."""
    answer = getattr(row, "answer", None)
    domain = "code" if answer is None else "math"
    if fault := statement_rules.first_fault(row.problem, domain, statement_rules.RELEASED):
        return fault.reason
    if answer is not None and (answer.strip() in ("0", "1") or _GUESSABLE.search(answer)):
        return "guessable_answer"
    return None
