"""Text formats of the two models and of the solver (paper sections 3.1-3.3), as pure functions of text.

The blocks and field names are those of the released generator, so its samples parse here and ours there; the
instruction sentences are our own. A prompt ends with a newline and a block starts with its marker, so that
the token boundary between them falls on a line break.
"""

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import CallTest, ConceptSet, Domain, ProgramTest, StdioTest

BEGIN_RATIONALE = "<!-- BEGIN RATIONALE -->"
END_RATIONALE = "<!-- END RATIONALE -->"
BEGIN_PROBLEM = "<!-- BEGIN PROBLEM -->"
END_PROBLEM = "<!-- END PROBLEM -->"
MARKERS = (BEGIN_RATIONALE, END_RATIONALE, BEGIN_PROBLEM, END_PROBLEM)

CONCEPT_HEADINGS: dict[Domain, str] = {
    "math": "Foundational Concepts:",
    "code": "Foundational Programming Concepts:",
}
DEFAULT_LEVELS: dict[Domain, str] = {"math": "AIME", "code": "codeforces"}
LEVEL_HEADING = "Difficulty Level:"
KINDS: dict[Domain, str] = {"math": "mathematics", "code": "programming"}

_RATIONALE = f"{re.escape(BEGIN_RATIONALE)}(.*){re.escape(END_RATIONALE)}"
_PROBLEM = f"{re.escape(BEGIN_PROBLEM)}(.*){re.escape(END_PROBLEM)}"
_RATIONALE_ONLY = re.compile(rf"\s*{_RATIONALE}\s*", re.DOTALL)
_BOTH = re.compile(rf"\s*{_RATIONALE}\s*{_PROBLEM}\s*", re.DOTALL)
_NUMBERED = re.compile(r"\s*\d+[.)]\s*(\S.*?)\s*$")
_FENCED = re.compile(r"```\w*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_CODE_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)


def level_text(level: str, domain: Domain) -> str:
    """The level as prompts write it: a number n is `Level n`, an empty level the domain's default."""
    level = level.strip()
    if re.fullmatch(r"\d+", level):
        return f"Level {level}"
    return level or DEFAULT_LEVELS[domain]


def theta_prompt(concepts: Sequence[str], level: str, domain: Domain, where: str = "") -> str:
    """Input of p_theta(z, x | c).

    Raises:
        WrongUse: there are no concepts, or one is empty or holds a marker; `where` begins the message.
    """
    return (
        f"Find how the concepts below work together, lay out the plan of one {KINDS[domain]} problem that "
        "needs all of them at the stated difficulty, and then state that problem."
        f"\n\n{_conditions(concepts, level, domain, where)}"
    )


def direct_prompt(concepts: Sequence[str], level: str, domain: Domain, where: str = "") -> str:
    """Input of the model without rationale, p(x | c): the baseline of the EM study.

    Raises:
        WrongUse: as `theta_prompt`.
    """
    return (
        f"State one {KINDS[domain]} problem that needs all of the concepts below at the stated difficulty."
        f"\n\n{_conditions(concepts, level, domain, where)}"
    )


def phi_prompt(concepts: Sequence[str], level: str, problem: str, domain: Domain, where: str = "") -> str:
    """Input of q_phi(z | c, x).

    Raises:
        WrongUse: as `theta_prompt`, also of the problem.
    """
    return (
        f"A designer wrote the {KINDS[domain]} problem below from the given concepts and difficulty. Lay "
        "out the plan that led from them to exactly this problem."
        f"\n\n{_conditions(concepts, level, domain, where)}"
        f"\nProblem:\n{_content(problem, 'problem', where)}\n"
    )


def _conditions(concepts: Sequence[str], level: str, domain: Domain, where: str) -> str:
    """The numbered concepts and the level."""
    if not concepts:
        prefix = f"{where}: " if where else ""
        raise WrongUse(f"{prefix}the list of concepts is empty; a prompt needs at least one.")
    lines = [" ".join(_content(concept, "concept", where).split()) for concept in concepts]
    numbered = "\n".join(f"{i}. {line}" for i, line in enumerate(lines, start=1))
    return f"{CONCEPT_HEADINGS[domain]}\n{numbered}\n\n{LEVEL_HEADING} {level_text(level, domain)}\n"


def parse_conditions(prompt: str) -> ConceptSet | None:
    """c and level of a prompt for any of the models; None where no concepts are numbered under a heading."""
    for domain, heading in CONCEPT_HEADINGS.items():
        _, found, after = prompt.partition(f"{heading}\n")
        if not found:
            continue
        listed, _, level = after.partition(LEVEL_HEADING)
        numbered = [_NUMBERED.match(line) for line in listed.splitlines() if line.strip()]
        if not numbered or not all(numbered):
            return None
        concepts = tuple(match[1] for match in numbered if match)
        level = level.strip().partition("\n")[0].strip()
        return ConceptSet(domain=domain, concepts=concepts, level=level)
    return None


def rationale_block(rationale: str, where: str = "") -> str:
    """z between its markers, the line break after the block included.

    Raises:
        WrongUse: the rationale is empty or holds a marker; `where` (a row) starts the message.
    """
    return f"{BEGIN_RATIONALE}\n{_content(rationale, 'rationale', where)}\n{END_RATIONALE}\n"


def problem_block(problem: str, where: str = "") -> str:
    """x between its markers.

    Raises:
        WrongUse: the problem is empty or holds a marker; `where` (a row) starts the message.
    """
    return f"{BEGIN_PROBLEM}\n{_content(problem, 'problem', where)}\n{END_PROBLEM}"


def _content(text: str, name: str, where: str) -> str:
    """The text without surrounding white space, refused where parsing could not give it back."""
    prefix = f"{where}: " if where else ""
    text = text.strip()
    if not text:
        raise WrongUse(f"{prefix}the {name} is empty.")
    for marker in MARKERS:
        if marker in text:
            raise WrongUse(
                f"{prefix}the {name} holds the marker '{marker}', which delimits blocks; remove it."
            )
    return text


def parse_rationale(text: str) -> str | None:
    """z of an output of q_phi; None unless the output is exactly one non-empty rationale block."""
    blocks = _parse(_RATIONALE_ONLY, text, (BEGIN_RATIONALE, END_RATIONALE))
    return None if blocks is None else blocks[0]


def parse_problem(text: str) -> tuple[str, str] | None:
    """(z, x) of an output of p_theta; None unless it is just a rationale block, then a problem block."""
    blocks = _parse(_BOTH, text, MARKERS)
    return None if blocks is None else (blocks[0], blocks[1])


def _parse(pattern: re.Pattern[str], text: str, markers: Sequence[str]) -> list[str] | None:
    """Contents of the blocks if each expected marker occurs once, no other does, and none is empty."""
    match = pattern.fullmatch(text)
    if match is None or any(text.count(marker) != (marker in markers) for marker in MARKERS):
        return None
    contents = [group.strip() for group in match.groups()]
    return contents if all(contents) else None


def solver_prompt(problem: str, domain: Domain, tests: Sequence[ProgramTest] = ()) -> str:
    """Input of the solver: the problem and the form its answer must take.

    Args:
        tests: of a programming problem; unless all of them read and print, a function or class is asked for.
    """
    if domain == "math":
        ask = "Reason step by step, and put your final answer within \\boxed{}."
    elif all(isinstance(test, StdioTest) for test in tests):
        ask = (
            "Write a Python program that solves this problem: it reads from standard input and prints to "
            "standard output. Put the whole program in one ```python code fence."
        )
    else:
        names = sorted({f"`{test.function}`" for test in tests if isinstance(test, CallTest)})
        called = f" ({', '.join(names)})" if names else ""
        ask = (
            f"Write the Python function or class that this problem asks for{called}, under the names and "
            "with the parameters that it states. Tests call it, so read no input and return results rather "
            "than print them. Put all of the code, imports included, in one ```python code fence."
        )
    return f"{problem.strip()}\n\n{ask}\n"


def solver_messages(problem: str, domain: Domain, tests: Sequence[ProgramTest] = ()) -> list[dict[str, str]]:
    """The solver's input as a conversation, for models with a chat template."""
    return [{"role": "user", "content": solver_prompt(problem, domain, tests).rstrip("\n")}]


def last_code_fence(text: str) -> str | None:
    """The program in the last closed code fence: the one that is graded."""
    fences = _CODE_FENCE.findall(text)
    return fences[-1] if fences else None


def last_fenced_list(text: str) -> list[Any] | None:
    """The list in the last code fence that holds one, in Python's or JSON's notation."""
    for written in reversed(_FENCED.findall(text)):
        if (found := literal_list(written.strip())) is not None:
            return found
    return None


def literal_list(written: str) -> list[Any] | None:
    """A list of literals; nothing is run."""
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
