"""The concepts of the seeds, how often they stand together, and new lists c drawn from them.

The paper conditions its generator on lists of foundational concepts with a difficulty level (section 2.1) and
does not say how it draws new ones. Three rules are here:

* `cooccurrence`: a walk. The first concept by its count at the level, each next one by how often it stands
  with the last in the seeds' lists.
* `embedding`: the first as above, each next one with a chance of exp(mean cosine with those drawn /
  temperature): the idea of PromptCoT's version 1, whose own numbers are not published with the paper.
* `uniform`: all concepts of the domain alike.

No list is drawn twice, in whatever order its concepts stand and however the seeds spell them. List number k
is a function of the seed, k and the lists before it, so that a resumed run draws the same ones.
"""

import collections
import dataclasses
import itertools
import typing
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from promptcot_jax.core import prng
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import ConceptSet, Domain, Triple
from promptcot_jax.core.settings import NonNegativeInt, PositiveFloat, settings
from promptcot_jax.synthesis.near_duplicates import Encode

Rule = Literal["cooccurrence", "embedding", "uniform"]
_DOMAINS: tuple[Domain, ...] = typing.get_args(Domain)
_List = tuple[Domain, str, tuple[str, ...]]  # with its level
_TRIES = 200  # for a list that is new, before a domain and level count as exhausted


@settings
class PoolConfig:
    """How concept lists are drawn."""

    rule: Rule = "cooccurrence"
    # "even" takes the domains and levels of the seeds in turn; "seeds" draws them as often as the seeds do.
    balance: Literal["even", "seeds"] = "even"
    # 0: as many as a list of the seeds has, drawn. The paper's cases have 5.
    concepts_per_set: NonNegativeInt = 0
    temperature: PositiveFloat = 0.2  # of the rule "embedding"; lower keeps closer to what was drawn


@dataclasses.dataclass
class _Domain:
    """Concepts of one domain."""

    names: list[str]  # in the order of their first appearance
    neighbours: list[collections.Counter[int]]  # for each concept, how often each other stands with it
    vectors: Float[np.ndarray, "concepts D"] | None


@dataclasses.dataclass
class _Cell:
    """The lists of one domain and level."""

    domain: Domain
    level: str
    counts: collections.Counter[int]  # of concepts, by number in the domain
    sizes: list[int]  # of its lists


class ConceptPool:
    """Counts and co-occurrence of concepts, and the lists drawn so far."""

    def __init__(
        self,
        seeds: Sequence[Triple | ConceptSet],
        config: PoolConfig,
        *,
        seed: int,
        encode: Encode | None = None,
    ):
        """Counts the seeds' concepts.

        Args:
            encode: vectors of concepts, for the rule "embedding".

        Raises:
            WrongUse: there are no concepts.
        """
        self._config, self._seed = config, seed
        self._drawn: set[tuple[Domain, frozenset[str]]] = set()
        self._num_drawn = 0
        spellings: dict[tuple[Domain, str], str] = {}  # annotators differ in capitals and spaces
        lists: list[_List] = [
            (row.domain, row.level, _spelt_alike(row.domain, row.concepts, spellings)) for row in seeds
        ]
        if not any(concepts for _, _, concepts in lists):
            raise WrongUse("The concept pool is empty: the seeds name no concepts.")
        self._domains: dict[Domain, _Domain] = {
            domain: _domain_of([own for other, _, own in lists if other == domain], encode, config.rule)
            for domain in _DOMAINS
            if any(other == domain for other, _, _ in lists)
        }
        self._cells = _cells_of(lists, self._domains)
        self._open = list(range(len(self._cells)))  # those that still give new lists

    def __len__(self) -> int:
        """How many concepts there are."""
        return sum(len(domain.names) for domain in self._domains.values())

    def draw(self, count: int) -> list[ConceptSet]:
        """The next `count` lists; fewer once there are no new ones to be found."""
        sets = []
        while len(sets) < count and self._open:
            number = self._num_drawn
            draw = prng.stream_generator(self._seed, "synthesize", number)
            cell = self._cells[index := self._cell_of(number, draw)]
            found = self._new_list(cell, draw)
            if found is None:
                self._open.remove(index)
                continue
            self._drawn.add((cell.domain, frozenset(found)))
            self._num_drawn += 1
            sets.append(
                ConceptSet(id=f"set-{number:06d}", domain=cell.domain, concepts=found, level=cell.level)
            )
        return sets

    def _cell_of(self, number: int, draw: np.random.Generator) -> int:
        if self._config.balance == "even":
            return self._open[number % len(self._open)]
        weights = np.array([len(self._cells[index].sizes) for index in self._open], float)
        return self._open[int(draw.choice(len(weights), p=weights / weights.sum()))]

    def _new_list(self, cell: _Cell, draw: np.random.Generator) -> tuple[str, ...] | None:
        domain = self._domains[cell.domain]
        for _ in range(_TRIES):
            size = self._config.concepts_per_set or int(draw.choice(cell.sizes))
            numbers = self._walk(domain, cell, min(size, len(domain.names)), draw)
            found = tuple(domain.names[number] for number in numbers)
            if (cell.domain, frozenset(found)) not in self._drawn:
                return found
        return None

    def _walk(self, domain: _Domain, cell: _Cell, size: int, draw: np.random.Generator) -> list[int]:
        """`size` distinct concepts by the rule."""
        if self._config.rule == "uniform":
            return draw.choice(len(domain.names), size, replace=False).tolist()
        chosen = [_weighted(cell.counts, draw)]
        while len(chosen) < size:
            chosen.append(self._next(domain, chosen, draw))
        return chosen

    def _next(self, domain: _Domain, chosen: list[int], draw: np.random.Generator) -> int:
        if domain.vectors is not None:
            closeness = (domain.vectors @ domain.vectors[chosen].mean(axis=0)).astype(np.float64)
            weights = np.exp((closeness - closeness.max()) / self._config.temperature)
            weights[chosen] = 0.0
            if weights.any():
                return int(draw.choice(len(weights), p=weights / weights.sum()))
        for last in () if domain.vectors is not None else reversed(chosen):
            neighbours = {n: count for n, count in domain.neighbours[last].items() if n not in chosen}
            if neighbours:
                return _weighted(neighbours, draw)
        return int(draw.choice([n for n in range(len(domain.names)) if n not in chosen]))


def _spelt_alike(
    domain: Domain, concepts: Sequence[str], spellings: dict[tuple[Domain, str], str]
) -> tuple[str, ...]:
    """The concepts as their domain first spelt them, each once; `spellings` grows."""
    plain = [" ".join(concept.split()) for concept in concepts]
    return tuple(
        dict.fromkeys(spellings.setdefault((domain, name.casefold()), name) for name in plain if name)
    )


def _weighted(counts: Mapping[int, int], draw: np.random.Generator) -> int:
    """A key, by its count."""
    bounds = np.cumsum(list(counts.values()))
    index = int(np.searchsorted(bounds, draw.integers(bounds[-1]), side="right"))
    return list(counts)[index]


def _domain_of(lists: Sequence[tuple[str, ...]], encode: Encode | None, rule: Rule) -> _Domain:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(n for own in lists for n in own))}
    neighbours: list[collections.Counter[int]] = [collections.Counter() for _ in numbers]
    for own in lists:
        for one, other in itertools.permutations([numbers[name] for name in own], 2):
            neighbours[one][other] += 1
    if rule != "embedding":
        return _Domain(list(numbers), neighbours, None)
    if encode is None:
        raise WrongUse("The rule 'embedding' needs an encoder of texts.")
    return _Domain(list(numbers), neighbours, encode(list(numbers)))


def _cells_of(lists: Sequence[_List], domains: dict[Domain, _Domain]) -> list[_Cell]:
    numbers = {name: {n: i for i, n in enumerate(domain.names)} for name, domain in domains.items()}
    cells: dict[tuple[Domain, str], _Cell] = {}
    for domain, level, own in lists:
        if own:
            cell = cells.setdefault((domain, level), _Cell(domain, level, collections.Counter(), []))
            cell.counts.update(numbers[domain][name] for name in own)
            cell.sizes.append(len(own))
    return [cells[key] for key in sorted(cells)]
