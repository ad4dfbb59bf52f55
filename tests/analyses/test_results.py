"""Facts of finished runs as studies read them: accuracies, patterns, scaling, ablations."""

import dataclasses
import json
import statistics
from xml.etree import ElementTree

import pytest

from promptcot_jax.analyses import ablations, figures, results, scaling
from promptcot_jax.analyses.figures import NoRecords
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptRecord


def write(place, **accuracies):
    jsonl.write_json(place, {"results": {name: {"accuracy": value} for name, value in accuracies.items()}})


def mean(place, *sets):
    return results.mean_accuracy(results.accuracies(str(place)), sets, path=str(place))


def attempts(right):
    """One attempt at each of some problems."""
    said = {"completion": "", "answer": "1", "reference": "1", "finish_reason": "stop", "num_tokens": 1}
    return [
        AttemptRecord(problem_id=str(i), sample=0, correct=ok, status="match" if ok else "mismatch", **said)
        for i, ok in enumerate(right)
    ]


def test_accuracies_come_from_results_workdirs_and_attempts(tmp_path):
    write(tmp_path / "w" / "results.json", aime24=0.5, aime25=0.25, code=None)
    assert results.read(str(tmp_path / "w")) == {"aime24": 0.5, "aime25": 0.25}
    assert results.accuracies(str(tmp_path / "w"))["code"] is None
    assert mean(tmp_path / "w") == 0.375
    assert mean(tmp_path / "w", "aime25") == 0.25
    two_at_a, one_at_b = attempts((True, False)), attempts((True,))
    rows = [dataclasses.replace(one, problem_id="a") for one in two_at_a] + [
        dataclasses.replace(one, problem_id="b") for one in one_at_b
    ]
    jsonl.write_records(tmp_path / "attempts.jsonl", rows)
    assert mean(tmp_path / "attempts.jsonl") == 0.75


def test_what_holds_no_accuracy_is_refused(tmp_path):
    with pytest.raises(WrongUse, match="results.json: no such file; run 'promptcot evaluate'"):
        results.read(str(tmp_path))
    for content in ("[]", '{"results": []}', '{"results": {"a": {"accuracy": null}}}'):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(WrongUse, match="it holds no accuracy"):
            results.read(str(tmp_path))
    write(tmp_path / "results.json", aime24=0.5, code=None)
    with pytest.raises(WrongUse, match="no result of the set 'hmmt'; it has aime24"):
        mean(tmp_path, "hmmt")
    with pytest.raises(WrongUse, match="nothing of the set 'code' could be graded; evaluate it again"):
        mean(tmp_path, "code")


def test_a_pattern_finds_the_numbers_in_paths(tmp_path, monkeypatch):
    for size, seed in ((100, 0), (100, 1), (20, 0)):
        write(tmp_path / f"n{size}_s{seed}" / "results.json", a=0.5)
    write(tmp_path / "nx_s0" / "results.json", a=0.5)
    pattern = str(tmp_path / "n{size}_s{seed}" / "results.json")
    found = [numbers for numbers, _ in results.matches(pattern, ("size", "seed"))]
    assert sorted((one["size"], one["seed"]) for one in found) == [(20, 0), (100, 0), (100, 1)]
    monkeypatch.chdir(tmp_path)
    assert [path for _, path in results.matches("./n20_s{seed}/results.json", ("size", "seed"))] == [
        "n20_s0/results.json"
    ]
    assert results.matches("any", ("size", "seed")) == [({}, "any")]
    with pytest.raises(WrongUse, match=r"no file matches this pattern; \{size\} stands for a number"):
        results.matches("m{size}", ("size", "seed"))


def test_curves_are_means_over_seeds_with_lines_across_for_runs_without_size(tmp_path):
    for seed, accuracy in enumerate((0.4, 0.5, 0.9)):
        write(tmp_path / f"ours_1000_{seed}" / "results.json", a=accuracy, b=accuracy + 0.1)
    write(tmp_path / "base" / "results.json", a=0.3)
    rows = (
        {"curve": "ours", "method": "SFT", "domain": "math", "results": str(tmp_path / "ours_{size}_{seed}")},
        {
            "curve": "base",
            "method": "SFT",
            "domain": "math",
            "results": str(tmp_path / "base"),
            "sets": ("a",),
        },
        {"curve": "ours", "method": "SFT", "domain": "code", "results": str(tmp_path / "base"), "size": 0},
    )
    runs = scaling.read_runs(rows)
    table = scaling.statistics(runs)
    assert [(row["panel"], row["curve"], row["size"], row["seeds"]) for row in table] == [
        ("SFT, math", "ours", 1000, 3),
        ("SFT, math", "base", None, 1),
        ("SFT, code", "ours", 0, 1),
    ]
    assert table[0]["mean"] == pytest.approx(0.65)
    assert table[0]["deviation"] == pytest.approx(statistics.stdev((0.4, 0.5, 0.9)))
    (made,) = scaling.figures_of(runs)
    assert len(made.figure.axes) == 2
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert scaling.read_runs(str(path)) == runs


def test_rows_of_runs_that_cannot_be_used_are_refused(tmp_path):
    write(tmp_path / "results.json", a=0.3)
    path = str(tmp_path / "results.json")
    with pytest.raises(NoRecords, match="RUNS is empty"):
        scaling.read_runs(())
    with pytest.raises(WrongUse, match=r"RUNS\[0\]: field 'curve' of Run is missing"):
        scaling.read_runs(({"results": path},))
    with pytest.raises(WrongUse, match=r"RUNS\[0\]: field 'sise' is not known; a run has curve, results"):
        scaling.read_runs(({"curve": "a", "results": path, "sise": 3},))
    with pytest.raises(WrongUse, match="size must be at least 0, got -4"):
        scaling.read_runs(({"curve": "a", "results": path, "size": -4},))
    twice = scaling.read_runs(({"curve": "a", "results": path, "size": 4},) * 2)
    with pytest.raises(WrongUse, match="both 'a' of size 4 and seed 0; give each run its own seed"):
        scaling.figures_of(twice)
    (tmp_path / "runs.jsonl").write_text("\n")
    with pytest.raises(WrongUse, match="there are no runs in it"):
        scaling.read_runs(str(tmp_path / "runs.jsonl"))


def test_points_of_a_panel_are_means_of_the_same_sets(tmp_path):
    write(tmp_path / "n1" / "results.json", aime=0.5, lcb=0.1)
    write(tmp_path / "n2" / "results.json", aime=0.6, lcb=None)
    write(tmp_path / "n3" / "results.json", aime=0.7)

    def runs(*sizes, **more):
        return scaling.read_runs(
            [{"curve": "ours", "results": str(tmp_path / f"n{i}"), "size": i} | more for i in sizes]
        )

    for sizes in ((1, 2), (2, 1)):
        with pytest.raises(WrongUse, match=r"n2 has no accuracy of the set 'lcb', unlike .*n1.*`sets`"):
            scaling.statistics(runs(*sizes))
    for sizes in ((1, 3), (3, 1)):
        with pytest.raises(
            WrongUse, match=r"n3 has no accuracy of the set 'lcb', unlike .*n1 in the same panel.*`sets`"
        ):
            scaling.statistics(runs(*sizes))
    assert [row["mean"] for row in scaling.statistics(runs(2, 3))] == [0.6, 0.7]
    assert [row["mean"] for row in scaling.statistics(runs(1, 2, 3, sets=("aime",)))] == [0.5, 0.6, 0.7]
    assert len(scaling.statistics([*runs(1, domain="all"), *runs(3, domain="math")])) == 2


def test_names_of_curves_and_arms_may_hold_control_characters(tmp_path):
    write(tmp_path / "a" / "results.json", **{"\x08ets": 0.5})
    run = {"curve": "\x08inomial", "method": "\x08", "results": str(tmp_path / "a"), "size": 1}
    (curves,) = scaling.figures_of(scaling.read_runs((run,)))
    (arms,) = ablations.figures_of({"\x08full": str(tmp_path / "a"), "\x08no EM": str(tmp_path / "a")})
    for made in (curves, arms):
        assert ElementTree.fromstring(figures.encoded(made.figure)["svg"]).tag.endswith("}svg")


def test_sizes_are_written_short():
    assert [scaling._size(size) for size in (0, 500, 24000, 4.8e6)] == ["0", "500", "24k", "4.8M"]


def test_arms_differ_from_the_first_seed_by_seed(tmp_path):
    for arm, values in {"full": (0.5, 0.7), "no_em": (0.4, 0.5)}.items():
        for seed, value in enumerate(values):
            write(tmp_path / f"{arm}_{seed}" / "results.json", a=value, b=value + 0.2, **{arm: 0.1})
    arms = {
        "full": str(tmp_path / "full_{seed}"),
        "no EM": (str(tmp_path / "no_em_0"), str(tmp_path / "no_em_1")),
    }
    (made,) = ablations.figures_of(arms)
    found = {(row["arm"], row["set"]): row for row in made.rows}
    assert [name for _, name in found] == ["a", "b", "mean"] * 2  # those that all arms have
    assert found["full", "mean"]["mean"] == pytest.approx(0.7)
    assert found["full", "a"]["difference"] is None
    row = found["no EM", "mean"]
    assert row["difference"] == pytest.approx((-0.1 - 0.2) / 2)
    assert row["difference_deviation"] == pytest.approx(statistics.stdev((-0.1, -0.2)))
    assert row["pairs"] == 2


def test_a_difference_paired_by_problem_is_drawn_with_its_interval(tmp_path):
    right = {"full": [i % 3 > 0 for i in range(30)], "no_em": [i % 5 == 0 for i in range(30)]}
    for arm, verdicts in right.items():
        write(tmp_path / arm / "results.json", a=sum(verdicts) / 30)
        (tmp_path / arm / "evaluate").mkdir()
        jsonl.write_records(tmp_path / arm / "evaluate" / "attempts.jsonl", attempts(verdicts))
    (made,) = ablations.figures_of({arm: str(tmp_path / arm) for arm in right})
    row = made.rows[1]
    assert (row["arm"], row["within_noise"]) == ("no_em", False)
    assert row["paired_difference"] == pytest.approx(row["difference"])
    (line,) = made.figure.axes[1].containers[1].lines[2]
    (ends,) = line.get_segments()
    assert ends[:, 0] == pytest.approx([row["interval_low"], row["interval_high"]])
    assert "paired by problem and seed" in made.caption


def test_arms_with_further_sets_are_not_paired_by_problem(tmp_path):
    """Attempts do not say which set they are of, so those of other sets would count."""
    right = [i % 3 > 0 for i in range(12)]
    for arm, sets in {"full": ("a",), "no EM": ("a", "b"), "no CS": ("a",), "z": ("a", "b")}.items():
        write(tmp_path / arm / "results.json", **dict.fromkeys(sets, 0.5))
        (tmp_path / arm / "evaluate").mkdir()
        jsonl.write_records(tmp_path / arm / "evaluate" / "attempts.jsonl", attempts(right))

    def paired(*arms):
        (made,) = ablations.figures_of({arm: str(tmp_path / arm) for arm in arms})
        return made.caption, [row["paired_difference"] for row in made.rows]

    caption, found = paired("no EM", "full", "no CS")
    assert found == [None, None, None]
    assert "seed by seed" in caption
    caption, found = paired("full", "no EM", "no CS")
    assert found == [None, None, 0.0]
    assert "seed by seed" in caption
    assert "paired by problem" in paired("full", "no CS")[0]
    assert paired("no EM", "z")[1] == [None] * 6  # two sets and their mean


def test_files_are_paired_with_runs_of_a_pattern_in_their_order(tmp_path):
    for seed in (1, 2, 3):
        write(tmp_path / f"f_{seed}" / "results.json", a=seed / 10)
        write(tmp_path / f"g_{seed}" / "results.json", a=seed / 10 + 0.05)
    pattern, files = str(tmp_path / "f_{seed}"), tuple(str(tmp_path / f"g_{i}") for i in (1, 2, 3))
    for arms in ({"f": pattern, "g": files}, {"g": files, "f": pattern}):
        (made,) = ablations.figures_of(arms)
        row = made.rows[1]
        assert abs(row["difference"]) == pytest.approx(0.05)
        assert (row["difference_deviation"], row["pairs"]) == (pytest.approx(0), 3)
        assert "in common" not in made.caption
    with pytest.raises(
        WrongUse, match=r"'f' has 3 runs and 'g' has 2, and only 'f' has \{seed\} in its path"
    ):
        ablations.figures_of({"f": pattern, "g": files[:2]})
    with pytest.raises(WrongUse, match=r"some have \{seed\} and some have not"):
        ablations.figures_of({"f": (pattern, files[0])})


def test_patterns_are_paired_over_the_seeds_that_both_have(tmp_path):
    for arm, seeds in {"f": (1, 2, 3), "g": (2, 3, 4), "h": (7,)}.items():
        for seed in seeds:
            write(tmp_path / f"{arm}_{seed}" / "results.json", a=seed / 10 + 0.05 * (arm == "g"))
    f, g, h = (str(tmp_path / f"{arm}_{{seed}}") for arm in "fgh")
    (made,) = ablations.figures_of({"f": f, "g": g})
    assert made.rows[1]["difference"] == pytest.approx(0.05)
    assert made.rows[1]["pairs"] == 2
    assert "'g' and 'f' have only 2 seeds in common" in made.caption
    with pytest.raises(WrongUse, match="'f' and 'h' have no seed in common"):
        ablations.figures_of({"f": f, "h": h})


def test_arms_that_cannot_be_compared_are_refused(tmp_path):
    write(tmp_path / "a" / "results.json", one=0.5)
    write(tmp_path / "b" / "results.json", other=0.5)
    with pytest.raises(NoRecords, match="ARMS is empty"):
        ablations.figures_of({})
    with pytest.raises(WrongUse, match="no set is in all results; the first has one"):
        ablations.figures_of({"a": str(tmp_path / "a"), "b": str(tmp_path / "b")})
    with pytest.raises(WrongUse, match="the arm 'a' has no results"):
        ablations.figures_of({"a": ()})
