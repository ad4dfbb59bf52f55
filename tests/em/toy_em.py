"""EM on a toy decoder: its data, its models and their settings, shared by the tests of this folder."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from promptcot_jax.checkpoints import load
from promptcot_jax.core import records
from promptcot_jax.data import example_sets, examples, templates, tokenizer_training
from promptcot_jax.em import generators, pairs, rounds
from promptcot_jax.em.cold_start import cold_start
from promptcot_jax.em.settings import BatchSizes, EmConfig, EStepConfig, HeldOutConfig, role_seed
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from promptcot_jax.sampling import engine
from promptcot_jax.trainers.loop import FitConfig, Fitter, LoopConfig
from promptcot_jax.trainers.optimizer import OptimizerConfig
from tests import toys

MESH = mesh_lib.make_mesh(mesh_lib.MeshConfig())
TRIPLES = [
    records.Triple(
        id=f"t{i}", concepts=(f"c{i % 3}",), rationale=f"add {'ab'[i % 2]}", problem=f"{i % 3}+{'12'[i % 2]}"
    )
    for i in range(24)
]
DISTINCT = TRIPLES[:6]  # the others repeat these, under ids of their own
FIT = FitConfig(row_length=128, rows_per_batch=4, num_epochs=1)
E_STEP = EStepConfig(group_size=3, max_rationale_tokens=12)
UNSURE = 0.7  # sharpness of a model that now and then writes what does not parse or does not end
SIZES = BatchSizes(engine=engine.EngineConfig(num_slots=24), score_tokens=8192)


def text_of(triple):
    """All that the models read and write of a triple."""
    prompt = templates.phi_prompt(triple.concepts, triple.level, triple.problem, triple.domain)
    return prompt + templates.theta_prompt(triple.concepts, triple.level, triple.domain) + triple.rationale


def annotations(triple, index):
    """What q_phi is cold-started on: a right and a wrong rationale, one of them twice.

    Both are valid and as likely under p_theta(z | c). The wrong one says another x, so that p_theta tells
    them apart; before the first E-step it is the greedy one of a third of the triples.
    """
    wrong = dataclasses.replace(triple, rationale=f"add {'ba'[index % 2]}")
    return [triple, wrong, (triple, wrong)[index // 2 % 2]]


def fitter(seed, mesh=MESH, learning_rate=1e-3):
    return Fitter(
        fit=FIT,
        optimizer=OptimizerConfig(learning_rate=learning_rate),
        loop=LoopConfig(checkpoint_every=2, eval_every=0, log_every=2, tensorboard=False),
        mesh=mesh,
        seed=seed,
    )


@dataclasses.dataclass(frozen=True)
class ColdStarted:
    """theta and phi in `directory`: q_phi ends its rationales, and all of them parse but for `UNSURE`."""

    directory: epath.Path
    tokenizer: object
    lm: CausalLM

    def params(self, role, mesh=MESH, *, sharpness=1.0):
        """Parameters of a model whose logits are multiplied by `sharpness`."""
        with jax.set_mesh(mesh):
            params = load.load_model(self.directory / role, mesh=mesh).params
            return params | {"norm": {"scale": sharpness * params["norm"]["scale"]}}


def cold_started(directory):
    tokenizer = tokenizer_training.train_tokenizer([text_of(triple) for triple in TRIPLES], 400)
    lm = CausalLM(toys.toy_config(vocab_size=400), rules.DEFAULT_RULES)
    base = load.LoadedModel(lm, lm.init(jax.random.key(0)), tokenizer, "toy")
    of_theta = Fitter(
        fit=dataclasses.replace(FIT, num_epochs=100),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        loop=LoopConfig(checkpoint_every=1000, eval_every=0, log_every=100, tensorboard=False),
        mesh=MESH,
        seed=0,
    )
    of_phi = dataclasses.replace(of_theta, fit=dataclasses.replace(FIT, num_epochs=40))
    read_by_phi = [row for i, triple in enumerate(DISTINCT) for row in annotations(triple, i)]
    with jax.set_mesh(MESH):
        for role, make, triples, of_role in (
            ("theta", examples.theta_text, DISTINCT, of_theta),
            ("phi", examples.phi_text, read_by_phi, of_phi),
        ):
            rows = examples.tokenize(tokenizer, [make(triple) for triple in triples])
            sets = (example_sets.Listed(rows), example_sets.Listed(rows[:4]))
            counts = cold_start(role, base, *sets, directory=directory, fitter=of_role)
            assert counts[f"{role}_rows"] == len(triples)
    return ColdStarted(epath.Path(directory), tokenizer, lm)


def make_em(cold, directory, mesh=MESH, *, e_step_config=E_STEP, phi_learning_rate=1e-3, **settings):
    """Two rounds of 8 of 10 pairs, by default."""
    shared = {
        "lm": cold.lm,
        "tokenizer": cold.tokenizer,
        "max_rationale_tokens": e_step_config.max_rationale_tokens,
        "batch_sizes": SIZES,
    }
    defaults = {"max_rounds": 2, "patience": 9, "pairs_per_shard": 4, "pairs_per_round": 8}
    return rounds.Em(
        prompt_model=generators.PromptModel(**shared, fitter=fitter(role_seed(1, "theta"), mesh)),
        rationale_model=generators.RationaleModel(
            **shared,
            fitter=fitter(role_seed(1, "phi"), mesh, phi_learning_rate),
            style_of=lambda rationale: rationale[-1:],
        ),
        pairs=pairs.tokenize_pairs(cold.tokenizer, TRIPLES[:10]),
        held_out_pairs=pairs.tokenize_pairs(cold.tokenizer, TRIPLES[12:16]),
        e_step=e_step_config,
        held_out=HeldOutConfig(
            num_pairs=4, bound_pairs=3, num_samples=12, num_concept_sets=2, problems_per_set=2
        ),
        config=EmConfig(**(defaults | settings)),
        directory=epath.Path(directory),
        cold_phi=lambda: cold.params("phi", mesh),
        baselines=lambda: {"nll_direct": 1.0},
    )


def run(cold, em, mesh=MESH, *, sharpness=1.0):
    """EM from the cold-started models; phi's logits are multiplied by `sharpness`."""
    with jax.set_mesh(mesh):
        theta, phi = cold.params("theta", mesh), cold.params("phi", mesh, sharpness=sharpness)
        return rounds.run(em, theta, phi)


def params_of(directory):
    """A model's parameters as a round wrote them."""
    with jax.set_mesh(MESH):
        return jax.tree.map(np.asarray, load.load_model(directory, mesh=MESH).params)


def rows_in(path):
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


class ByHand:
    """Log-probabilities and greedy completions from full logits, one sequence at a time."""

    def __init__(self, lm, params, length=128):
        self.params = params = jax.tree.map(jnp.asarray, params)

        def log_probs(token_ids):
            logits = lm.hidden_states(params, token_ids) @ lm.output_embedding(params)
            return jax.nn.log_softmax(logits, axis=-1)[0]

        self._log_probs, self._length = jax.jit(log_probs), length

    def _of(self, ids):
        padded = np.zeros((1, self._length), np.int32)
        padded[0, : len(ids)] = ids
        with jax.set_mesh(MESH):
            return np.asarray(self._log_probs(padded), np.float64)  # [T, V]

    def log_probs(self, prompt, completion, *, temperature=1.0):
        """Of each token of a completion."""
        found = self._of([*prompt, *completion]) / temperature
        found -= np.logaddexp.reduce(found, axis=-1, keepdims=True)
        return np.array([found[len(prompt) - 1 + i, token] for i, token in enumerate(completion)])

    def greedy(self, prompt, max_tokens, is_end):
        """The likeliest token, time after time, until `is_end` of what is written."""
        written = []
        while len(written) < max_tokens and not is_end(written):
            written.append(int(self._of([*prompt, *written])[len(prompt) + len(written) - 1].argmax()))
        return tuple(written)
