"""Facts of the report's first screen: a sentence for each stage that ran, advice where a figure is bad."""

import html
import pathlib
import re

import numpy as np
import pytest
from etils import epath

from promptcot_jax.analyses import index, well_posed
from promptcot_jax.analyses.problem_sets import SetRow
from promptcot_jax.core import jsonl, manifest
from promptcot_jax.core.records import AttemptRecord, Triple
from promptcot_jax.corpus import generator, oracle
from promptcot_jax.corpus.oracle import Reading
from promptcot_jax.evaluation import comparing
from promptcot_jax.report import in_short, in_short_samples, report
from promptcot_jax.run import gin_files
from tests.report import outline, workdirs

FAMILIES = sorted(generator.families())[:7]
ADVICE = {
    name: value
    for name, value in vars(in_short).items()
    if name.isupper() and isinstance(value, str) and " " in value
}


def read(text: str) -> Reading | None:
    """Of "family n", whose answer is n."""
    match = re.fullmatch(r"(\w+) (\d+)", text)
    return match and Reading(
        family=match[1],
        ending="plain",
        level=3,
        parameters={"n": match[2]},
        ending_parameters={},
        answer=match[2],
    )


def stage(workdir: pathlib.Path, name: str, **counts: int):
    entry = {"status": "complete", "config_digest": "", "seed": 0, "inputs": {}, "versions": {}}
    manifest.record(workdir, manifest.StageEntry(stage=name, counts=counts, wall_seconds=1.0, **entry))


def analyzed(workdir: pathlib.Path, problems: list[str], labels: dict[str, str]):
    """Leaves what `analyze` does of these problems and of these verified prompts with their labels."""
    trained = [Triple(concepts=("c",), family=FAMILIES[0], rationale="z", problem=f"{FAMILIES[0]} 1")]
    verified = [SetRow(problem=problem, answer=label) for problem, label in labels.items()]
    made = well_posed.figures_of(trained, [SetRow(problem=one) for one in problems], verified, read=read)
    index.write(workdir / "analyses", {"well_posed": made}, {}, {"well_posed": "promptcot analyze"})


def evaluated(workdir: pathlib.Path, step: int, right: list[bool], num_tokens: int = 5):
    attempts = [
        AttemptRecord(
            problem_id=f"p{i}",
            sample=0,
            completion="",
            answer="1",
            reference="1",
            correct=is_right,
            status="match" if is_right else "mismatch",
            finish_reason="stop",
            num_tokens=num_tokens,
        )
        for i, is_right in enumerate(right)
    ]
    jsonl.write_records(workdir / "self_play" / "evaluations" / f"step_{step:05d}.jsonl", attempts)


def points(workdir: pathlib.Path) -> list[in_short.Point]:
    return in_short.in_short(epath.Path(workdir))["points"]


def test_it_opens_the_page_and_the_navigation(tmp_path: pathlib.Path):
    workdirs.write(tmp_path / "w", num_rounds=1, num_pairs=2)
    rendered = report.render(tmp_path / "w")
    found = outline.elements(rendered)
    assert outline.sections(found)[0] == "in-short"
    assert rendered.index('id="in-short"') < rendered.index('class="tiles"')
    links = [one for one in outline.named(found, "a") if "nav" in one.inside]
    assert (links[0].attrs["href"], links[0].text) == ("#in-short", "In short")
    told = outline.told(found, "in-short")
    assert "wrote 201 new problems, from 256 drafts; rules refused the others." in told
    assert "9 of 24 problems (37.5%) got a verified answer" in told
    assert "well-posed:" not in told  # the corpus of that run is another one
    assert told.count("Problem drawn-") == 5
    assert "<script>alert" not in rendered


def test_without_any_figure_it_is_not_there(tmp_path: pathlib.Path):
    assert not in_short.has_figures(epath.Path(tmp_path))
    jsonl.write_records(tmp_path / "em" / "nll.jsonl", [{"round": -1, "nll_bound": 1.0}])
    assert not in_short.has_figures(epath.Path(tmp_path))
    assert "in-short" not in outline.sections(outline.elements(report.render(tmp_path)))


@pytest.mark.parametrize(("num_bad", "advice"), [(1, ""), (2, ""), (3, in_short.ILL_POSED)])
def test_problems_are_counted_as_analyze_counted_them(tmp_path: pathlib.Path, num_bad: int, advice: str):
    stage(tmp_path, "synthesize", **{"in": 30, "out": 20})
    sound = [f"{FAMILIES[0]} {n}" for n in range(1, 21 - num_bad)]
    analyzed(tmp_path, [*sound, *["not a problem"] * num_bad], {})
    written, well, asked, new = points(tmp_path)
    assert written.text == "The prompt model wrote 20 new problems, from 30 drafts; rules refused the others."
    assert f"{20 - num_bad} of 20 ({100 - 5 * num_bad}.0%; 95 % interval" in well.text
    assert well.advice == advice
    assert "are about the first concept of the list that they were written from" in asked.text
    assert f"{1 - 1 / len(sound):.1%} have numbers that no training problem of this run has" in new.text
    assert "and 0.0% ask a kind of question" in new.text


@pytest.mark.parametrize(
    ("num_out", "num_right", "advice"),
    [(8, 20, ("", "")), (6, 18, (in_short.UNVERIFIED, in_short.WRONG_LABELS))],
)
def test_verified_answers_and_how_many_are_right(
    tmp_path: pathlib.Path, num_out: int, num_right: int, advice: tuple[str, str]
):
    stage(tmp_path, "verify", **{"in": 20, "out": num_out})
    labels = {f"{FAMILIES[0]} {n}": str(n if n < num_right else n + 1) for n in range(20)}
    analyzed(tmp_path, [], labels)
    verified, right = points(tmp_path)
    assert f"{num_out} of 20 problems" in verified.text
    assert f"{num_right} of 20 ({num_right / 20:.1%}; 95 % interval" in right.text
    assert (verified.advice, right.advice) == advice


@pytest.mark.parametrize(
    ("before", "after", "said", "advice"),
    [
        (8, 32, "went from 20.0% before self-play to 80.0% after it: +60.0 points", ""),
        (20, 21, "from 50.0% before self-play to 52.5% after it: +2.5 points", in_short.NOT_BETTER),
        (32, 8, "from 80.0% before self-play to 20.0% after it: \u221260.0 points", in_short.WORSE),
    ],
)
def test_self_play_is_told_by_its_paired_evaluations(
    tmp_path: pathlib.Path, before: int, after: int, said: str, advice: str
):
    stage(tmp_path, "self_play", iterations=30)
    jsonl.write_json(tmp_path / "results.json", {"results": {"held": {"accuracy": 0.5, "problems": 40}}})
    for step, count, num_tokens in ((0, before, 5), (10, 40, 6), (30, after, 7)):
        evaluated(tmp_path, step, [i < count for i in range(40)], num_tokens)
    (point,) = points(tmp_path)
    assert said in point.text
    assert point.text.startswith("On 40 held-out problems (1 attempt at each)")
    assert "An attempt has 7 tokens on average, before self-play 5." in point.text
    assert ("writes out more of its work" in point.text) == (advice == "")
    one = comparing.of_shares(*(np.array([[float(i < n) for i in range(40)]]) for n in (before, after)))
    low, high = (f"{100 * end:+.1f}".replace("-", "\u2212") for end in one.interval)
    assert low != high
    assert f"(paired 95 % interval {low} to {high})" in point.text
    assert point.advice == advice


def test_of_the_best_policy_its_own_evaluation_counts_and_the_page_says_so(tmp_path: pathlib.Path):
    stage(tmp_path, "self_play", iterations=30, policy_of_iteration=10)
    for step, count in ((0, 8), (10, 32), (30, 4)):
        evaluated(tmp_path, step, [i < count for i in range(40)])
    (point,) = points(tmp_path)
    assert "to 80.0% after it" in point.text
    assert "writes out more" not in point.text
    assert "chose of 3 evaluations" in point.text
    stage(tmp_path, "self_play", iterations=30, policy_of_iteration=0)
    (point,) = points(tmp_path)
    assert "none of its 2 later evaluations on held-out problems was better" in point.text
    assert point.advice == in_short.NOT_BETTER


def test_without_evaluations_a_comparison_or_the_results_are_told(tmp_path: pathlib.Path):
    result = {"accuracy": 0.5, "problems": 40, "interval": [0.35, 0.65]}
    jsonl.write_json(tmp_path / "results.json", {"results": {"held": result}})
    (point,) = points(tmp_path)
    assert point.text == "The solver solves 50.0% (95 % interval 35.0% to 65.0%) of 40 problems of held."
    sets = {f"set {i}": result for i in range(5)}
    jsonl.write_json(tmp_path / "results.json", {"results": sets})
    assert len(points(tmp_path)) == 3
    found = {"first": 0.4, "second": 0.5, "difference": 0.1, "interval": [-0.02, 0.2], "num_problems": 40}
    compared = {"baseline": ["runs/sft"], "other": ["runs/grpo"]} | found
    jsonl.write_json(tmp_path / "comparisons" / "sft.json", compared)
    (point,) = points(tmp_path)
    assert "50.0% (grpo) beside 40.0% (sft): +10.0 points" in point.text
    assert point.advice == ""  # nothing says that self-play lies between them
    stage(tmp_path, "self_play", iterations=3)
    assert points(tmp_path)[0].advice == in_short.NOT_BETTER


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"bound_change": -0.2, "bound_change_half_width": 0.1}, ""),
        ({"bound_change": -0.2, "bound_change_half_width": 0.3}, in_short.NO_GAIN_OF_EM),
        ({"bound_change": 0.2, "bound_change_half_width": 0.3}, in_short.NO_GAIN_OF_EM),
        ({"bound_change": 0.2, "bound_change_half_width": 0.1}, in_short.LOSS_BY_EM),
        ({}, in_short.NOT_TOLD),
    ],
)
def test_em_is_told_by_its_bound(tmp_path: pathlib.Path, change: dict, advice: str):
    rows = [
        {"round": -1, "nll_bound": 0.7, "nll_x_given_q": 0.4, "best_round": -1},
        {"round": 0, "nll_bound": 0.5, "nll_x_given_q": 0.3, "best_round": 0, "bound_pairs": 8} | change,
        {"round": 1, "nll_bound": 0.6, "nll_x_given_q": 0.3, "best_round": 0},
    ]
    jsonl.write_records(tmp_path / "em" / "nll.jsonl", rows)
    (point,) = points(tmp_path)
    assert "lower is better) went from 0.7 to 0.5" in point.text
    assert "shown a rationale, from 0.4 to 0.3" in point.text
    assert ("\u22120.2000 \u00b1 0.1000, a 95 % interval over 8 problems)" in point.text) == (advice == "")
    assert point.advice == advice


def test_macros_that_the_advice_names_exist():
    files = gin_files.with_includes(gin_files.packaged())
    known = {macro.name for said in files.values() for macro in said.macros}
    named = {word for text in ADVICE.values() for word in re.findall(r"[A-Z]+_[A-Z_]+|VOTER", text)}
    assert len(named) > 10
    assert named <= known
    assert all(re.search(r"[A-Z]+_[A-Z_]+", text) for text in ADVICE.values())


def test_a_damaged_file_spoils_no_other_sentence(tmp_path: pathlib.Path):
    stage(tmp_path, "synthesize", **{"in": 30, "out": 20})
    (tmp_path / "results.json").write_text("[")
    (tmp_path / "analyses").mkdir()
    (tmp_path / "analyses" / "index.json").write_text('{"analyses": {"well_posed": {"made": [7]}}}')
    jsonl.write_records(tmp_path / "em" / "nll.jsonl", [{"round": -1, "nll_bound": "x"}, {"nll_bound": 1.0}])
    assert [point.text[:16] for point in points(tmp_path)] == ["The prompt model"]


def row(i: int, problem: str, answer: str = "1") -> dict:
    return {
        "id": f"r{i}",
        "concepts": ["a", f"c{i % 2}"],
        "rationale": "z",
        "problem": problem,
        "answer": answer,
    }


def test_samples_are_well_posed_and_of_different_families_first(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(oracle, "read", read)
    first, second, third = FAMILIES[:3]
    texts = ["no problem", *(f"{first} {n}" for n in (1, 2, 3)), f"{second} 4", "no problem", f"{third} 5"]
    jsonl.write_records(tmp_path / "verified_prompts.jsonl", [row(i, text) for i, text in enumerate(texts)])
    chosen = in_short_samples.choose(epath.Path(tmp_path), is_own_corpus=True)
    assert [one.id for one in chosen] == ["r1", "r4", "r6", "r2", "r3"]
    assert [one.verdict for one in chosen[:2]] == [
        "well-posed, answer right",
        "well-posed, answer wrong: it is 4",
    ]
    assert [one.is_good for one in chosen[:2]] == [True, False]
    assert chosen == in_short_samples.choose(epath.Path(tmp_path), is_own_corpus=True)
    jsonl.write_records(tmp_path / "verified_prompts.jsonl", [row(0, "no problem")])
    (one,) = in_short_samples.choose(epath.Path(tmp_path), is_own_corpus=True)
    assert (one.verdict, one.is_good) == ("not well-posed", False)
    jsonl.write_records(tmp_path / "verified_prompts.jsonl", [row(i, text) for i, text in enumerate(texts)])
    # Of another corpus nothing can be read, and kinds are told by concepts.
    chosen = in_short_samples.choose(epath.Path(tmp_path), is_own_corpus=False)
    assert [one.id for one in chosen] == ["r0", "r1", "r2", "r3", "r4"]
    assert {one.verdict for one in chosen} == {""}


def test_a_problem_without_an_answer_is_shown_last_an_ill_posed_one_first(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(oracle, "read", read)
    texts = [f"{FAMILIES[0]} {n}" for n in range(8)] + ["no problem"]
    written = [row(i, text) | {"answer": None} for i, text in enumerate(texts)]
    verified = [row(i, texts[i]) for i in (0, 1, 2, 3, 4, 5)]
    jsonl.write_records(tmp_path / "problems.jsonl", written)
    jsonl.write_records(tmp_path / "verified_prompts.jsonl", verified)
    *_, last = chosen = in_short_samples.choose(epath.Path(tmp_path), is_own_corpus=True)
    assert len(chosen) == 6
    assert (last.id, last.answer, last.verdict) == ("r8", "", "not well-posed")
    jsonl.write_records(tmp_path / "problems.jsonl", written[:-1])
    last = in_short_samples.choose(epath.Path(tmp_path), is_own_corpus=True)[-1]
    assert (last.id, last.answer, last.verdict) == ("r6", "", "well-posed")
    jsonl.write_records(tmp_path / "problems.jsonl", written[:6])
    assert len(in_short_samples.choose(epath.Path(tmp_path), is_own_corpus=True)) == 5


def test_samples_have_concepts_rationale_and_answer_and_are_clamped(tmp_path: pathlib.Path):
    assert in_short_samples.choose(epath.Path(tmp_path), is_own_corpus=False) == []
    tested = {"id": "t", "problem": "Print it.", "tests": [{}, {}], "concepts": ["loops"]}
    rows = [row(0, "long " * 900) | {"rationale": workdirs.HOSTILE}, tested]
    jsonl.write_records(tmp_path / "verified_prompts.jsonl", rows)
    text = html.unescape(outline.section(tmp_path, "in-short"))
    assert "characters are left out here" in text
    assert len(text) < 4_000
    assert "a program that passes 2 tests" in text
    assert text.count("Verified answer") == 2
    jsonl.write_records(tmp_path / "verified_prompts.jsonl", [])
    jsonl.write_records(tmp_path / "problems.jsonl", [{"id": "p", "problem": "What is 1 + 1?"}])
    text = outline.section(tmp_path, "in-short")
    assert "Problems to read" in text
    assert "No answer of it is verified." in text
