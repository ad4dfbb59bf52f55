r"""Answers of mathematics problems: taking them out of a response, and comparing them exactly.

This is the reward's mathematics half (the paper's u(x, y): 1 where the boxed answer equals the reference,
else 0) in its narrow form: a normalised string, then exact integers, fractions and decimals as
`fractions.Fraction`. Nothing here rounds, evaluates or guesses, so it errs by refusing: symbolic equivalence
through math-verify, in killable worker processes, is this room's next extension and goes behind these two
stages.

Conventions: the last balanced box counts, after the last `</think>` where there is one; an empty answer
equals nothing, another empty one included; an unreduced fraction equals its reduced form; `1 1/2` and
`1\frac12` are mixed numbers; numeric tolerance is zero; `10%` is neither `10` nor `0.1`; `x=5` is not `5`; a
list is compared in the order it is written; a degree sign, a currency sign and thousands commas do not
matter, a glued unit does.
"""

import fractions
import re

MAX_ANSWER_CHARACTERS = 2_000  # beyond this only the literal text is compared
MAX_NUMBER_CHARACTERS = 400  # Python refuses to read integers beyond 4,300 digits, and no answer has as many

_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_REAL = rf"(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
_SIGNED = rf"[+-]?{_REAL}"
_RATIO = re.compile(rf"(?P<sign>[+-]?)(?:(?P<over>{_SIGNED})(?:/(?P<under>{_REAL}))?)")
_FRAC = re.compile(rf"(?P<sign>[+-]?)\\frac\{{(?P<over>{_SIGNED})\}}\{{(?P<under>{_SIGNED})\}}")
_MIXED = re.compile(
    rf"(?P<sign>[+-]?)(?P<whole>{_DIGITS})"
    r"(?: (?P<over>[0-9]+)/(?P<under>[0-9]+)|\\frac\{(?P<over_tex>[0-9]+)\}\{(?P<under_tex>[0-9]+)\})"
)

_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[\u2212\u2013]", "-"),
        (r"\\!", ""),
        (r"\\[,;: ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\\?\$|\\[()]", ""),
        (r"\\(?:left|right)(?![A-Za-z])", ""),
        (r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r"\1"),
        (r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\u00b0", ""),
        (r"\{,\}", ","),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*([0-9])", r"\\frac{\1}"),  # \frac12 and \frac1{2}
        (r"(\\frac\s*\{[^{}]*\})\s*([0-9])", r"\1{\2}"),
        (r"\s+", " "),
        # A space between two digits or two letters separates; any other is typesetting.
        (r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])|(?<=[0-9]) (?=[A-Za-z])|(?<=[A-Za-z]) (?=[0-9])", ""),
        (r"[.,\\]+$", ""),
    )
)


def extract_answer(text: str) -> str | None:
    r"""The content of the last balanced `\boxed{...}` or `\fbox{...}` after the last `</think>`, or None.

    One pass over the text, whatever it holds. A box around nothing but a box gives the inner one's content.
    """
    text = text.rpartition("</think>")[2]
    open_braces: list[tuple[int, bool]] = []  # (where its content begins, whether it is a box)
    boxes: dict[int, int] = {}  # content's begin -> end
    last: tuple[int, int] | None = None
    inner_box: dict[int, int] = {}  # where a box command begins -> where its content begins
    for token in _BOX_OR_BRACE.finditer(text):
        mark = token[0]
        if mark == "}":
            if open_braces:
                begin, is_box = open_braces.pop()
                if is_box:
                    boxes[begin] = token.start()
                    last = (begin, token.start())
        elif mark == "{":
            open_braces.append((token.end(), False))
        elif len(mark) > 2:
            open_braces.append((token.end(), True))
            inner_box[token.start()] = token.end()
    if last is None:
        return None
    begin, end = last
    while begin in inner_box and boxes.get(inner_box[begin]) == end - 1:
        begin, end = inner_box[begin], end - 1
    return text[begin:end].strip()


def grade_math(reference: str, candidate: str) -> bool:
    r"""Whether a candidate answer equals the reference exactly; see the module's conventions.

    A text with a box goes through `extract_answer` first. Never raises, and takes time linear in the texts.
    """
    wanted, given = _unboxed(reference), _unboxed(candidate)
    if not wanted or not given:
        return False
    if max(len(wanted), len(given)) > MAX_ANSWER_CHARACTERS:
        return wanted == given
    wanted, given = normalise_answer(wanted), normalise_answer(given)
    if not wanted or not given:
        return False
    if wanted == given:
        return True
    wanted_value = exact_number(wanted)
    return wanted_value is not None and wanted_value == exact_number(given)


def _unboxed(text: str) -> str:
    r"""The boxed answer of a text that has a box (closed or not), otherwise the text itself."""
    if "\\boxed" in text or "\\fbox" in text:
        return extract_answer(text) or ""
    return text.strip()


def normalise_answer(text: str) -> str:
    """One spelling for what only differs in typesetting: spaces, delimiters, degree signs, `dfrac`."""
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text


def exact_number(text: str) -> fractions.Fraction | None:
    """The value of a normalised integer, decimal, fraction or mixed number; None for anything else."""
    if len(text) > MAX_NUMBER_CHARACTERS:
        return None
    if match := _MIXED.fullmatch(text):
        over = int(match["over"] or match["over_tex"])
        under = int(match["under"] or match["under_tex"])
        if over >= under:
            return None  # 2 5/3 is nobody's mixed number, and as a product it would be another value
        size = int(match["whole"].replace(",", "")) + fractions.Fraction(over, under)
    elif match := _FRAC.fullmatch(text) or _RATIO.fullmatch(text):
        under = _real(match["under"] or "1")
        if under == 0:
            return None
        size = _real(match["over"]) / under
    else:
        return None
    return -size if match["sign"] == "-" else size


def _real(digits: str) -> fractions.Fraction:
    """The exact value of a decimal such as `-1,234.50` or `.5`."""
    return fractions.Fraction(digits.replace(",", "").rstrip("."))
