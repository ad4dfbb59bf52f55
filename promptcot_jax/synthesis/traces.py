"""What a teacher wrote, as a trace to train on: its thinking in one pair of tags, then its answer.

Teachers mark their thinking differently. Here it stands between `<think>` and `</think>` at the beginning,
whether the teacher opened the block itself, its chat template had opened it, or it speaks in gpt-oss's
channels. Beyond the paper's rule (section 3.5) the box must hold something, a program must be Python, and
thinking that never ended is no answer.
"""

import ast
import re
import warnings

from promptcot_jax.core.records import Domain
from promptcot_jax.data import templates, validity
from promptcot_jax.data.validity import Validity
from promptcot_jax.synthesis.teacher_replies import Unusable
from promptcot_jax.verify import boxes

_FINAL = "<|channel|>final<|message|>"
_MESSAGE = re.compile(r"<\|message\|>(.*?)(?:<\|end\|>|\Z)", re.DOTALL)
_END_OF_ANSWER = re.compile(r"<\|(?:return|end)\|>\s*\Z")
_MESSAGES = {
    "no_answer": "there is no boxed answer, or no program in a closed code fence, after the thinking",
    "not_one_thinking_block": "there is not exactly one block of thinking",
    "empty_part": "the thinking, or what follows it, is empty",
    "east_asian_answer": "there is Chinese, Japanese or Korean in the answer",
}


def read(text: str, domain: Domain, rules: Validity) -> str:
    """The trace that a reply holds.

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
    if "<think>" in templates.answer_part(completion):
        raise Unusable("unfinished_thinking", "the block of thinking is not closed")
    if domain == "math" and not boxes.extract_answer(completion):
        raise Unusable("no_answer", "the box is empty, or not closed")
    if domain == "code" and not _is_python(program_of(completion) or ""):
        raise Unusable("syntax_error", "the program is empty, or not valid Python")
    return completion


def program_of(completion: str) -> str | None:
    """The program of a trace: the last code fence after the thinking."""
    return templates.last_code_fence(templates.answer_part(completion))


def has_thinking(completion: str) -> bool:
    """Whether a trace has a thinking part."""
    return "</think>" in completion


def _in_tags(text: str) -> str:
    """The text with its thinking, however it is marked, between tags.

    Raises:
        Unusable: it speaks in channels, and not exactly once in the final one.
    """
    if "<|channel|>" in text:
        if text.count(_FINAL) != 1:
            raise Unusable("not_one_final_channel", f"there is not exactly one {_FINAL}")
        before, _, answer = text.partition(_FINAL)
        thinking = "\n\n".join(message.strip() for message in _MESSAGE.findall(before))
        answer = _END_OF_ANSWER.sub("", answer).strip()
        return f"<think>\n{thinking}\n</think>\n\n{answer}" if thinking else answer
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
