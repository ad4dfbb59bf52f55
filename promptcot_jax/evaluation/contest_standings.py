"""A contest's final standings: where a score would have stood, and where a player of a rating is expected.

Only the rated participants count, each with the rating they came with. Codeforces and CodeElo (paper section
3.6) expect of a player of rating r the place 1 + sum_j 1 / (1 + 10^((r - r_j) / 400)): one, and for every
participant the chance of being beaten by them. The player is not in the field, and not in the sum.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from promptcot_jax.core.arrays import Float, Int
from promptcot_jax.core.errors import WrongUse

LOWEST_RATING = 0  # where CodeElo's search begins
HEADROOM = 100  # and how far beyond the best participant's rating it ends

_BEYOND_ANY_RATING = 10_000

Ties = Literal["shared", "codeelo"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContestProblem:
    """A problem by its letter; `points` is what it brings if solved at once, None where all count as one."""

    index: str
    points: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Contest:
    """A contest; `points`, `penalties` and `ratings` have an entry for each rated participant, in any order.

    Args:
        penalties: minutes, where problems have no points; of equal points the smaller penalty is the better.
        ratings: whole numbers, from before the contest.

    Raises:
        WrongUse: there are no problems, or two of one index; the three differ in length; or a number is none
            that a contest can have.
    """

    contest_id: int
    name: str = ""
    problems: tuple[ContestProblem, ...]
    points: Sequence[int | float] | np.ndarray
    penalties: Sequence[int | float] | np.ndarray
    ratings: Sequence[int] | np.ndarray

    def __post_init__(self):
        where = f"contest {self.contest_id}"
        indices = [problem.index for problem in self.problems]
        if not indices or len(set(indices)) < len(indices):
            raise WrongUse(f"{where}: problems must have different indices, got {indices}.")
        given = [problem.points for problem in self.problems if problem.points is not None]
        if not all(math.isfinite(points) and points >= 0 for points in given):
            raise WrongUse(f"{where}: a problem's points must be 0 or more, or None; got {given}.")
        lengths = [len(values) for values in (self.points, self.penalties, self.ratings)]
        if len(set(lengths)) > 1:
            raise WrongUse(f"{where}: points, penalties and ratings must be of one length, got {lengths}.")
        numbers = (self.points, self.penalties, self.ratings)
        if not all(np.isfinite(np.asarray(values, float)).all() for values in numbers):
            raise WrongUse(f"{where}: points, penalties and ratings must be finite numbers.")
        if not np.array_equal(self._ratings, np.asarray(self.ratings)):
            raise WrongUse(f"{where}: ratings must be whole numbers, as Codeforces has them.")
        if (np.abs(self._ratings) > _BEYOND_ANY_RATING).any():
            raise WrongUse(f"{where}: ratings must be those of Codeforces, got {max(self.ratings, key=abs)}.")

    @property
    def num_rated(self) -> int:
        return len(self.ratings)

    @property
    def highest_rating(self) -> int:
        """The best rating that a place in this contest can stand for."""
        return max(int(self._ratings.max(initial=0)), LOWEST_RATING) + HEADROOM

    def places(
        self, points: Float[np.ndarray, " B"], penalties: Float[np.ndarray, " B"], ties: Ties
    ) -> Int[np.ndarray, " B"]:
        """Where each score would have stood.

        Args:
            ties: "shared": 1 + how many are strictly better, as places are announced. "codeelo": how many are
                better or equal, as its program counts.
        """
        side = "left" if ties == "shared" else "right"
        ahead = np.searchsorted(self._keys, _keys(points, penalties), side=side)
        return ahead + (1 if ties == "shared" else 0)

    def expected_places(self, highest: int) -> Float[np.ndarray, " R"]:
        """The expected place of each whole rating from `LOWEST_RATING` to `highest`; it falls strictly.

        A sum for every rating over every participant is a convolution of how many have each rating with the
        chances by difference; done by FFT, its error is far below a thousandth of a place.
        """
        lowest = int(self._ratings.min(initial=LOWEST_RATING))
        counts = np.bincount(self._ratings - lowest).astype(float)
        most = lowest + len(counts) - 1
        differences = np.arange(LOWEST_RATING - most, highest - lowest + 1)  # of a player to one
        beaten = 1 / (1 + 10 ** (differences / 400))
        size = 1 << (len(counts) + len(beaten)).bit_length()  # room for the whole convolution
        sums = np.fft.irfft(np.fft.rfft(counts, size) * np.fft.rfft(beaten, size), size)
        return 1 + sums[len(counts) - 1 : len(beaten)]

    @functools.cached_property
    def _ratings(self) -> Int[np.ndarray, " N"]:
        return np.asarray(self.ratings, float).astype(np.int64)

    @functools.cached_property
    def _keys(self) -> np.ndarray:
        return np.sort(_keys(np.asarray(self.points, float), np.asarray(self.penalties, float)))


def _keys(points: Float[np.ndarray, " N"], penalties: Float[np.ndarray, " N"]) -> np.ndarray:
    """Scores as numbers that sort best first: NumPy orders complex ones by the real part, then the other."""
    keys = np.empty(len(points), np.complex128)
    keys.real, keys.imag = -points, penalties
    return keys
