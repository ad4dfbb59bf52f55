"""Programs with one small fault each, to measure tests by: a suite that lets them pass tests little.

The faults are those of mutation testing (DeMillo, Lipton and Sayward 1978): another comparison, another
arithmetic or logical operator, a constant off by one, a condition turned around. Some mutants do what the
program does (`i < n` for `i != n`); no test can tell these, so that a kill rate of 1 is out of reach for many
a program. Nothing is run here.
"""

import ast
import copy
from collections.abc import Callable, Iterator

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
_BOOLEANS: dict[type[ast.boolop], type[ast.boolop]] = {ast.And: ast.Or, ast.Or: ast.And}

Change = Callable[[ast.AST], None]  # made in place, in the node of a copy


def mutants(program: str, limit: int) -> list[str]:
    """Different programs with one change each, at most `limit`, evenly over the text; [] of no valid Python.

    The same program always gives the same mutants.
    """
    try:
        tree = ast.parse(program)
        original = ast.unparse(tree)
        changes = [(i, change) for i, node in enumerate(ast.walk(tree)) for change in _changes(node)]
        step = max(len(changes) / max(limit, 1), 1.0)
        chosen = [changes[int(i * step)] for i in range(min(limit, len(changes)))]
        texts = dict.fromkeys(_changed(tree, place, change) for place, change in chosen)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [text for text in texts if text != original]


def _changed(tree: ast.Module, place: int, change: Change) -> str:
    mutant = copy.deepcopy(tree)
    for i, node in enumerate(ast.walk(mutant)):
        if i == place:
            change(node)
            break
    return ast.unparse(mutant)


def _changes(node: ast.AST) -> Iterator[Change]:
    """What can be changed in a node itself, its children apart."""
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            yield _set_comparison(i, _COMPARISONS[type(operator)])
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _OPERATORS:
        yield _set("op", _OPERATORS[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield _set("op", _BOOLEANS[type(node.op)]())
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield _set("value", not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield _set("value", node.value + 1)
        yield _set("value", node.value - 1)
    elif isinstance(node, ast.If | ast.While | ast.IfExp) and not isinstance(node.test, ast.Constant):
        yield _negate_test


def _set(name: str, value: object) -> Change:
    return lambda node: setattr(node, name, value)


def _set_comparison(i: int, operator: type[ast.cmpop]) -> Change:
    def change(node: ast.AST) -> None:
        assert isinstance(node, ast.Compare)
        node.ops[i] = operator()

    return change


def _negate_test(node: ast.AST) -> None:
    assert isinstance(node, ast.If | ast.While | ast.IfExp)
    node.test = ast.UnaryOp(op=ast.Not(), operand=node.test)
