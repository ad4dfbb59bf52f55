"""Overlaps with benchmarks: what counts as a word, where thirteen are found, and brute force beside it."""

import collections
import random

import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import decontamination
from promptcot_jax.data.decontamination import Index, Match, Overlap, Source, decontaminate
from tests import toys

# Twenty words, each its own.
BENCHMARK = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliett "
    "kilo lima mike november oscar papa quebec romeo sierra tango"
)
PROBLEM = r"Let $x,y$ be reals with $\dfrac{x+1}{2} = \left(y - 3\right)^2$. Find the value of $x_1 + 2y\,z$."


def part(first: int, last: int) -> str:
    """Words `first` to `last - 1` of the benchmark."""
    return " ".join(BENCHMARK.split()[first:last])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x+1", "x + 1"),
        ("$n$", "n"),
        (r"\(n\)", "n"),
        (r"a\,b\;c\!\:d\ e", "a b c d e"),
        (r"a\quad b\qquad c~d", "a b c d"),
        (r"\left( a \right) \leftarrow b", r"(a) \leftarrow b"),
        (r"\dfrac{1}{2} + \tfrac 34", r"\frac{1}{2}+\frac 34"),
        (r"5\text{ cm} \mathrm{d}x \Bigl[ y \Bigr]", "5 cm d x [y]"),
        ("2x^{10}_1", "2 x 10 1"),
        ("Äpfel und ÖL", "äpfel UND öl"),
        ("e\u0301tude", "\u00e9tude"),  # composed and not
        ("\uff58\u00b2 = \uff14", "x2 = 4"),  # full-width letters and digits, a raised 2
        ("Janet’s\tducks\n", "janet's ducks"),
        ("1,000", "1 000"),
    ],
)
def test_spelling_that_does_not_matter(one: str, other: str):
    assert decontamination.words(one) == decontamination.words(other)
    assert decontamination.words(one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\frac12", "12"),
        (r"\pi r", "r"),
        (r"\quadratic", ""),
        (r"\leftarrow", "arrow"),
        ("quad", ""),
        ("12 3", "1 23"),
        ("ab", "a b"),
    ],
)
def test_spelling_that_matters(one: str, other: str):
    assert decontamination.words(one) != decontamination.words(other)


def test_ideographs_are_a_word_each():
    assert decontamination.words("求x的值。") == ["求", "x", "的", "值"]


@pytest.mark.parametrize(
    "disguise",
    [
        str.upper,
        lambda text: text.replace(" ", "\n  "),
        lambda text: text.replace(r"\,", ""),
        lambda text: text.replace(r"\,", r"\quad "),
        lambda text: text.replace("$", ""),
        lambda text: text.replace(r"\left", "").replace(r"\right", "").replace("dfrac", "frac"),
        lambda text: f"Some words before. {text} And after.",
    ],
)
def test_a_planted_problem_is_found_in_disguise(disguise):
    [match] = decontaminate([disguise(PROBLEM)], {"b": ["nothing of the kind", PROBLEM]})
    assert (match.index, match.source) == (0, "b:1")
    assert match.ngram == "let x y be reals with frac x 1 2 y 3 2"


@pytest.mark.parametrize("first", [0, 4, 7])  # start, middle and end of the benchmark's text
@pytest.mark.parametrize(("before", "after"), [("", "z"), ("y", "z"), ("y", "")])
def test_thirteen_words_are_found_and_twelve_are_not(first: int, before: str, after: str):
    found = decontaminate([f"{before} {part(first, first + 13)} {after}"], [BENCHMARK])
    assert found == [Match(0, "0", part(first, first + 13))]
    assert decontaminate([f"{before} {part(first, first + 12)} {after}"], [BENCHMARK]) == []


def test_another_number_of_words_may_be_set():
    text = f"y {part(3, 8)} z"
    assert decontaminate([text], [BENCHMARK], n=5) == [Match(0, "0", part(3, 8))]
    assert decontaminate([text], [BENCHMARK], n=6) == []
    assert decontaminate(["so tango"], [BENCHMARK], n=1) == [Match(0, "0", "tango")]


def test_the_words_must_stand_together():
    assert decontaminate([f"{part(0, 12)} and {part(12, 20)}"], [BENCHMARK]) == []


def test_no_match_goes_from_one_text_into_the_next():
    halves = [part(0, 10), part(10, 20)]
    assert decontaminate(halves, [BENCHMARK]) == []
    assert decontaminate([BENCHMARK], [f"{part(0, 10)} y {part(11, 13)}", part(13, 17)]) == []
    assert decontaminate(["one two three four five six"], ["one two three", "four five six"]) == []


def test_a_benchmark_text_of_fewer_words_is_found_as_a_whole():
    for size in (5, 12):
        short = part(2, 2 + size)
        assert decontaminate([f"y {short} z"], [short]) == [Match(0, "0", short)]
        assert decontaminate([f"y {part(2, 1 + size)} z"], [short]) == []


def test_a_very_short_benchmark_text_must_be_all_of_the_text():
    texts = ["Solve for x:", "solve FOR $x$", "Now solve for x", "Solve for x again"]
    found = decontaminate(texts, {"b": ["Solve for $x$."]})
    assert found == [Match(0, "b:0", "solve for x"), Match(1, "b:0", "solve for x")]


def test_every_benchmark_row_that_overlaps_is_named_with_the_first_common_words():
    against = {"one": [f"u {BENCHMARK}", "other words"], "two": [part(1, 16)]}
    assert decontaminate(["clean", BENCHMARK], against) == [
        Match(1, "one:0", part(0, 13)),
        Match(1, "two:0", part(1, 14)),
    ]


def test_the_exact_rule_wants_the_same_characters():
    texts = ["  Solve for x.\n", "solve for x.", "Solve for  x.", f"y {BENCHMARK}", BENCHMARK]
    found = decontaminate(texts, {"b": ["Solve for x.", BENCHMARK]}, rule="exact")
    assert found == [Match(0, "b:0", "Solve for x."), Match(4, "b:1", BENCHMARK)]


def shares(text: str, benchmark: str, n: int) -> bool:
    """The rule, word for word as it is stated."""
    own, other = decontamination.words(text), decontamination.words(benchmark)

    def runs(sequence: list[str], size: int) -> set[tuple[str, ...]]:
        return {tuple(sequence[i : i + size]) for i in range(len(sequence) - size + 1)}

    if len(other) < min(n, 5):
        return own == other
    size = min(n, len(other))
    return bool(runs(own, size) & runs(other, size))


def random_texts(draw: random.Random, count: int, longest: int) -> list[str]:
    """Of few words, so that they share many; some of a text's words no benchmark has."""
    return [
        " ".join(draw.choices("abcdef", (9, 9, 9, 1, 1, 1), k=draw.randint(1, longest))) for _ in range(count)
    ]


def assert_equals_brute_force(n: int, seed: int, size: int) -> int:
    draw = random.Random(seed)
    benchmark = [text.replace("f", "d") for text in random_texts(draw, size, 2 * n)]
    texts = random_texts(draw, size, 4 * n)
    found = decontaminate(texts, benchmark, n=n)
    expected = [
        (i, str(j)) for i, text in enumerate(texts) for j, of in enumerate(benchmark) if shares(text, of, n)
    ]
    assert [(match.index, match.source) for match in found] == expected
    for match in found:
        assert f" {match.ngram} " in f" {texts[match.index]} "
        assert f" {match.ngram} " in f" {benchmark[int(match.source)]} "
    return len(expected)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 13])
def test_random_texts_overlap_where_brute_force_says_so(n: int):
    total = sum(assert_equals_brute_force(n, seed, size=40) for seed in range(5))
    assert total > 20


def test_colliding_hashes_are_no_matches(monkeypatch: pytest.MonkeyPatch):
    runs_of = decontamination._run_hashes
    monkeypatch.setattr(
        decontamination, "_run_hashes", lambda words, length: [0 for _ in runs_of(words, length)]
    )
    for n in (3, 7):
        assert assert_equals_brute_force(n, seed=1, size=40)


def test_texts_without_words_match_nothing():
    assert decontaminate(["", " \n", "?!", "\\"], [BENCHMARK, "two words"]) == []
    assert decontaminate([], [BENCHMARK]) == []


def test_an_index_names_benchmark_and_row():
    index = Index([(Source("aime", "II-7"), BENCHMARK), (Source("aime", "II-7"), "solve for x")])
    assert index.overlaps(f"y {part(0, 14)}") == [Overlap(Source("aime", "II-7"), part(0, 13))]
    assert str(index.overlaps("Solve for x")[0].source) == "aime:II-7"
    assert index.overlaps("y") == []


def test_the_texts_of_one_record_are_compared_apart():
    index = Index([(Source("b", "0"), BENCHMARK), (Source("b", "1"), "solve for x")])
    records = [(part(0, 10), part(10, 20)), ("y", "Solve for x", BENCHMARK), ()]
    found = list(decontamination.with_overlaps(records, index, lambda texts: texts))
    assert [record for record, _ in found] == records
    assert [[overlap.source.row_id for overlap in overlaps] for _, overlaps in found] == [[], ["1", "0"], []]


def test_keep_clean_passes_clean_records_on_in_order_and_counts_the_others():
    records = [{"problem": text, "id": i} for i, text in enumerate(["a", BENCHMARK, "b", BENCHMARK.upper()])]
    counts = collections.Counter({"dropped_contaminated": 1})
    index = Index([(Source("b", "0"), BENCHMARK)])
    clean = list(decontamination.keep_clean(iter(records), index, lambda record: record["problem"], counts))
    assert clean == [records[0], records[2]]
    assert clean[0] is records[0]
    assert counts == {"dropped_contaminated": 3}


def test_records_are_read_one_at_a_time():
    read = []
    texts = (read.append(i) or "clean" for i in range(100))
    clean = decontamination.keep_clean(
        texts, Index([(Source("b", "0"), BENCHMARK)]), str, collections.Counter()
    )
    assert next(clean) == "clean"
    assert len(read) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((["x"], [BENCHMARK], 0), "n, .* must be at least 1, got 0"),
        (("x", [BENCHMARK]), "texts must be a list of texts"),
        ((["x"], BENCHMARK), "against.* must be a list of texts"),
        ((["x"], {"b": BENCHMARK}), r"against\['b'\] must be a list of texts"),
        ((["x"], {}), "no benchmark text to compare with"),
        ((["x"], {"a": ["x"], "b": []}), "benchmark 'b' has no texts"),
        ((["x"], {"b": ["x", " $$ "]}), r"benchmark row b:1: the text ' \$\$ ' has no words"),
    ],
)
def test_wrong_use_says_what_and_how_to_mend_it(arguments, says: str):
    with pytest.raises(WrongUse, match=says):
        decontaminate(*arguments)


@pytest.mark.skipif(not (toys.SHARED / "data" / "eval").exists(), reason="no shared data here")
def test_every_benchmark_row_is_found_in_itself_and_brute_force_agrees_on_real_texts():
    from promptcot_jax.core import jsonl

    texts = {}
    for name in ("eval/aime2024", "eval/math500", "train/math_train"):
        path = toys.SHARED / "data" / f"{name}.jsonl"
        texts[name] = [row["problem"] for _, _, row in jsonl.iter_rows(path)]
    benchmark = texts["eval/math500"] + texts["eval/aime2024"]
    own = {(match.index, int(match.source)) for match in decontaminate(benchmark, benchmark)}
    assert {(i, i) for i in range(len(benchmark))} <= own
    train = texts["train/math_train"][:1000]
    found = {(match.index, int(match.source)) for match in decontaminate(train, benchmark)}
    grams = [
        {tuple(own[i : i + 13]) for i in range(len(own) - 12)}
        for own in map(decontamination.words, benchmark)
    ]
    for i, own in enumerate(map(decontamination.words, train)):
        runs = {tuple(own[k : k + 13]) for k in range(len(own) - 12)}
        long = {j for j in range(len(benchmark)) if grams[j] & runs}
        assert long == {j for k, j in found if k == i and grams[j]}


def test_a_run_that_a_benchmark_repeats_costs_its_texts_no_more():
    """Equal words: 288 places of one run of thirteen, of which the first is as good as all."""
    index = Index([(Source("b", str(i)), " ".join(["na"] * 300)) for i in range(3)])
    assert sum(map(len, index._ngrams.values())) == 3
    assert [overlap.source for overlap in index.overlaps("so " + "na " * 20)] == [
        Source("b", str(i)) for i in range(3)
    ]
    assert not index.overlaps("na " * 12 + "so " + "na " * 12)
