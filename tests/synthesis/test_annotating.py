"""One repetition of a bad answer that says what was wrong, every failure with a reason, choices by id."""

import collections
import dataclasses
import random

import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import SeedProblem, Triple
from promptcot_jax.data import rows
from promptcot_jax.sampling.text_model import Reply
from promptcot_jax.synthesis import annotating, annotation_requests, problem_files
from promptcot_jax.synthesis.annotating import AnnotateConfig
from promptcot_jax.synthesis.near_duplicates import DuplicateConfig
from tests import annotators

CONFIG = AnnotateConfig(num_concepts=2)
CONCEPTS = annotators.concept_list(["running sums", "parity"])
RATIONALE = annotators.thinking_process("Take two numbers whose sum is odd.")
TEXT = "Ann adds seven and eight apples to a bowl; how many apples are there in the bowl when Bob took one?"


class Teacher:
    """Answers by a function of the request's turns: a text, or a finish reason after an exclamation mark."""

    name = "teacher"

    def __init__(self, answer):
        self._answer, self.asked = answer, []

    def check_cost(self, requests):
        pass

    def complete(self, requests, path):
        self.asked += [(path.name, request) for request in requests]
        replies = [self._reply(request) for request in requests]
        jsonl.write_records(path, replies)
        return replies

    def _reply(self, request):
        text = self._answer(*(message["content"] for message in request.messages))
        reason = text[1:] if text.startswith("!") else "stop"
        return Reply(
            id=request.id,
            sample=0,
            text="" if text.startswith("!") else text,
            finish_reason=reason,
            prompt_tokens=2,
            completion_tokens=1,
        )


def honest(question, *later):
    return CONCEPTS if "Name the" in question else RATIONALE


def seed(i: int, **changes) -> SeedProblem:
    return SeedProblem(**({"id": f"p{i}", "problem": f"{TEXT} Case {i}.", "answer": "14"} | changes))


def annotate(answer, tmp_path, seeds=None):
    teacher = Teacher(answer)
    return annotating.annotate(seeds or [seed(0)], teacher, tmp_path, CONFIG), teacher


def test_a_triple_has_both_parts_their_author_and_what_was_measured(tmp_path):
    made, teacher = annotate(honest, tmp_path, [seed(0, domain="code", level="3")])
    (triple,) = made.triples
    assert (triple.concepts, triple.rationale) == (
        ("running sums", "parity"),
        "Take two numbers whose sum is odd.",
    )
    assert (triple.id, triple.domain, triple.level, triple.annotator) == ("p0", "code", "3", "teacher")
    assert (triple.repaired, triple.answer_stated, triple.longest_copy) == (False, "no", 0)
    assert triple.concept_coverage == 0.5  # "parity" is nowhere
    rationale_request = teacher.asked[1][1].messages[0]["content"]
    assert "1. running sums\n2. parity" in rationale_request
    assert made.tally == {
        "concepts_stop": 1,
        "rationales_stop": 1,
        "prompt_tokens": 4,
        "completion_tokens": 2,
    }


def test_a_bad_answer_is_asked_for_again_with_what_was_wrong(tmp_path):
    def mends(question, *later):
        if later:
            return honest(question)
        return "```python\n['a', 'b', 'c']\n```" if "Name the" in question else "No heading."

    made, teacher = annotate(mends, tmp_path)
    assert made.triples[0].repaired
    assert [name for name, _ in teacher.asked] == [
        "concepts.jsonl",
        "concepts_again.jsonl",
        "rationales.jsonl",
        "rationales_again.jsonl",
    ]
    first, second = teacher.asked[0][1].messages, teacher.asked[1][1].messages
    assert second[:2] == (*first, {"role": "assistant", "content": "```python\n['a', 'b', 'c']\n```"})
    assert "the list has 3 elements, not 2" in second[2]["content"]
    assert "'Thinking Process:' is missing" in teacher.asked[3][1].messages[2]["content"]


def test_a_second_bad_answer_is_a_reject_with_its_own_reason(tmp_path):
    def worsens(question, *later):
        return "nothing" if later else "```python\n['a']\n```"

    made, teacher = annotate(worsens, tmp_path)
    assert not made.triples
    (reject,) = made.rejects
    row = reject.row
    assert (row["id"], row["part"], row["reason"], row["annotator"]) == (
        "p0",
        "concepts",
        "no_list",
        "teacher",
    )
    assert row["text"] == "nothing"
    assert len(teacher.asked) == 2  # and no rationale


@pytest.mark.parametrize("reason", ["filtered", "too_long", "malformed"])
def test_where_asking_again_is_in_vain_it_is_not_done(reason: str, tmp_path):
    made, teacher = annotate(lambda *turns: f"!{reason}", tmp_path)
    assert [reject.reason for reject in made.rejects] == [reason]
    assert len(teacher.asked) == 1


def test_after_an_answer_that_was_cut_off_a_brief_one_is_asked_for(tmp_path):
    made, teacher = annotate(lambda question, *later: "!length", tmp_path)
    assert [reject.reason for reject in made.rejects] == ["length"]
    (message,) = teacher.asked[1][1].messages  # the cut answer is not read again
    assert message["content"].startswith(teacher.asked[0][1].messages[0]["content"])
    assert message["content"].endswith(annotation_requests.BREVITY)
    assert made.tally["concepts_length"] == made.tally["concepts_again_length"] == 1


def test_a_rationale_that_copies_the_problem_is_refused_and_told_so(tmp_path):
    def copies(question, *later):
        if "Name the" in question:
            return CONCEPTS
        return RATIONALE if later else annotators.thinking_process(f"Write: {TEXT}")

    made, teacher = annotate(copies, tmp_path)
    assert made.triples[0].repaired
    assert "of the problem word for word, up to 21 words" in teacher.asked[2][1].messages[2]["content"]
    made, _ = annotate(lambda q, *later: copies(q), tmp_path / "always")
    assert [(reject.subject["part"], reject.reason) for reject in made.rejects] == [
        ("rationale", "copies_problem")
    ]


def test_a_stated_answer_is_flagged_and_kept(tmp_path):
    def tells(question, *later):
        return CONCEPTS if "Name the" in question else annotators.thinking_process("It must give 14.")

    made, _ = annotate(tells, tmp_path, [seed(0), seed(1, answer="")])
    assert [triple.answer_stated for triple in made.triples] == ["yes", "unknown"]


def test_problems_that_repeat_an_earlier_one_are_not_asked_about():
    others = [seed(0), seed(1, problem=f"{TEXT.upper()}  CASE 0."), seed(2), seed(3, problem="Else?")]
    kept, rejects = annotating.without_repeats(others, CONFIG)
    assert [row.id for row in kept] == ["p0", "p3"]
    assert [(reject.subject["id"], reject.reason) for reject in rejects] == [
        ("p1", "duplicate"),
        ("p2", "near_duplicate"),
    ]
    assert all("repeats p0" in reject.evidence["message"] for reject in rejects)


def test_a_rule_about_vectors_is_not_left_out_in_silence_without_an_encoder():
    duplicates = DuplicateConfig(embedding_threshold=0.9)
    with pytest.raises(ValueError, match="duplicates.embedding_threshold needs an encoder"):
        annotating.without_repeats([seed(0)], dataclasses.replace(CONFIG, duplicates=duplicates))


def test_the_annotator_of_a_row_follows_from_its_id_and_the_seed():
    seeds = [seed(i) for i in range(400)]
    shares = annotating.by_annotator(seeds, 4, seed=1)
    assert all(70 < len(share) < 130 for share in shares)
    chosen = {row.id: i for i, share in enumerate(shares) for row in share}
    fewer = random.Random(0).sample(seeds, 50)
    again = {row.id: i for i, share in enumerate(annotating.by_annotator(fewer, 4, seed=1)) for row in share}
    assert again == {row.id: chosen[row.id] for row in fewer}
    other = {row.id: i for i, share in enumerate(annotating.by_annotator(seeds, 4, seed=2)) for row in share}
    assert 50 < sum(other[name] == chosen[name] for name in chosen) < 150  # a quarter by chance


def test_held_out_rows_are_a_share_that_does_not_follow_the_annotator():
    config = dataclasses.replace(CONFIG, heldout_share=0.25)
    seeds = [seed(i) for i in range(800)]
    for share in annotating.by_annotator(seeds, 2, config.seed):
        held_out = sum(annotating.is_held_out(row.id, config) for row in share)
        assert 0.18 < held_out / len(share) < 0.32
    assert not any(
        annotating.is_held_out(row.id, dataclasses.replace(config, heldout_share=0.0)) for row in seeds
    )


def read(path, **settings):
    counts: collections.Counter[str] = collections.Counter()
    given = {"domain": "math", "level": "", "bad_rows": rows.FATAL} | settings
    return problem_files.read_seeds(path, counts=counts, **given), counts


def test_rows_are_read_with_defaults_for_what_they_do_not_say(tmp_path):
    lines = [
        {"problem": "a", "level": 3, "answer": 7, "extra": [1]},
        {"id": "b", "problem": "b", "domain": "math", "level": None, "answer": None},
    ]
    jsonl.write_records(tmp_path / "set.jsonl", lines)
    seeds, _ = read(tmp_path / "set.jsonl", domain="code", level="hard")
    assert seeds == [
        SeedProblem(id="set.jsonl:1", domain="code", level="3", problem="a", answer="7"),
        SeedProblem(id="b", domain="math", level="hard", problem="b"),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"question": "a"}], r"set.jsonl:1: field 'problem' of SeedProblem is missing"),
        ([{"problem": "a"}, {"problem": " "}], "set.jsonl:2: the problem is empty"),
        ([{"problem": "<!-- BEGIN PROBLEM -->"}], "holds the marker"),
        ([{"problem": "a", "domain": "law"}], "field 'domain' must be one of"),
        ([{"id": "x", "problem": "a"}, {"id": "x", "problem": "b"}], "the id 'x' occurs twice"),
        ([], "there are no problems in it"),
    ],
)
def test_rows_that_cannot_be_annotated_are_named(tmp_path, lines: list, message: str):
    jsonl.write_records(tmp_path / "set.jsonl", lines)
    with pytest.raises(WrongUse, match=message):
        read(tmp_path / "set.jsonl")


def test_bad_rows_are_skipped_and_counted_where_that_is_set(tmp_path):
    jsonl.write_records(tmp_path / "set.jsonl", [{"problem": "a"}, {"question": "b"}])
    seeds, counts = read(tmp_path / "set.jsonl", bad_rows=rows.BadRows(action="skip"))
    assert len(seeds) == counts["read"] == counts["bad_field"] == 1


def test_the_report_counts_by_hand(tmp_path):
    def second_fails(question, *later):
        return "no" if "Case 2" in question else honest(question)

    made, _ = annotate(second_fails, tmp_path, [seed(i) for i in range(4)])
    figures = annotating.report(
        num_seeds=4,
        triples=made.triples,
        rejects=made.rejects,
        rows_of_annotators={"teacher": 4},
        replies=made.tally,
    )
    assert figures["rows"] == {
        "in": 4,
        "left_out": 0,
        "triples": 3,
        "rejected": 1,
        "share_rejected": 0.25,
        "repaired": 0,
    }
    assert figures["rejected_by_reason"] == {"concepts_no_list": 1}
    assert figures["annotators"] == {"teacher": {"rows": 4, "triples": 3}}
    assert figures["words"]["rationale"]["median"] == 7
    assert figures["words"]["problem"]["min"] == 23
    assert figures["concepts"]["most_common"] == {"parity": 3, "running sums": 3}
    assert figures["concepts"]["used_once"] == 0
    assert figures["answer_stated"] == {"no": 3}
    assert "3 triples of 4 problems, 25.0% rejected" in annotating.lines(figures)[0]


def test_the_report_has_the_rows_that_were_left_out(tmp_path):
    made, _ = annotate(honest, tmp_path, [seed(0)])
    figures = annotating.report(
        num_seeds=1,
        left_out={"bad_json": 1, "bad_field": 2},
        triples=made.triples,
        rejects=made.rejects,
        rows_of_annotators={"teacher": 1},
        replies=made.tally,
    )
    assert (figures["rows"]["in"], figures["rows"]["left_out"], figures["rows"]["triples"]) == (4, 3, 1)
    assert figures["left_out_by_reason"] == {"bad_field": 2, "bad_json": 1}
    first, second, *_ = annotating.lines(figures)
    assert first.startswith("1 triples of 4 problems (3 bad rows left out), 0.0% of the others rejected")
    assert second == "left out: bad_field 2, bad_json 1"


@pytest.mark.parametrize(
    ("count", "parts"),
    [(0, ["15,586", "failed"]), (4_000, ["15,586", "failed"]), (4_001, ["15,586"]), (15_586, [])],
)
def test_the_warning_knows_the_paper_and_the_failure(count: int, parts: list[str]):
    text = annotating.warning(count)
    assert bool(text) == bool(parts)
    assert all(part in text for part in parts)
    assert ("failed" in text) == ("failed" in parts)


def test_a_report_of_nothing_is_a_report():
    figures = annotating.report(num_seeds=0, triples=[], rejects=[], rows_of_annotators={}, replies={})
    assert figures["words"]["problem"] == {}
    assert annotating.lines(figures) == ["0 triples of 0 problems, 0.0% rejected, 0 after a second request"]


@pytest.mark.parametrize(("names", "message"), [(["a", "b", "a"], "names 'a' twice"), ([], "no annotators")])
def test_annotators_must_be_told_apart(names: list[str], message: str):
    with pytest.raises(WrongUse, match=message):
        annotating.check_names(names)


@pytest.mark.parametrize("changes", [{"num_concepts": 0}, {"heldout_share": 1.0}, {"heldout_share": -0.1}])
def test_settings_that_mean_nothing_are_refused(changes: dict):
    with pytest.raises(ValueError, match=next(iter(changes))):
        AnnotateConfig(**changes)


def test_what_it_writes_is_read_as_triples(tmp_path):
    made, _ = annotate(honest, tmp_path)
    jsonl.write_records(tmp_path / "triples.jsonl", made.triples)
    (triple,) = jsonl.read_records(tmp_path / "triples.jsonl", Triple)
    assert triple.rationale == made.triples[0].rationale
