"""Facts of selection: what is planted among corpus problems is found, and calls of any size keep the same."""

import dataclasses
import random

import numpy as np
import pytest

from benchmarks import copies
from promptcot_jax.core.records import ConceptSet
from promptcot_jax.corpus import generator
from promptcot_jax.data import decontamination, templates
from promptcot_jax.models.hashed_tfidf import HashedTfidf
from promptcot_jax.synthesis import selection as selection_lib
from promptcot_jax.synthesis.drafts import Author, Draft
from promptcot_jax.synthesis.filters import FilterConfig
from promptcot_jax.synthesis.near_duplicates import DuplicateConfig
from promptcot_jax.synthesis.selection import Selection
from promptcot_jax.synthesis.text_sketches import BatchWorkers
from tests.cases import some_fast

NOTHING_REPEATS = DuplicateConfig(exact=False, minhash_threshold=None, embedding_threshold=None)
AUTHOR = Author(model_digest="abc", round_index=1, seed=7)
CORPUS = generator.generate(generator.CorpusConfig(seed=3, num_train=360, num_heldout=0, num_novel=0)).train
SEEDS, ROWS = [row.problem for row in CORPUS[:120]], CORPUS[120:]
SETS = {
    f"set{i}": ConceptSet(domain=r.domain, concepts=r.concepts, level=r.level) for i, r in enumerate(ROWS)
}


def draft(request, rationale, problem, place):
    return Draft(
        request=request,
        concept_set_id=f"set{place}",
        sample=0,
        text=templates.rationale_block(rationale) + templates.problem_block(problem),
        finish_reason="stop",
        num_tokens=9,
        log_p_z=-1.5,
        log_p_x=-2.5,
        retokenized=False,
    )


def drafts_of(problems):
    """A draft for each (place among the rows, problem)."""
    return [draft(i, ROWS[place].rationale, problem, place) for i, (place, problem) in enumerate(problems)]


def new_selection(**settings):
    values = {"encode": HashedTfidf(SEEDS), "seed_problems": SEEDS} | settings
    config = values.pop("config", FilterConfig())
    return Selection(config, values.pop("duplicates", DuplicateConfig()), **values)


def clean_drafts():
    return drafts_of([(i, row.problem) for i, row in enumerate(ROWS)])


def paraphrase(text):
    """The same problem with one word said otherwise."""
    for one, other in (("Find", "Determine"), ("What is", "Compute"), ("Read", "Take"), ("and", "plus")):
        if one in text:
            return text.replace(one, other, 1)
    return f"{text} Now."


def benchmark_index():
    sources = [(decontamination.Source("bench", str(i)), row.problem) for i, row in enumerate(ROWS[::20])]
    return decontamination.Index(sources)


def test_corpus_problems_mostly_pass_and_every_draft_is_kept_or_rejected_once():
    drafts = clean_drafts()
    problems, rejects = new_selection().select(drafts, SETS, AUTHOR)
    assert len(problems) >= 0.9 * len(drafts)
    kept = {problem.id for problem in problems}
    left = {selection_lib.problem_id(drafts[reject.subject["request"]], AUTHOR) for reject in rejects}
    assert not kept & left
    assert len(kept) + len(left) == len(drafts) == len(problems) + len(rejects)
    assert {reject.reason for reject in rejects} <= set(selection_lib.REASONS)
    assert problems[0].filters == tuple(r for r in problems[0].filters if r in selection_lib.REASONS)
    assert "minhash_duplicate" in problems[0].filters
    assert "contaminated" not in problems[0].filters  # nothing to compare with was given


def test_planted_repetitions_and_benchmark_texts_are_found_and_named():
    long = [i for i, row in enumerate(ROWS) if len(row.problem.split()) >= 45]
    exact = [(i, f"  {ROWS[i].problem.upper()}") for i in long[:20]]
    said_otherwise = [(i, paraphrase(ROWS[i].problem)) for i in long]
    of_seeds = [(i, paraphrase(SEEDS[i])) for i in range(120) if len(SEEDS[i].split()) >= 45]
    originals = [(i, row.problem) for i, row in enumerate(ROWS)]
    planted = [*originals, *exact, *said_otherwise, *of_seeds]
    drafts = drafts_of(planted)
    config = FilterConfig(min_concept_share=None, max_seed_similarity=None)
    _, rejects = new_selection(config=config).select(drafts, SETS, AUTHOR)
    reasons = {reject.subject["request"]: reject.reason for reject in rejects}
    ends = [len(originals), len(originals) + len(exact), len(originals) + len(exact) + len(said_otherwise)]
    for i in range(ends[0], ends[1]):
        assert reasons[i] in ("exact_duplicate", "minhash_duplicate", "minhash_duplicate_of_seed")
    caught = sum("duplicate" in reasons.get(i, "") for i in range(ends[1], ends[2]))
    assert caught >= 0.95 * len(said_otherwise)
    caught = sum(reasons.get(i, "").endswith("_of_seed") for i in range(ends[2], len(planted)))
    assert caught >= 0.95 * len(of_seeds) > 10
    by_request = {reject.subject["request"]: reject for reject in rejects}
    named = [
        by_request[i].evidence["detail"] for i in range(ends[0], ends[1]) if reasons[i] == "exact_duplicate"
    ]
    assert named
    assert set(named) <= {f"set{i}-r1-s7-0" for i in long}


def test_a_copied_benchmark_is_found_and_its_row_named():
    selection = new_selection(benchmarks=benchmark_index())
    problems, rejects = selection.select(clean_drafts(), SETS, AUTHOR)
    found = [reject for reject in rejects if reject.reason == "contaminated"]
    copied = set(range(0, len(ROWS), 20)) - {r.subject["request"] for r in rejects if r not in found}
    assert copied <= {reject.subject["request"] for reject in found}
    assert all(reject.evidence["detail"].startswith("bench:") for reject in found)
    assert "contaminated" in problems[0].filters


@pytest.mark.parametrize(
    ("edit", "least", "most"),
    [("none", 1.0, 1.0), ("question_first", 0.8, 1.0), ("two_words", 0.1, 0.5), ("all", 0.0, 0.15)],
)
def test_recall_of_paraphrases_falls_as_less_of_the_wording_stays(edit, least, most):
    some = ROWS[:80]
    said = [copies.edited(row.problem, edit, seed=1) for row in some]
    planted = [(i, one) for i, one in enumerate(said) if edit == "none" or one != some[i].problem]
    selection = new_selection(seed_problems=[])
    selection.select(drafts_of([(i, row.problem) for i, row in enumerate(some)]), SETS, AUTHOR)
    _, rejects = selection.select(drafts_of(planted), SETS, AUTHOR)
    assert all(reject.reason.endswith("_duplicate") for reject in rejects)
    assert least <= len(rejects) / len(planted) <= most


@pytest.mark.parametrize(
    ("edit", "least"), [("none", 1.0), ("framed", 1.0), ("two_words", 0.85), ("words", 0.5), ("all", 0.5)]
)
def test_disguised_copies_of_a_benchmark_are_found(edit, least):
    copied = ROWS[::3]
    index = decontamination.Index([(decontamination.Source("bench", r.id), r.problem) for r in copied])
    selection = new_selection(benchmarks=index, seed_problems=[], duplicates=NOTHING_REPEATS)
    planted = [(i, copies.edited(row.problem, edit, seed=1)) for i, row in enumerate(copied)]
    _, rejects = selection.select(drafts_of(planted), SETS, AUTHOR)
    found = [reject for reject in rejects if reject.reason == "contaminated"]
    assert len(found) >= least * len(planted), len(found) / len(planted)


def test_ignored_concepts_are_found_by_words():
    config = FilterConfig(min_concept_share=0.1)
    drafts = clean_drafts()
    own, _ = new_selection(config=config).select(drafts, SETS, AUTHOR)
    others = [
        dataclasses.replace(one, concept_set_id=f"set{(i + 7) % len(ROWS)}") for i, one in enumerate(drafts)
    ]
    foreign, rejects = new_selection(config=config).select(others, SETS, AUTHOR)
    assert len(own) > 0.8 * len(drafts)
    assert len(foreign) < 0.5 * len(drafts)
    ignored = [reject for reject in rejects if reject.reason == "ignored_concepts"]
    assert len(ignored) > 0.4 * len(drafts)
    assert {reject.evidence["figure"] for reject in ignored} == {0.0}
    assert all(problem.concepts_in_words > 0 or problem.concepts_in_meaning > 0 for problem in own)


def test_concepts_are_found_by_meaning_where_no_word_names_them():
    """By an encoder that knows what a dozen and a pair are, and nothing else."""
    meanings = (("multiples of twelve", "dozen"), ("doubling", "pair"))

    def encode(texts):
        known = [[any(word in text for word in own) for own in meanings] for text in texts]
        vectors = np.array(known, np.float32).reshape(len(texts), len(meanings))
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    sets = {"set0": ConceptSet(concepts=("multiples of twelve", "doubling"))}
    drafts = [
        draft(0, "Begin with eggs.", "Eggs come by the dozen. How many are there in five such boxes?", 0)
    ]
    settings = {"encode": encode, "seed_problems": [], "duplicates": NOTHING_REPEATS}
    config = FilterConfig(concept_cosine=0.9, min_concept_share=0.5)
    (problem,), _ = new_selection(config=config, **settings).select(drafts, sets, AUTHOR)
    assert (problem.concepts_in_words, problem.concepts_in_meaning) == (0.0, 0.5)
    for changes in ({"concept_cosine": None}, {"min_concept_share": 0.6}):
        stricter = dataclasses.replace(config, **changes)
        kept, (reject,) = new_selection(config=stricter, **settings).select(drafts, sets, AUTHOR)
        assert (kept, reject.reason) == ([], "ignored_concepts")


def mixed_drafts():
    draw = random.Random(0)
    problems = [(i, row.problem) for i, row in enumerate(ROWS)]
    problems += [(i, paraphrase(problem)) for i, problem in draw.sample(problems, 60)]
    problems += [(i, f"{problem} Is it even?") for i, problem in draw.sample(problems, 20)]
    draw.shuffle(problems)
    return drafts_of(problems)


@pytest.mark.parametrize("size", some_fast([37, 1]))
def test_what_is_kept_does_not_depend_on_how_drafts_are_cut_into_calls(size):
    drafts = mixed_drafts()
    whole = new_selection(benchmarks=benchmark_index()).select(drafts, SETS, AUTHOR)
    assert len(whole[1]) > 70
    selection = new_selection(benchmarks=benchmark_index())
    pieces = [selection.select(drafts[i : i + size], SETS, AUTHOR) for i in range(0, len(drafts), size)]
    assert [one for problems, _ in pieces for one in problems] == whole[0]
    assert [one for _, rejects in pieces for one in rejects] == whole[1]


@pytest.mark.slow
def test_two_processes_keep_what_one_does(monkeypatch):
    monkeypatch.setattr(selection_lib, "_BATCH", 64)
    drafts = mixed_drafts()
    with BatchWorkers(2) as workers:
        assert new_selection(workers=workers).select(drafts, SETS, AUTHOR) == new_selection().select(
            drafts, SETS, AUTHOR
        )


def test_a_draft_out_of_form_is_rejected_under_what_it_lacks():
    z, x = templates.BEGIN_RATIONALE, templates.BEGIN_PROBLEM
    whole = draft(0, "plan", ROWS[0].problem, 0)
    texts = [
        (whole.text, "length", "unfinished"),
        ("", "stop", "empty"),
        (f"{z}\nplan\n{templates.END_RATIONALE}\n{x}\n \n{templates.END_PROBLEM}", "stop", "empty"),
        (f"{z}\nplan\n{templates.END_RATIONALE}\nWhat is it?", "stop", "unparseable"),
        (f"prose before {whole.text}", "stop", "unparseable"),
    ]
    drafts = [
        dataclasses.replace(whole, request=i, text=text, finish_reason=finish)
        for i, (text, finish, _) in enumerate(texts)
    ]
    problems, rejects = new_selection().select(drafts, SETS, AUTHOR)
    assert problems == []
    assert [reject.reason for reject in rejects] == [reason for _, _, reason in texts]
    assert {reject.evidence["problem"] for reject in rejects} == {""}


def test_without_seeds_and_with_everything_off_only_form_counts():
    selection = new_selection(seed_problems=[], duplicates=NOTHING_REPEATS)
    problems, rejects = selection.select(drafts_of([(0, ROWS[0].problem)] * 3), SETS, AUTHOR)
    assert (len(problems), rejects) == (3, [])
    assert problems[0].seed_similarity == 0.0
    assert problems[0].concepts == SETS["set0"].concepts
    assert (problems[0].log_p_z, problems[0].round_index, problems[0].seed) == (-1.5, 1, 7)
