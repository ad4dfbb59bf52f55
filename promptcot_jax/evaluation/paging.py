"""What pages with rows to search have in common: style, fields of the form, the pager, and the script.

`paging.js` searches, filters and turns pages; a page's own script, joined to it, says what its rows are.
"""

import functools
import pathlib

STYLE = """
form { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px 14px; margin: 18px 0 8px; }
form label { font-size: 0.84rem; color: var(--soft); display: grid; gap: 3px; align-content: start; } form label.wide { grid-column: 1 / -1; }
form label.check { display: flex; align-items: center; gap: 7px; align-self: end; padding-bottom: 7px; } form label.check:has(button) { padding: 0; } [hidden] { display: none !important; }
input, select, button { font: inherit; font-size: 0.94rem; color: var(--ink); background: var(--card); border: 1px solid var(--soft); border-radius: 7px; padding: 6px 9px; min-width: 0; }
input[type=checkbox] { width: 17px; height: 17px; margin: 0; accent-color: var(--accent); } .pair { display: flex; gap: 6px; align-items: center; } .pair input { flex: 1; width: 0; }
button { cursor: pointer; } button:disabled { opacity: 0.45; cursor: default; } button.chip { background: none; padding: 1px 9px; font-size: 0.8rem; color: var(--soft); }
button.chip:hover { color: var(--accent); border-color: var(--accent); }
.pager { display: flex; flex-wrap: wrap; gap: 10px; align-items: center; margin: 12px 0; } .pager output { color: var(--soft); font-size: 0.92rem; }
"""  # noqa: E501


@functools.cache
def script(name: str) -> str:
    """A page's own script with what it stands on."""
    directory = pathlib.Path(__file__).parent
    return "".join((directory / file).read_text(encoding="utf-8") for file in ("paging.js", name))


def field(label: str, control: str, kind: str = "") -> str:
    """A control of the form with its label."""
    return f"<label{f' class={kind}' if kind else ''}>{label}{control}</label>"


def choice(label: str, name: str) -> str:
    """A list of values, which the script fills; hidden where there are fewer than two."""
    return field(label, f'<select name="{name}"><option value="">all</option></select>')


def pager(place: str) -> str:
    """Buttons to turn pages, and which rows are shown."""
    live = ' aria-live="polite"' if place == "top" else ""
    return (
        f'<nav class="pager" aria-label="Pages, {place}">'
        '<button type="button" class="previous">Previous</button>'
        f'<button type="button" class="next">Next</button><output{live}></output></nav>'
    )
