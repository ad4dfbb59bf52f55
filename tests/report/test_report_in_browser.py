"""Facts of the report as a reader has it: searched with script, opened without, printed, 100,000 rows."""

import dataclasses
import pathlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.report import report
from tests.report import browser, workdirs

MAX_PAGE_BYTES = 2_000_000
COUNT = "document.querySelector('.pager output').textContent"
SHOWN = "document.querySelectorAll('#rows article').length"

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("runs") / "first"
    workdirs.write(directory)
    report.write_report(directory)
    return directory / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    with browser.opened(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def test_samples_are_searched_filtered_and_paged(page: browser.Page, file: pathlib.Path):
    page.go(file.as_uri())
    page.wait(f"{SHOWN} === 20")
    assert page.value(COUNT) == "1 to 20 of 117 samples"
    assert page.value("document.getElementById('groups').hidden")
    page.value("document.querySelector('.pager .next').click()")
    assert page.value(COUNT) == "21 to 40 of 117 samples"
    page.value("document.querySelector('[name=words]').focus()")
    page.type("drawn-00007")
    page.wait(f"{COUNT} === '1 to 1 of 1 samples'")
    page.value("document.querySelector('[type=reset]').click()")
    page.value("const s = document.querySelector('[name=kind]'); s.value = 'attempt'; "
               "s.dispatchEvent(new Event('input', {bubbles: true}))")  # fmt: skip
    page.wait(f"{COUNT} === '1 to 12 of 12 samples'")
    assert page.value(
        "[...document.querySelectorAll('#rows article')].every((e) => e.dataset.kind === 'attempt')"
    )
    page.press("ArrowRight", 39)  # scrolls the page, and turns none
    assert page.value(COUNT) == "1 to 12 of 12 samples"
    assert page.value("location.hash") == ""
    assert all(url.startswith(("file:", "about:", "data:image/svg+xml")) for url in page.requests())
    assert page.complaints() == []


def test_a_link_to_a_section_leaves_the_search_alone(page: browser.Page, file: pathlib.Path):
    page.go(file.as_uri())
    page.value("document.querySelector('[name=words]').focus()")
    page.type("drawn-00007")
    page.wait(f"{COUNT} === '1 to 1 of 1 samples'")
    page.value("document.querySelector('nav a[href=\"#settings\"]').click()")
    page.wait("location.hash === '#settings'")
    assert page.value(COUNT) == "1 to 1 of 1 samples"


def test_without_script_the_samples_lie_in_groups_that_open(page: browser.Page, file: pathlib.Path):
    page.allow_scripts(False)
    try:
        page.show(file.as_uri())
        page.wait("document.readyState === 'complete'")
        assert page.value("document.getElementById('browser').hidden")
        assert not page.value("document.getElementById('groups').hidden")
        assert page.value("document.querySelectorAll('#groups > details article').length") == 117
        page.value("document.querySelector('#groups summary').focus()")
        page.press("Enter", 13, "\r")
        assert page.value("document.querySelector('#groups article').getBoundingClientRect().height") > 40
    finally:
        page.allow_scripts(True)


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_wider_than_the_screen(page: browser.Page, file: pathlib.Path, width: int):
    page.resize(width)
    page.go(file.as_uri())
    assert page.value("document.documentElement.scrollWidth") <= width


def test_in_print_what_is_folded_is_open_but_samples_and_configurations_are_left_out(
    page: browser.Page, file: pathlib.Path
):
    page.go(file.as_uri())
    seen = "document.querySelector({!r}).checkVisibility()"
    versions, samples, config = "#what-was-run details table", "#rows", "#settings pre"
    assert not page.value(seen.format(versions))
    assert page.value(seen.format(samples))
    page.media("print")
    try:
        page.wait(seen.format(versions))
        assert not page.value(seen.format(samples))
        assert not page.value(seen.format(config))  # of hundreds of lines for each stage
        page.value("document.querySelector('#settings pre').parentElement.open = true")
        page.wait(seen.format(config))
        assert not page.value(seen.format("nav"))
        assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    finally:
        page.media("")


@pytest.mark.slow
def test_a_hundred_thousand_rows_of_each_kind_make_a_page_that_opens_at_once(
    page: browser.Page, tmp_path: pathlib.Path
):
    workdirs.write(tmp_path, num_rounds=2)
    write_many(tmp_path, 100_000)
    made = seconds_of_a_core(tmp_path)
    size = (tmp_path / "report.html").stat().st_size
    began = time.monotonic()
    page.go((tmp_path / "report.html").as_uri())
    opened = time.monotonic() - began
    print(f"made in {made:.1f} s of a core, {size:,} bytes, opened in {opened:.2f} s")
    assert size < MAX_PAGE_BYTES
    assert made < 30  # 4 on a core of 2026
    assert opened < 5
    assert "100,000 of" not in page.value(COUNT)
    assert page.value("document.querySelector('#samples table').textContent.includes('100,000')")


def seconds_of_a_core(workdir: pathlib.Path) -> float:
    """That making the page takes, in a process of its own: without the tests' checks of types."""
    program = (
        "import sys, time; from promptcot_jax.report import report; began = time.process_time(); "
        "report.write_report(sys.argv[1]); print(time.process_time() - began)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, workdir], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def write_many(workdir: pathlib.Path, number: int) -> None:
    """So many problems, attempts and candidates, half of the attempts wrong, texts of up to a page."""
    rng = random.Random(0)
    texts = ["So the sum is 3, and we go on to the next case. " * rng.randrange(8, 60) for _ in range(50)]

    def problems() -> Iterator[object]:
        first = workdirs._problem(1, rng)
        for i in range(number):
            yield dataclasses.replace(first, id=f"p{i}", level=str(i % 7), rationale=texts[i % 50])

    def attempts() -> Iterator[object]:
        for i in range(number):
            yield workdirs.AttemptRecord(
                problem_id=f"held-math-{i % 6:04d}",
                sample=i,
                completion=texts[i % 50],
                answer="3",
                reference="3",
                correct=i % 2 == 0,
                status="match" if i % 2 == 0 else "mismatch",
                finish_reason="stop",
                num_tokens=i % 900,
            )

    def candidates() -> Iterator[object]:
        row = workdirs._corpus_row(0, rng)
        own = workdirs._candidates(row, 1, rng)
        for i in range(number):
            yield dataclasses.replace(own[i % 8], pair_id=f"pair-{i // 8}", rationale=texts[i % 50])

    jsonl.write_records(workdir / "problems.jsonl", problems(), 10_000)
    jsonl.write_records(workdir / "evaluate" / "attempts.jsonl", attempts(), 10_000)
    jsonl.write_records(workdir / "em" / "round_001" / "candidates.jsonl", candidates(), 10_000)
