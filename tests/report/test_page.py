"""Facts of the page: legible in light, dark and print, and in order for a screen reader."""

import itertools
import re
from importlib import resources

import pytest

from promptcot_jax import report as room
from promptcot_jax.report import page, report
from tests.report import outline, workdirs

STYLE = page.asset("page.css")
AA_TEXT, AA_DRAWING = 4.5, 3.0  # WCAG 2.2, 1.4.3 and 1.4.11
PAIRS = [  # text and what it stands on
    *((text, ground) for text in ("ink", "soft", "accent") for ground in ("paper", "card")),
    *(("ink", "win"), ("soft", "win"), ("warn-ink", "warn"), ("warn-ink", "card"), ("card", "win-ink")),
    *(("card", f"c{i}") for i in range(7)),  # shares inside bars
]


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def palettes() -> dict[str, dict[str, str]]:
    """The colours as a browser finds them in the style, in its order."""
    blocks = re.findall(r":root \{([^}]*)\}", STYLE)
    light, dark, printed = (dict(re.findall(r"--([\w-]+): (#\w+);", block)) for block in blocks)
    return {"light": light, "dark": light | dark, "print": light | printed}  # dark is for screens


def test_contrast_is_computed_as_the_standard_says():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("medium", ["light", "dark", "print"])
def test_every_text_and_line_has_contrast(medium):
    colours = palettes()[medium]
    poor = {
        pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2)
        for pair in PAIRS
        if contrast(colours[pair[0]], colours[pair[1]]) < AA_TEXT
    }
    assert poor == {}
    lines = [f"c{i}" for i in range(7)]
    assert min(contrast(colours[line], colours["card"]) for line in lines) >= AA_DRAWING


def test_print_is_light_whatever_the_screen_is():
    light, colours = palettes()["light"], palettes()["print"]
    assert {name for name in colours if colours[name] != light[name]} == {"paper", "ink", "soft", "rule"}
    assert all(luminance(colours[ground]) > 0.8 for ground in ("paper", "card", "win", "warn"))
    assert re.findall("@media .*prefers-color-scheme.*", STYLE) == [
        "@media screen and (prefers-color-scheme: dark) {"
    ]


def test_no_style_hides_the_focus_or_dims_text():
    styles = [path.read_text() for path in resources.files(room).joinpath("assets").iterdir()]
    assert STYLE in styles
    for style in styles:
        assert not re.search(r"(?<!main:focus \{\n)  outline: none", style)
        assert set(re.findall(r"\n([^{}]*)\{[^}]*opacity", style)) <= {"\nbutton:disabled "}
    assert ":focus-visible {\n  outline: 2px solid" in STYLE


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "first"
    workdirs.write(directory)
    return outline.elements(report.render(directory))


def test_landmarks_and_a_way_past_the_navigation(found):
    for tag in ("main", "header", "h1"):
        assert len(outline.named(found, tag)) == 1
    (main,) = outline.named(found, "main")
    assert main.inside == ("html", "body")
    first = outline.named(found, "a")[0]
    assert (first.attrs["href"], first.text) == (f"#{main.attrs['id']}", "Skip to the content")
    navigations = [element.attrs.get("aria-label") for element in outline.named(found, "nav")]
    assert None not in navigations
    assert len(set(navigations)) == len(navigations)
    assert found[0].attrs == {"lang": "en"}


def test_headings_go_down_one_level_at_a_time(found):
    levels = [int(element.tag[1]) for element in outline.named(found, "h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(element.text.strip() for element in outline.named(found, "h1", "h2", "h3", "h4"))


def test_ids_are_unique(found):
    ids = outline.ids(found)
    assert len(ids) == len(set(ids))


def test_every_table_says_what_it_is_and_what_its_heads_are_of(found):
    tables, captions = outline.named(found, "table"), outline.named(found, "caption")
    assert len(tables) == len(captions) > 20
    assert all(caption.text for caption in captions)
    assert {element.attrs.get("scope") for element in outline.named(found, "th")} == {"col", "row"}
    assert all(element.text.strip() for element in outline.named(found, "th"))
    scrolled = [element for element in outline.named(found, "div") if element.attrs.get("class") == "scroll"]
    assert len(scrolled) == len(tables)
    assert all(one.attrs.get("tabindex") == "0" and one.attrs.get("aria-label") for one in scrolled)


def test_every_drawing_has_words_and_its_values(found):
    drawings = outline.named(found, "svg")
    assert len(drawings) > 20
    assert all(one.attrs["role"] == "img" and len(one.attrs["aria-label"]) > 20 for one in drawings)
    figures = outline.named(found, "figure")
    assert all("figure" in one.inside for one in drawings)
    assert sum("Values of" in figure.text for figure in figures) == len(drawings)
    images = outline.named(found, "img")
    assert images
    assert all(image.attrs["alt"] for image in images)
    bars = [one for one in outline.named(found, "span") if one.attrs.get("class") == "bar"]
    assert all(one.attrs["role"] == "img" and "%" in one.attrs["aria-label"] for one in bars)


def test_every_control_has_a_name(found):
    for element in outline.named(found, "input", "select"):
        assert "label" in element.inside
    assert all(element.text for element in outline.named(found, "button", "summary", "label"))
