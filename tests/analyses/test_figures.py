"""Facts of drawing for documents: the same bytes each time, names as they are, numbers with all digits."""

from xml.etree import ElementTree

from promptcot_jax.analyses import figures


def drawn(name="$5 a piece"):
    with figures.drawing():
        figure, (axes, other) = figures.panels(2)
        rows = [{"x": x, "mean": x + 1.0, "deviation": 0.1} for x in range(2)]
        figures.band(axes, rows, "x", label=name, colour=figures.colour(0))
        figures.points_with_errors(other, ["a", "b"], {name: [(0.5, 0.1), (None, None)]})
        figure.legend(loc="outside upper left")
    return figure


def test_a_figure_is_a_function_of_what_is_drawn():
    one, two = figures.encoded(drawn()), figures.encoded(drawn())
    assert one == two
    assert one["png"].startswith(b"\x89PNG")
    assert ElementTree.fromstring(one["svg"]).tag.endswith("}svg")


def test_a_name_with_dollars_is_no_formula():
    files = figures.encoded(drawn("$\\frac{1}{$ and $$"))  # as a formula it could not be drawn
    assert ElementTree.fromstring(files["svg"]).tag.endswith("}svg")


def test_a_name_with_control_characters_leaves_the_svg_well_formed():
    assert figures.short("\x08inomial \ud800\ufffe\x1b[1m \U0001d53d") == "inomial [1m \U0001d53d"
    with figures.drawing():
        figure, (axes, other) = figures.panels(2)
        figures.points_with_errors(axes, ["\x08a"], {"\x08inomial": [(0.5, 0.1)]})
        figures.stacked_shares(other, {"\x08a": {"\x08inomial": 1.0}})
        figure.legend(loc="outside upper left")
    ElementTree.fromstring(figures.encoded(figure)["svg"])


def test_numbers_keep_their_digits_and_none_is_empty():
    table = figures.table([{"a": 0.1 + 0.2, "b": None}, {"a": 1, "b": "x, y"}])
    assert table == b'a,b\n0.30000000000000004,\n1,"x, y"\n'


def test_colours_come_again_with_another_marker():
    looks = [(figures.colour(i), figures.marker(i)) for i in range(14)]
    assert len(set(looks)) == 14


def test_stacked_shares_reach_one_with_small_names_together():
    with figures.drawing():
        _, (axes,) = figures.panels(1)
        shares = {"one": {f"n{i}": 0.1 for i in range(10)}, "other": {"n0": 1.0}}
        figures.stacked_shares(axes, shares, most=4)
    *_, rest = axes.get_legend().get_texts()
    assert len(axes.get_legend().get_texts()) == 4
    assert rest.get_text() == figures.OTHER
    ends = [patch.get_x() + patch.get_width() for patch in axes.patches]
    assert max(ends) == axes.get_xlim()[1] == 1.0
    assert sum(patch.get_width() for patch in axes.patches) == 2.0
