"""What annotators are asked and what they answer (paper section 3.2): concepts c, then a rationale z.

The requests are in our own words with the paper's requirements. Concepts come back as a Python list in a code
fence, the rationale after its heading. An answer in another form is refused, with the reason.
"""

from collections.abc import Sequence

from promptcot_jax.core import thinking
from promptcot_jax.core.records import Domain
from promptcot_jax.data import templates
from promptcot_jax.synthesis.teacher_replies import Unusable

RATIONALE_HEADING = "Thinking Process:"
BREVITY = "Be brief: a long answer to this was cut off."


def concepts_request(problem: str, domain: Domain, count: int) -> str:
    """Asks for the concepts behind a problem."""
    return (
        f"You design and review {templates.KINDS[domain]} examinations. Name the {count} foundational "
        "concepts on which the problem below rests. Each of them must be\n"
        "- foundational: a basic idea that a standard course teaches, not a trick and not a step of one "
        "solution;\n"
        '- precise: narrow enough to be looked up under its name ("modular inverses", not "number theory");\n'
        "- essential: without it the problem could be neither posed nor solved.\n"
        "Name ideas, not this problem's numbers, names or story, and no idea twice.\n\n"
        f"Problem:\n{problem.strip()}\n\n"
        f"Answer with nothing but a Python list of exactly {count} strings in a code fence:\n"
        '```python\n["first concept", "second concept", ...]\n```'
    )


def rationale_request(concepts: Sequence[str], level: str, problem: str, domain: Domain) -> str:
    """Asks for the way on which a designer came from concepts and level to a problem."""
    listed = "\n".join(f"{i}. {concept}" for i, concept in enumerate(concepts, start=1))
    return (
        "Somebody who had only the concepts and the difficulty level below designed the "
        f"{templates.KINDS[domain]} problem that follows them. Think as this designer did, from the concepts "
        "to the problem, and write that thinking down step by step. Two rules:\n"
        "1. Exact: a reader who has your text alone must arrive at the identical problem, with every "
        "quantity, every condition and the same question.\n"
        "2. Natural: each step follows from the concepts, the level and the steps before it; nowhere does "
        "the text speak of a problem that is there already.\n"
        "Explain choices in words of your own. Do not repeat the problem's sentences, do not solve it, and "
        "do not state its answer.\n\n"
        f"{templates.CONCEPT_HEADINGS[domain]}\n{listed}\n\n"
        f"{templates.LEVEL_HEADING} {templates.level_text(level, domain)}\n\n"
        f"Problem:\n{problem.strip()}\n\n"
        f"Begin your answer with the line\n{RATIONALE_HEADING}"
    )


def repair_request(fault: str) -> str:
    """Asks once more, after an answer that could not be used."""
    return f"This answer cannot be used: {fault}. Answer again, in exactly the form that was asked for."


def read_concepts(text: str, count: int) -> tuple[str, ...]:
    """The concepts of an annotator's answer, each on one line.

    Raises:
        Unusable: it has no list of so many different texts in a code fence.
    """
    found = templates.last_fenced_list(thinking.answer_part(text))
    if found is None:
        raise Unusable("no_list", "there is no Python list in a code fence")
    if not all(isinstance(item, str) for item in found):
        raise Unusable("not_texts", "an element of the list is not a string")
    concepts = tuple(" ".join(item.split()) for item in found)
    if not all(concepts):
        raise Unusable("empty", "an element of the list is empty")
    if len(concepts) != count:
        raise Unusable("count", f"the list has {len(concepts)} elements, not {count}")
    if len({concept.casefold() for concept in concepts}) < count:
        raise Unusable("duplicates", "a concept is in the list twice")
    _refuse_markers(" ".join(concepts))
    return concepts


def read_rationale(text: str) -> str:
    """The rationale of an annotator's answer.

    Raises:
        Unusable: its heading is missing, or nothing comes after it.
    """
    _, heading, after = thinking.answer_part(text).partition(RATIONALE_HEADING)
    if not heading:
        raise Unusable("no_heading", f"the line '{RATIONALE_HEADING}' is missing")
    if not (rationale := after.lstrip("*").strip()):  # the heading may be bold
        raise Unusable("empty", f"nothing comes after '{RATIONALE_HEADING}'")
    _refuse_markers(rationale)
    return rationale


def _refuse_markers(text: str) -> None:
    if found := [marker for marker in templates.MARKERS if marker in text]:
        raise Unusable("marker", f"it holds '{found[0]}', which delimits blocks elsewhere")
