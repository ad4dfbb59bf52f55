"""What a writer of tests is asked for, and what it answers: inputs, a maker of inputs, a validator.

The paper had a model write 3 to 4 tests a problem, input and output; its scripts read each as a JSON object
in a `json` fence. Here a model only proposes inputs. Outputs come from programs that solve the problem
(`synthesis.program_tests`): what a model believes a program prints is a guess.
"""

from promptcot_jax.data import templates
from promptcot_jax.synthesis import rubric
from promptcot_jax.synthesis.annotation_requests import Unusable

VALID, INVALID = "VALID", "INVALID"


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
    found = rubric.fenced_json(text)
    if not isinstance(found, list) or not found:
        raise Unusable("no_list", "the code fence holds no list, or an empty one")
    if not all(isinstance(item, str) for item in found):
        raise Unusable("not_texts", "an element of the list is not a string")
    return tuple(found)


def read_program(text: str) -> str:
    """The program of an answer.

    Raises:
        Unusable: there is none.
    """
    program = templates.last_code_fence(templates.answer_part(text))
    if not program or not program.strip():
        raise Unusable("no_program", "there is no closed code fence with a program")
    return program
