"""Old and reference log-probabilities are those of the update's own forward pass, to the last bit."""

import dataclasses

import jax
import numpy as np
import pytest
from etils import epath

from promptcot_jax.data.examples import TokenExample
from promptcot_jax.models import causal_lm
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.sampling import scoring
from promptcot_jax.trainers import train_step
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


def _units(num_units: int, sequences: int):
    generator = np.random.default_rng(0)

    def example():
        lengths = generator.integers(3, 40, 2)
        prompt, completion = (generator.integers(1, LM.config.vocab_size, n) for n in lengths)
        values = {
            "advantages": generator.normal(size=len(completion)),
            "sampler_log_probs": np.full(len(completion), -1.0),
        }
        return TokenExample(prompt_ids=prompt, completion_ids=completion, token_values=values)

    return [tuple(example() for _ in range(sequences)) for _ in range(num_units)]


def _first_figures(algorithm: Algorithm, directory, monkeypatch, *, micro_batches=1, remat="projections"):
    """Figures of the first update of an iteration of three, and the units with their log-probabilities."""
    units = _units(24, algorithm.sequences_per_unit)
    monkeypatch.setattr(type(algorithm), "units_of", lambda self, groups, *, num_groups: units)
    config = SelfPlayConfig(
        num_iterations=1, units_per_update=8, micro_batches=micro_batches, remat=remat, max_skipped=0
    )
    step_config = config.step_config(
        algorithm, temperature=TEMPERATURE, optimizer=OptimizerConfig(learning_rate=1e-30), adapter=None
    )
    updates = PolicyUpdates(
        lm=LM,
        algorithm=algorithm,
        config=config,
        step=train_step.make_train_step(LM, step_config, MESH),
        row_length=128,
        temperature=TEMPERATURE,
        pad_id=0,
        directory=epath.Path(directory),
        seed=0,
        schedule_end=3,
    )
    with jax.set_mesh(MESH):
        params = LM.init(jax.random.key(0))
        complete = updates.units(0, [], params, params)
        state, figures = updates.update(0, complete, updates.step.first_state(params), {})
    assert int(state.step) == 3
    return figures, complete, params


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


def test_the_margin_of_dpo_is_zero_before_anything_is_learned(tmp_path, monkeypatch):
    figures, *_ = _first_figures(Dpo(), tmp_path, monkeypatch, micro_batches=2)
    assert figures["rewards/margins"] == figures["rewards/chosen"] == figures["rewards/rejected"] == 0.0
    assert figures["loss"] == pytest.approx(np.log(2), abs=1e-7)


def test_reference_and_policy_are_scored_each_with_its_own_parameters(tmp_path, monkeypatch):
    algorithm = dataclasses.replace(Grpo(), kl_beta=0.1)
    figures, *_ = _first_figures(algorithm, tmp_path, monkeypatch)
    assert figures["kl"] == 0.0
