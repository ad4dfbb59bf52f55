"""A latent-variable model small enough to enumerate: p(z | c), p(x | z) are tables, z and x single symbols.

Its samples and scores go into `ranking.rank`, so that the package's ranking is held against brute force. Run
as a script it prints log-likelihood curves of the exact and the hard E-step.
"""

import dataclasses

import numpy as np

from promptcot_jax.core.records import Candidate, Triple
from promptcot_jax.em import ranking
from promptcot_jax.em.pairs import Pair, Rationale
from promptcot_jax.em.settings import EStepConfig

NUM_C, NUM_Z, NUM_X = 3, 4, 5


def make_pair(index: int, c: int, x: int) -> Pair:
    """Pair whose prompt and problem are one symbol each."""
    return Pair(
        index=index,
        triple=Triple(id=str(index), concepts=(str(c),), rationale="", problem=str(x)),
        theta_prompt_ids=(c,),
        phi_prompt_ids=(c, x),
        problem_ids=(x,),
    )


def make_rationale(z: int, log_q: float, *, index: int = 0, valid: bool = True) -> Rationale:
    """Rationale of one symbol and an end token."""
    return Rationale(
        pair_id=str(index),
        rationale=str(z),
        token_ids=(z, NUM_Z),
        finish_reason="stop",
        valid=valid,
        retokenized=False,
        log_q=log_q,
    )


@dataclasses.dataclass
class TableModel:
    """log p(z | c) [C, Z], log p(x | z) [Z, X], log q(z | c, x) [C, X, Z]."""

    log_p_z: np.ndarray
    log_p_x: np.ndarray
    log_q: np.ndarray

    @classmethod
    def random(cls, seed: int) -> "TableModel":
        rng = np.random.default_rng(seed)

        def draw(*shape: int) -> np.ndarray:
            return np.log(rng.dirichlet(np.ones(shape[-1]), size=shape[:-1]))

        return cls(draw(NUM_C, NUM_Z), draw(NUM_Z, NUM_X), draw(NUM_C, NUM_X, NUM_Z))

    def joint(self, pair: Pair) -> np.ndarray:
        """log p(z, x | c) of every z [Z]."""
        c, x = pair.theta_prompt_ids[0], pair.problem_ids[0]
        return self.log_p_z[c] + self.log_p_x[:, x]

    def marginal(self, pairs) -> float:
        """Sum over pairs of log p(x | c), by enumeration."""
        return float(sum(np.logaddexp.reduce(self.joint(pair)) for pair in pairs))

    def log_joint(self, pairs, rationales):
        """log p(z | c) and log p(x | z), each [B, G]."""
        z = np.array([[r.token_ids[0] for r in row] for row in rationales])
        c = np.array([pair.theta_prompt_ids[0] for pair in pairs])[:, None]
        x = np.array([pair.problem_ids[0] for pair in pairs])[:, None]
        return self.log_p_z[c, z], self.log_p_x[z, x]

    def every_rationale(self, pairs):
        """Every z once, as if sampled uniformly: makes self-normalised weights the exact posterior."""
        log_q = -np.log(NUM_Z)
        return [[make_rationale(z, log_q, index=pair.index) for z in range(NUM_Z)] for pair in pairs]

    def sample(self, pairs, group_size: int, seed: int):
        """z ~ q(z | c, x)."""
        rows = []
        for pair in pairs:
            rng = np.random.default_rng([seed, pair.index])
            log_q = self.log_q[pair.theta_prompt_ids[0], pair.problem_ids[0]]
            row = rng.choice(NUM_Z, size=group_size, p=np.exp(log_q))
            rows.append([make_rationale(int(z), float(log_q[z]), index=pair.index) for z in row])
        return rows

    def rank(self, pairs, rationales, config: EStepConfig) -> list[Candidate]:
        """The E-step's candidates by this model's scores."""
        return ranking.rank(pairs, rationales, *self.log_joint(pairs, rationales), config)

    def fit(self, pairs: list[Pair], candidates: list[Candidate], smoothing: float = 1e-12) -> None:
        """Weighted maximum likelihood of theta and phi on (c, z, x), in closed form."""
        by_id = {pair.triple.id: pair for pair in pairs}
        p_z = np.full((NUM_C, NUM_Z), smoothing)
        p_x = np.full((NUM_Z, NUM_X), smoothing)
        q = np.full((NUM_C, NUM_X, NUM_Z), smoothing)
        for candidate in candidates:
            pair = by_id[candidate.pair_id]
            c, x, z = pair.theta_prompt_ids[0], pair.problem_ids[0], candidate.token_ids[0]
            p_z[c, z] += candidate.weight
            p_x[z, x] += candidate.weight
            q[c, x, z] += candidate.weight
        self.log_p_z, self.log_p_x, self.log_q = (np.log(t / t.sum(-1, keepdims=True)) for t in (p_z, p_x, q))


def toy_pairs(count: int = 200, seed: int = 0) -> list[Pair]:
    """Pairs from a table model of their own, so that there is a latent structure to find."""
    rng, truth = np.random.default_rng(seed), TableModel.random(seed + 100)
    pairs = []
    for index in range(count):
        c = int(rng.integers(NUM_C))
        z = rng.choice(NUM_Z, p=np.exp(truth.log_p_z[c]))
        pairs.append(make_pair(index, c, int(rng.choice(NUM_X, p=np.exp(truth.log_p_x[z])))))
    return pairs


EXACT = EStepConfig(group_size=NUM_Z, max_rationale_tokens=3, objective="reward_weighted")
HARD = EStepConfig(group_size=8, max_rationale_tokens=3, objective="best_of_g")


def curve(config: EStepConfig, *, rounds: int, seed: int = 0) -> list[float]:
    """Log p(x | c) per pair after each round."""
    pairs, model = toy_pairs(), TableModel.random(seed)
    values = [model.marginal(pairs) / len(pairs)]
    for round_index in range(rounds):
        if config.objective == "reward_weighted":
            rationales = model.every_rationale(pairs)
        else:
            rationales = model.sample(pairs, config.group_size, seed=round_index)
        model.fit(pairs, model.rank(pairs, rationales, config))
        values.append(model.marginal(pairs) / len(pairs))
    return values


if __name__ == "__main__":
    for name, config in (("exact posterior", EXACT), ("arg-max of 8", HARD)):
        print(name, *(f"{value:.4f}" for value in curve(config, rounds=12)))
