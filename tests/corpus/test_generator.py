"""The corpus as a whole: splits, determinism, styles, and what rationales may and may not show."""

import collections
import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
import subprocess
import sys

import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import MathCorpusRow, ProgramCorpusRow
from promptcot_jax.corpus import generator, math_families, program_families, rows, styles


@pytest.fixture(scope="module")
def corpus():
    return generator.generate(generator.CorpusConfig(seed=7, num_train=2400, num_heldout=240, num_novel=120))


@pytest.fixture(scope="module")
def all_rows(corpus):
    return [*corpus.train, *corpus.heldout, *corpus.novel]


def concept_pairs(split):
    return {frozenset(pair) for row in split for pair in itertools.combinations(row.concepts, 2)}


def words(text):
    return re.findall(r"[a-z]+|\d+", text.lower())


def corpus_digest():
    corpus = generator.generate(generator.CorpusConfig(seed=3, num_train=90, num_heldout=60, num_novel=60))
    lines = "\n".join(jsonl.to_line(row) for row in (*corpus.train, *corpus.heldout, *corpus.novel))
    return hashlib.sha256(lines.encode()).hexdigest()


def test_two_processes_with_unlike_hash_seeds_write_the_same_bytes():
    code = "from tests.corpus import test_generator as t; print(t.corpus_digest())"
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=pathlib.Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert digests == {corpus_digest()}


def test_more_training_rows_change_no_other_row():
    few = generator.generate(generator.CorpusConfig(num_train=40, num_heldout=50, num_novel=30))
    many = generator.generate(generator.CorpusConfig(num_train=120, num_heldout=50, num_novel=30))
    assert many.train[:40] == few.train
    assert many.heldout == few.heldout
    assert many.novel == few.novel


def test_seeds_give_different_problems(corpus):
    other = generator.generate(generator.CorpusConfig(seed=8, num_train=300, num_heldout=0, num_novel=0))
    shared = {row.problem for row in other.train} & {row.problem for row in corpus.train}
    assert len(shared) < 30


def test_no_problem_or_id_occurs_twice(all_rows):
    assert len({row.problem for row in all_rows}) == len({row.id for row in all_rows}) == len(all_rows)


def test_each_novel_row_has_a_concept_pair_that_the_other_splits_lack(corpus):
    seen = concept_pairs([*corpus.train, *corpus.heldout])
    for row in corpus.novel:
        assert concept_pairs([row]) - seen, row
    single_concepts = {concept for row in corpus.train for concept in row.concepts}
    assert {concept for row in corpus.novel for concept in row.concepts} <= single_concepts


def test_held_out_rows_use_the_concept_pairs_of_training(corpus):
    def lead_pairs(split):
        leads = {family.concepts[0] for family in generator.families().values()}
        return {pair for pair in concept_pairs(split) if pair & leads}

    assert lead_pairs(corpus.heldout) <= lead_pairs(corpus.train)


def test_no_parameters_of_a_training_row_occur_in_another_split(monkeypatch):
    used = collections.defaultdict(set)

    def spy(make_row):
        def record(draw, row_id, style, family, ending, parameters):
            used[row_id.split("-")[0]].add((family.name, *sorted(parameters.items())))
            return make_row(draw, row_id, style, family, ending, parameters)

        return record

    monkeypatch.setattr(rows, "math_row", spy(rows.math_row))
    monkeypatch.setattr(rows, "program_row", spy(rows.program_row))
    generator.generate(generator.CorpusConfig(seed=1, num_train=900, num_heldout=300, num_novel=300))
    assert min(map(len, used.values())) > 200
    assert not used["train"] & used["heldout"]
    assert not (used["train"] | used["heldout"]) & used["novel"]


@pytest.mark.parametrize("family", generator.families().values(), ids=lambda family: family.name)
def test_parameters_belong_to_one_split_and_every_split_has_plenty(family):
    import random

    draw = random.Random(0)
    splits = collections.defaultdict(set)
    for _ in range(3000):
        parameters = family.draw(draw)
        splits[generator.split_of(family, parameters)].add(tuple(sorted(parameters.items())))
    assert not splits["train"] & splits["heldout"]
    assert not splits["train"] & splits["novel"]
    assert min(len(splits["heldout"]), len(splits["novel"])) >= 40
    assert len(splits["train"]) >= 200


def test_splits_stay_as_the_packaged_base_was_trained_with():
    """Moved, a row that promptcot-tiny has read could become a held-out one."""
    family = generator.families()["vieta"]
    found = "".join(
        generator.split_of(family, {"sum": sum, "product": product})[0]
        for sum in range(20, 26)
        for product in range(2, 8)
    )
    assert found == "ttnttthtnttttnttthhntnttttttnnhnnttt"
    assert generator.split_of(family, {"product": 5, "sum": 20}) == generator.split_of(
        family, {"sum": 20, "product": 5}
    )


def test_every_family_and_style_occurs_about_equally_often(corpus):
    families = collections.Counter(row.family for row in corpus.train)
    assert set(families) == set(generator.families())
    assert max(families.values()) - min(families.values()) <= 1
    shares = collections.Counter(row.style for row in corpus.train)
    assert set(shares) == set(styles.STYLES)
    assert min(shares.values()) > 0.2 * len(corpus.train)
    assert len(math_families.families()) >= 12
    assert len(program_families.families()) >= 8


def test_rows_have_the_promised_form(all_rows):
    for row in all_rows:
        assert 2 <= len(row.concepts) <= 5
        assert len(set(row.concepts)) == len(row.concepts)
        assert row.level in set("12345")
        assert 12 <= len(words(row.problem)) <= 110, row.problem
        assert 15 <= len(row.rationale.split()) <= 70, row.rationale
        assert not re.search(r"[{}]|\bNone\b|  ", row.rationale + row.problem), row
        assert row.problem == row.problem.strip()
        if isinstance(row, MathCorpusRow):
            assert row.solution.endswith(f"\\boxed{{{row.answer}}}")
            assert re.fullmatch(r"\d+", row.answer)
        else:
            assert isinstance(row, ProgramCorpusRow)
            assert row.solution.endswith("\n```")
            assert len(row.tests) >= 3


def test_style_of_every_row_is_recognised(all_rows):
    assert all(styles.classify_style(row.rationale) == row.style for row in all_rows)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "First find the total.",
        "Step 1: Take 7 rows.",
        "I want a problem that uses 7 rows.",
        "Blueprint of a house",
        "The plan: rows",
    ],
)
def test_texts_without_the_form_of_a_style_are_other(text):
    assert styles.classify_style(text) == "other"


def test_style_is_recognised_in_imperfect_samples():
    assert styles.classify_style("\nStep 1: Take ghj 7.\nStep 2: Add, so.") == "stepwise"
    assert styles.classify_style("Blueprint: setting zoo; count 5; count 5.") == "exact"
    assert styles.classify_style("Plan: build on") == "plan"
    assert styles.classify_style("The idea is a problem that sums. The catch") == "vague"


def test_no_rationale_states_the_answer(all_rows):
    for row in all_rows:
        if isinstance(row, MathCorpusRow):
            stated = re.findall(r"\d+", re.sub(r"Step \d+:", "", row.rationale))
            assert row.answer not in stated, row
    assert rows.shows_answer("Take 12 rows.", "12")
    assert not rows.shows_answer("Step 12: Take 120 rows.", "12")


def test_no_rationale_copies_a_long_run_of_the_problem(all_rows):
    for row in all_rows:
        rationale, problem = words(row.rationale), " ".join(words(row.problem))
        runs = [" ".join(rationale[i : i + 6]) for i in range(len(rationale) - 5)]
        assert not [run for run in runs if f" {run} " in f" {problem} "], row


def test_exact_tells_more_of_the_problem_than_stepwise_than_plan_than_vague(all_rows):
    """Share of a problem's numbers and setting words that its rationale names."""
    told = collections.defaultdict(list)
    for row in all_rows:
        in_problem = set(re.findall(r"\d+", row.problem)) | (set(rows.NAMES) & set(row.problem.split()))
        in_rationale = set(words(row.rationale)) | set(re.findall(r"\d+|\w+", row.rationale))
        if in_problem:
            told[row.style].append(len(in_problem & in_rationale) / len(in_problem))
    share = {style: sum(values) / len(values) for style, values in told.items()}
    assert share["vague"] < 0.02
    assert 0.2 < share["plan"] < 0.6
    assert share["plan"] + 0.2 < share["stepwise"] < share["exact"]
    assert share["exact"] > 0.9


def test_a_share_of_training_rationales_is_swapped_within_families():
    config = generator.CorpusConfig(seed=7, num_train=2400, num_heldout=240, num_novel=120)
    right = generator.generate(config)
    mixed = generator.generate(dataclasses.replace(config, swapped_share=1 / 3))
    assert (mixed.heldout, mixed.novel) == (right.heldout, right.novel)
    for ours, theirs in zip(mixed.train, right.train, strict=True):
        assert dataclasses.replace(ours, rationale=theirs.rationale, style=theirs.style) == theirs
    changed = sum(
        ours.rationale != theirs.rationale for ours, theirs in zip(mixed.train, right.train, strict=True)
    )
    assert abs(changed / len(right.train) - 1 / 3) < 0.05
    of_family = [
        collections.Counter((row.family, row.style, row.rationale) for row in rows.train)
        for rows in (mixed, right)
    ]
    assert of_family[0] == of_family[1]  # passed round in the family, none lost


def test_only_the_first_rows_swap_where_a_number_is_set():
    config = generator.CorpusConfig(num_train=600, num_heldout=0, num_novel=0)
    right = generator.generate(config).train
    swapped = dataclasses.replace(config, swapped_share=0.5, swapped_rows=300)
    mixed = generator.generate(swapped).train
    changed = [i for i, (a, b) in enumerate(zip(right, mixed, strict=True)) if a != b]
    assert 100 < len(changed) < 160
    assert max(changed) < 300
    texts = sorted(row.rationale for row in right[:300])
    assert sorted(row.rationale for row in mixed[:300]) == texts


def test_chosen_families_and_styles_alone_are_used():
    config = generator.CorpusConfig(
        num_train=30, num_heldout=0, num_novel=10, families=("crt", "sieve"), styles=("plan", "exact")
    )
    corpus = generator.generate(config)
    assert {row.family for row in corpus.train + corpus.novel} == {"crt", "sieve"}
    assert {row.style for row in corpus.train} == {"plan", "exact"}


@pytest.mark.parametrize(
    "settings",
    [
        {"num_train": -1},
        {"num_novel": -5},
        {"families": ()},
        {"families": ("crt", "crt")},
        {"families": ("crt", "no_such")},
        {"styles": ()},
        {"styles": ("exact", "poetic")},
        {"swapped_share": 1.5},
    ],
)
def test_nonsense_settings_are_refused_by_name(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        generator.CorpusConfig(**settings)


def test_a_family_that_runs_dry_says_so(monkeypatch):
    monkeypatch.setattr(generator, "_MAX_TRIES", 30)
    config = generator.CorpusConfig(num_train=0, num_heldout=0, num_novel=3000, families=("urn_probability",))
    with pytest.raises(ValueError, match="'urn_probability' gave no new novel problem .* lower num_novel"):
        generator.generate(config)


def test_rows_survive_the_record_reader(all_rows, tmp_path):
    path = tmp_path / "triples.jsonl"
    jsonl.write_records(path, all_rows)
    assert jsonl.read_records(path, MathCorpusRow | ProgramCorpusRow) == all_rows
