"""Where sets of problems lie to each other (paper section 4.4): mean embeddings, distances, a map.

As in the paper: a vector per problem (all-MiniLM-L6-v2 there; ENCODER here), the mean per set, d = 1 - cos,
MDS to two dimensions, mathematics and code apart. The paper does not say which MDS: here metric MDS that
begins at the classical solution, so that no random start decides the picture.

Two means can be far apart while each set lies within the other, and close while the sets do not touch. So the
problems themselves are compared too:

* overlap: the share of A's problems whose nearest neighbour among all others of A and B is one of B, over
  what chance gives, |B| / (|A| - 1 + |B|). 1: mixed; 0: apart; above 1: A lies where B is dense. A tie counts
  half. None where A is a single problem, whose nearest neighbour can only be one of B.
* coverage: the share of B's problems within a radius of some problem of A, the radius being the median
  distance of B's problems to their nearest neighbour in B. B itself would cover half of itself.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure

from promptcot_jax.analyses import figures
from promptcot_jax.analyses.figures import AnalysisResult, NoRecords
from promptcot_jax.analyses.problem_sets import DOMAINS, ProblemSets, of_domain
from promptcot_jax.core.settings import NonNegativeInt, Range, settings

Encode = Callable[[Sequence[str]], Float[np.ndarray, "texts D"]]  # unit vectors
Vectors = Float[np.ndarray, "_ D"]

_TIE = 1e-6  # of cosines of single-precision vectors
_BLOCK = 1024  # rows of a matrix of cosines that are computed at once
_STEPS = 500  # of MDS at most


@settings
class DistributionConfig:
    """Which problems are compared, and by what."""

    # "hashed_tfidf" (words), "minilm" (meaning, as in the paper), or a directory of a model like it
    encoder: str = "hashed_tfidf"
    # of each set and domain, drawn at random beyond that number
    problems_per_set: Annotated[int, Range(at_least=2)] = 1000
    seed: NonNegativeInt = 0


def figures_of(
    sets: ProblemSets, config: DistributionConfig, make_encoder: Callable[[Sequence[str]], Encode]
) -> list[AnalysisResult]:
    """A map and the overlaps for each domain of which at least two sets have problems.

    Args:
        make_encoder: an encoder of texts like those given.

    Raises:
        NoRecords: there is no such domain.
    """
    comparable = {domain: of_domain(sets, domain) for domain in DOMAINS}
    comparable = {domain: own for domain, own in comparable.items() if len(own) > 1}
    if not comparable:
        raise NoRecords(
            f"fewer than two sets of a domain to compare (there {'is' if len(sets) == 1 else 'are'} "
            f"{', '.join(sets) or 'none'}); name them: "
            f"--gin.SETS=\"{{'one': 'one.jsonl', 'other': 'other.jsonl'}}\"."
        )
    texts = {
        domain: {name: _sampled([row.problem for row in rows], config) for name, rows in own.items()}
        for domain, own in comparable.items()
    }
    encode = make_encoder([text for own in texts.values() for some in own.values() for text in some])
    results = []
    for domain, own in texts.items():
        vectors = {name: np.asarray(encode(some), np.float32) for name, some in own.items()}
        results += [_map(domain, vectors, config.encoder), _overlaps(domain, vectors, config.encoder)]
    return results


def _sampled(texts: Sequence[str], config: DistributionConfig) -> list[str]:
    if len(texts) <= config.problems_per_set:
        return list(texts)
    chosen = np.random.default_rng(config.seed).choice(len(texts), config.problems_per_set, replace=False)
    return [str(texts[i]) for i in sorted(chosen.tolist())]


def _map(domain: str, vectors: Mapping[str, Vectors], encoder: str) -> AnalysisResult:
    names = list(vectors)
    distances = mean_distances([vectors[name] for name in names])
    points, stress = mds(distances)
    rows = [
        {
            "domain": domain,
            "encoder": encoder,
            "set": name,
            "problems": len(vectors[name]),
            "x": float(points[i, 0]),
            "y": float(points[i, 1]),
            **{f"distance to {other}": float(distances[i, j]) for j, other in enumerate(names)},
        }
        for i, name in enumerate(names)
    ]
    return AnalysisResult(
        name=f"distribution_{domain}",
        title=f"Distribution of the sets: {domain}",
        caption=f"Each point is the mean of a set's problem vectors ({encoder}); distances are 1 - cos "
        f"between means, laid out by metric MDS, which misses them by {100 * stress:.1f} % (root of the "
        f"squared misses over the squared distances). Problems: {_numbers(vectors)}. Axes have no meaning "
        "of their own.",
        rows=rows,
        figure=_draw_map(domain, encoder, names, points),
    )


def _overlaps(domain: str, vectors: Mapping[str, Vectors], encoder: str) -> AnalysisResult:
    rows = [
        {
            "domain": domain,
            "encoder": encoder,
            "a": a,
            "b": b,
            "problems_a": len(vectors[a]),
            "problems_b": len(vectors[b]),
            **_compared(vectors[a], vectors[b]),
        }
        for a in vectors
        for b in vectors
        if a != b
    ]
    single = any(len(own) == 1 for own in vectors.values())
    return AnalysisResult(
        name=f"distribution_{domain}_overlap",
        title=f"Overlap of the sets, problem by problem: {domain}",
        caption="Overlap: share of A's problems whose nearest neighbour is one of B, over what chance "
        "gives (1: the sets are mixed, 0: apart). Coverage: share of B's problems that lie as near to one "
        f"of A as half of B's do to one of their own. {'Neither is of a single problem. ' if single else ''}"
        f"Vectors: {encoder}. Problems: {_numbers(vectors)}.",
        rows=rows,
        figure=_draw_overlaps(domain, encoder, list(vectors), rows),
    )


def _numbers(vectors: Mapping[str, Vectors]) -> str:
    return ", ".join(f"{name} {len(own):,}" for name, own in vectors.items())


def mean_distances(vectors: Sequence[Vectors]) -> Float[np.ndarray, "sets sets"]:
    """1 - cos between the means of sets of vectors."""
    means = np.stack([own.astype(np.float64).mean(axis=0) for own in vectors])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    distances = np.clip(1.0 - means @ means.T, 0.0, 2.0)
    np.fill_diagonal(distances, 0.0)
    return (distances + distances.T) / 2


def classical_mds(
    distances: Float[np.ndarray, "n n"], dimension: int = 2
) -> Float[np.ndarray, "n dimension"]:
    """Points whose distances are those given, if any points of that dimension have them (Torgerson).

    The sign of each axis is chosen so that its largest coordinate is positive.
    """
    n = len(distances)
    centring = np.eye(n) - 1.0 / n
    values, directions = np.linalg.eigh(-0.5 * centring @ (distances**2) @ centring)
    largest = np.argsort(values)[::-1][:dimension]
    points = np.zeros((n, dimension))
    points[:, : len(largest)] = directions[:, largest] * np.sqrt(np.maximum(values[largest], 0.0))
    signs = np.sign(points[np.abs(points).argmax(axis=0), np.arange(dimension)])
    return points * np.where(signs == 0, 1.0, signs)


def mds(distances: Float[np.ndarray, "n n"]) -> tuple[Float[np.ndarray, "n 2"], float]:
    """Metric MDS to the plane (SMACOF, from the classical solution), and its normalized stress in [0, 1]."""
    points = classical_mds(distances)
    misses = stress(points, distances)
    for _ in range(_STEPS):
        own = _pairwise(points)
        ratios = np.divide(distances, own, out=np.zeros_like(own), where=own > 1e-12)
        transform = -ratios
        np.fill_diagonal(transform, ratios.sum(axis=1) - np.diag(ratios))
        moved = transform @ points / len(points)
        after = stress(moved, distances)
        if misses - after < 1e-9:
            break
        points, misses = moved, after
    return points, misses


def stress(points: Float[np.ndarray, "n dimension"], distances: Float[np.ndarray, "n n"]) -> float:
    """Root of the squared misses of the points' distances over the squared distances."""
    total = float((distances**2).sum())
    return float(np.sqrt(((_pairwise(points) - distances) ** 2).sum() / total)) if total else 0.0


def _pairwise(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def _compared(a: Vectors, b: Vectors) -> dict[str, float | None]:
    share = _share_nearest_in_b(a, b) if len(a) > 1 else None
    chance = len(b) / (len(a) - 1 + len(b)) if len(a) > 1 else None
    within_b = 1.0 - nearest(b, b, skip_self=True) if len(b) > 1 else None
    radius = None if within_b is None else float(np.median(within_b))
    covered = None if radius is None else float(np.mean(1.0 - nearest(b, a) <= radius + _TIE))
    return {
        "nearest_in_b": share,
        "by_chance": chance,
        "overlap": None if share is None or chance is None else share / chance,
        "coverage_of_b": covered,
        "radius": radius,
    }


def _share_nearest_in_b(a: Vectors, b: Vectors) -> float:
    own, other = nearest(a, a, skip_self=True), nearest(a, b)
    return float(np.mean((other > own + _TIE) + 0.5 * (np.abs(other - own) <= _TIE)))


def nearest(
    queries: Float[np.ndarray, "queries D"], among: Vectors, *, skip_self: bool = False
) -> Float[np.ndarray, " queries"]:
    """Cosine of each query's nearest vector; -2 where there is none.

    Args:
        skip_self: `among` are the queries themselves, and none is its own neighbour.
    """
    best = np.full(len(queries), -2.0)
    for start in range(0, len(queries), _BLOCK):
        cosines = queries[start : start + _BLOCK].astype(np.float32) @ among.T.astype(np.float32)
        if skip_self:
            i = np.arange(len(cosines))
            cosines[i, start + i] = -2.0
        best[start : start + _BLOCK] = cosines.max(axis=1)
    return best


@figures.drawing()
def _draw_map(
    domain: str, encoder: str, names: Sequence[str], points: Float[np.ndarray, "n 2"]
) -> mpl_figure.Figure:
    figure = figures.blank(5.6, 4.4)
    axes = figure.subplots()
    for i, name in enumerate(names):
        axes.plot(
            *points[i],
            figures.marker(i),
            color=figures.colour(i),
            markersize=9,
            label=figures.short(name, 40),
        )
    axes.set_title(f"{domain}, encoder {figures.short(encoder)}")
    middle, half = (points.max(axis=0) + points.min(axis=0)) / 2, 0.6 * np.ptp(points, axis=0).max()
    axes.set_aspect("equal")
    axes.set_xlim(middle[0] - 1.2 * (half or 1), middle[0] + 1.2 * (half or 1))
    axes.set_ylim(middle[1] - (half or 1), middle[1] + (half or 1))
    figures.plain(axes, "both")
    axes.tick_params(labelsize=8.5)
    axes.ticklabel_format(useOffset=False)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return figure


@figures.drawing()
def _draw_overlaps(
    domain: str, encoder: str, names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> mpl_figure.Figure:
    side = 0.52 * len(names)
    figure = figures.blank(max(5.8, 2 * side + 2.8), side + 1.75)
    left, right = figure.subplots(1, 2)
    for axes, field, title, top in (
        (left, "overlap", "overlap of A with B (1: chance)", None),
        (right, "coverage_of_b", "coverage of B by A", 1.0),
    ):
        known = [row for row in rows if row[field] is not None]
        matrix = np.full((len(names), len(names)), np.nan)
        for row in known:
            matrix[names.index(row["a"]), names.index(row["b"])] = row[field]
        _heat_map(axes, matrix, names, top or max([1.0, *(row[field] for row in known)]))
        axes.set_title(title)
        axes.set_ylabel("A")
        axes.set_xlabel("B")
    figure.suptitle(f"{domain}, encoder {figures.short(encoder)}", fontsize=10.5)
    return figure


def _heat_map(axes: mpl_axes.Axes, matrix: np.ndarray, names: Sequence[str], top: float) -> None:
    axes.imshow(matrix, cmap="Blues", vmin=0.0, vmax=top)
    for (i, j), value in np.ndenumerate(matrix):
        if not np.isnan(value):
            ink = "white" if value > 0.6 * top else "black"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=9)
    labels = [figures.short(name, 18) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=35, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_yticks(range(len(names)), labels, fontsize=9)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
