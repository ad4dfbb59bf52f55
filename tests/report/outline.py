"""A page as a strict parser sees it: its elements in order, checked for balance."""

import dataclasses
import html.parser
import re

from promptcot_jax.report import report

VOID = {"meta", "img", "input", "br", "link"}
DRAWN = {"line", "polyline", "circle", "rect", "path"}


@dataclasses.dataclass
class Element:
    """One element with its ancestors' names and all text in it."""

    tag: str
    attrs: dict[str, str | None]
    inside: tuple[str, ...]
    text: str = ""


class _Parser(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []

    def handle_starttag(self, tag, attrs):
        element = Element(tag, dict(attrs), tuple(one.tag for one in self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        assert tag in DRAWN, f"<{tag}/> is no closed element in HTML"
        self.elements.append(Element(tag, dict(attrs), tuple(one.tag for one in self._open)))

    def handle_endtag(self, tag):
        assert self._open.pop().tag == tag

    def handle_data(self, data):
        for element in self._open:
            element.text += data

    def close(self):
        super().close()
        assert self._open == []


def elements(text: str) -> list[Element]:
    """Every element of a page in order."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    return parser.elements


def section(workdir, anchor: str) -> str:
    """The HTML of one section of a workdir's report."""
    (found,) = re.findall(rf'<section id="{anchor}">.*?</section>', report.render(workdir), re.DOTALL)
    return found


def named(found: list[Element], *tags: str) -> list[Element]:
    """Those of these tags."""
    return [element for element in found if element.tag in tags]


def ids(found: list[Element]) -> list[str]:
    return [element.attrs["id"] for element in found if "id" in element.attrs]


def sections(found: list[Element]) -> list[str]:
    """Ids of the sections, in order."""
    return ids(named(found, "section"))


def told(found: list[Element], section: str) -> str:
    """All text of a section."""
    (element,) = [one for one in named(found, "section") if one.attrs["id"] == section]
    return element.text
