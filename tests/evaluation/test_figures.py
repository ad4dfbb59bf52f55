"""Facts of the study's figure: its numbers by hand, its files, its flat variants."""

import csv
import statistics

import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.evaluation import figures


def rows():
    values = {
        ("with_e_step", -1): (0.30, 0.32),
        ("with_e_step", 0): (0.20, 0.26),
        ("without_e_step", 0): (0.28, 0.30),
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


def test_means_and_deviations_are_over_seeds_and_cold_starts_are_flat(tmp_path):
    numbers = figures.nll_study_figure(
        figures.with_flat_variants(rows()), tmp_path / "docs" / "study", x="theta_tokens_seen"
    )
    found = {(row["variant"], row["round"]): row for row in numbers}
    assert list(found) == [
        ("with_e_step", -1),
        ("with_e_step", 0),
        ("without_e_step", 0),
        ("cold_start", -1),
        ("cold_start_direct", -1),
    ]
    row = found["with_e_step", 0]
    assert row["mean"] == pytest.approx(0.23)
    assert row["deviation"] == pytest.approx(statistics.stdev([0.20, 0.26]))
    assert (row["x"], row["seeds"]) == (100.5, 2)
    assert found["cold_start", -1]["mean"] == pytest.approx(0.31)
    assert found["cold_start_direct", -1]["mean"] == pytest.approx(0.55)
    assert found["cold_start", -1]["x"] is None
    with (tmp_path / "docs" / "study.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["mean"]) for row in table] == [row["mean"] for row in numbers]


def test_the_drawing_is_a_function_of_its_rows(tmp_path):
    for name in ("one", "two"):
        figures.nll_study_figure(rows(), tmp_path / name)
    for suffix in ("svg", "png", "csv"):
        first = (tmp_path / f"one.{suffix}").read_bytes()
        assert first == (tmp_path / f"two.{suffix}").read_bytes()
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "one.svg").read_bytes()


def test_unknown_variants_and_missing_figures_are_refused(tmp_path):
    with pytest.raises(WrongUse, match="'other'"):
        figures.nll_statistics([{"variant": "other", "seed": 0, "round": 0, "nll_x_given_q": 1.0}])
    with pytest.raises(WrongUse, match="nll_bound"):
        figures.nll_statistics(rows(), metric="nll_bound")
