r"""Takes the answer out of a solver's response, in time linear in the response."""

import re
from typing import NamedTuple

from promptcot_jax.core import thinking
from promptcot_jax.verify.answer_text import DENYING

_BOX_OR_BRACE = re.compile(r"\\\\?(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)

# What instructions put into the box that they ask for: "put your final answer in \boxed{answer}".
_PLACEHOLDER = re.compile(
    r"(?:\\(?:text|mathrm|textbf)\s*\{)?\s*"
    r"(?:|\.{2,}|\\[cl]?dots|\u2026|_+|\?+|<[^<>]*>"
    r"|(?:(?:your|the|my|final|correct|numerical)[\s_]+)*answer(?:[\s_]+here)?)"
    r"\s*\}?",
    re.IGNORECASE,
)
_MAX_PLACEHOLDER = 48  # characters

_JOINT = re.compile(
    r"(?:[\s$,;&]|\\[,;:! ()\[\]]|\\q?quad(?![A-Za-z])|(?<![A-Za-z])(?:and|or)(?![A-Za-z])"
    r"|\\(?:text|mathrm)\s*\{[\s,]*(?:and|or)?[\s,]*\})*"
)
_MAX_JOINT = 48  # characters

# How an answer without a box is announced; none of these words denies, doubts, or is mathematics.
_KEY = r"(?:answers?|solutions?|results?|therefore|thus|hence|finally)"
_ANNOUNCEMENT = re.compile(
    r"(?:^|[.!\n])[\s#*]*(?:(?:so|and|the|our|my|final|correct|required)[\s,:*]+)*"
    rf"{_KEY}(?:[\s,:*]+(?:{_KEY}|the|final|is|are|equals?(?: to)?|must be|we (?:have|get|find)|that"
    r"|to (?:the|this) (?:problem|question)))*(?:[\s,:*]+(?=\S)|(?=\\[(\[]|\$))",
    re.IGNORECASE,
)
_AFTERWORD = re.compile(
    r"(?:[\s.,!*]+(?:I hope it is correct|(?:is|are) (?:the|our) (?:final |correct )?(?:answer|solution)s?))+"
    r"[\s.!*]*(?:<\|.*)?$",
    re.IGNORECASE,
)
# `We find that $x<3$.`: plain words, and mathematics at their end.
_SENTENCE = re.compile(
    r"(?:^|[.!\n])\s*([A-Za-z, ]+(?:(?<= is)|(?<= are)|(?<= that)|:))\s*"
    r"(\$+[^$]+\$+|\\\([^$]+\\\)|\\\[[^$]+\\\])[.\s]*$"
)
_MAX_ANNOUNCEMENT = 2_000  # characters from the end of the text


class _Box(NamedTuple):
    r"""Places in the text: of the command's backslash, of the content, and after the closing brace."""

    start: int
    begin: int
    end: int
    after: int


def extract_answer(text: str) -> str | None:
    r"""The content of the last balanced `\boxed{...}` or `\fbox{...}` after the thinking, or None.

    Where thinking is not finished, or has another fault (`core.thinking`), there is no answer.
    A box around nothing but a box gives the inner one's content. A box that echoes the instruction
    (`\boxed{}`, `\boxed{answer}`, `\boxed{...}`) counts only where there is no other.
    """
    text = thinking.answer_part(text)
    boxes = _closed_boxes(text)
    return text[boxes[-1].begin : boxes[-1].end].strip() if boxes else None


def answer_parts(text: str) -> list[str]:
    r"""The different contents of the boxes that make up the answer; no box, no parts.

    One part as a rule, which is `extract_answer`'s. Boxes with nothing but commas, "and" or "or" between the
    last of them (`\boxed{2} or \boxed{3}`) are one answer.
    """
    text = thinking.answer_part(text)
    parts: list[_Box] = []
    for box in reversed(_closed_boxes(text)):
        if parts:
            gap = text[box.after : parts[-1].start]
            if len(gap) > _MAX_JOINT or not _JOINT.fullmatch(gap):
                break
        parts.append(box)
    return list(dict.fromkeys(text[box.begin : box.end].strip() for box in reversed(parts)))


def announced(text: str) -> str:
    """What is announced: `$9$` of "The final answer is $9$. I hope it is correct."; any other text as it is.

    All that follows the last announcement, which must be a sentence's beginning, is the answer. Otherwise
    it is what stands in dollars at the end of a sentence of words that neither deny nor doubt.
    """
    text = thinking.answer_part(text)
    end = text[-_MAX_ANNOUNCEMENT:]
    for announcement in _ANNOUNCEMENT.finditer(end):
        text = end[announcement.end() :]
    sentence = _SENTENCE.search(end)
    if sentence and not DENYING & set(re.findall("[a-z]+", sentence[1].lower())):
        text = sentence[2]
    return _AFTERWORD.sub("", text) if len(text) <= _MAX_ANNOUNCEMENT else text


def _closed_boxes(text: str) -> list[_Box]:
    """The balanced boxes in no other box, in order; those that echo an instruction only if all do."""
    open_braces: list[tuple[int, int, bool]] = []  # (where it starts, where its content begins, is a box)
    boxes: list[_Box] = []
    for token in _BOX_OR_BRACE.finditer(text):
        mark = token[0]
        if mark == "}":
            if open_braces:
                start, begin, is_box = open_braces.pop()
                if is_box:
                    _close(text, boxes, _Box(start, begin, token.start(), token.end()))
        elif mark == "{" or len(mark) > 2:  # two characters are an escape such as `\{`
            open_braces.append((token.start(), token.end(), mark != "{"))
    return [box for box in boxes if not is_placeholder(text[box.begin : box.end])] or boxes


def _close(text: str, boxes: list[_Box], box: _Box) -> None:
    """Adds a box in place of those inside it."""
    inner = None
    while boxes and boxes[-1].start > box.start:
        inner = boxes.pop()
    if inner and not text[box.begin : inner.start].strip() and not text[inner.after : box.end].strip():
        box = box._replace(begin=inner.begin, end=inner.end)
    boxes.append(box)


def is_placeholder(content: str) -> bool:
    """Whether a box's content is what instructions put there, such as `answer` or `...`, or nothing."""
    return len(content) <= _MAX_PLACEHOLDER and bool(_PLACEHOLDER.fullmatch(content.strip()))
