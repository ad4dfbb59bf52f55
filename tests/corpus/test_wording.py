"""Templates with a choice of wording: what they give, and the pattern that knows all of it."""

import random
import re

import pytest

from promptcot_jax.corpus import wording

TEMPLATE = "[{name} has|There are] {n} [cups|mugs[| of tea]][, with {n} more|; {n} more] {end}."


def every_wording(template):
    return {wording.draw_wording(template, random.Random(seed)) for seed in range(2000)}


def test_all_wordings_come_and_no_other():
    assert every_wording("a[b|c[d|]]e[|f]") == {"abe", "abef", "acde", "acdef", "ace", "acef"}
    assert wording.num_wordings("a[b|c[d|]]e[|f]") == 6
    assert len(every_wording(TEMPLATE)) == wording.num_wordings(TEMPLATE) == 12


def test_a_text_without_alternatives_draws_nothing():
    draw, untouched = random.Random(3), random.Random(3)
    assert wording.draw_wording("plain {n}", draw) == "plain {n}"
    assert draw.random() == untouched.random()


def test_the_pattern_reads_every_wording_and_what_fills_its_gaps():
    pattern = re.compile(wording.pattern(TEMPLATE, {"name": "[A-Z][a-z]+", "end": "now|then"}))
    for template in every_wording(TEMPLATE):
        stated = pattern.fullmatch(template.format(name="Ivo", n=12, end="then"))
        assert stated is not None
        found = wording.groups(stated)
        assert found == {"n": "12", "end": "then"} | ({"name": "Ivo"} if "{name}" in template else {})
    assert pattern.fullmatch("Ivo has 12 jugs, with 12 more then.") is None


def test_a_gap_that_holds_two_numbers_is_not_understood():
    stated = re.fullmatch(wording.pattern("{n} and {n} are {m}", {}), "2 and 3 are 5")
    assert stated is not None
    assert wording.groups(stated) is None


def test_characters_of_regular_expressions_are_text():
    assert re.fullmatch(wording.pattern("(a+b)^{n} = c. $[1|2]?", {}), "(a+b)^7 = c. $2?")


@pytest.mark.parametrize("template", ["a[b", "a]b", "a|b", "[a[b|c]"])
def test_brackets_that_do_not_match_are_refused(template):
    with pytest.raises(ValueError, match="template"):
        wording.draw_wording(template, random.Random(0))
