"""Text with LaTeX in it, cut into pieces: its formulas as MathML, which browsers typeset without a script.

`latex2mathml` (MIT) reads a formula; its own output is not used, since it puts text of the formula into the
page as it stands (`\\text{<b>}` becomes an element, `\\href` a link). A tree of known elements and attributes
is copied from the one that it makes, and ElementTree writes it, with all text escaped. A formula that it
cannot read, in which a command is left, or whose parts do not make a valid element, stays the text it is.
"""

import html
import re
from collections.abc import Iterator
from typing import Literal
from xml.etree import ElementTree

from latex2mathml import converter
from markupsafe import Markup

# A dollar opens a formula before a sign, and closes it after one and before no digit: "$5 and $6" is none.
_FORMULA = re.compile(
    r"\$\$(?P<display>.+?)\$\$|\\\[(?P<bracket>.+?)\\\]|\\\((?P<paren>.+?)\\\)"
    r"|(?P<environment>\\begin\{(?P<kind>(?:align|equation|gather|eqnarray)\*?)\}.+?\\end\{(?P=kind)\})"
    r"|(?<!\\)\$(?!\s)(?P<inline>(?:\\.|[^$\\])+?)(?<!\s)\$(?!\d)",
    re.DOTALL,
)
_FENCE = re.compile(r"^```[^\n`]*\n(.*?)^```[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
_BARE_PERCENT = re.compile(r"(?<!\\)((?:\\\\)*)%")
_MAX_LENGTH = 4000  # characters; the reader's time grows faster than a formula
_NUM_CHILDREN = {
    **dict.fromkeys(("mfrac", "msub", "msup", "munder", "mover", "mroot"), 2),
    **dict.fromkeys(("msubsup", "munderover"), 3),
}
_ELEMENTS = _NUM_CHILDREN.keys() | {
    *("math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "msqrt", "mstyle", "mpadded", "mphantom"),
    *("menclose", "mtable", "mtr", "mtd", "mmultiscripts", "mprescripts", "none"),
}
_ATTRIBUTES = {
    *("accent", "accentunder", "columnalign", "columnlines", "columnspacing", "depth", "display"),
    *("displaystyle", "fence", "form", "height", "largeop", "linebreak", "linethickness", "lspace"),
    *("mathvariant", "maxsize", "minsize", "movablelimits", "notation", "rowlines", "rowspacing", "rspace"),
    *("scriptlevel", "separator", "stretchy", "symmetric", "voffset", "width"),
}


class Unreadable(ValueError):
    """A formula that cannot be typeset."""


Piece = tuple[Literal["text", "block", "code", "formula", "unread"], str]  # "block": code in a fence


def pieces(text: str) -> list[Piece]:
    """A text cut at its code and its formulas, line breaks kept; `Markup` are the formulas alone."""
    found: list[Piece] = []
    for outside, fence in _cut(_FENCE, text):
        for prose, code in _cut(_CODE, outside):
            for words, match in _cut(_FORMULA, prose):
                found.append(("text", words.replace("\\$", "$").replace("\\%", "%")))
                if match:
                    found.append(_typeset(match))
            if code:
                found.append(("code", code[1]))
        if fence:
            found.append(("block", fence[1]))
    return found


def _cut(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, re.Match[str] | None]]:
    """What stands before each match, with the match; then what is left."""
    end = 0
    for match in pattern.finditer(text):
        yield text[end : match.start()], match
        end = match.end()
    yield text[end:], None


def _typeset(match: re.Match[str]) -> Piece:
    is_inline = match["inline"] is not None or match["paren"] is not None
    latex = match["inline"] or match["paren"] or match["display"] or match["bracket"] or match["environment"]
    try:
        return "formula", formula(latex, not is_inline)
    except Unreadable:
        return "unread", match[0]


def formula(latex: str, is_display: bool = False) -> Markup:
    """MathML of a formula without its dollars; a bare % is a percent sign, though to TeX it is a comment.

    Raises:
        Unreadable: it cannot be read as a whole.
    """
    if len(latex) > _MAX_LENGTH:
        raise Unreadable(f"it has {len(latex)} characters")
    latex = _BARE_PERCENT.sub(r"\1\\%", latex.strip())
    try:
        tree = _known(converter.convert_to_element(latex, display="block" if is_display else "inline"))
    except Unreadable:
        raise
    except Exception as error:  # the reader stumbles in many ways, over a recursion that is too deep too
        raise Unreadable(f"{type(error).__name__}: {error}") from None
    return Markup(ElementTree.tostring(tree, encoding="unicode", short_empty_elements=False))


def _known(element: ElementTree.Element) -> ElementTree.Element:
    """A copy of the tree with the attributes that we know; other elements and commands left are refused."""
    name = element.tag.rpartition("}")[2]
    if name not in _ELEMENTS:
        raise Unreadable(f"the element {name}")
    if len(element) != _NUM_CHILDREN.get(name, len(element)):
        raise Unreadable(f"{name} with {len(element)} parts")
    text = html.unescape(element.text or "")
    if name == "mtext":  # it is passed on as it stands
        text = text.replace("\\%", "%")
    if "\\" in text and text != "\\":  # what it does not know it passes on
        raise Unreadable(f"the command {text}")
    copy = ElementTree.Element(
        name, {key: element.attrib[key] for key in element.attrib if key in _ATTRIBUTES}
    )
    copy.text = text
    copy.extend(map(_known, element))
    return copy
