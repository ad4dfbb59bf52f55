"""EM end to end on a toy decoder: files, phases, resumption, the variant without E-step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from promptcot_jax.checkpoints import load
from promptcot_jax.core import jsonl, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.corpus import styles
from promptcot_jax.data import example_sets, examples, templates, tokenizer_training
from promptcot_jax.em import e_step as e_step_lib
from promptcot_jax.em import held_out, loop, models, pairs
from promptcot_jax.em import role as role_lib
from promptcot_jax.em.cold_start import cold_start_role
from promptcot_jax.em.settings import EmConfig, EStepConfig, HeldOutConfig
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from promptcot_jax.sampling import completions, engine
from promptcot_jax.trainers import sft
from promptcot_jax.trainers.fitter import FitConfig, Fitter
from promptcot_jax.trainers.loop import LoopConfig
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
E_STEP = EStepConfig(group_size=3, max_rationale_tokens=16)
UNSURE = 0.6  # sharpness of a q_phi that writes unlike rationales, which objectives compare


def fitter(seed, mesh=MESH):
    return Fitter(
        fit=FIT,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        loop=LoopConfig(checkpoint_every=2, eval_every=0, log_every=2, tensorboard=False),
        mesh=mesh,
        seed=seed,
    )


COLD_START = Fitter(
    fit=dataclasses.replace(FIT, num_epochs=100),
    optimizer=OptimizerConfig(learning_rate=1e-2),
    loop=LoopConfig(checkpoint_every=1000, eval_every=0, log_every=100, tensorboard=False),
    mesh=MESH,
    seed=0,
)


@pytest.fixture(scope="module")
def cold_started(tmp_path_factory):
    """theta and phi: q_phi ends its rationales, and writes one for each pair but where it is run `UNSURE`."""
    directory = tmp_path_factory.mktemp("cold")
    tokenizer = tokenizer_training.train_tokenizer([_text(triple) for triple in TRIPLES], 400)
    lm = CausalLM(toys.toy_config(vocab_size=400), rules.DEFAULT_RULES)
    base = load.LoadedModel(lm, lm.init(jax.random.key(0)), tokenizer, "toy")
    with jax.set_mesh(MESH):
        for role, make in (("theta", examples.theta_text), ("phi", examples.phi_text)):
            rows = examples.tokenize(tokenizer, [make(triple) for triple in DISTINCT])
            sets = (example_sets.Listed(rows), example_sets.Listed(rows[:4]))
            counts = cold_start_role(role, base, *sets, directory=directory, fitter=COLD_START)
            assert counts[f"{role}_rows"] == len(DISTINCT)
        return directory, tokenizer, lm


def _text(triple):
    """All that the models read and write of a triple."""
    prompt = templates.phi_prompt(triple.concepts, triple.level, triple.problem, triple.domain)
    return prompt + templates.theta_prompt(triple.concepts, triple.level, triple.domain) + triple.rationale


def make_role(name, lm, tokenizer, e_step, keeps, mesh=MESH):
    loss = role_lib.phi_loss(e_step) if name == "phi" else sft.sft_loss
    return role_lib.Role(
        name=name,
        lm=lm,
        tokenizer=tokenizer,
        fitter=role_lib.role_fitter(fitter(1, mesh), 1, name),
        loss=loss,
        keeps_optimizer=keeps,
    )


SIZES = models.BatchSizes(engine=engine.EngineConfig(num_slots=24), score_tokens=8192)


def make_em(cold_started, directory, mesh=MESH, **settings):
    _, tokenizer, lm = cold_started
    e_step, keeps = settings.pop("e_step_config", E_STEP), settings.get("optimizer_between_rounds") == "keep"
    defaults = {"max_rounds": 2, "patience": 9, "pairs_per_shard": 4, "pairs_per_round": 8}
    return loop.Em(
        roles=models.Roles(lm, lm, tokenizer, SIZES),
        pairs=pairs.tokenize_pairs(tokenizer, TRIPLES[:10]),
        held_out_pairs=pairs.tokenize_pairs(tokenizer, TRIPLES[12:16]),
        e_step=e_step,
        em=EmConfig(**(defaults | settings)),
        held_out=HeldOutConfig(num_pairs=4, num_samples=2, num_concept_sets=2, problems_per_set=2),
        phi_role=make_role("phi", lm, tokenizer, e_step, keeps, mesh),
        theta_role=make_role("theta", lm, tokenizer, e_step, keeps, mesh),
        directory=epath.Path(directory),
    )


def run(cold_started, em, mesh=MESH, *, sharpness=1.0):
    """EM from the cold-started models; phi's logits are multiplied by `sharpness`."""
    directory, _, lm = cold_started
    with jax.set_mesh(mesh):
        theta, phi = (models.read_params(directory / role, lm, mesh) for role in ("theta", "phi"))
        phi |= {"norm": {"scale": sharpness * phi["norm"]["scale"]}}
        return em.run(theta, phi, lambda: {"nll_direct": 1.0})


def params_of(place, lm):
    return jax.tree.map(np.asarray, models.read_params(place, lm, MESH))


@pytest.fixture(scope="module")
def whole(cold_started, tmp_path_factory):
    """An uninterrupted run of two rounds."""
    em = make_em(cold_started, tmp_path_factory.mktemp("em"))
    return em, run(cold_started, em)


def test_a_round_leaves_its_files_and_its_models_load(cold_started, whole):
    em, counts = whole
    assert (counts["rounds"], counts["pairs"]) == (2, 10)
    place = em.directory / "round_001"
    candidates = jsonl.read_records(place / "candidates.jsonl", records.Candidate)
    assert len(candidates) == 8 * E_STEP.group_size
    rows = [candidates[i : i + 3] for i in range(0, len(candidates), 3)]
    for row in rows:
        assert len({c.pair_id for c in row}) == 1
        assert [c.sample for c in row] == [0, 1, 2]
        rewards = [c.log_p_z + c.log_p_x if c.valid else -np.inf for c in row]
        best = int(np.argmax(rewards)) if any(c.valid for c in row) else None
        assert [c.won for c in row] == [g == best for g in range(3)]
    figures = jsonl.read_json(place / "diagnostics.json")
    for style, terms in figures["style_log_p"].items():
        of_style = [c for c in candidates if c.valid and styles.classify_style(c.rationale) == style]
        assert figures["style_share"][style] == pytest.approx(
            len(of_style) / sum(c.valid for c in candidates)
        )
        assert terms["z"] == pytest.approx(np.mean([c.log_p_z for c in of_style]))
        assert terms["x"] == pytest.approx(np.mean([c.log_p_x for c in of_style]))
    assert sum(figures["style_share_greedy"].values()) == pytest.approx(1.0)
    for role in ("theta", "phi"):
        assert load.load_model(place / role).tokenizer.digest == cold_started[1].digest
    rounds = [row["round"] for _, _, row in jsonl.iter_rows(em.directory / "nll.jsonl")]
    assert rounds == [-1, 0, 1]
    assert not list(em.directory.glob("round_*/*_training/checkpoints/step_*"))


def test_scores_in_the_record_are_the_sums_over_completion_tokens(cold_started, whole):
    """log p(z|c), log p(x|z,c) and log q again from full logits, token by token, for one candidate."""
    em, _ = whole
    directory, tokenizer, lm = cold_started
    candidate = jsonl.read_records(em.directory / "round_000" / "candidates.jsonl", records.Candidate)[4]
    pair = next(p for p in em.pairs if p.triple.id == candidate.pair_id)

    def by_hand(role, prompt, completion):
        with jax.set_mesh(MESH):
            params = models.read_params(directory / role, lm, MESH)
            ids = jnp.array([[*prompt, *completion]])
            logits = np.asarray(lm.hidden_states(params, ids) @ lm.output_embedding(params), np.float64)[0]
        logits -= np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        start = len(prompt)
        return np.array([logits[start - 1 + i, token] for i, token in enumerate(completion)])

    block = candidate.token_ids[: candidate.length]
    joint = by_hand("theta", pair.theta_prompt_ids, (*block, *pair.problem_ids))
    np.testing.assert_allclose(candidate.log_p_z, joint[: len(block)].sum(), atol=1e-3)
    np.testing.assert_allclose(candidate.log_p_x, joint[len(block) :].sum(), atol=1e-3)
    np.testing.assert_allclose(
        candidate.log_q, by_hand("phi", pair.phi_prompt_ids, candidate.token_ids).sum(), atol=1e-3
    )


@pytest.mark.parametrize("calls", [2, 7, 11])
def test_an_interrupted_run_ends_in_the_same_bits(cold_started, whole, tmp_path, monkeypatch, calls):
    """Stops after so many atomic writes of records, goes on, and compares everything that lasts."""
    em = make_em(cold_started, tmp_path)
    left = [calls]
    real = jsonl.write_atomically

    def write(path, data):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        real(path, data)

    monkeypatch.setattr(jsonl, "write_atomically", write)
    with pytest.raises(KeyboardInterrupt):
        run(cold_started, em)
    monkeypatch.setattr(jsonl, "write_atomically", real)
    run(cold_started, em)
    lasting = ["nll.jsonl", "diagnostics.jsonl", "round_001/candidates.jsonl", "round_001/rationales.jsonl"]
    undisturbed = whole[0].directory
    for name in lasting:
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes(), name
    for role in ("theta", "phi"):
        mine = params_of(tmp_path / "round_001" / role, cold_started[2])
        theirs = params_of(undisturbed / "round_001" / role, cold_started[2])
        jax.tree.map(np.testing.assert_array_equal, mine, theirs)


def test_m_step_uses_the_greedy_rationales_of_the_updated_phi(cold_started, whole):
    em, _ = whole
    rows = jsonl.read_records(em.directory / "round_000" / "rationales.jsonl", loop.PairRationale)
    with jax.set_mesh(MESH):
        phi = models.read_params(em.directory / "round_000" / "phi", cold_started[2], MESH)
        key = jax.random.key(0)
        sampler = em.roles.sampler(em.roles.phi_lm, phi, temperature=0.0, max_tokens=16, key=key)
        greedy = em.roles.propose(sampler, em.pairs_of_round(0), 1)
    assert [row.token_ids for row in rows] == [z.token_ids for (z,) in greedy]


def test_without_e_step_keeps_the_first_rationale_of_each_pair(cold_started, tmp_path):
    em = make_em(cold_started, tmp_path, e_step=False)
    run(cold_started, em)
    rows = jsonl.read_records(tmp_path / "rationales.jsonl", loop.PairRationale)
    assert [row.pair_id for row in rows] == [
        pair.triple.id for pair in em.pairs
    ]  # two rounds of 8 see all 10
    cold = params_of(cold_started[0] / "phi", cold_started[2])
    kept = params_of(tmp_path / "round_001" / "phi", cold_started[2])
    jax.tree.map(np.testing.assert_array_equal, kept, cold)
    assert not (tmp_path / "round_000" / "candidates.jsonl").exists()


def rationale(token_ids, finish_reason="stop"):
    return pairs.Rationale(
        text="a",
        token_ids=token_ids,
        finish_reason=finish_reason,
        log_q=-1.0,
        is_valid=True,
        retokenized=False,
    )


def test_a_sample_that_spells_a_stop_token_is_no_target_and_no_end_of_the_run(cold_started):
    tokenizer = cold_started[1]
    text = (
        f"<!-- BEGIN RATIONALE -->\nadd {tokenizer.token_text(tokenizer.eos_id)} a\n<!-- END RATIONALE -->\n"
    )
    pieces = [
        tokenizer.encode(piece) for piece in ("<!-- BEGIN RATIONALE -->\nadd ", "<|endof", "text|> a\n")
    ]
    ids = (*(i for piece in pieces for i in piece), *tokenizer.encode("<!-- END RATIONALE -->\n"))
    assert tokenizer.decode(ids) == text
    completion = completions.Completion(
        token_ids=(*ids, tokenizer.eos_id),
        log_probs=np.zeros(len(ids) + 1, np.float32),
        sampler_log_probs=np.zeros(len(ids) + 1, np.float32),
        finish_reason="stop",
        has_end=True,
    )
    assert not pairs.to_rationale(tokenizer, completion).is_valid


def test_pairs_that_cannot_fit_are_left_out(cold_started):
    tokenized = pairs.tokenize_pairs(cold_started[1], TRIPLES[:4])
    longest = max(
        max(len(p.theta_prompt_ids) + len(p.problem_ids) + 24, len(p.phi_prompt_ids)) for p in tokenized
    )
    kept = pairs.within_positions(tokenized, max_rationale_tokens=16, max_positions=longest + 16)
    assert kept == tokenized
    assert len(pairs.within_positions(tokenized, max_rationale_tokens=16, max_positions=longest + 15)) < 4


@pytest.mark.parametrize(
    ("gaps", "is_ignored"),
    [([0.2, 0.15], False), ([0.2, 0.1], True), ([0.01], True), ([0.2, None], False), ([None, 0.06], False)],
)
def test_collapse_is_told_by_the_gap_and_by_its_fall(gaps, is_ignored):
    assert loop.is_ignored([{"z_gap": gap} for gap in gaps], floor=0.05, share=0.7) == is_ignored


@pytest.mark.parametrize("objective", ["reward_weighted", "grpo"])
def test_other_objectives_and_a_kept_optimizer_run(cold_started, tmp_path, objective):
    em = make_em(
        cold_started,
        tmp_path,
        e_step_config=dataclasses.replace(E_STEP, objective=objective),
        optimizer_between_rounds="keep",
    )
    counts = run(cold_started, em, sharpness=UNSURE)
    assert counts["rounds"] == 2
    candidates = jsonl.read_records(tmp_path / "round_000" / "candidates.jsonl", records.Candidate)
    groups = [[c.weight for c in candidates[i : i + 3] if c.valid] for i in range(0, len(candidates), 3)]
    assert any(len({*weights}) > 1 for weights in groups)  # or nothing would be compared
    for i in range(0, len(candidates), 3):
        row = [c for c in candidates[i : i + 3] if c.valid]
        target = 1.0 if objective == "reward_weighted" else 0.0
        if row:
            np.testing.assert_allclose(sum(c.weight for c in row), target, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "sizes"),
    [
        ("grpo", {"data": 4, "tensor": 2}),
        ("grpo", {"fsdp": 4, "tensor": 2}),
        ("reward_weighted", {"data": 2, "fsdp": 2, "tensor": 2}),
        ("best_of_g", {"fsdp": 4, "tensor": 2}),
    ],
)
def test_eight_devices_give_the_rounds_of_one(cold_started, tmp_path, objective, sizes):
    """The same rationales; 1e-3 of their summed scores and 1e-4 of parameters after two rounds of fits."""
    e_step = dataclasses.replace(E_STEP, objective=objective)
    for name, mesh in (("one", MESH), ("eight", mesh_lib.make_mesh(mesh_lib.MeshConfig(**sizes)))):
        em = make_em(cold_started, tmp_path / name, mesh, e_step_config=e_step)
        run(cold_started, em, mesh, sharpness=UNSURE)
    for round_index in range(2):
        one, eight = (tmp_path / name / f"round_00{round_index}" for name in ("one", "eight"))
        drawn = [jsonl.read_records(place / "candidates.jsonl", records.Candidate) for place in (eight, one)]
        assert any(c.weight for c in drawn[1] if not c.won) == (objective != "best_of_g")
        for ours, theirs in zip(*drawn, strict=True):
            assert (ours.token_ids, ours.won) == (theirs.token_ids, theirs.won)
            terms = [(c.log_p_z, c.log_p_x, c.log_q, c.weight) for c in (ours, theirs)]
            np.testing.assert_allclose(*terms, rtol=1e-3, atol=1e-3)
        for role in ("theta", "phi"):
            ours, theirs = (params_of(place / role, cold_started[2]) for place in (eight, one))
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours, theirs)


@pytest.mark.parametrize(
    ("values", "stops"),
    [
        ([1.0, 0.9, 0.8], False),
        ([1.0, 0.999, 0.9985], True),  # less than the tolerance, twice
        ([1.0, 1.1, 0.5], False),
        ([None, None, None], True),
        ([1.0], False),
    ],
)
def test_stop_rule(values, stops):
    rows = [{"nll_bound": value} for value in values]
    assert (loop.stop_reason(rows, tolerance=0.01, patience=2) is not None) == stops


def test_pairs_of_rounds_cover_all_before_any_comes_twice(cold_started, tmp_path):
    em = make_em(cold_started, tmp_path, pairs_per_round=5)
    seen = [pair.index for r in range(2) for pair in em.pairs_of_round(r)]
    assert sorted(seen) == list(range(10))


def test_held_out_closes_an_unfinished_rationale(cold_started):
    tokenizer = cold_started[1]
    begun = tuple(tokenizer.encode("<!-- BEGIN RATIONALE -->\nhal"))
    z = rationale(begun, finish_reason="length")
    whole_text = "<!-- BEGIN RATIONALE -->\nhal\n<!-- END RATIONALE -->\n"
    assert tokenizer.decode(held_out.closed_block(tokenizer, z)) == whole_text
    ended = rationale((*begun, tokenizer.eos_id))
    assert held_out.closed_block(tokenizer, ended) == begun


def test_the_leading_rationale_is_what_theta_wrote_before_the_problem(cold_started):
    tokenizer, triple = cold_started[1], TRIPLES[0]
    z = examples.rationale_ids(tokenizer, triple.rationale)
    ids = (*z, *examples.problem_ids(tokenizer, triple.problem))
    assert examples.leading_rationale(tokenizer, ids) == (tuple(z), True)
    assert examples.leading_rationale(tokenizer, z[:-4]) == (tuple(z[:-4]), False)


def test_no_pairs_and_repeated_ids_are_refused(cold_started, tmp_path):
    em = dataclasses.replace(make_em(cold_started, tmp_path), pairs=[])
    with pytest.raises(WrongUse, match="no pairs"):
        run(cold_started, em)
    with pytest.raises(WrongUse, match="'t0' occurs twice"):
        pairs.tokenize_pairs(cold_started[1], [TRIPLES[0], TRIPLES[0]])


def test_reward_is_of_the_role_not_of_the_prompt(cold_started):
    """Prompt tokens carry no reward: R of a pair is what the completion alone adds."""
    tokenizer = cold_started[1]
    pair = pairs.tokenize_pairs(tokenizer, TRIPLES[:1])[0]
    z = rationale((5, 6, tokenizer.eos_id))
    seen = []

    def log_joint(some, rows):
        seen.append([[r.block_ids for r in row] for row in rows])
        return np.array([[-1.0]]), np.array([[-2.0]])

    config = EStepConfig(group_size=1, max_rationale_tokens=4)
    (candidate,) = e_step_lib.e_step([pair], propose=lambda some: [[z]], log_joint=log_joint, config=config)
    assert seen == [[[(5, 6)]]]
    assert candidate.length == 2
    assert candidate.won
