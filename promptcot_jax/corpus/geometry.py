"""Mathematics families about areas, volumes and right triangles."""

import math
import random

from promptcot_jax.corpus.families import MathFamily, Scene, Thoughts, Values


def _draw_border(draw: random.Random) -> Values:
    return {"length": draw.randint(12, 60), "width": draw.randint(8, 40), "border": draw.randint(1, 6)}


def _solve_border(length: int, width: int, border: int) -> Values:
    outer_length, outer_width = length + 2 * border, width + 2 * border
    return {
        "value": outer_length * outer_width - length * width,
        "outer_length": outer_length,
        "outer_width": outer_width,
        "outer": outer_length * outer_width,
        "inner": length * width,
    }


BORDER = MathFamily(
    name="border_area",
    concepts=("area of rectangles", "subtracting areas", "uniform borders"),
    level=1,
    thoughts=Thoughts(
        goals=(
            "surrounds a rectangle by a strip of even width",
            "finds an area as what is left between two rectangles",
        ),
        difficulties=(
            "the strip lies on both sides and adds to each dimension twice",
            "adding four strips counts the corners wrongly",
        ),
        reason="the strip is the difference of two rectangles, which avoids any treatment of corners",
        skeleton="an inner rectangle of {length} by {width} with an even strip around it",
        steps=(
            "Choose the inner rectangle {length} by {width}.",
            "Surround it evenly at width {border}, so each side grows twice.",
            "Want only the strip, which forces a subtraction.",
        ),
        blueprint=("inner {length} by {width}", "strip {border}", "wanted strip area"),
    ),
    scenes=(
        Scene(
            label="garden path",
            facts="A rectangular garden is {length} m long and {width} m wide. Outside it, all around, runs "
            "a path of width {border} m with square corners.",
            quantity="the area of the path in square metres",
        ),
        Scene(
            label="picture frame",
            facts="{name} frames a picture of {length} cm by {width} cm. The frame is {border} cm wide on "
            "every side and does not cover the picture.",
            quantity="the area of the frame in square centimetres",
        ),
    ),
    work="With the strip on both sides the outer rectangle measures {outer_length} by {outer_width}, an area "
    "of {outer}. The inner one has {length} * {width} = {inner}. The strip has {outer} - {inner} = {value}.",
    draw=_draw_border,
    solve=_solve_border,
)


def _draw_box(draw: random.Random) -> Values:
    cut = draw.randint(2, 6)
    return {"length": 2 * cut + draw.randint(8, 40), "width": 2 * cut + draw.randint(5, 25), "cut": cut}


def _solve_box(length: int, width: int, cut: int) -> Values:
    inside_length, inside_width = length - 2 * cut, width - 2 * cut
    return {
        "value": inside_length * inside_width * cut,
        "inside_length": inside_length,
        "inside_width": inside_width,
    }


BOX = MathFamily(
    name="open_box",
    concepts=("volume of boxes", "nets of solids", "spatial reasoning"),
    level=2,
    thoughts=Thoughts(
        goals=(
            "folds a flat sheet into an open container",
            "links a flat net to the solid that it becomes",
        ),
        difficulties=(
            "every removed square shortens a side at both ends and also sets the height",
            "the picture must be folded in the mind before any formula helps",
        ),
        reason="one length plays two roles here, as the height and as what both base sides lose",
        skeleton="a sheet of {length} by {width} with its corners removed and its flaps folded up",
        steps=(
            "Take a flat sheet of {length} by {width}.",
            "Remove corner squares of side {cut}, which also becomes the height.",
            "Fold, and want the volume.",
        ),
        blueprint=("sheet {length} by {width}", "corner {cut}", "wanted volume"),
    ),
    scenes=(
        Scene(
            label="cardboard box",
            facts="From a {length} cm by {width} cm cardboard, squares with side {cut} cm are cut off at all "
            "four corners. The rest is folded into a box without a lid.",
            quantity="the volume of the box in cubic centimetres",
        ),
        Scene(
            label="baking tray",
            facts="{name} bends a metal sheet, {length} inches long and {width} inches wide, into an open "
            "tray after cutting a {cut} inch square out of each corner.",
            quantity="the capacity of the tray in cubic inches",
        ),
    ),
    work="Each side loses {cut} twice, so the base measures {inside_length} by {inside_width}, and the "
    "height is {cut}. The volume is {inside_length} * {inside_width} * {cut} = {value}.",
    draw=_draw_box,
    solve=_solve_box,
)


def _draw_triangle(draw: random.Random) -> Values:
    m = draw.randint(2, 9)
    n = draw.randint(1, m - 1)
    scale = draw.randint(1, 9)
    return {
        "leg": scale * 2 * m * n,
        "hypotenuse": scale * (m * m + n * n),
        "wanted": draw.choice(("perimeter", "area")),
    }


def _solve_triangle(leg: int, hypotenuse: int, wanted: str) -> Values:
    other = math.isqrt(hypotenuse * hypotenuse - leg * leg)
    if wanted == "area":
        value, formula = leg * other // 2, f"{leg} * {other} / 2"
    else:
        value, formula = leg + other + hypotenuse, f"{leg} + {other} + {hypotenuse}"
    return {"value": value, "formula": formula, "other": other, "square": other * other}


TRIANGLE = MathFamily(
    name="right_triangle",
    concepts=("Pythagorean theorem", "right triangles", "difference of squares"),
    level=2,
    thoughts=Thoughts(
        goals=(
            "recovers a missing side of a right triangle before measuring it",
            "needs a hidden side and then a quantity of the whole figure",
        ),
        difficulties=(
            "the given long side is the hypotenuse and must be subtracted and not added",
            "the missing side has to be found before anything can be measured",
        ),
        reason="a scaled Pythagorean triple keeps the missing side whole, so later quantities stay integral",
        skeleton="a right triangle with hypotenuse {hypotenuse} and a hidden leg, measured by its {wanted}",
        steps=(
            "Scale a Pythagorean triple until its hypotenuse is {hypotenuse}.",
            "Reveal just one leg, {leg}, and hide the other.",
            "Want the {wanted}, which depends on the hidden leg.",
        ),
        blueprint=("leg {leg}", "hypotenuse {hypotenuse}", "wanted {wanted}"),
    ),
    scenes=(
        Scene(
            label="sail",
            facts="A sail is a right triangle. One side at the right angle measures {leg} units, the longest "
            "side {hypotenuse} units.",
            quantity="the {wanted} of the sail in these units",
        ),
        Scene(
            label="field corner",
            facts="{name} fences a triangular field with a right angle. Measured in metres, its hypotenuse "
            "is {hypotenuse} and one leg is {leg}.",
            quantity="the {wanted} of the field",
        ),
        Scene(
            label="bare triangle",
            facts="In triangle ABC the angle at C is right, AC = {leg} and AB = {hypotenuse}.",
            quantity="the {wanted} of the triangle",
        ),
    ),
    work="By the Pythagorean theorem the other leg squared is {hypotenuse}^2 - {leg}^2 = {square}, so that "
    "leg is {other}. The {wanted} is {formula} = {value}.",
    draw=_draw_triangle,
    solve=_solve_triangle,
)

FAMILIES = (BORDER, BOX, TRIANGLE)
