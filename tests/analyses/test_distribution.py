"""Facts of distribution: MDS gives distances back, overlap and coverage against a count by hand."""

import numpy as np
import pytest

from promptcot_jax.analyses import distribution, figures
from promptcot_jax.analyses.distribution import DistributionConfig
from promptcot_jax.analyses.figures import NoRecords
from promptcot_jax.analyses.problem_sets import SetRow


def pairwise(points):
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def cloud(seed, size, centre):
    return unit(np.random.default_rng(seed).normal(size=(size, 5)) + np.array(centre))


@pytest.mark.parametrize("n", [2, 3, 7])
def test_points_of_a_plane_are_found_again(n):
    points = np.random.default_rng(n).normal(size=(n, 2))
    for found in (distribution.classical_mds(pairwise(points)), distribution.mds(pairwise(points))[0]):
        np.testing.assert_allclose(pairwise(found), pairwise(points), atol=1e-9)
        assert (found[np.abs(found).argmax(axis=0), range(2)] >= -1e-12).all()  # the sign is settled


def test_mds_of_what_no_plane_holds_is_better_than_where_it_began():
    distances = pairwise(np.random.default_rng(3).normal(size=(8, 5)))
    begun = distribution.stress(distribution.classical_mds(distances), distances)
    points, stress = distribution.mds(distances)
    assert stress < 0.95 * begun
    assert stress == pytest.approx(
        np.sqrt(((pairwise(points) - distances) ** 2).sum() / (distances**2).sum())
    )


def test_distances_are_one_minus_the_cosine_of_means():
    a, b = unit(np.array([[1.0, 0], [0, 1.0]])), unit(np.array([[1.0, 0]]))
    np.testing.assert_allclose(
        distribution.mean_distances([a, b]), [[0, 1 - np.sqrt(0.5)], [1 - np.sqrt(0.5), 0]], atol=1e-7
    )


def by_hand(a, b):
    """Overlap and coverage by loops over all problems."""
    shares = []
    for i in range(len(a)):
        own = max(a[i] @ a[j] for j in range(len(a)) if j != i)
        other = max(a[i] @ b[j] for j in range(len(b)))
        shares.append(0.5 if abs(own - other) < 1e-6 else float(other > own))
    chance = len(b) / (len(a) - 1 + len(b))
    own_distances = [min(1 - b[i] @ b[j] for j in range(len(b)) if j != i) for i in range(len(b))]
    radius = np.median(own_distances)
    covered = np.mean([min(1 - b[i] @ a[j] for j in range(len(a))) <= radius + 1e-6 for i in range(len(b))])
    return np.mean(shares) / chance, covered


@pytest.mark.parametrize("centre", [(0, 0, 0, 0, 0), (0.7, 0, 0, 0, 0)])
def test_overlap_and_coverage_are_those_of_a_count_by_hand(centre, monkeypatch):
    monkeypatch.setattr(distribution, "_BLOCK", 7)  # several blocks, the last one short
    a, b = cloud(0, 30, (0,) * 5), cloud(1, 20, centre)
    b[0] = a[0]  # a problem of both
    found = distribution._compared(a, b)
    assert (found["overlap"], found["coverage_of_b"]) == pytest.approx(by_hand(a, b))


def test_sets_of_one_source_overlap_as_by_chance_and_apart_ones_do_not():
    mixed = distribution._compared(cloud(0, 400, (0,) * 5), cloud(1, 400, (0,) * 5))
    apart = distribution._compared(cloud(0, 100, (9, 0, 0, 0, 0)), cloud(1, 100, (0, 0, 9, 0, 0)))
    assert mixed["overlap"] == pytest.approx(1, abs=0.1)
    assert mixed["coverage_of_b"] == pytest.approx(0.5, abs=0.1)
    assert (apart["overlap"], apart["coverage_of_b"]) == (0, 0)


def test_a_single_problem_has_no_overlap():
    one, many = cloud(0, 1, (0,) * 5), cloud(1, 20, (0,) * 5)
    found = distribution._compared(one, many)
    assert [found[field] for field in ("overlap", "nearest_in_b", "by_chance")] == [None] * 3
    assert found["coverage_of_b"] is not None
    back = distribution._compared(many, one)
    assert back["coverage_of_b"] is None
    assert back["overlap"] is not None


def problems(domain, prefix, count):
    return [SetRow(id=f"{prefix}{i}", domain=domain, problem=f"{prefix} number {i}") for i in range(count)]


def encode(texts):
    return unit(np.array([[len(text), text.count("1") + 1, ord(text[0])] for text in texts], np.float64))


def test_domains_stay_apart_and_numbers_name_the_encoder():
    sets = {
        "a": problems("math", "sum", 9) + problems("code", "list", 5),
        "b": problems("math", "product", 12),
        "c": problems("code", "tree", 4),
    }
    config = DistributionConfig(encoder="toy", problems_per_set=6)
    made = {one.name: one for one in distribution.figures_of(sets, config, lambda texts: encode)}
    assert list(made) == [
        "distribution_math",
        "distribution_math_overlap",
        "distribution_code",
        "distribution_code_overlap",
    ]
    rows = made["distribution_math"].rows
    assert [(row["set"], row["problems"], row["encoder"]) for row in rows] == [
        ("a", 6, "toy"),
        ("b", 6, "toy"),
    ]
    places = np.array([[row["x"], row["y"]] for row in rows])
    assert pairwise(places)[0, 1] == pytest.approx(rows[0]["distance to b"])
    pairs = [(row["a"], row["b"]) for row in made["distribution_code_overlap"].rows]
    assert pairs == [("a", "c"), ("c", "a")]
    assert "toy" in made["distribution_math"].caption


def test_sets_of_one_problem_each_are_drawn_without_numbers():
    sets = {"a": problems("math", "sum", 1), "b": problems("math", "product", 1)}
    _, made = distribution.figures_of(sets, DistributionConfig(), lambda texts: encode)
    assert {row["overlap"] for row in made.rows} == {None}
    assert "Neither is of a single problem" in made.caption
    assert figures.encoded(made.figure)


def test_a_single_set_has_nothing_to_lie_to():
    with pytest.raises(NoRecords, match="fewer than two sets"):
        distribution.figures_of(
            {"a": problems("math", "sum", 9), "b": problems("code", "list", 9)},
            DistributionConfig(),
            lambda texts: encode,
        )
