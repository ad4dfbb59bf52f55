"""The programs that a plan compiles are those that sampling, scoring and a fit run, to the letter."""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from promptcot_jax.core import prng
from promptcot_jax.models import language_model, lora
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from promptcot_jax.sampling import engine, scoring, slots
from promptcot_jax.sampling.completions import Request
from promptcot_jax.sampling.token_choice import SamplingConfig
from promptcot_jax.trainers import loop, sft, train_step
from tests import toys
from tests.trainers import toy_fit

MESH = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=8))
LM = CausalLM(toys.toy_config(), rules.DEFAULT_RULES)
PARAMS = lora.abstract_params(LM, MESH, "float32")
ENGINE = engine.EngineConfig(num_slots=8, page_size=8)


@pytest.fixture(scope="module")
def params():
    init = jax.jit(LM.init, out_shardings=language_model.param_shardings(LM, MESH))
    return init(jax.random.key(0))


def lowered(program, *arguments, **settings) -> str:
    return program.lower(*arguments, **settings).as_text()


def planned(program) -> str:
    with jax.set_mesh(MESH):
        return program.lower().as_text()


class Seen:
    """The texts of a program's calls."""

    def __init__(self, program):
        self._program, self.texts = program, set()

    def __call__(self, *arguments, **settings):
        self.texts.add(lowered(self._program, *arguments, **settings))
        return self._program(*arguments, **settings)


def test_an_engine_runs_what_is_planned(params):
    requests = [
        Request(id=i, prompt_ids=(1,) * 20, sampling=SamplingConfig(max_new_tokens=4)) for i in range(3)
    ]
    prefill, decode = engine.programs(
        "toy", LM, MESH, PARAMS, ENGINE, max_tokens=24, params_name="as trained"
    )
    key = jax.device_put(prng.stream_key(0, "text"), NamedSharding(MESH, PartitionSpec()))
    with (
        jax.set_mesh(MESH),
        mock.patch.object(slots, "read_blocks", Seen(slots.read_blocks)) as read,
        mock.patch.object(slots, "decode_burst", Seen(slots.decode_burst)) as decoded,
    ):
        made = engine.Engine(LM, ENGINE, max_tokens=24)
        assert len(list(made.stream(LM.decoding_layout(params), requests, key))) == 3
    assert read.texts == {planned(prefill)}
    assert decoded.texts == {planned(decode)}


def test_scoring_runs_what_is_planned(params):
    program = scoring.program("toy", LM, MESH, PARAMS, length=32, batch_tokens=256, resident={})
    with (
        jax.set_mesh(MESH),
        mock.patch.object(scoring, "_score_rows", Seen(scoring._score_rows)) as scored,
    ):
        scoring.score(LM, params, [[1] * 16] * 8, [[2] * 16] * 8, batch_tokens=256)
    assert scored.texts == {planned(program)}


def test_a_fit_runs_what_is_planned(params, tmp_path):
    fitter = loop.Fitter(
        fit=loop.FitConfig(row_length=12, rows_per_batch=8),
        optimizer=toy_fit.OPTIMIZER,
        loop=toy_fit.CONFIG,
        mesh=MESH,
        seed=0,
    )
    step = train_step.make_train_step(LM, fitter.step_config(sft.SftLoss()), MESH)
    seen = Seen(step.run)
    batches = toy_fit.toy_batches(1, rows_per_batch=8)
    watched = dataclasses.replace(step, run=seen)
    with mock.patch.object(train_step, "make_train_step", return_value=watched):
        fitter.train(LM, params, batches, directory=tmp_path, name="toy", loss=sft.SftLoss())
    assert seen.texts == {planned(fitter.program("toy", LM, sft.SftLoss(), resident={}))}


def test_another_loss_is_another_plan():
    fitter = loop.Fitter(
        fit=loop.FitConfig(row_length=12, rows_per_batch=8),
        optimizer=toy_fit.OPTIMIZER,
        loop=toy_fit.CONFIG,
        mesh=MESH,
        seed=0,
    )
    plain = planned(fitter.program("toy", LM, sft.SftLoss(), resident={}))
    names = ("weight", "count")
    weighted = fitter.program("toy", LM, sft.WeightedSftLoss(), resident={}, token_values=names)
    assert planned(weighted) != plain
    assert np.prod(weighted.parts["batch"].values["weight"].shape) == 8 * 12
