r"""One spelling for answers that differ only in typesetting: `\dfrac12`, `\frac 1 2` and `$\frac{1}{2}$`.

Nothing here computes. The result is LaTeX in which spaces stand only where they separate, words stand only
inside `\text{}`, fonts and sizing commands are gone, functions written as plain words (`sqrt(2)`, `pi`) are
commands, and "and", "or" and the end of a matrix row are the signs AND, OR and ROW. It is what the later
stages read.
"""

import functools
import re
import unicodedata

# Words that deny or doubt what they stand beside, or make it one of several.
DENYING = frozenset(
    "about almost although approximately around assume at because but doubt either else except false hardly"
    " if impossible incorrect instead least less maybe more most nearly neither never no none nor not or"
    " perhaps possibly rather roughly some suppose than then unless unlike unlikely until what when where"
    " whether which without wrong".split()
)
AND, OR, ROW = "\u2227", "\u2228", "\u2424"

_CHARACTERS = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u2010": "-", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ",
        "\u00d7": r"\times ", "\u00f7": "/", "\u2044": "/", "\u2215": "/", "\u2217": "*",
        "\u221e": r"\infty ", "\u2264": r"\leq ", "\u2265": r"\geq ", "\u2260": r"\neq ",
        "\u2248": r"\approx ", "\u00b1": r"\pm ", "\u2213": r"\mp ", "\u222a": r"\cup ", "\u2229": r"\cap ",
        "\u2208": r"\in ", "\u2205": r"\emptyset ", "\u2216": r"\setminus ", "\u00b0": r"^\circ ",
        "\u00a2": " cents", "\u5143": " ", "\u5186": " ", "\uc6d0": " ",
        "\u2018": "'", "\u2019": "'", "\u2032": "'",
        "\u3001": ",", "\u3002": ".", "\u53c8": " ", "\u6216": " or ", "\u548c": " and ", "\u4e0e": " and ",
        AND: r"\wedge ", OR: r"\vee ", ROW: " ",
    }
)  # fmt: skip
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_RAISED_RUN = re.compile(r"(?:\^\{[^{}]*\}){2,}|(?:_\{[^{}]*\}){2,}")  # each of its characters by itself

# Functions that people also write as plain words or in a font, with the one name that each gets here.
_FUNCTIONS = {
    name: name
    for name in (
        "arcsin arccos arctan arcsinh arccosh arctanh sinh cosh tanh sin cos tan cot sec csc sqrt ln log exp"
        " min max gcd lcm"
    ).split()
} | {"arsinh": "arcsinh", "arcosh": "arccosh", "artanh": "arctanh", "asin": "arcsin", "acos": "arccos"}
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi"
    " chi psi omega"
).split()
_CONSTANTS = {name: name for name in (*_GREEK, "infty")} | {
    "infinity": "infty",
    "Infinity": "infty",
    "inf": "infty",
    "oo": "infty",
}
_COMMANDS = _FUNCTIONS | _CONSTANTS

_WORD = "[A-Za-z]{2}"
_BRACED = r"\{((?:[^{}]|\{[^{}]*\})*)\}"  # one level of braces inside


def _compiled(*rewrites: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in rewrites)


def _command(names: str) -> str:
    return rf"\\(?:{names})(?![A-Za-z])"


_DEGREE = _command("degree|circ")
_LAYOUT = _compiled(
    (r"\\!\s*", ""),
    (r"\\[,;:> ]|~(?!=)|[\t\r\n]|" + _command(r"q?quad|displaystyle|textstyle|limits|hfill"), " "),
    (r"\\?\$|\\[()]|^\s*\\\[|\\\]\s*$|" + _command("pounds|euro"), ""),
    (_command(r"left|right|middle|[bB]igg?[lrm]?") + r"\s*\.?", ""),
    (_command("lbrace"), r"\\{"),
    (_command("rbrace"), r"\\}"),
    (_command("[lr]?vert"), "|"),
    (_command("langle"), "("),
    (_command("rangle"), ")"),
    (r"\{\\(?:rm|bf|it|sf)\s+([^{}]*)\}", r"\\text{\1}"),
    (r"(?<![A-Za-z])\{\s*([,:])\s*\}", r"\1"),
    (r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
    (_command("[dtc]frac"), r"\\frac "),
    (_command("geqslant|geq|ge") + "|>=", r"\\geq "),
    (_command("leqslant|leq|le") + "|<=", r"\\leq "),
    (_command("gt"), ">"),
    (_command("lt"), "<"),
    (_command("ne") + r"|\s!=", r"\\neq "),
    (_command("thickapprox|approxeq|simeq") + "|~=", r"\\approx "),
    (_command("varnothing") + r"|\\\{\s*\\\}", r"\\emptyset "),
    (_command("backslash|smallsetminus"), r"\\setminus "),
    (_command("div"), "/"),
    (_command("bmod"), r"\\mod "),
    (_command("imath"), "i"),
    (r"\\var(epsilon|theta|phi|rho|sigma|kappa|pi)(?![A-Za-z])", r"\\\1 "),
    (_command("mathbb") + r"\s*([A-Z])", r"\\mathbb{\1}"),
    (r"(?:\\text\s*\{\s*)?(?<![A-Za-z])all real(?: number)?s(?![A-Za-z])(?:\s*\})?", r"\\mathbb{R}"),
    (r"\s*\(([A-Za-z]\s*\\in[^()]*)\)\s*$", r",\1"),  # 2k\pi (k \in \mathbb{Z})
    (r"\\mathbb\s*\{R\}\s*[_^]\s*(?:\+|\{\s*(?:\+|>\s*0)\s*\})", r"(0,\\infty)"),
    (_command("log") + r"\s*_\s*(?:e(?![A-Za-z])|\{\s*e\s*\})", r"\\ln "),
    (rf"(?:\^\s*)?(?:\{{\s*{_DEGREE}\s*\}}|{_DEGREE})", r"^\\circ "),
    (r"^\s*\*\*([^*]+)\*\*\s*$", r"\1"),  # bold type of Markdown
    (r"\*\*", "^"),
    (r"([\^_])\s*([+-][0-9]+)", r"\1{\2}"),
    (r"\u221a\s*([0-9]+)", r"\\sqrt{\1}"),
    (r"\u221a", r"\\sqrt "),
    (r"\u221b\s*([0-9]+)", r"\\sqrt[3]{\1}"),
    (r"\u221b", r"\\sqrt[3] "),
    (r"\u221c\s*([0-9]+)", r"\\sqrt[4]{\1}"),
    (r"\u221c", r"\\sqrt[4] "),
)

_OPERANDS = _compiled(
    (r"\\sqrt\s*\{\s*\}\s*\{", r"\\sqrt{"),
    (r"\\(frac|sqrt)\s*([0-9A-Za-z]|\\pi(?![A-Za-z]))", r"\\\1{\2}"),  # \frac12, \frac1{2}, \sqrt3
    (rf"(\\frac\s*{_BRACED})\s*([0-9A-Za-z]|\\pi(?![A-Za-z]))", r"\1{\3}"),
    (r"(\\sqrt\s*\[[^\[\]]*\])\s*([0-9A-Za-z])", r"\1{\2}"),  # \sqrt[3]2
    (r"\\(frac|sqrt)\s*\{", r"\\\1{"),
    (r"([\^_])\s*\{\s*([0-9A-Za-z])\s*\}(?!\s*[0-9])", r"\1\2"),  # 2^{3}3 is not 2^33
    (r"\{\s*\{([^{}]*)\}\s*\}", r"{\1}"),
)

_SPACES = _compiled(
    (r"\s+", " "),
    # A space between two digits or two letters separates, and so does one after a comma between digits
    # (`1, 234` is a list), or before a word behind a value (`24 chickens`); any other is typesetting.
    (r"(?<![0-9A-Za-z,)}]) | (?![0-9A-Za-z])|(?<=,)(?<![0-9],) |(?<=,) (?![0-9])", ""),
    (rf"(?<=[0-9)}}]) (?=[A-Za-z])(?!{_WORD})|(?<=[)}}]) (?=[0-9])|(?<=[A-Za-z]) (?=[0-9])", ""),
    (r"[.,;:\\]+$", ""),
)

_FONT_GROUP = re.compile(
    r"\\(text(?:rm|bf|it|sf|normal)?|math(?:rm|bf|it|sf|normal)|mbox|hbox|boldsymbol|bm|operatorname)\s*"
    + _BRACED
)
_QUANTITY = re.compile(r"([0-9][0-9.,]*)\s+([A-Za-z].*)", re.DOTALL)  # all of `5 apples` in a text font
_SYMBOL_FONTS = ("mathbf", "mathit", "mathnormal", "boldsymbol", "bm")
_CONJUNCTION = r"[,;]?\s*(?:\\text\{{\s*[,;]?\s*{0}\s*\}}|(?<![A-Za-z\\]){0}(?![A-Za-z]))\s*"
_AND = re.compile(_CONJUNCTION.format("and"), re.IGNORECASE)
_OR = re.compile(_CONJUNCTION.format("or"), re.IGNORECASE)
_PLAIN_WORD = re.compile(
    r"\\text\{[^{}]*\}|\\operatorname\{[^{}]*\}|(?<=[0-9]) *(?P<unit>min|sec)(?![A-Za-z( _{])"
    r"|(?<![A-Za-z\\])[A-Za-z]+(?![A-Za-z])"
)
_ROW_END = re.compile(r"\\\\(?:\[[^\[\]]*\])?|\\cr(?![A-Za-z])|\\hline(?![A-Za-z])")
_BEFORE_PARENTHESIS = re.compile(r"(?:\^|\\sqrt|(?<![A-Za-z\\])[Aa]bs)\s*\(")
_OPTION_WORD = re.compile(r"^\s*(?:option|choice)\s*(?=\(?[A-J0-9]\)?\s*$)", re.IGNORECASE)


def is_plain(text: str) -> bool:
    """Whether no character is invisible, turns the direction of writing, or ends strings."""
    return all(
        character in "\t\r\n" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn")
        for character in text
    )


def normalise_answer(text: str) -> str:
    """The one spelling of an answer. Quadratic in its length at worst, so cap that first."""
    text = _OPTION_WORD.sub("", in_latex(text.translate(_CHARACTERS)))
    text = _rewritten(_single_backslashes(text), _LAYOUT)
    text = _FONT_GROUP.sub(_without_font, text)
    text = _OR.sub(OR, _AND.sub(AND, text))
    text = _PLAIN_WORD.sub(_as_command, text)
    text = _rewritten(_braced_parentheses(text), _OPERANDS)
    return _rewritten(text.strip(), _SPACES).strip()


def in_latex(text: str) -> str:
    """Characters beyond ASCII as LaTeX, by what Unicode says of them."""

    def of_run(found: re.Match[str]) -> str:
        latex = "".join(map(_one_in_latex, found[0]))
        return _RAISED_RUN.sub(lambda run: run[0].replace("}^{", "").replace("}_{", ""), latex)

    return _NOT_ASCII.sub(of_run, text)


@functools.cache
def _one_in_latex(character: str) -> str:
    kind, *codes = unicodedata.decomposition(character).split() or [""]
    plain = "".join(chr(int(code, 16)) for code in codes).translate(_CHARACTERS)
    if unicodedata.category(character) == "Sc":
        return " "  # of a currency; 1€50 is not 150
    kind = kind.strip("<>")
    if kind == "super":
        return f"^{{{plain}}}"
    if kind == "sub":
        return f"_{{{plain}}}"
    if kind == "fraction":
        over, _, under = plain.partition("/")
        return rf"\frac{{{over}}}{{{under}}}" if under else f"{over}/"
    if kind in ("wide", "narrow", "square", "noBreak", "compat"):
        return in_latex(plain)
    if kind == "font":
        return (
            rf"\mathbb{{{plain}}}"
            if "DOUBLE-STRUCK CAPITAL" in unicodedata.name(character)
            else in_latex(plain)
        )
    _, _, letter = unicodedata.name(character, "").rpartition(" LETTER ")
    name = letter.lower().replace("lamda", "lambda")
    if name not in _GREEK:
        return character
    return rf"\{name} " if character.islower() else rf"\{name.capitalize()} "


def _as_command(word: re.Match[str]) -> str:
    """A function's name as its command; that of a unit behind a number stays."""
    return rf"\{_COMMANDS[word[0]]} " if word[0] in _COMMANDS and not word["unit"] else word[0]


def _rewritten(text: str, rewrites: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    for pattern, replacement in rewrites:
        text = pattern.sub(replacement, text)
    return text


def _single_backslashes(text: str) -> str:
    r"""Undoes the doubling of an answer that was escaped twice; marks where the rows of a matrix end."""
    if r"\\begin" in text:
        text = text.replace("\\\\", "\\")
    if r"\begin" in text:
        return _ROW_END.sub(ROW, text)
    return re.sub(r"\\\\(?=[A-Za-z{}])", r"\\", text)


def _without_font(group: re.Match[str]) -> str:
    font, content = group[1], group[2].strip()
    if content in _FUNCTIONS:
        return rf"\{_FUNCTIONS[content]} "
    if font == "operatorname":
        return group[0]
    if quantity := _QUANTITY.fullmatch(content):
        return rf"{quantity[1]}\text{{{quantity[2]}}}"
    if font in _SYMBOL_FONTS or not re.search(r"[A-Za-z]", content) or content in ("e", "i", "d"):
        return content
    return rf"\text{{{content}}}"


def _braced_parentheses(text: str) -> str:
    r"""`2^(x+1)`, `\sqrt(x)` and `Abs(x)` as LaTeX has them."""
    place = 0
    while found := _BEFORE_PARENTHESIS.search(text, place):
        place = found.end()
        depth = 1
        for end in range(place, len(text)):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            if depth == 0:
                operator, inner = found[0][:-1].rstrip(), text[place:end]
                opening, closing = ("|", "|") if operator.lower() == "abs" else (f"{operator}{{", "}")
                text = f"{text[: found.start()]}{opening}{inner}{closing}{text[end + 1 :]}"
                place = found.start() + len(opening)
                break
    return text
