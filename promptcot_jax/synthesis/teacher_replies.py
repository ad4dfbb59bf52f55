"""What can be read from a model's replies, and the reason where nothing can."""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from promptcot_jax.data import templates
from promptcot_jax.sampling.text_model import FinishReason, Reply

Value = TypeVar("Value")

_UNFINISHED: Mapping[FinishReason, str] = {
    "length": "the reply was cut off",
    "filtered": "the server held the reply back",
    "too_long": "the request leaves no room for a reply",
    "malformed": "the server gave nothing that can be read",
}


class Unusable(ValueError):
    """A reply cannot be used; `reason` is the word under which that is counted, the message a sentence."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def read(reply: Reply, read_text: Callable[[str], Value]) -> Value | Unusable:
    """What a function reads from a reply that ended by itself, or why there is nothing to read.

    Args:
        read_text: raises `Unusable` where it cannot.
    """
    if reply.finish_reason != "stop":
        return Unusable(reply.finish_reason, _UNFINISHED[reply.finish_reason])
    try:
        return read_text(reply.text)
    except Unusable as fault:
        return fault


def fenced_json(text: str) -> Any:
    """What the last closed code fence of an answer, its thinking aside, says as JSON.

    Raises:
        Unusable: there is no fence, or no JSON in it.
    """
    if (written := templates.last_code_fence(templates.answer_part(text))) is None:
        raise Unusable("no_fence", "there is no closed code fence")
    try:
        return json.loads(written)
    except (ValueError, RecursionError):
        raise Unusable("no_json", "the code fence holds no JSON") from None


def fenced_program(text: str) -> str:
    """The program in the last closed code fence of an answer, its thinking aside.

    Raises:
        Unusable: there is none.
    """
    program = templates.last_code_fence(templates.answer_part(text))
    if not program or not program.strip():
        raise Unusable("no_program", "there is no closed code fence with a program")
    return program
