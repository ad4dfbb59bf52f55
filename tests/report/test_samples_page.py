"""Facts of the page of completions: nothing of a completion becomes markup, nothing of it is lost."""

import dataclasses
import html.parser

import pytest

from promptcot_jax.report import samples_page
from tests.report import workdirs

SAMPLE = workdirs.completion_sample(iteration=0, kind="best")


class Texts(html.parser.HTMLParser):
    """Tags, and the text in elements of a class or name."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append((tag, dict(attrs).get("class", "")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.texts.append((tuple(name for name, _ in self.open), self.open[-1][1].split(), data))

    def inside(self, name, *, folded=False):
        """Texts of elements whose class has this name."""
        return [
            text for names, classes, text in self.texts if name in classes and ("details" in names) == folded
        ]


def parsed(*samples) -> Texts:
    parser = Texts()
    parser.feed(samples_page.render(samples))
    parser.close()
    assert parser.open == []
    return parser


def test_text_of_a_completion_never_becomes_markup_and_nothing_is_asked_for():
    hostile = "</div></details><img src=x onerror=alert(1)><script>alert('x')</script>"
    names = ("prompt_id", "prompt", "problem", "reference", "completion", "answer", "status")
    sample = dataclasses.replace(SAMPLE, **dict.fromkeys(names, hostile))
    for domain in ("math", "code"):
        page = parsed(dataclasses.replace(sample, domain=domain))
        tags = {tag for tag, _ in page.tags}
        assert not tags & {"script", "img", "link", "iframe"}
        assert not [attrs for _, attrs in page.tags if attrs.keys() & {"src", "onerror", "onclick"}]
        assert all(attrs["href"].startswith("#") for tag, attrs in page.tags if tag == "a")
        assert hostile in page.inside("said")


def test_white_space_and_every_letter_of_a_completion_are_kept():
    text = "  a\n\n\tb  <c>\u00a0&amp; \u202e \U0001f600 \x01\n"
    assert parsed(dataclasses.replace(SAMPLE, completion=text)).inside("said") == [text]
    assert "white-space: pre-wrap" in samples_page.render([SAMPLE])


@pytest.mark.parametrize(
    ("completion", "thinking", "said"),
    [
        ("<think>\n <b>\n</think>\n\nSo 2.", ["\n <b>\n"], ["So 2."]),
        ("\n as the template opened it</think>So 2.", ["\n as the template opened it"], ["So 2."]),
        ("Well. <think>on and on", ["on and on"], ["Well. "]),
        ("<think>on and on", ["on and on"], []),
        ("no thought", [], ["no thought"]),
    ],
)
def test_thinking_is_folded_and_the_rest_is_not(completion, thinking, said):
    page = parsed(dataclasses.replace(SAMPLE, completion=completion))
    assert page.inside("prose", folded=True) == thinking
    assert page.inside("said") == said
    names = [text for names, _, text in page.texts if names[-1] == "summary"]
    assert any("not ended" in name for name in names) == ("think>on" in completion)


def test_an_empty_completion_is_said_to_be_empty():
    for completion, said in (("", "(empty)"), ("thought</think>\n", "(empty)"), (" ", "white space")):
        assert any(
            said in text for _, _, text in parsed(dataclasses.replace(SAMPLE, completion=completion)).texts
        )


def test_verdict_answer_and_reward_stand_beside_the_completion():
    sample = dataclasses.replace(SAMPLE, answer="0.5", reference="1/2", reward=0.85, length=-0.3)
    facts = parsed(sample).texts
    cells = [text for names, _, text in facts if names[-1] in ("dt", "dd")]
    assert dict(zip(cells[::2], cells[1::2], strict=True)) == {
        "Answer": "0.5",
        "Reference": "1/2",
        "Verdict": "match",
        "Reward": "0.85: correct 1, format 1, length \u22120.3 (unweighted)",
        "Tokens": "70",
    }
    ungraded = dataclasses.replace(sample, graded=False, correct=False, reward=0.0, status="sandbox_error")
    page = parsed(ungraded)
    assert "none: not graded" in [text for _, _, text in page.texts]
    assert "win" not in {name for _, attrs in page.tags for name in attrs.get("class", "").split()}


def test_the_newest_iterations_come_first_and_the_first_one_stays():
    samples = [
        workdirs.completion_sample(iteration=iteration, kind="random") for iteration in range(0, 400, 10)
    ]
    page = parsed(*samples)
    shown = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert shown == [f"iteration-{iteration}" for iteration in (*range(390, 300, -10), 0)]
    assert any("newest 9 and the first of 40 iterations" in text for _, _, text in page.texts)
    few = parsed(*samples[: samples_page.NUM_ITERATIONS_SHOWN])
    assert [attrs["id"] for tag, attrs in few.tags if tag == "section"][-1] == "iteration-0"
    assert sum(tag == "section" for tag, _ in few.tags) == samples_page.NUM_ITERATIONS_SHOWN


def test_half_a_letter_pair_does_not_stop_the_page(tmp_path):
    samples_page.write(tmp_path / "samples.html", [dataclasses.replace(SAMPLE, completion="a\ud800b")])
    assert "a?b" in (tmp_path / "samples.html").read_text()
