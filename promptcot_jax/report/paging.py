"""What pages with rows to search have in common: the form's fields and the pager.

Their style is `paging.css`. `paging.js` searches, filters and turns pages; a page's own script, which comes
after it, says what its rows are.
"""


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
