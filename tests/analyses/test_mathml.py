"""Facts of formulas as MathML: what is one, what becomes of it, and that no text of it becomes markup."""

import json
from xml.etree import ElementTree

import pytest

from promptcot_jax.analyses import mathml
from promptcot_jax.report import page
from tests import toys


def typeset(text: str) -> str:
    """A text as the page of case studies has it."""
    case = {"id": "", "label": "", "concepts": (), "before": (), "steps": ()}
    html = page.render(
        "case_studies.html", caption="", cases=[case | {"texts": {"Text": mathml.pieces(text)}}]
    )
    return html.partition('<div class="prose text">')[2].partition("</div>\n</article>")[0]


def test_a_formula_becomes_elements():
    assert mathml.formula(r"\frac{a}{b^2}") == (
        '<math display="inline"><mrow><mfrac><mrow><mi>a</mi></mrow><mrow><msup><mi>b</mi><mn>2</mn></msup>'
        "</mrow></mfrac></mrow></math>"
    )
    assert typeset(r"So \[x\] and $$y$$ and \(z\).").count("<math") == 3
    assert typeset(r"$$y$$").startswith('<math display="block">')


def test_money_is_no_formula():
    assert typeset("A ticket costs $5 and a book $12.") == "A ticket costs $5 and a book $12."
    assert typeset(r"It is \$5, or 5\%.") == "It is $5, or 5%."


def test_a_percent_sign_is_no_comment():
    assert "<mn>50</mn><mi>%</mi>" in typeset("$50%$")
    assert mathml.formula("a%b") == mathml.formula(r"a\%b")
    assert "<mi>b</mi>" in mathml.formula("a%b")
    assert mathml.formula(r"a\\%b") == mathml.formula(r"a\\\%b")  # after a line break
    assert ">5%</mtext>" in mathml.formula(r"\text{5%}")
    assert ">5%</mtext>" in mathml.formula(r"\text{5\%}")


@pytest.mark.parametrize(
    "latex", [r"\foo{x}", r"\frac{a", r"x^y^z", "{" * 3000, "x" * 5000, r"\overarc{AB}", r"\text{a \foo b}"]
)
def test_what_cannot_be_read_stays_text(latex: str):
    with pytest.raises(mathml.Unreadable):
        mathml.formula(latex)
    shown = typeset(f"Let ${latex}$ be.")
    assert shown.startswith('Let <code class="unread">$')
    assert "<math" not in shown
    kinds = [kind for kind, _ in mathml.pieces(f"${latex}$ and $x$") if kind != "text"]
    assert kinds == ["unread", "formula"]


@pytest.mark.parametrize(
    "latex",
    [
        r"\text{<script>alert(1)</script>}",
        r"\href{javascript:alert(1)}{x}",
        r"\style{background:url(http://a)}{x}",
        r"\class{x}{y}",
        r"a<b & c>d",
        r"\text{&lt;img src=x onerror=y&gt;}",
        r"\mathrm{\unicode{x3c}script\unicode{x3e}}",
    ],
)
def test_no_text_of_a_formula_becomes_markup(latex: str):
    shown = typeset(f"<b>${latex}$</b>")
    tree = ElementTree.fromstring(f"<p>{shown}</p>")
    names = {element.tag for element in tree.iter()} - {"p", "code"}
    assert names <= mathml._ELEMENTS
    for element in tree.iter():
        assert element.attrib.keys() <= mathml._ATTRIBUTES | {"class"}
    assert "&lt;b&gt;" in shown


def test_code_is_not_searched_for_formulas():
    text = "Run:\n```python\nprint('$x$ <b>')\n```\nthen `$y$`."
    assert typeset(text) == ("Run:\n<pre>print(&#39;$x$ &lt;b&gt;&#39;)\n</pre>then <code>$y$</code>.")
    assert {kind for kind, _ in mathml.pieces(text)} == {"text", "block", "code"}


@pytest.mark.skipif(not toys.SHARED.exists(), reason="the shared data are not here")
def test_formulas_of_competition_problems_are_read():
    lines = (toys.SHARED / "data" / "eval" / "math500.jsonl").read_text().splitlines()[:80]
    pieces = [piece for line in lines for piece in mathml.pieces(json.loads(line)["solution"])]
    formulas, unread = (sum(kind == one for kind, _ in pieces) for one in ("formula", "unread"))
    assert formulas > 500
    assert unread <= 0.02 * formulas
