r"""Equality of LaTeX expressions, equations and sets: math-verify on what its LaTeX parser reads.

Runs in a worker process only: parsing and simplifying take unbounded time and memory. A text becomes sympy
objects in one way, by the parser of latex2sympy (the LaTeX extraction of math-verify), which builds nodes
from a grammar; `sympify` and `parse_expr`, which evaluate Python, are never given a text, not even a number.
Decimals are read as exact fractions, so that no tolerance of math-verify applies. Its judgement is narrowed
in three points: expressions that differ at sampled points are different whatever it says, equations are equal
only if one is a constant multiple of the other, and sets are compared as sets.
"""

import fractions
import functools
import math
import random
import re
from typing import Any

import sympy
from latex2sympy2_extended import latex2sympy2
from math_verify import grader
from sympy.concrete.expr_with_limits import ExprWithLimits
from sympy.core.relational import Relational

from promptcot_jax.verify import answer_values

MAX_DIGITS = 2_000  # of a number that evaluating an expression may make
MAX_EXPONENT = 1_000  # of a power or factorial
MAX_TERMS = 1_000  # of a sum or product

_PRECISION = 60  # digits of a sampled value
_DIFFERENCE = sympy.Float("1e-45", 15)  # relative; beyond it two sampled values are different
_NUM_POINTS = 3

_PARSING = latex2sympy2.ConversionConfig(lowercase_symbols=False)
_FRACTION = r"\\frac\{[^{}]*\}\{[^{}]*\}"
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^([+-]?[0-9]{1,3}),([0-9]{3})(?![0-9])", r"\1\2"),
        (r"([0-9])\.(?![0-9])", r"\1"),
        (r"\^([0-9]*\.[0-9]+|[0-9]{2,})", r"^{\1}"),
        (r"(?<![0-9^])([0-9]+) ([0-9]+)/([0-9]+)", r"\1\\frac{\2}{\3}"),  # 1 1/2
        (r"(\^[0-9]|\}) (?=[0-9])", r"\1\\cdot "),  # 2^6 3^5
        # The parser takes an integer and the fraction after it for a mixed number, parentheses or not.
        (r"(?<![0-9A-Za-z^_.}\\])([0-9]+)(?=\()", r"\1\\cdot "),
        (rf"({_FRACTION}|\))(?=\(|\\frac)", r"\1\\cdot "),
        (r"\^\\circ", r"^{\\circ}"),
    )
)
_TOKEN = re.compile(r"_\{[^{}]*\}|_.|\\[A-Za-z]+|[iI]")
_SIDE_BY_SIDE = re.compile(r"(?<![_0-9])[0-9]+ [0-9]")
_NO_VALUES = (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan)
_SUM_OVER_I = re.compile(r"_\{\s*i\s*=")


class _TooLarge(Exception):
    """The value of an expression would have more digits or terms than any answer."""


class _ExactParser(latex2sympy2._Latex2Sympy):
    """Reads decimals as fractions; and digits at all without `sympy.Number(text)`, which is `parse_expr`."""

    def parse_number(self, text: str) -> Any:
        number = answer_values.exact_number(text)
        if number is None:
            raise ValueError(f"{text!r} is no number.")
        return sympy.Rational(number.value.numerator, number.value.denominator)


def same_expression(reference: str, candidate: str) -> bool:
    """Whether two normalised texts are equal as expressions, as equations, or as sets.

    What is no LaTeX expression, or would have a value larger than any answer, equals nothing.

    Raises:
        MemoryError: the process has reached its limit.
    """
    try:
        return _same_expression(reference, candidate)
    except MemoryError:
        raise
    except Exception:  # the parser and sympy raise all kinds
        return False


def _same_expression(reference: str, candidate: str) -> bool:
    texts = _to_latex(reference), _to_latex(candidate)
    is_real = not any("I" in re.findall(r"\\[A-Za-z]+|.", text) for text in texts)
    first, second = (_parsed(text, is_real) for text in texts)
    if isinstance(first, sympy.Set) or isinstance(second, sympy.Set):
        return _same_sets(first, second)
    if isinstance(first, Relational) and isinstance(second, Relational):
        return _same_relations(first, second)
    if not isinstance(first, sympy.Expr) or not isinstance(second, sympy.Expr):
        return False
    return _same_values(first, second) or _stands_for(reference, second) or _stands_for(candidate, first)


def _to_latex(text: str) -> str:
    """A normalised text as the parser wants it; `i` is the imaginary unit."""
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    if _SIDE_BY_SIDE.search(text):
        raise ValueError(f"Two numbers side by side in {text!r} are neither a product nor a list.")
    if not _SUM_OVER_I.search(text):
        # Braces, because the parser forgets the power of a bare I.
        text = _TOKEN.sub(lambda token: "{I}" if token[0] in "iI" else token[0], text)
    return text


@functools.lru_cache(maxsize=256)  # in a list, each item is compared with many
def _parsed(text: str, is_real: bool) -> Any:
    expression = _ExactParser(is_real=is_real, convert_degrees=True, config=_PARSING).parse(text)
    _log10(expression)
    return expression


def _same_values(first: sympy.Expr, second: sympy.Expr) -> bool:
    first, second = _in_closed_form(first), _in_closed_form(second)
    if first.has(*_NO_VALUES) or second.has(*_NO_VALUES):
        return first == second == sympy.oo or first == second == -sympy.oo
    first, second = _evaluated(first), _evaluated(second)
    if first == second:
        return not first.has(*_NO_VALUES)
    for point in range(_NUM_POINTS):
        one, two = _sampled(first, point), _sampled(second, point)
        if one is not None and two is not None and abs(one - two) > _DIFFERENCE * max(abs(one), abs(two)):
            return False
    return any(
        grader.verify(*pair, timeout_seconds=None)
        for pair in (
            (first, second),
            (first - second, sympy.Integer(0)),
        )  # it never simplifies beside a symbol
    )


def _same_relations(first: Any, second: Any) -> bool:
    """Whether the difference of the sides is the same up to a factor, positive for an inequality."""
    one, two = (_evaluated(relation.lhs - relation.rhs) for relation in (first, second))
    ratios = []
    for point in range(_NUM_POINTS):
        over, under = _sampled(one, point), _sampled(two, point)
        if not over or not under:
            return False
        ratios.append(over / under)
    if any(abs(ratio - ratios[0]) > _DIFFERENCE * abs(ratios[0]) for ratio in ratios):
        return False
    if isinstance(first, sympy.Eq | sympy.Ne):
        is_same_kind = first.func is second.func
    else:
        is_same_kind = (first.func if ratios[0] > 0 else first.reversed.func) is second.func
    return is_same_kind and bool(sympy.simplify(one / two).is_number)


def _same_sets(first: sympy.Basic, second: sympy.Basic) -> bool:
    one, two = (
        (each if isinstance(each, sympy.Set) else sympy.FiniteSet(each)).doit() for each in (first, second)
    )
    return one == two or one.symmetric_difference(two).is_empty is True


def _stands_for(text: str, value: sympy.Expr) -> bool:
    """Whether a text is a long decimal of a number: 0.8660254037844386 of half the root of 3."""
    decimal = answer_values.exact_number(text)
    sampled = None if value.free_symbols else _sampled(_evaluated(value), 0)
    if decimal is None or sampled is None or not sampled.is_real:
        return False
    value_of = fractions.Fraction(str(sampled))
    return answer_values.rounds(decimal, value_of) or answer_values.is_float_of(decimal, value_of)


def _evaluated(expression: Any) -> Any:
    """The parser's nodes are unevaluated, and `evalf` is wrong on some of those (I**2)."""
    return expression.func(*map(_evaluated, expression.args)) if expression.args else expression


def _in_closed_form(expression: Any) -> Any:
    """Sums, products and integrals worked out, where sympy can."""
    if not expression.has(ExprWithLimits):
        return expression
    if isinstance(expression, ExprWithLimits):
        return _evaluated(expression).doit()
    return expression.func(*map(_in_closed_form, expression.args))


def _sampled(expression: sympy.Expr, point: int) -> Any:
    """The value where each symbol has a number that follows from its name; None where there is no value."""
    values = {
        symbol: sympy.Rational(2 * random.Random(f"{symbol} {point}").randint(-3_000, 3_000) + 1, 1_999)
        for symbol in expression.free_symbols
    }
    value = expression.evalf(_PRECISION, subs=values)  # pyright: ignore[reportArgumentType]
    return value if value.is_number and value.is_finite else None


def _log10(expression: Any) -> float:
    """A bound on the logarithm of the size of an expression, symbols counting as 10.

    Raises:
        _TooLarge: it has more than MAX_DIGITS digits, or an exponent or a number of terms beyond its limit.
    """
    if isinstance(expression, sympy.Rational):
        size = math.log10(abs(expression.p) + 1) + math.log10(expression.q)
    elif isinstance(expression, sympy.Pow | sympy.exp | sympy.factorial):
        exponent = expression.args[-1]
        sizes = [
            _log10(argument) for argument in expression.args
        ]  # first, so that the exponent is small enough
        size = sizes[0] * (1.0 if exponent.free_symbols else _checked_exponent(exponent))
    elif isinstance(expression, sympy.Sum | sympy.Product):
        _, low, high = expression.limits[0]
        if (high - low).is_number and MAX_TERMS < high - low < sympy.oo:
            raise _TooLarge
        size = _log10(expression.function)
    else:
        size = sum(map(_log10, expression.args)) if expression.args else 1.0
    if size > MAX_DIGITS:
        raise _TooLarge
    return size


def _checked_exponent(exponent: Any) -> float:
    """The size of an exponent that holds no symbol, at least 1."""
    size = abs(complex(exponent.evalf()))
    if size > MAX_EXPONENT:
        raise _TooLarge
    return max(size, 1.0)
