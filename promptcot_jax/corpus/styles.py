"""Annotator styles: how much of a problem's design a rationale gives away, and how to recognise each.

The paper had four annotators write rationales (section 3.2); here four styles stand in for them, from general
intent to a full specification, each in a form of its own, so that the style of a text that a model wrote can
be told too.

* `vague`: what the problem is for and why it is hard, at times whether it tells a story; no number at all.
* `plan`: the structure with a few parameters, and the reason for it.
* `stepwise`: numbered decisions that fix every decisive parameter; the setting stays open.
* `exact`: a blueprint with setting, names and all parameters in the order in which the problem uses them.
"""

import random
import re
from collections.abc import Callable

from promptcot_jax.corpus.families import Ending, Family, Values
from promptcot_jax.corpus.wording import filled

_VAGUE_OPENINGS = (
    "I want a problem that",
    "I would like something that",
    "The idea is a problem that",
    "My intention is a question that",
    "Let us have a task that",
    "The aim is an exercise that",
    "We are looking for a problem that",
    "I am after a question that",
    "What I have in mind is a task that",
)
_VAGUE_HARDNESS = (
    "The difficulty should be that {difficulty}.",
    "People will stumble because {difficulty}.",
    "It stays interesting because {difficulty}.",
    "The catch is that {difficulty}.",
    "What separates strong solvers is that {difficulty}.",
    "It should be hard because {difficulty}.",
    "What makes it tricky is that {difficulty}.",
    "Many will fail at first because {difficulty}.",
)
_VAGUE_REMARKS = (
    "",
    "The wording should stay short.",
    "No special trick should be needed.",
    "A single careless moment should cost the answer.",
    "The statement should leave no doubt about what is asked.",
    "It should be easy to read and hard to rush.",
    "Nobody should need to look anything up.",
)
_VAGUE_SETTINGS = {
    "bare": ("No story is needed around it.", "It can be stated without any setting."),
    "story": ("A small story should carry it.", "Some everyday setting should dress it up."),
}
_PLAN_REASONS = (
    "This works because {reason}.",
    "I choose it because {reason}.",
    "The parts fit together because {reason}.",
    "The plan is sound because {reason}.",
    "It rests on the fact that {reason}.",
)
_PLAN_HARDNESS = (
    "The hard part is that {difficulty}.",
    "It is demanding since {difficulty}.",
    "The challenge is that {difficulty}.",
    "Solvers have to see that {difficulty}.",
)


def _vague(draw: random.Random, family: Family, ending: Ending, values: Values) -> str:
    goal = filled(draw.choice(family.goals), draw, values)
    if ending.goal:
        goal += f", and that {filled(ending.goal, draw, values)}"
    hardness = draw.choice(_VAGUE_HARDNESS).format(difficulty=_difficulty(draw, family, values))
    kind = "bare" if str(values["setting"]).startswith("bare") else "story"
    remark = draw.choice(draw.choice((_VAGUE_REMARKS, _VAGUE_SETTINGS[kind])))
    return " ".join(filter(None, (f"{draw.choice(_VAGUE_OPENINGS)} {goal}.", hardness, remark)))


def _difficulty(draw: random.Random, family: Family, values: Values) -> str:
    return filled(draw.choice(family.difficulties), draw, values)


def _plan(draw: random.Random, family: Family, ending: Ending, values: Values) -> str:
    skeleton, last = (filled(text, draw, values) for text in (family.skeleton, ending.skeleton))
    reason = draw.choice(_PLAN_REASONS).format(reason=filled(family.reason, draw, values))
    hardness = draw.choice(_PLAN_HARDNESS).format(difficulty=_difficulty(draw, family, values))
    return f"Plan: build on {skeleton}, then {last}. {draw.choice((reason, hardness))}"


def _stepwise(draw: random.Random, family: Family, ending: Ending, values: Values) -> str:
    steps = [filled(step, draw, values) for step in (*family.steps, ending.step)]
    return " ".join(f"Step {number}: {step}" for number, step in enumerate(steps, start=1))


def _exact(draw: random.Random, family: Family, ending: Ending, values: Values) -> str:
    entries = ["setting {setting}", *(["name {name}"] if values["name"] else [])]
    listed = "; ".join(
        filled(entry, draw, values) for entry in (*entries, *family.blueprint, ending.blueprint)
    )
    return f"Blueprint: {listed}. Sound because {filled(family.reason, draw, values)}."


_WRITERS: dict[str, Callable[[random.Random, Family, Ending, Values], str]] = {
    "vague": _vague,
    "plan": _plan,
    "stepwise": _stepwise,
    "exact": _exact,
}
STYLES = tuple(_WRITERS)

_FORMS = {
    "exact": re.compile(r"Blueprint:.*;", re.DOTALL),
    "stepwise": re.compile(r"Step 1:.*\bStep 2:", re.DOTALL),
    "plan": re.compile(r"Plan:"),
    "vague": re.compile(rf"(?:{'|'.join(map(re.escape, _VAGUE_OPENINGS))})\b[^0-9]*\Z"),
}


def write_rationale(style: str, draw: random.Random, family: Family, ending: Ending, values: Values) -> str:
    """Text of one style; `values` holds all parameters, the `setting` and the `name` ("" if unused)."""
    return _WRITERS[style](draw, family, ending, values)


def classify_style(rationale: str) -> str:
    """Style of a rationale, written by whomever: a name of `STYLES`, or "other" if no form fits."""
    text = rationale.strip()
    return next((style for style, form in _FORMS.items() if form.match(text)), "other")
