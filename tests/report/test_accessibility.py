"""Facts of all pages as axe sees them in a browser: its rules for WCAG and good practice, light and dark."""

import importlib.util
import json
import pathlib
import random
from collections.abc import Iterator

import pytest

from promptcot_jax.analyses import case_studies, difficulty, index
from promptcot_jax.analyses.case_studies import CaseConfig
from promptcot_jax.report import browse, report, samples_page
from tests.analyses import test_case_studies, test_difficulty
from tests.cases import some_fast
from tests.report import browser, workdirs
from tests.run import exported_workdir

AXE = importlib.util.find_spec("axe_core_python")
PAGES = ("report", "samples", "browse", "analyses", "case_studies")
FOUND = "JSON.stringify(found.violations.map((v) => [v.id, v.help, v.nodes.map((n) => n.html)]))"

pytestmark = [
    pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no Chromium"),
    pytest.mark.skipif(AXE is None, reason="axe-core-python is not installed"),
]


@pytest.fixture(scope="module")
def axe() -> str:
    assert AXE is not None
    assert AXE.origin is not None
    return (pathlib.Path(AXE.origin).parent / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The address of each page."""
    directory = tmp_path_factory.mktemp("runs") / "first"
    workdirs.write(directory)
    report.write_report(directory)
    samples_page.write(
        directory / "samples.html",
        [workdirs.completion_sample(iteration=iteration, kind="random") for iteration in range(3)],
    )
    rng = random.Random(0)
    rows = {"train": [exported_workdir.math_row(i, rng) for i in range(9)], "heldout": []}
    (directory / "browse.html").write_text(browse.render("A set", {"math": rows}, 9))
    attempts = {"ours": test_difficulty.OURS, "gsm8k": test_difficulty.GSM8K}
    made = {
        "difficulty": difficulty.figures_of(test_difficulty.SETS, attempts, attempts),
        "case_studies": case_studies.pages_of(
            {"ours": [test_case_studies.MATH, test_case_studies.CODE]}, CaseConfig()
        ),
    }
    index.write(directory / "made", made, {"em_study": "no EM run"}, dict.fromkeys(made, "promptcot analyze"))
    files = {
        "report": "report.html",
        "samples": "samples.html",
        "browse": "browse.html",
        "analyses": "made/index.html",
        "case_studies": "made/case_studies.html",
    }
    return {name: (directory / file).as_uri() for name, file in files.items()}


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    with browser.opened(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def violations(tab: browser.Page, axe: str) -> list:
    tab.wait("document.readyState === 'complete'")
    tab.value(f"{axe}; var found = null; axe.run().then((results) => {{ found = results; }}); undefined")
    tab.wait("found !== null")
    return json.loads(tab.value(FOUND))


@pytest.mark.parametrize("colours", some_fast(["light", "dark"]))
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(tab: browser.Page, axe: str, pages: dict[str, str], name: str, colours: str):
    tab.colours(colours)
    tab.show(pages[name])
    assert violations(tab, axe) == []


def test_axe_would_find_something(tab: browser.Page, axe: str, tmp_path: pathlib.Path):
    (tmp_path / "x.html").write_text('<html><body><h4>x</h4><p style="color: #bbb">Grey</p><img src="x">')
    tab.show((tmp_path / "x.html").as_uri())
    found = {name for name, *_ in violations(tab, axe)}
    assert {"color-contrast", "document-title", "html-has-lang", "image-alt"} <= found
