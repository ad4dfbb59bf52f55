"""Facts of the study of EM: its numbers by hand, its runs, its panels."""

import csv
import statistics

import pytest
from etils import epath

from promptcot_jax.analyses import em_study, figures
from promptcot_jax.analyses.figures import NoRecords
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse


def rows():
    values = {
        ("e_step", -1): (0.30, 0.32),
        ("e_step", 0): (0.20, 0.26),
        ("fixed", 0): (0.28, 0.30),
    }
    return [
        {
            "variant": variant,
            "seed": seed,
            "round": i,
            "theta_tokens_seen": 100 * (i + 1) + seed,
            "nll_x_given_q": nll,
        }
        | ({"nll_direct": 0.5 + seed / 10} if i == -1 else {})
        for (variant, i), nlls in values.items()
        for seed, nll in enumerate(nlls)
    ]


def write_seeds(place, seeds=(0, 1)):
    """A workdir as `run.seeds` leaves it."""
    for seed in seeds:
        em = place / f"seed_{seed}" / "em"
        own = [row for row in rows() if row["seed"] == seed]
        jsonl.write_records(em / "nll.jsonl", [row for row in own if row["variant"] == "e_step"])
        others = [row for row in own if row["variant"] == "fixed"]
        jsonl.write_records(em / "fixed" / "nll.jsonl", others)
        measured = {"round": 0, "reward_mean": -90.0 + 4 * seed, "copy_rate": 0.1}
        jsonl.write_records(em / "diagnostics.jsonl", [{"round": -1}, measured])


def test_means_and_deviations_are_over_seeds_and_cold_starts_are_flat():
    numbers = em_study.nll_statistics(em_study.with_flat_variants(rows()))
    found = {(row["variant"], row["round"]): row for row in numbers}
    assert list(found) == [
        ("e_step", -1),
        ("e_step", 0),
        ("fixed", 0),
        ("cold_start", -1),
        ("cold_start_direct", -1),
    ]
    row = found["e_step", 0]
    assert row["mean"] == pytest.approx(0.23)
    assert row["deviation"] == pytest.approx(statistics.stdev([0.20, 0.26]))
    assert (row["x"], row["seeds"]) == (0.0, 2)
    assert found["cold_start", -1]["mean"] == pytest.approx(0.31)
    assert found["cold_start_direct", -1]["mean"] == pytest.approx(0.55)
    assert found["cold_start", -1]["x"] is None


def test_the_files_are_a_function_of_the_rows(tmp_path):
    write_seeds(tmp_path)
    runs = [run for seed in (0, 1) for run in em_study.runs_of(epath.Path(tmp_path) / f"seed_{seed}")]
    (one,), (two,) = em_study.nll_figures(runs), em_study.nll_figures(runs)
    files = one.files()
    assert files == two.files()
    assert files["png"].startswith(b"\x89PNG")
    assert b"<svg" in files["svg"]
    table = list(csv.DictReader(files["csv"].decode().splitlines()))
    assert [float(row["mean"]) for row in table] == [row["mean"] for row in one.rows]


def test_unknown_variants_and_missing_figures_are_refused():
    with pytest.raises(WrongUse, match="'other'"):
        em_study.nll_statistics([{"variant": "other", "seed": 0, "round": 0, "nll_x_given_q": 1.0}])
    with pytest.raises(WrongUse, match="nll_bound"):
        em_study.nll_statistics(rows(), metric="nll_bound")


def test_seeds_of_a_workdir_are_found_with_their_other_arms(tmp_path):
    write_seeds(tmp_path)
    made = {one.name: one for one in em_study.study([tmp_path])}
    assert list(made) == ["em_study_nll_x_given_q", "em_study_rounds"]  # no row has the bound
    means = {(row["variant"], row["round"]): row["mean"] for row in made["em_study_nll_x_given_q"].rows}
    assert means["fixed", 0] == pytest.approx(0.29)
    assert "2 seeds" in made["em_study_nll_x_given_q"].caption
    reward = made["em_study_rounds"].rows[0]
    assert (reward["figure"], reward["mean"], reward["seeds"]) == ("reward_mean", -88.0, 2)
    assert reward["deviation"] == pytest.approx(statistics.stdev([-90.0, -86.0]))


def test_the_curve_within_rounds_goes_by_shares_of_each(tmp_path):
    write_seeds(tmp_path)
    for seed in (0, 1):
        for arm, nlls in (("", [0.5, 0.4 + 0.1 * seed]), ("fixed", [0.6])):
            training = tmp_path / f"seed_{seed}" / "em" / arm / "round_000" / "theta_training"
            logged = [{"step": 8 * i, "loss": 1.0} | {"eval/nll": nll} for i, nll in enumerate(nlls, 1)]
            jsonl.write_records(training / "metrics.jsonl", [{"step": 4, "loss": 2.0}, *logged])
    made = {one.name: one for one in em_study.study([tmp_path])}
    rows = made["em_study_within_rounds"].rows
    assert all(row["seeds"] == 2 for row in rows)
    assert {(row["variant"], row["x"]): row["mean"] for row in rows} == pytest.approx(
        {
            ("e_step", -0.5): 0.5,
            ("e_step", -0.25): 0.475,  # between two evaluations
            ("e_step", 0.0): 0.45,
            ("fixed", 0.0): 0.6,
        }
    )


def test_a_single_run_has_no_bands_and_says_so(tmp_path):
    write_seeds(tmp_path, (0,))
    (made, _) = em_study.study([tmp_path / "seed_0"])
    assert "one seed" in made.caption
    assert {row["deviation"] for row in made.rows} == {0.0}


def stopped_early(place):
    """Two runs whose figures fall in each round, the second of which is higher and went on for longer."""
    for seed, num_rounds in enumerate((2, 4)):
        em = place / f"seed_{seed}" / "em"
        falls = [0.3 + 0.2 * seed - 0.02 * i for i in range(num_rounds)]
        jsonl.write_records(
            em / "nll.jsonl",
            [
                {"variant": "e_step", "seed": seed, "round": i - 1, "nll_x_given_q": nll}
                for i, nll in enumerate(falls)
            ],
        )
        measured = [{"round": i, "reward_mean": nll} for i, nll in enumerate(falls)]
        jsonl.write_records(em / "diagnostics.jsonl", measured)


def test_a_curve_ends_with_the_last_round_that_all_its_seeds_have(tmp_path):
    stopped_early(tmp_path)
    nll, rounds = em_study.study([tmp_path])
    for made, one, places in ((nll, "seed", [-1, 0]), (rounds, "run", [0, 1])):
        curve = made.figure.axes[0].get_lines()[0]
        assert list(curve.get_xdata()) == places
        assert list(curve.get_ydata()) == pytest.approx([0.4, 0.38])
        assert f"over 2 {one}s. Some stopped earlier" in made.caption
        shown = [row for row in made.rows if row["variant"] == "e_step"]
        assert [(row["seeds"], row["of_seeds"]) for row in shown] == [(2, 2), (2, 2), (1, 2), (1, 2)]


def test_seeds_that_differ_in_every_round_have_no_curve():
    rows = [{"variant": "e_step", "seed": seed, "round": seed, "nll_x_given_q": 0.3} for seed in range(2)]
    (axes,) = em_study.draw_nll(em_study.nll_statistics(rows)).axes
    assert not axes.get_lines()


def test_a_run_of_the_cold_start_alone_is_drawn():
    row = {"variant": "e_step", "seed": 0, "round": -1, "nll_x_given_q": 0.3, "nll_direct": 0.7}
    figure = em_study.draw_nll(em_study.nll_statistics(em_study.with_flat_variants([row])))
    assert [len(axes.get_lines()) for axes in figure.axes] == [3, 1]
    assert figures.encoded(figure)


def test_curves_of_em_stand_by_themselves_beside_flat_lines_that_are_far():
    shown = [{"variant": "e_step", "round": i, "x": i, "mean": 0.3 - i / 20} for i in range(3)]
    shown += [{"variant": "cold_start_direct", "round": -1, "x": None, "mean": 0.95}]
    rows = [row | {"deviation": 0.01, "seeds": 2, "of_seeds": 2} for row in shown]
    every, of_em = em_study.draw_nll(rows).axes
    assert every.get_ylim()[1] > 0.95
    assert 0.1 < of_em.get_ylim()[0] < of_em.get_ylim()[1] < 0.4
    assert [len(axes.get_lines()) for axes in (every, of_em)] == [2, 1]


def test_runs_that_cannot_be_told_apart_or_are_not_there_are_refused(tmp_path):
    with pytest.raises(NoRecords, match="seed_N/em/nll.jsonl"):
        em_study.study([tmp_path])
    write_seeds(tmp_path / "one")
    write_seeds(tmp_path / "two")
    with pytest.raises(WrongUse, match="with seed 0; bands are over different seeds"):
        em_study.study([tmp_path / "one", tmp_path / "two"])
    (tmp_path / "three" / "seed_0" / "em").mkdir(parents=True)
    with pytest.raises(WrongUse, match="has seed_0, but none with em/nll.jsonl"):
        em_study.study([tmp_path / "three"])
    jsonl.write_records(
        tmp_path / "four" / "em" / "nll.jsonl", [{"variant": "e_step", "round": 0, "nll_bound": 1.0}]
    )
    with pytest.raises(WrongUse, match=r"nll.jsonl:1: field 'seed' is missing"):
        em_study.study([tmp_path / "four"])


def test_only_directories_of_seeds_are_seeds(tmp_path):
    jsonl.write_records(tmp_path / "em" / "nll.jsonl", [{"round": -1}])
    (tmp_path / "seed_problems.jsonl").write_text("{}")
    (tmp_path / "seed_3").write_text("")
    assert [run.parent.name for run in em_study._runs(epath.Path(tmp_path))] == [tmp_path.name]
