"""Pages: one HTML document each, with its style and script inside, made by the templates of `templates/`.

Python hands data to templates, and only templates write HTML (`tests/report/test_html_in_templates.py` holds
it). They escape every value, and an undefined name is an error. Two things enter a page as they are: files of
this package (`asset`), and the MathML that `analyses.mathml` has written. The content policy in `base.html`
forbids any request, and every script but the page's own.
"""

import base64
import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jinja2
import markupsafe

DASH, MINUS = "\u2013", "\u2212"
MAX_CHARACTERS = 4_000  # of one text in a page, of which its beginning is
_HEAD = 2_600


def render(template: str, *, scripts: Sequence[str] = (), **values: Any) -> str:
    """A whole page.

    Args:
        scripts: files of `assets/`; joined, they are the one script that the content policy lets run, by its
            digest, at the end of the page.
    """
    script = markupsafe.Markup("").join(map(asset, scripts))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() if scripts else ""
    return _environment().get_template(template).render(script=script, digest=digest, **values)


def macros(name: Literal["ui", "charts", "cards"]) -> Any:
    """The macros that every template has by this name, as functions; pages take their results as they are."""
    return _environment().globals[name]


@functools.cache
def asset(name: str) -> markupsafe.Markup:
    """A file of `assets/`: our own text, which is not escaped."""
    return markupsafe.Markup((pathlib.Path(__file__).parent / "assets" / name).read_text(encoding="utf-8"))


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("promptcot_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    formats: tuple[Callable[..., Any], ...] = (
        *(accuracy, at, cell, clipped, duration, figure, interval, label, nats, number, percent),
    )
    environment.filters |= {function.__name__: function for function in formats}
    for name, file in (("ui", "macros.html"), ("charts", "charts.html"), ("cards", "cards.html")):
        environment.globals[name] = environment.get_template(file).module
    environment.globals["style"] = asset("page.css")
    return environment


def label(name: object) -> str:
    """The name of a field or stage for people."""
    return "EM" if name == "em" else str(name).replace("_", " ").replace("dropped ", "dropped: ")


def at(value: Any, *names: str) -> Mapping[str, Any]:
    """An object inside objects of JSON; an empty one where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def number(value: float | int, digits: int = 3) -> str:
    """A number for people: grouped integers, otherwise so many significant digits."""
    if math.isnan(value) or math.isinf(value):
        return "undefined"
    if float(value).is_integer() and abs(value) < 1e15:
        text = f"{int(value):,}"
    elif abs(value) < 1e-4:
        text = f"{value:.1e}"
    else:
        text = f"{value:.{digits}g}"
        if abs(value) >= 1000 or "e" in text:  # 999.7, whose three digits would be 1e+03
            text = f"{value:,.0f}"
    return text.replace("-", MINUS)


def cell(value: Any) -> str:
    """A value of a table; a dash where there is none."""
    if value is None:
        return DASH
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value, 4)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def nats(value: float | int) -> str:
    """A log-probability with two decimals, so that columns of them align."""
    return f"{value:.2f}".replace("-", MINUS)


def percent(share: float | int | None) -> str:
    """A share in percent; a dash where it is undefined."""
    return DASH if share is None else f"{share:.1%}"


def figure(value: Any) -> float | None:
    """A plain number, or that of a figure with its error; None where there is neither."""
    if isinstance(value, Mapping):
        value = value.get("accuracy", value.get("value"))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def accuracy(result: Mapping[str, Any]) -> str:
    """An accuracy in percent with its standard error; where that is 0, or unknown, with the interval."""
    error, bounds = result.get("standard_error"), result.get("interval")
    share = percent(result.get("accuracy"))
    if error:
        return f"{share} \u00b1 {100 * error:.1f}"
    return f"{share} ({100 * bounds[0]:.0f} to {100 * bounds[1]:.0f})" if bounds else share


def interval(recorded: Any, scale: float = 100.0, digits: int = 1) -> str:
    """The ends of an interval, of shares in percent; nothing where it is not known."""
    if not isinstance(recorded, list | tuple) or len(recorded) != 2:
        return ""
    if not all(isinstance(end, int | float) for end in recorded):
        return ""
    return " to ".join(f"{scale * end:,.{digits}f}" for end in recorded)


def duration(seconds: float | int) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def clipped(value: object, limit: int = MAX_CHARACTERS) -> str:
    """A text; a long one without its middle, with the number of characters left out."""
    text = str(value)
    if len(text) <= limit:
        return text
    head = limit * _HEAD // MAX_CHARACTERS
    left_out = f"[\u2026 {len(text) - limit:,} characters are left out here \u2026]"
    return f"{text[:head]}\n{left_out}\n{text[head - limit :]}"
