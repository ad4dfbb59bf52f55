"""Figures of an E-step against loops over its candidates, and the copy rate against words counted by hand."""

import dataclasses

import numpy as np
import pytest

from promptcot_jax.em import diagnostics, ranking
from promptcot_jax.em.settings import EStepConfig
from tests.em import table_model

TEXTS = ("add the two numbers first", "so half of 12 apples, then", "one", "two of them are left over")
PROBLEM = "Find half of 12 apples, then add the two numbers."


@pytest.fixture(scope="module")
def drawn():
    """Candidates of twenty pairs with x of several lengths: valid, invalid, alike, and none valid at all."""
    rng = np.random.default_rng(0)
    config = EStepConfig(group_size=5, max_rationale_tokens=9)
    pairs, rationales = [], []
    for index in range(20):
        pair = table_model.make_pair(index, 0, 0)
        triple = dataclasses.replace(pair.triple, problem=PROBLEM)
        pairs.append(dataclasses.replace(pair, triple=triple, problem_ids=(1,) * (1 + index % 3)))
        row = []
        for _ in range(5):
            text, ends = int(rng.integers(4)), bool(rng.random() < 0.8)
            z = table_model.make_rationale(text, -rng.gamma(4.0), index=index, valid=ends and index != 7)
            row.append(
                dataclasses.replace(
                    z,
                    rationale=TEXTS[text],
                    token_ids=(text,) * (2 + text) + (table_model.NUM_Z,) * ends,
                    finish_reason="stop" if ends else "length",
                    retokenized=bool(rng.random() < 0.3),
                )
            )
        rationales.append(row)
    log_p_z, log_p_x = -rng.gamma(6.0, size=(20, 5)), -rng.gamma(9.0, size=(20, 5))
    return pairs, ranking.rank(pairs, rationales, log_p_z, log_p_x, config), config


def test_figures_of_an_e_step_are_those_of_loops_over_its_candidates(drawn):
    pairs, candidates, config = drawn
    rows = [candidates[i : i + 5] for i in range(0, 100, 5)]
    groups = [valid for row in rows if (valid := [c for c in row if c.valid])]
    valid, chosen = [c for row in groups for c in row], [c for c in candidates if c.won]
    assert len(groups) == len(chosen) < len(rows)
    assert len(valid) < 5 * len(groups)

    def reward(c):
        return c.log_p_z + c.log_p_x

    def log_weights(row):
        return np.array([reward(c) - c.log_q for c in row])

    by_pair = [(reward(c) - np.mean(list(map(reward, row))), c, row) for row in groups for c in row]
    lengths = [c.length - np.mean([other.length for other in row]) for _, c, row in by_pair]
    bound = [np.log(np.exp(log_weights(row)).sum() / 5) for row in groups]
    elbo = [log_weights(row).mean() + np.log(len(row) / 5) for row in groups]
    effective = [np.exp(log_weights(r)).sum() ** 2 / np.exp(2 * log_weights(r)).sum() for r in groups]
    expected = {
        "pairs": 20,
        "skipped_pairs": 20 - len(groups),
        "valid_share": len(valid) / 100,
        "unfinished_share": sum(c.finish_reason == "length" for c in candidates) / 100,
        "retokenized": sum(c.retokenized for c in candidates),
        "reward_mean": np.mean(list(map(reward, valid))),
        "reward_chosen_mean": np.mean(list(map(reward, chosen))),
        "reward_spread": np.mean(
            [max(map(reward, row)) - min(map(reward, row)) for row in groups if len(row) > 1]
        ),
        "elbo_mean": np.mean(elbo),
        "importance_bound_mean": np.mean(bound),
        "effective_samples": np.mean(effective),
        "reward_length_correlation": np.corrcoef([centred for centred, *_ in by_pair], lengths)[0, 1],
        "length_mean": np.mean([c.length for c in valid]),
        "length_chosen_mean": np.mean([c.length for c in chosen]),
        "copy_rate": np.mean([diagnostics.copy_rate(PROBLEM, c.rationale) for c in valid]),
        "copy_rate_chosen": np.mean([diagnostics.copy_rate(PROBLEM, c.rationale) for c in chosen]),
        "distinct_rationales": np.mean(
            [
                (len({c.token_ids for c in row if c.valid}) - 1) / (sum(c.valid for c in row) - 1)
                for row in rows
                if sum(c.valid for c in row) > 1
            ]
        ),
    }
    found = diagnostics.of_candidates(pairs, candidates, config)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rationale", "words"),
    [
        ("find HALF of 12 apples", 0),  # as written, with capitals
        ("half of 12 apples", 4),
        ("halve: half of 12 apples", 4),  # and not of the words of z
        ("half of 12", 0),  # shorter than four in a row
        ("half of 12 apples, then", 6),  # a sign counts as a word
        ("half of 12 apples. add the two numbers", 8),  # two runs
        ("of 12 apples, then; half of 12 apples", 6),  # the words of two runs that overlap count once
    ],
)
def test_the_copy_rate_is_the_share_of_x_in_runs_that_z_repeats(rationale, words):
    """x has twelve words and signs."""
    assert diagnostics.copy_rate(PROBLEM, rationale) == pytest.approx(words / 12)
