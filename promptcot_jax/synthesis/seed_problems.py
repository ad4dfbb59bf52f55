"""The problems that annotation starts from, and what is drawn for each of them.

What becomes of a row follows from its id and the seed, not from its place: rows that join later change
nothing for those that were there.
"""

import collections
import dataclasses
import hashlib
import os

from etils import epath

from promptcot_jax.core import prng
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import Domain, SeedProblem
from promptcot_jax.data import rows, templates


def read(
    path: epath.PathLike,
    *,
    domain: Domain,
    level: str,
    bad_rows: rows.BadRows,
    counts: collections.Counter[str],
) -> list[SeedProblem]:
    """Seed problems of a file of any format.

    Args:
        domain: of rows that do not say; `level` likewise.
        counts: see `rows.iter_rows`.

    Raises:
        WrongUse: the file is missing or empty, two rows share an id, or a row is bad and not to be skipped:
            it lacks `problem`, or its problem is empty or holds a marker.
    """
    defaults = {"domain": domain, "level": level}

    def make(row: rows.Row) -> SeedProblem:
        stated = {name: value for name, value in row.fields.items() if value is not None}
        seed = rows.record_of(dataclasses.replace(row, fields=defaults | stated), SeedProblem)
        templates.problem_block(seed.problem, row.where)
        return seed

    seeds = list(rows.map_rows(path, make, bad_rows=bad_rows, counts=counts))
    if not seeds:
        raise WrongUse(f"{os.fspath(path)}: there are no problems in it.")
    rows.check_ids((seed.id for seed in seeds), os.fspath(path))
    return seeds


def drawn_number(row_id: str, seed: int, purpose: int) -> float:
    """A number in [0, 1) of a row, another for each purpose."""
    of_id = int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:4], "little")
    return prng.derived_seed(seed, purpose, of_id) / 2**32
