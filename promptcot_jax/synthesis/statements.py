"""How a statement reads: its sentences, whether it breaks off, what it asks for.

Both sets of rules stand on these: `filters.py` on problems as the model wrote them, `statement_checks.py` on
whatever comes to verification. They know signs and a few words, and no mathematics.
"""

import functools
import re

_SHOWN = 80  # characters of what is shown of a text

FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)", re.DOTALL)
_SOURCE = re.compile(r"\[asy\].*?\[/asy\]|```.*?```|\\(?:begin|end)\{[^}]*\}", re.DOTALL)

_NAMED = r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)"
# What goes on in small letters is no new sentence: "at 5 p.m. on Monday", "divisors of 30! are".
_SENTENCE_END = re.compile(rf"(?<=\?)\s+|{_NAMED}(?<=[.!])\s+(?![a-z])|\n\s*\n")


def without_source(text: str) -> str:
    """The text without the source of drawings and programs."""
    return _SOURCE.sub(" ", text)


@functools.lru_cache(16)  # several rules look at the same text
def words_only(text: str) -> str:
    """The text without source, and with "F" for each formula."""
    return FORMULA.sub(" F ", without_source(text))


@functools.lru_cache(16)
def sentences(text: str) -> tuple[str, ...]:
    """Sentences on one line each."""
    return tuple(" ".join(part.split()) for part in _SENTENCE_END.split(text) if part.strip())


_OPEN_END = re.compile(
    r"(?:[,;:(=+<-]|\b(?:the|a|an|of|and|or|with|for|to|is|are|that|where|by|in|at|from|than))$",
    re.IGNORECASE,
)
_PRICE = re.compile(r"\$\s?(?:\d[\d,.]*|\.\d+)(?:[kKmMbB]\b)?(?=[\s,.;:?!)/%'\"-]|$)")
_OPENED = re.compile(r"\$(?=[^\s/,.;:?!)'\"`])")  # "100$ each" is a price too, and '$' a sign


def open_end(text: str) -> str | None:
    """The last words of a text that breaks off: in a sentence, after an announcement, or in a formula."""
    text = text.rstrip()
    last = text[-_SHOWN:]
    signs = text.replace("\\$", "")  # LaTeX's way to write a dollar
    is_odd = signs.count("$") % 2 and "$$" not in signs
    in_formula = is_odd and _OPENED.search(FORMULA.sub(" ", _PRICE.sub(" ", signs)))
    return " ".join(last.split()) if in_formula or _OPEN_END.search(last) else None


_ASKING = re.compile(
    r"(?:^|[;:,]\s|\b(?:and|then|also)\s)(?:(?:please|also|now|then|finally|next)[,\s]+)?"
    r"(?:find|determine|compute|calculate|evaluate|what|how (?:many|much|long|far|old|often|tall|fast))\b"
    # "Write your answer as a fraction" asks for nothing more, and stories have people who give and write.
    r"|^(?:(?:please|also|now|then|finally|next)[,\s]+)?(?:write|give)\s+"
    r"(?!your|down|it\b|them\b|(?:the |an? )?(?:\w+ )?(?:answer|result))",
    re.IGNORECASE,
)


# "Express your answer as m/n, and find m + n" says how to write what was asked for before.
_ANSWER_FORM = re.compile(
    r"\b(?:express|write|written|put)\b[^.?!]*\b(?:as|in)\b[^.?!]*"
    r"\b(?:find|compute|determine)\s+(?:F|\w(?:\s*\+\s*\w)+)\W*$",
    re.IGNORECASE,
)


def questions(text: str) -> list[str]:
    """What a text asks for, each in the words from which on it does; one sentence may ask twice."""
    asked = []
    for sentence in sentences(words_only(text)):
        if _ANSWER_FORM.search(sentence):
            continue
        starts = [match.start() for match in _ASKING.finditer(sentence)]
        if not starts and sentence.endswith("?"):
            starts = [0]
        asked += [sentence[start:].lstrip(" ,;:")[:_SHOWN] for start in starts]
    return asked
