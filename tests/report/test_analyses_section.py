"""Facts of the figures inside the report: drawings only, within their room, each with its words."""

import base64
import re

import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.report import result_sections
from tests.report import outline, workdirs


def write(workdir, figures=(), left_out=None, **files):
    for name, text in files.items():
        path = workdir / "analyses" / f"{name}.svg"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    analyses = {"difficulty": {"command": "promptcot analyze", "made": list(figures)}}
    index = {"analyses": analyses, "left_out": left_out or {}}
    jsonl.write_json(workdir / "analyses" / "index.json", index)


def section_of(workdir) -> list[outline.Element]:
    return outline.elements(outline.section(workdir, "analyses"))


def test_a_figure_is_in_the_page_with_its_title_and_caption(tmp_path):
    figure = {"name": "d", "title": "A <b>", "caption": 'says "much"', "files": ["d.csv", "analyses/d.svg"]}
    write(tmp_path, [figure], d=workdirs.SVG)
    found = section_of(tmp_path)
    (image,) = outline.named(found, "img")
    kind, _, packed = image.attrs["src"].partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(packed).decode() == workdirs.SVG
    assert image.attrs["alt"] == 'A <b>. says "much"'
    assert outline.named(found, "figcaption")[0].text == "A <b>"


def test_drawings_that_no_index_names_are_shown_too(tmp_path):
    write(tmp_path, nll_study=workdirs.SVG)
    (tmp_path / "em_study_nll_bound.svg").write_text(workdirs.SVG)
    titles = [element.text for element in outline.named(section_of(tmp_path), "figcaption")]
    assert titles == ["Nll study", "Em study nll bound"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (workdirs.SVG.replace("<rect", "<script>alert(1)</script><rect"), "more than a drawing (<script>)"),
        (workdirs.SVG.replace("<rect", "<foreignObject/><rect"), "more than a drawing (<foreignObject>)"),
        (workdirs.SVG.replace("<rect", "<rect onload='alert(1)'"), "more than a drawing (<rect>)"),
        ("<html></html>", "is no SVG (it begins with <html>)"),
        ("not a drawing", "is no SVG ("),
        (workdirs.SVG[:-7], "is no SVG ("),
        ('<!DOCTYPE svg [<!ENTITY a "b">]>' + workdirs.SVG[21:], "defines entities"),
        ("<svg>" + " " * result_sections.MAX_FIGURE_BYTES + "</svg>", "is larger than 300,000 bytes"),
        (None, "is not there"),
    ],
)
def test_what_is_no_plain_drawing_is_left_out_and_named(tmp_path, text, said):
    figure = {"name": "d", "title": "Difficulty", "files": ["d.svg"]}
    write(tmp_path, [figure], **({} if text is None else {"d": text}))
    found = section_of(tmp_path)
    assert not outline.named(found, "img")
    (item,) = outline.named(found, "li")
    assert item.text.startswith("Difficulty: d.svg ")
    assert said in item.text


def test_an_index_cannot_name_files_elsewhere(tmp_path):
    (tmp_path / "secret.svg").write_text(workdirs.SVG)
    write(tmp_path, [{"name": "d", "title": "D", "files": ["../secret.svg"]}])
    assert not outline.named(section_of(tmp_path), "img")


def test_what_has_no_room_is_named(tmp_path):
    large = workdirs.SVG.replace("<rect", "<!--" + "x" * 290_000 + "--><rect")
    write(tmp_path, a=large, b=large, c=workdirs.SVG)
    found = section_of(tmp_path)
    assert len(outline.named(found, "img")) == 2
    (item,) = outline.named(found, "li")
    assert "no room left for b.svg" in item.text


MADE = [1, {"files": "d.svg"}, {"files": [2]}]
INDEXES = [{"analyses": 3}, {"analyses": {"a": 1, "b": {"made": 2}, "c": {"made": MADE}}}, {}]


@pytest.mark.parametrize("index", INDEXES)
def test_an_index_of_another_shape_shows_nothing(tmp_path, index):
    jsonl.write_json(tmp_path / "analyses" / "index.json", index)
    assert not outline.named(section_of(tmp_path), "img")


def test_an_index_that_is_no_object_is_named(tmp_path):
    jsonl.write_json(tmp_path / "analyses" / "index.json", [1])
    assert "index.json: expected a JSON object, got list" in outline.section(tmp_path, "analyses")


def test_a_left_out_figure_says_why(tmp_path):
    write(tmp_path, left_out={"scaling": "there are <2 sizes"})
    assert re.search("scaling: there are <2 sizes", outline.named(section_of(tmp_path), "li")[0].text)
