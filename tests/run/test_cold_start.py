"""`cold_start` up to its fits: what each role is trained on."""

import collections
from pathlib import Path

import gin
import pytest

from promptcot_jax.checkpoints import load
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import training_sets
from promptcot_jax.models import causal_lm
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.run import cold_start, configuration
from promptcot_jax.sources import model_source
from promptcot_jax.trainers import loop
from promptcot_jax.trainers import loop as fitter_lib
from promptcot_jax.trainers.optimizer import OptimizerConfig
from tests import toys
from tests.run import calling

TRIPLES = toys.toy_triples()  # one of four is on programming


class OnlyTokenizer(model_source.FromScratch):
    """No weights are drawn for fits that do not run."""

    def load(self, *, seed, mesh, index=0):
        lm = self.model
        return load.LoadedModel(lm=lm, params={}, tokenizer=toys.byte_tokenizer(), source="toy")


SETTINGS = {
    "seed": 0,
    "mesh": mesh_lib.MeshConfig(),
    "optimizer": OptimizerConfig(learning_rate=1e-3),
    "loop_config": loop.LoopConfig(tensorboard=False),
    "model": OnlyTokenizer(model=causal_lm.CausalLM(toys.toy_config())),
}


@pytest.fixture
def fitted(tmp_path: Path, monkeypatch):
    """Does the stage with some rates; what the roles' fits are given instead of the fits."""
    for name in ("triples", "triples_heldout"):
        jsonl.write_records(tmp_path / f"{name}.jsonl", TRIPLES)

    def stage(rates: str, row_length: int = 1024) -> dict:
        given = {}

        def fit_model(role, base, rows, held_out, *, directory, fitter):
            rows, counts = fitter.within_length(rows)
            given[role] = (fitter.batches(rows), held_out)
            return counts

        monkeypatch.setattr(cold_start.cold_start_lib, "cold_start", fit_model)
        configuration.load(["stages/cold_start.gin", "models/smollm2_135m.gin"], [f"MIXTURE_RATES={rates}"])
        data = gin.get_configurable(training_sets.DataConfig)()
        fit = fitter_lib.FitConfig(row_length=row_length, rows_per_batch=1, num_epochs=4, pack=False)
        calling.call(cold_start.cold_start, workdir=str(tmp_path), data=data, fit=fit, **SETTINGS)
        return given

    return stage


def programs_among(batches) -> tuple[int, int]:
    """How many of the rows are on programming, and how many there are."""
    decode = toys.byte_tokenizer().decode
    rows = [decode(batches.batch(step).token_ids[0]) for step in range(batches.num_steps)]
    of_domain = collections.Counter("Programming Concepts:" in row for row in rows)
    return of_domain[True], len(rows)


@pytest.mark.parametrize(
    ("rates", "programs"),
    [("None", 4), ("{'math': 1.0, 'code': 1.0}", 8), ("{'math': 1.0, 'code': 3.0}", 12)],
)
def test_each_role_trains_at_the_rates_and_is_measured_on_each_row_once(fitted, rates, programs):
    given = fitted(rates)
    assert set(given) == {"theta", "phi"}
    for batches, held_out in given.values():
        assert programs_among(batches) == (programs, 16)
        assert len(held_out) == 4
        assert sorted(held_out.order(0, 0).tolist()) == [0, 1, 2, 3]


def test_a_domain_that_the_row_length_leaves_nothing_of_is_refused(fitted):
    message = "'math' has a rate of 1.0, and none of its 3 examples is within max_length=330"
    with pytest.raises(WrongUse, match=message):
        fitted("{'math': 1.0, 'code': 1.0}", row_length=330)
