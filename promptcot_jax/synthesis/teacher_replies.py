"""What can be read from a model's replies, and the reason where nothing can."""

import ast
import json
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from promptcot_jax.core import thinking
from promptcot_jax.core.records import Domain
from promptcot_jax.data import templates, validity
from promptcot_jax.data.validity import Validity
from promptcot_jax.sampling.text_model import FinishReason, Reply
from promptcot_jax.verify import boxes

Value = TypeVar("Value")

_UNFINISHED: Mapping[FinishReason, str] = {
    "length": "the reply was cut off",
    "filtered": "the server held the reply back",
    "too_long": "the request leaves no room for a reply",
    "malformed": "the server gave nothing that can be read",
}

_FINAL = "<|channel|>final<|message|>"
_MESSAGE = re.compile(r"<\|message\|>(.*?)(?:<\|end\|>|\Z)", re.DOTALL)
_END_OF_ANSWER = re.compile(r"<\|(?:return|end)\|>\s*\Z")
_MESSAGES = {
    "no_answer": "there is no boxed answer, or no program in a closed code fence, after the thinking",
    "unfinished_thinking": "the block of thinking is not closed",
    "not_one_thinking_block": "there is not exactly one block of thinking",
    "empty_part": "the thinking, or what follows it, is empty",
    "east_asian_answer": "there is Chinese, Japanese or Korean in the answer",
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
    if (written := templates.last_code_fence(thinking.answer_part(text))) is None:
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
    program = templates.last_code_fence(thinking.answer_part(text))
    if not program or not program.strip():
        raise Unusable("no_program", "there is no closed code fence with a program")
    return program


def read_trace(text: str, domain: Domain, rules: Validity) -> str:
    """A trace to train on: the thinking in one pair of tags, then the answer.

    Teachers mark their thinking differently. Here it stands between `<think>` and `</think>`, whether the
    teacher opened the block itself, its chat template had opened it, or it speaks in gpt-oss's channels.
    Beyond the paper's rule (section 3.5) the box must hold something, a program must be Python, and thinking
    that never ended is no answer.

    Raises:
        Unusable: a rule is broken; its reason is that of `validity.trace_fault`, or one of this module's.
    """
    completion = _in_tags(text).strip()
    if not completion:
        raise Unusable("empty", "the reply is empty")
    if rules == "off":
        return completion
    if fault := validity.trace_fault(completion, domain, rules):
        raise Unusable(fault, _MESSAGES[fault])
    if domain == "math" and not boxes.extract_answer(completion):
        raise Unusable("no_answer", "the box is empty, or not closed")
    if domain == "code" and not _is_python(templates.last_code_fence(thinking.answer_part(completion)) or ""):
        raise Unusable("syntax_error", "the program is empty, or not valid Python")
    return completion


def _in_tags(text: str) -> str:
    """The text with its thinking, however it is marked, between tags.

    Raises:
        Unusable: it speaks in channels, and not exactly once in the final one.
    """
    if "<|channel|>" in text:
        if text.count(_FINAL) != 1:
            raise Unusable("not_one_final_channel", f"there is not exactly one {_FINAL}")
        before, _, answer = text.partition(_FINAL)
        thoughts = "\n\n".join(message.strip() for message in _MESSAGE.findall(before))
        answer = _END_OF_ANSWER.sub("", answer).strip()
        return f"<think>\n{thoughts}\n</think>\n\n{answer}" if thoughts else answer
    if "</think>" in text and "<think>" not in text:  # the teacher's chat template opens it
        return f"<think>\n{text.lstrip()}"
    return text


def _is_python(program: str) -> bool:
    """Whether it parses; nothing of it is run."""
    try:
        with warnings.catch_warnings():  # such as those of escapes in its strings
            warnings.simplefilter("ignore")
            return bool(ast.parse(program).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
