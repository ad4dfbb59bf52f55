"""Old and reference log-probabilities are those of the update's own forward pass."""

import dataclasses

import jax
import numpy as np
import pytest
from etils import epath

from promptcot_jax.data.examples import TokenExample
from promptcot_jax.models import causal_lm
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.sampling import scoring
from promptcot_jax.trainers import packed_scores, train_step
from promptcot_jax.trainers.algorithm import Algorithm
from promptcot_jax.trainers.dpo import Dpo
from promptcot_jax.trainers.grpo import Grpo
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.trainers.policy_updates import PolicyUpdates
from promptcot_jax.trainers.self_play_config import SelfPlayConfig
from tests import toys

TEMPERATURE = 1.2
MESH = mesh_lib.make_mesh(mesh_lib.MeshConfig())
LM = causal_lm.CausalLM(toys.toy_config("qwen3", dtype="bfloat16", num_layers=4))
LM_IN_FLOAT32 = causal_lm.CausalLM(dataclasses.replace(LM.config, dtype="float32"))


def _units(num_units: int, sequences: int, longest: int):
    """Four of a prompt, which they share in rows that have room for it."""
    generator = np.random.default_rng(0)
    prompts = [
        generator.integers(1, LM.config.vocab_size, generator.integers(3, longest)) for _ in range(num_units)
    ]

    def example(prompt):
        completion = generator.integers(1, LM.config.vocab_size, generator.integers(3, longest))
        values = {
            "advantages": generator.normal(size=len(completion)),
            "sampler_log_probs": np.full(len(completion), -1.0),
        }
        return TokenExample(prompt_ids=prompt, completion_ids=completion, token_values=values)

    return [tuple(example(prompts[i // 4]) for _ in range(sequences)) for i in range(num_units)]


def _first_figures(
    algorithm: Algorithm,
    directory,
    monkeypatch,
    *,
    micro_batches=1,
    remat="projections",
    longest=40,
    row_length=128,
    num_units=24,
    drop=0,
    reference=None,
    lm=LM,
):
    """Figures of an iteration that learns almost nothing, its units as scored, and its policy."""
    units = _units(num_units, algorithm.sequences_per_unit, longest)
    monkeypatch.setattr(type(algorithm), "units_of", lambda self, groups, *, num_groups: units)
    config = SelfPlayConfig(
        num_iterations=1, units_per_update=8, micro_batches=micro_batches, remat=remat, max_skipped=0
    )
    step_config = config.step_config(
        algorithm, temperature=TEMPERATURE, optimizer=OptimizerConfig(learning_rate=1e-30), adapter=None
    )
    updates = PolicyUpdates(
        lm=lm,
        algorithm=algorithm,
        config=config,
        step=train_step.make_train_step(lm, step_config, MESH),
        row_length=row_length,
        temperature=TEMPERATURE,
        pad_id=0,
        directory=epath.Path(directory),
        seed=0,
    )
    with jax.set_mesh(MESH):
        params = lm.init(jax.random.key(0))
        if drop:
            _break_scores(monkeypatch, drop)
        complete = updates.units(0, [], params, params if reference is None else reference)
        state, figures = updates.update(0, complete, updates.step.first_state(params), {})
    assert int(state.step) == num_units // 8
    assert len(complete) == num_units - drop
    return figures, complete, params


def _break_scores(monkeypatch, count):
    """The first sequence of some rows gets no numbers, the first time."""
    score, calls = packed_scores.score, []

    def broken(*args, batch, **kwargs):
        scores, is_first = np.array(score(*args, batch=batch, **kwargs)), not calls
        calls.append(None)
        scores[:count][is_first & (batch.segment_ids[:count] == 1)] = np.nan
        return scores

    monkeypatch.setattr(packed_scores, "score", broken)


SETTINGS = [(1, "projections"), (2, "full"), (4, "none")]


@pytest.mark.parametrize(("micro_batches", "remat"), SETTINGS)
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_the_ratio_is_one_to_the_last_bit_before_anything_is_learned(
    ratio, micro_batches, remat, tmp_path, monkeypatch
):
    """In bfloat16, with a learning rate of almost 0: all updates of the iteration are on policy."""
    algorithm = Grpo(ratio=ratio, clip_low=3e-4, clip_high=4e-4)
    figures, units, params = _first_figures(
        algorithm, tmp_path, monkeypatch, micro_batches=micro_batches, remat=remat
    )
    assert (figures["ratio/min"], figures["ratio/max"]) == (1.0, 1.0)
    assert (figures["clip_ratio/low_mean"], figures["clip_ratio/high_mean"]) == (0.0, 0.0)
    assert figures["policy_kl"] == 0.0
    # They are log-probabilities of the completions at the temperature, as scored alone, within bfloat16.
    rows = [row for unit in units for row in unit]
    with jax.set_mesh(MESH):
        alone = scoring.score(
            LM,
            params,
            [row.prompt_ids for row in rows],
            [row.completion_ids for row in rows],
            temperature=TEMPERATURE,
        )
    for row, expected in zip(rows, alone, strict=True):
        np.testing.assert_allclose(row.token_values["old_log_probs"], expected, atol=0.1)


@pytest.mark.parametrize("remat", ["projections", "none", "full"])
def test_the_ratio_is_one_in_rows_where_fusions_matter(remat, tmp_path, monkeypatch):
    """With float32 inside fusions ratios lie up to 3e-3 from 1 here, and 40 % of tokens are clipped."""
    algorithm = Grpo(ratio="sequence", clip_low=3e-4, clip_high=4e-4)
    size = {"longest": 120, "row_length": 256, "num_units": 8}
    figures, *_ = _first_figures(algorithm, tmp_path, monkeypatch, remat=remat, **size)
    assert (figures["ratio/min"], figures["ratio/max"]) == (1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["projections", "none", "full"])
@pytest.mark.parametrize(("lm", "atol"), [(LM_IN_FLOAT32, 1e-6), (LM, 2e-4)], ids=["float32", "bfloat16"])
def test_the_ratio_of_long_sequences_is_one_within_rounding(lm, atol, remat, tmp_path, monkeypatch):
    """In bfloat16 a sum of this length may fall on the other side of a rounding boundary."""
    algorithm = Grpo(ratio="sequence", clip_low=3e-4, clip_high=4e-4)
    size = {"longest": 250, "row_length": 512, "num_units": 8}
    figures, *_ = _first_figures(algorithm, tmp_path, monkeypatch, remat=remat, lm=lm, **size)
    np.testing.assert_allclose([figures["ratio/min"], figures["ratio/max"]], 1.0, atol=atol)
    assert (figures["clip_ratio/low_mean"], figures["clip_ratio/high_mean"]) == (0.0, 0.0)


def test_what_stays_is_scored_again_in_its_new_rows_where_a_sequence_leaves(tmp_path, monkeypatch):
    algorithm = Grpo(ratio="sequence", clip_low=3e-4, clip_high=4e-4)
    size = {"longest": 80, "row_length": 256, "remat": "full"}
    figures, *_ = _first_figures(algorithm, tmp_path, monkeypatch, drop=1, **size)
    assert (figures["ratio/min"], figures["ratio/max"]) == (1.0, 1.0)


def test_the_margin_of_dpo_is_zero_before_anything_is_learned(tmp_path, monkeypatch):
    figures, *_ = _first_figures(Dpo(), tmp_path, monkeypatch, micro_batches=2)
    assert figures["rewards/margins"] == figures["rewards/chosen"] == figures["rewards/rejected"] == 0.0
    assert figures["loss"] == pytest.approx(np.log(2), abs=1e-7)


def test_the_margin_of_dpo_is_zero_in_rows_where_fusions_matter(tmp_path, monkeypatch):
    size = {"longest": 60, "row_length": 256, "num_units": 8}
    figures, *_ = _first_figures(Dpo(), tmp_path, monkeypatch, **size)
    assert figures["rewards/margins"] == figures["rewards/chosen"] == figures["rewards/rejected"] == 0.0


def test_reference_and_policy_are_scored_each_with_its_own_parameters(tmp_path, monkeypatch):
    with jax.set_mesh(MESH):
        other = LM.init(jax.random.key(1))
    algorithm = dataclasses.replace(Grpo(), kl_beta=0.1)
    figures, units, params = _first_figures(algorithm, tmp_path, monkeypatch, reference=other)
    assert (figures["ratio/min"], figures["ratio/max"]) == (1.0, 1.0)
    assert figures["kl"] > 1e-3
    rows = [row for unit in units for row in unit]
    prompts, completions = [row.prompt_ids for row in rows], [row.completion_ids for row in rows]
    for name, policy in (("old_log_probs", params), ("reference_log_probs", other)):
        with jax.set_mesh(MESH):
            alone = scoring.score(LM, policy, prompts, completions, temperature=TEMPERATURE)
        for row, expected in zip(rows, alone, strict=True):
            np.testing.assert_allclose(row.token_values[name], expected, atol=0.1)
