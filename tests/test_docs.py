"""What the documents name exists: files, links, macros, classes."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    if "decisions" not in path.parts and path.name != "CHANGELOG.md"  # these speak of the past
)
LINKED_FROM = [*PAGES, *sorted((ROOT / "docs" / "decisions").glob("*.md")), ROOT / "CHANGELOG.md"]
SUFFIXES = (".py", ".gin", ".sh", ".md")
WRITTEN_BY_STAGES = {"README.md"}  # of an exported set
OF_T5X = {  # macros and classes that docs/data.md translates
    "BATCH_SIZE",
    "FEATURE_CONVERTER",
    "MIXTURE_OR_TASK_MODULE",
    "PjitPartitioner",
    "SHUFFLE_TRAIN_EXAMPLES",
    "TRAIN_STEPS",
}
FOLDERS = (ROOT, ROOT / "promptcot_jax", ROOT / "configs", ROOT / "docs", ROOT / "tests")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def tracked() -> tuple[str, ...]:
    """Files of the repository, those not committed yet among them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    return tuple(listed) or tuple(str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file())


@cache
def words_of_code() -> frozenset[str]:
    """All words in Python, gin and shell files."""
    texts = (
        (ROOT / file).read_text()
        for file in tracked()
        if file.endswith((".py", ".gin", ".sh", ".toml", "Makefile", "settings.example", ".ci/run"))
        and (ROOT / file).exists()
    )
    return frozenset(word for text in texts for word in re.findall(r"\w+", text))


def code_spans(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))


def exists(named: str, page: Path) -> bool:
    """Whether a file is there as named from the page, a root of the repository, or by its last parts."""
    if any((folder / named).exists() for folder in (page.parent, *FOLDERS)):
        return True
    return any(("/" + file).endswith("/" + named) for file in tracked())


@pytest.mark.parametrize("page", LINKED_FROM, ids=name_of)
def test_links_lead_somewhere(page: Path):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    targets = [
        link.partition("#")[0] for link in links if "://" not in link and not link.startswith("mailto:")
    ]
    assert not [target for target in targets if target and not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path):
    named = [
        span for span in code_spans(page) if span.endswith(SUFFIXES) and not re.search(r"[\s*<>{}$=]", span)
    ]
    missing = [file for file in named if file not in WRITTEN_BY_STAGES and not exists(file, page)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_macros_and_classes_that_are_named_exist(page: Path):
    """Spans such as `NUM_SLOTS`, `GROUP_SIZE=8`, `engine.EngineConfig`, `RolloutBatch`."""
    names = set()
    for span in code_spans(page):
        if found := re.fullmatch(r"([A-Z][A-Z0-9]*_[A-Z0-9_]+)( ?=.*)?", span):
            names.add(found[1])
        elif found := re.fullmatch(
            r"([a-z_]+\.)*([A-Z][a-z0-9]+(?:[A-Z][a-z0-9]*)+)(\.[a-z_]+)?(\(\))?", span
        ):
            names.add(found[2])
    missing = sorted(names - words_of_code() - OF_T5X)
    assert not missing


def test_the_glossary_is_one_page_of_words_of_the_code():
    page = ROOT / "docs" / "glossary.md"
    rows = [line for line in page.read_text().splitlines() if re.match(r"\| (?!word \||---)", line)]
    assert len(rows) <= 60
    ours = {span for row in rows for span in re.findall(r"`([^`]+)`", "|".join(row.split("|")[:-2]))}
    names = {word for span in ours for word in re.findall(r"\b[a-z]+_[a-z_]+\b", span)}
    missing = sorted(names - words_of_code())
    assert not missing


def test_the_page_of_macros_is_what_the_gin_files_say():
    made = subprocess.run(
        [sys.executable, "docs/macros.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert made.stdout == (ROOT / "docs" / "macros.md").read_text(), "run `make macros`"
