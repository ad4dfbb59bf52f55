"""HTML is made by templates that escape: no string of the package holds a tag, and nothing is called safe."""

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

import promptcot_jax
from promptcot_jax.report import page

PACKAGE = pathlib.Path(promptcot_jax.__file__).parent
TAGS = (
    *("a", "article", "b", "body", "br", "button", "caption", "circle", "code", "dd", "details", "div", "dl"),
    *(
        "dt",
        "em",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "g",
        "h[1-6]",
        "head",
        "header",
        "hr",
    ),
    *("html", "i", "iframe", "img", "input", "label", "legend", "li", "line", "link", "main", "math", "meta"),
    *("nav", "ol", "option", "output", "p", "path", "polyline", "pre", "rect", "script", "section", "select"),
    *("small", "span", "strong", "style", "sub", "summary", "sup", "svg", "table", "tbody", "td", "text"),
    *("textarea", "th", "thead", "title", "tr", "tspan", "u", "ul"),
)
VALUE = "\0"  # stands for what an f-string fills in
# A tag, whole or cut off where a value or another string goes on; or one whose name is filled in. `(?P<text>`
# is none.
MARKUP = re.compile(rf"(?<!\?P)</?(?:{'|'.join(TAGS)})(?=[\s>/{VALUE}]|$)|</{VALUE}", re.IGNORECASE)


ALLOWED = {  # strings that make no page
    "data/statement_rules.py": ["|<table|<svg"],  # looked for in problems
}


def strings(source: str) -> Iterator[tuple[int, str]]:
    """Each string of a program with its line, f-strings with `VALUE` in them; docstrings are left out."""
    tree = ast.parse(source)
    passed: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            passed.add(node.value)  # a docstring
        if isinstance(node, ast.JoinedStr):
            passed.update(node.values)
            parts = [str(one.value) if isinstance(one, ast.Constant) else VALUE for one in node.values]
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in passed:
            yield node.lineno, node.value


def markup(source: str) -> list[tuple[int, str]]:
    return [(line, text) for line, text in strings(source) if MARKUP.search(text)]


@pytest.mark.parametrize(
    "planted",
    [
        'x = "<b>" + name + "</b>"',
        'x = f"<td>{name}</td>"',
        "x = f'<{tag}>{name}</{tag}>'",
        'x = "<div class=%s>" % name',
        'x = "<li>{}</li>".format(name)',
        'x = "".join(["<ul", ">"])',
        'x = f"<svg{attributes}/>"',
        'def f():\n    """Says <b>."""\n    return "<p>"',
    ],
)
def test_a_planted_tag_is_found(planted: str):
    assert len(markup(planted)) >= 1


def test_other_angle_brackets_are_no_markup():
    others = ["<think>", "<|user|>", "<!-- BEGIN RATIONALE -->", "a <b and c> d", "<s>", "1 < 2", "<pad>"]
    assert [text for text in others if markup(f"x = {text!r}")] == ["a <b and c> d"]
    assert markup('"""Says <b>."""') == []


def test_no_string_of_the_package_is_markup():
    found = [
        (name, line, text)
        for path in PACKAGE.rglob("*.py")
        for name in (str(path.relative_to(PACKAGE)),)
        for line, text in markup(path.read_text())
        if not any(allowed in text for allowed in ALLOWED.get(name, ()))
    ]
    assert found == []


def test_only_our_own_files_and_mathml_are_not_escaped():
    programs = {str(path.relative_to(PACKAGE)): path.read_text() for path in PACKAGE.rglob("*.py")}
    assert {path for path, text in programs.items() if "Markup(" in text} == {
        *("analyses/mathml.py", "report/page.py")
    }
    templates = list((PACKAGE / "report" / "templates").rglob("*"))
    assert len(templates) > 20
    for path in templates:
        if path.is_file():
            assert not re.search(r"\|\s*safe|autoescape|Markup", path.read_text()), path


def test_every_template_escapes():
    environment = page._environment()
    assert environment.autoescape is True
    assert environment.from_string("{{ text }}").render(text="<b>") == "&lt;b&gt;"
