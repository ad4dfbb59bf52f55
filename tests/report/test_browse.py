"""Facts of the browser page, found by a real browser: nothing is lost, nothing is run, no request is made."""

import html.parser
import pathlib
import random
import re
import time
from collections.abc import Iterator

import pytest

from promptcot_jax.report import browse
from tests.report import browser
from tests.run import exported_workdir

NUM_ROWS = 12_000
COUNT = "document.querySelector('.pager output').textContent"
SHOWN = "[...document.querySelectorAll('article h2')].map((e) => e.textContent.split(' ')[0])"

needs_browser = pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no Chromium")


def rows_of(number: int) -> dict:
    rng = random.Random(0)
    math = [exported_workdir.math_row(i, rng) for i in range(number - 2)]
    code = [exported_workdir.code_row(i, rng) for i in range(2)]
    return {"math": {"train": math, "heldout": []}, "code": {"train": code[:1], "heldout": code[1:]}}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("page") / "browse.html"
    path.write_text(browse.render("A <set> & more", rows_of(NUM_ROWS), NUM_ROWS))
    return path


@pytest.fixture(scope="module")
def page(file: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    with browser.opened(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def test_no_text_of_a_row_stands_in_the_page(file: pathlib.Path):
    text = file.read_text()
    tags = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append((tag, dict(attrs)))
    parser.feed(text)
    assert [attrs for tag, attrs in tags if tag == "script"] == [{"type": "text/plain", "id": "set"}, {}]
    assert not [attrs for _, attrs in tags if attrs.keys() & {"src", "href", "onerror"}]
    assert "onerror" not in text
    assert "A &lt;set&gt; &amp; more" in text
    (packed,) = re.findall(r'id="set">([^<]*)</script>', text)
    assert re.fullmatch(r"[A-Za-z0-9+/]+=*", packed)


def test_the_page_is_the_same_bytes_at_any_time(monkeypatch: pytest.MonkeyPatch):
    before = browse.render("A", rows_of(9), 9)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert browse.render("A", rows_of(9), 9) == before


def test_of_too_many_rows_some_are_in_the_page_and_it_says_so():
    text = browse.render("A", rows_of(9), 4)
    assert "9 problems. This page has 4 of them" in text


@needs_browser
def test_a_hostile_text_is_read_as_it_is(page: browser.Page, file: pathlib.Path):
    page.go(f"{file.as_uri()}#words=m1+onerror&length=3&item=x")
    page.wait(f"{SHOWN}.length > 0")
    assert page.value("document.querySelector('article .prose').textContent") == exported_workdir.HOSTILE
    assert page.value("document.title") == "A <set> & more"
    assert page.value("document.querySelectorAll('img, b b, i').length") == 0
    assert all(url.startswith(("file:", "about:")) for url in page.requests())
    assert page.complaints() == []


@needs_browser
def test_a_script_that_slipped_in_is_not_run(page: browser.Page, file: pathlib.Path, tmp_path: pathlib.Path):
    changed = tmp_path / "changed.html"
    slipped = (
        "<h1><script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\">"
    )
    changed.write_text(file.read_text().replace("<h1>", slipped))
    page.go(changed.as_uri())
    page.wait(f"{SHOWN}.length === 20")
    assert page.value("document.title") == "A <set> & more"
    page.events.clear()


@needs_browser
def test_mathematics_is_shown_by_signs_and_prices_stay(page: browser.Page, file: pathlib.Path):
    page.go(f"{file.as_uri()}#words=a_{{25}}&domain=math")
    page.wait(f"{SHOWN}.length === 1")
    shown = page.value("document.querySelector('article .prose').textContent")
    assert shown == (
        "Let a₁, a₂, …, a₂₅ be a sequence with aₙ₊₁ = (aₙ² + 1)/2 and a₁ ≤ √3. "
        "A ticket costs $5 and a book $12. Find ∑ₖ₌₁²⁵ k² (mod 7)."
    )
    page.go(f"{file.as_uri()}#words=a_{{25}}&tex=1")
    page.wait(f"{SHOWN}.length === 1")
    shown = page.value("document.querySelector('article .prose').textContent")
    assert shown == exported_workdir.STATEMENT.replace("NN", "25")


@needs_browser
def test_search_filters_pages_and_keys(page: browser.Page, file: pathlib.Path):
    rows = rows_of(NUM_ROWS)["math"]["train"]
    page.go(file.as_uri())
    page.wait(f"{COUNT}.endsWith('of 12,000 problems')")
    assert page.value(SHOWN) == [f"m{i}" for i in range(20)]
    page.press("ArrowRight", 39)
    assert page.value(SHOWN) == [f"m{i}" for i in range(20, 40)]
    page.press("/", 191, "/")  # into the search, without being typed
    page.type("numbers from")
    page.wait(f"{COUNT} === '1 to 2 of 2 problems'")
    assert page.value(SHOWN) == ["c0", "c1"]
    page.go(f"{file.as_uri()}#concept=modular&agreement_from=0.8&pool=easy&order=hard&from=20")
    page.wait(f"{SHOWN}.length === 20")
    fitting = [
        row
        for row in rows
        if row.agreement >= 0.8 and row.pool == "easy" and "modular arithmetic" in row.concepts
    ]
    fitting.sort(key=lambda row: (row.pass_share, -row.mean_tokens))
    assert page.value(SHOWN) == [row.id for row in fitting[20:40]]
    assert f"of {len(fitting):,} problems" in page.value(COUNT)
    page.go(f"{file.as_uri()}#split=heldout")
    page.wait(f"{SHOWN}.length === 1")
    opened = "document.querySelector('article').textContent"
    for text in ("3 tests", "87.5 %", "45", "Rationale", "0123456789abcdef", "print(n * (n + 1) // 2)"):
        assert text in page.value(opened)


@needs_browser
def test_every_control_is_reached_and_worked_by_keys(page: browser.Page, file: pathlib.Path):
    page.go(f"{file.as_uri()}#words=m7")
    page.wait(f"{SHOWN}.length > 0")
    unnamed = (
        "[...document.querySelectorAll('input, select, button')].filter((e) => "
        "!e.labels?.[0]?.textContent.trim() && !e.textContent.trim() && !e.ariaLabel).length"
    )
    assert page.value(unnamed) == 0
    page.value("document.querySelector('article summary').focus()")
    page.press("Enter", 13, "\r")
    assert page.value("document.querySelector('article details').open")
    page.value("document.querySelector('article button.chip').focus()")
    concept = page.value("document.activeElement.textContent")
    page.press("Enter", 13, "\r")
    page.wait(f"new URLSearchParams(location.hash.slice(1)).get('concept') === {concept!r}")
