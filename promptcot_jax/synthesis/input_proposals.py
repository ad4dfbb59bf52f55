"""Inputs for programs to be tested on, as a model proposes them: inputs, a maker of inputs, a validator.

The paper had a model write 3 to 4 tests a problem, input and output; its scripts read each as a JSON object
in a `json` fence. Here a model only proposes inputs. Outputs come from programs that solve the problem
(`program_tests`): what a model believes a program prints is a guess.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from promptcot_jax.core.settings import NonNegativeInt, PositiveInt, settings
from promptcot_jax.sampling.text_model import Reply, TextRequest, user_turn
from promptcot_jax.synthesis import teacher_replies
from promptcot_jax.synthesis.problem_files import OpenProblem
from promptcot_jax.synthesis.teacher_replies import Unusable

Value = TypeVar("Value")

VALID, INVALID = "VALID", "INVALID"


@settings
class ProposalConfig:
    """What is asked for each problem."""

    num_lists: NonNegativeInt = 2  # of inputs word for word
    inputs_per_list: PositiveInt = 6
    made_inputs: NonNegativeInt = 8  # of a program that makes inputs; 0: none is asked for
    validator: bool = True  # whether a program that tells allowed inputs is asked for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposals:
    """What a problem got; an empty program is none."""

    inputs: tuple[str, ...] = ()
    maker: str = ""
    maker_seeds: tuple[str, ...] = ()  # what the maker reads, one by one
    validator: str = ""


def inputs_request(problem: str, count: int) -> str:
    """Asks for inputs, word for word."""
    return (
        f"Below is a programming task. Write {count} inputs to test a program with: the smallest that is "
        "allowed, special and extreme cases, some ordinary ones, all different and each in exactly the form "
        "that the task describes. Keep each under 2,000 characters. Give no outputs.\n\n"
        f"Task:\n{problem.strip()}\n\n"
        "End with a JSON list of strings in a code fence, one string an input, line breaks written as \\n:\n"
        '```json\n["first input\\n", "second input\\n"]\n```'
    )


def maker_request(problem: str) -> str:
    """Asks for a program that makes inputs."""
    return (
        "Below is a programming task. Write a Python program that makes test inputs for it: it reads one "
        "integer from standard input, uses it as the seed of `random`, and prints one input in exactly the "
        "form that the task describes. Small seeds give small inputs, larger ones larger inputs, never "
        f"beyond 2,000 characters.\n\nTask:\n{problem.strip()}\n\n"
        "End with the whole program in one ```python code fence."
    )


def validator_request(problem: str) -> str:
    """Asks for a program that tells inputs that the task allows from others."""
    return (
        "Below is a programming task. Write a Python program that checks inputs for it: it reads an input "
        f"from standard input and prints {VALID} if it has exactly the form and keeps all the limits that "
        f"the task states, otherwise {INVALID}; it never fails.\n\nTask:\n{problem.strip()}\n\n"
        "End with the whole program in one ```python code fence."
    )


def read_inputs(text: str) -> tuple[str, ...]:
    """The inputs of an answer.

    Raises:
        Unusable: the last code fence holds no list of texts, or an empty one.
    """
    found = teacher_replies.fenced_json(text)
    if not isinstance(found, list) or not found:
        raise Unusable("no_list", "the code fence holds no list, or an empty one")
    if not all(isinstance(item, str) for item in found):
        raise Unusable("not_texts", "an element of the list is not a string")
    return tuple(found)


def requests(problems: Sequence[OpenProblem], config: ProposalConfig) -> dict[str, list[TextRequest]]:
    """What is asked, by the name of its file."""
    return {
        "inputs": [
            TextRequest(
                id=problem.id,
                messages=user_turn(inputs_request(problem.problem, config.inputs_per_list)),
                sample=sample,
            )
            for problem in problems
            for sample in range(config.num_lists)
        ],
        "makers": [
            TextRequest(id=problem.id, messages=user_turn(maker_request(problem.problem)))
            for problem in problems
            if config.made_inputs
        ],
        "validators": [
            TextRequest(id=problem.id, messages=user_turn(validator_request(problem.problem)))
            for problem in problems
            if config.validator
        ],
    }


def read(
    problems: Sequence[OpenProblem], replies: Mapping[str, Sequence[Reply]], config: ProposalConfig
) -> list[Proposals]:
    """The proposals for each problem, from the replies to `requests`."""
    inputs = collections.defaultdict[str, list[str]](list)
    for reply in replies["inputs"]:
        inputs[reply.id] += _usable(reply, read_inputs, ())
    makers, validators = (
        {reply.id: _usable(reply, teacher_replies.fenced_program, "") for reply in replies[name]}
        for name in ("makers", "validators")
    )
    seeds = tuple(f"{seed}\n" for seed in range(config.made_inputs))
    return [
        Proposals(
            inputs=tuple(inputs[problem.id]),
            maker=makers.get(problem.id, ""),
            maker_seeds=seeds,
            validator=validators.get(problem.id, ""),
        )
        for problem in problems
    ]


def _usable(reply: Reply, read_text: Callable[[str], Value], otherwise: Value) -> Value:
    found = teacher_replies.read(reply, read_text)
    return otherwise if isinstance(found, Unusable) else found
