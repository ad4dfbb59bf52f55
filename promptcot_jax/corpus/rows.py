"""From a family, its parameters, an ending and a style to one row of the corpus."""

import random
import re
import textwrap

from promptcot_jax.core.records import MathCorpusRow, ProgramCorpusRow, StdioTest
from promptcot_jax.corpus import styles
from promptcot_jax.corpus.families import (
    Ending,
    Family,
    MathEnding,
    MathFamily,
    ProgramEnding,
    ProgramFamily,
    Scene,
    Values,
)
from promptcot_jax.corpus.wording import filled

NAMES = ("Amara", "Bruno", "Chen", "Dalia", "Emil", "Farid", "Greta", "Hana", "Ivo", "Jonas", "Kira", "Lena")

_TESTS_PER_PROGRAM = 4
# Every program starts alike: the words of the input, taken one by one.
_PROGRAM_HEAD = "import sys\n\ntokens = iter(sys.stdin.read().split())\n\n\ndef solve():\n"


def _draw_concepts(draw: random.Random, family: Family, ending: Ending) -> tuple[str, ...]:
    lead, *others = family.concepts
    concepts = [lead, *draw.sample(others, draw.randint(1, 2)), *([ending.concept] if ending.concept else [])]
    draw.shuffle(concepts)
    return tuple(concepts)


def _level(family: Family, ending: Ending) -> str:
    return str(min(family.level + ending.extra_level, 5))


def _setting(draw: random.Random, scene: Scene) -> Values:
    needs_name = "{name}" in scene.facts + scene.quantity
    return {"setting": scene.label, "name": draw.choice(NAMES) if needs_name else ""}


def _quantity(scene: Scene, draw: random.Random, values: Values) -> dict[str, str]:
    return {"quantity": filled(scene.quantity, draw, values)}


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


def shows_answer(rationale: str, answer: str) -> bool:
    """Whether a number of the rationale, the labels of steps aside, equals the answer."""
    return answer in re.findall(r"\d+", re.sub(r"Step \d+:", "", rationale))


def math_row(
    draw: random.Random, row_id: str, style: str, family: MathFamily, ending: MathEnding, parameters: Values
) -> MathCorpusRow | None:
    """One row, or None if the ending does not suit the result or the rationale would show the answer."""
    solved = family.solve(**parameters)
    ending_parameters = ending.draw(draw, int(solved["value"]))
    if ending_parameters is None:
        return None
    finished = ending.solve(solved["value"], **ending_parameters)
    answer = str(finished["result"])
    scene = draw.choice(family.scenes)
    values = {**parameters, **ending_parameters, **_setting(draw, scene)}
    rationale = styles.write_rationale(style, draw, family, ending, values)
    if shows_answer(rationale, answer):
        return None
    question = filled(draw.choice(ending.questions), draw, values | _quantity(scene, draw, values))
    problem = f"{filled(scene.facts, draw, values)} {question}"
    concepts = _draw_concepts(draw, family, ending)
    # The wording of the solution is drawn last, so that no other text of the row depends on it.
    work = filled(family.work, draw, {**parameters, **solved})
    last = filled(ending.work, draw, {"value": solved["value"], **ending_parameters, **finished})
    return MathCorpusRow(
        id=row_id,
        family=family.name,
        style=style,
        concepts=concepts,
        level=_level(family, ending),
        rationale=rationale,
        problem=problem,
        answer=answer,
        solution=" ".join(filter(None, (work, last, f"The answer is \\boxed{{{answer}}}"))),
    )


def program_row(
    draw: random.Random,
    row_id: str,
    style: str,
    family: ProgramFamily,
    ending: ProgramEnding,
    parameters: Values,
) -> ProgramCorpusRow:
    """A row with a problem that a program solves, and the tests of that program."""
    groups = [
        [family.instance(draw, parameters) for _ in range(_group_size(draw, ending))]
        for _ in range(_TESTS_PER_PROGRAM)
    ]
    results = [[family.reference(text.split(), parameters) for text in group] for group in groups]
    ending_parameters = ending.draw(draw, [result for group in results for result in group])
    scene = draw.choice(family.scenes)
    values = {**parameters, **ending_parameters, **_setting(draw, scene)}
    reads = {"reads": filled(family.input_format, draw, values)}
    question = filled(ending.question, draw, values | reads | _quantity(scene, draw, values))
    body = textwrap.indent(family.program.format(**parameters), "    ")
    program = f"{_PROGRAM_HEAD}{body}\n\n\n{ending.program.format(**ending_parameters)}"
    return ProgramCorpusRow(
        id=row_id,
        family=family.name,
        style=style,
        concepts=_draw_concepts(draw, family, ending),
        level=_level(family, ending),
        rationale=styles.write_rationale(style, draw, family, ending, values),
        problem=f"{filled(scene.facts, draw, values)} {question}".strip(),
        tests=tuple(
            StdioTest(
                input="\n".join(([str(len(group))] if ending.has_cases else []) + group) + "\n",
                output=ending.report(outcome, **ending_parameters) + "\n",
            )
            for group, outcome in zip(groups, results, strict=True)
        ),
        solution=f"{_capitalized(filled(family.reason, draw, values))}.\n```python\n{program}\n```",
    )


def _group_size(draw: random.Random, ending: ProgramEnding) -> int:
    return draw.randint(1, 3) if ending.has_cases else 1
