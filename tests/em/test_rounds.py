"""EM end to end on a toy decoder: files, phases, resumption, arms without E-step."""

import dataclasses
import shutil
from typing import get_args
from unittest import mock

import jax
import numpy as np
import pytest
from etils import epath

from promptcot_jax.checkpoints import load
from promptcot_jax.core import jsonl, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import examples
from promptcot_jax.em import generators, held_out, history, pairs, rounds
from promptcot_jax.em.settings import Arm, EmConfig, settings_of_arm
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.trainers import loop, optimizer
from tests.cases import some_fast
from tests.em.toy_em import E_STEP, MESH, TRIPLES, UNSURE, ByHand, make_em, params_of, run


def test_a_round_leaves_its_files_and_its_models_load(cold, whole):
    em, counts = whole
    assert (counts["rounds"], counts["pairs"]) == (2, 10)
    directory = em.directory / "round_001"
    candidates = jsonl.read_records(directory / "candidates.jsonl", records.Candidate)
    assert len(candidates) == 8 * E_STEP.group_size
    rows = [candidates[i : i + 3] for i in range(0, len(candidates), 3)]
    for row in rows:
        assert len({c.pair_id for c in row}) == 1
        assert [c.sample for c in row] == [0, 1, 2]
        rewards = [c.log_p_z + c.log_p_x if c.valid else -np.inf for c in row]
        best = int(np.argmax(rewards)) if any(c.valid for c in row) else None
        assert [c.won for c in row] == [g == best for g in range(3)]
    figures = jsonl.read_json(directory / "diagnostics.json")
    for style, terms in figures["style_log_p"].items():
        of_style = [c for c in candidates if c.valid and c.rationale[-1:] == style]
        assert figures["style_share"][style] == pytest.approx(
            len(of_style) / sum(c.valid for c in candidates)
        )
        assert terms["z"] == pytest.approx(np.mean([c.log_p_z for c in of_style]))
        assert terms["x"] == pytest.approx(np.mean([c.log_p_x for c in of_style]))
    assert sum(figures["style_share_greedy"].values()) == pytest.approx(1.0)
    for role in ("theta", "phi"):
        assert load.load_model(directory / role).tokenizer.digest == cold.tokenizer.digest
    rows = [row["round"] for _, _, row in jsonl.iter_rows(em.directory / "nll.jsonl")]
    assert rows == [-1, 0, 1]
    assert not list(em.directory.glob("round_*/*_training/checkpoints/step_*"))


@pytest.mark.parametrize("calls", some_fast([2, 7, 11], fast=(1,)))
def test_an_interrupted_run_ends_in_the_same_bits(cold, whole, tmp_path, monkeypatch, calls):
    """Stops after so many atomic writes of records, goes on, and compares everything that lasts."""
    em = make_em(cold, tmp_path)
    left = [calls]
    real = jsonl.write_atomically

    def write(path, data):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        real(path, data)

    monkeypatch.setattr(jsonl, "write_atomically", write)
    with pytest.raises(KeyboardInterrupt):
        run(cold, em)
    monkeypatch.setattr(jsonl, "write_atomically", real)
    run(cold, em)
    lasting = ["nll.jsonl", "diagnostics.jsonl", "round_001/candidates.jsonl", "round_001/rationales.jsonl"]
    undisturbed = whole[0].directory
    for name in lasting:
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes(), name
    for role in ("theta", "phi"):
        models = [params_of(directory / "round_001" / role) for directory in (tmp_path, undisturbed)]
        jax.tree.map(np.testing.assert_array_equal, *models)


def test_a_run_that_died_in_round_1_goes_on_from_the_models_of_round_0(cold, whole, tmp_path, monkeypatch):
    undisturbed, begun = whole[0].directory, []
    shutil.copy(undisturbed / "cold_start.json", tmp_path)
    shutil.copytree(undisturbed / "round_000", tmp_path / "round_000")

    def die(em, em_round, theta, phi):
        begun.append((em_round.index, jax.tree.map(np.array, {"theta": theta, "phi": phi})))
        raise KeyboardInterrupt

    monkeypatch.setattr(rounds, "run_round", die)
    with pytest.raises(KeyboardInterrupt):
        run(cold, make_em(cold, tmp_path))
    ((index, models),) = begun
    assert index == 1
    expected = {role: params_of(undisturbed / "round_000" / role) for role in models}
    jax.tree.map(np.testing.assert_array_equal, models, expected)


@pytest.fixture(scope="module")
def greedy(cold):
    """The likeliest rationale of the cold-started, less sharp phi for each of ten pairs, as token ids."""
    by_hand = ByHand(cold.lm, cold.params("phi", sharpness=UNSURE))
    eos_id = cold.tokenizer.eos_id
    tokenized = pairs.tokenize_pairs(cold.tokenizer, TRIPLES[:10])
    return [
        by_hand.greedy(pair.phi_prompt_ids, E_STEP.max_rationale_tokens, lambda ids: ids[-1:] == [eos_id])
        for pair in tokenized
    ]


@pytest.mark.parametrize("arm", ["fixed", "fixed_sampled", "given"])
def test_without_e_step_theta_is_fitted_to_one_rationale_for_all_rounds(
    cold, greedy, tmp_path, monkeypatch, arm
):
    """Greedy, sampled, or the pair's own; `fit` sees its ids in each round, and phi stays as it was."""
    fitted = []
    real = generators.Generator.fit

    def fit(self, params, targets, em_round, **others):
        fitted.append((self.role, [(tuple(row.prompt_ids), tuple(row.completion_ids)) for row in targets]))
        return real(self, params, targets, em_round, **others)

    monkeypatch.setattr(generators.Generator, "fit", fit)
    config, e_step = settings_of_arm(arm, EmConfig(max_rounds=2), E_STEP)
    em = make_em(
        cold, tmp_path, e_step_config=e_step, arm=config.arm, fixed_temperature=config.fixed_temperature
    )
    run(cold, em, sharpness=UNSURE)
    if arm == "given":
        blocks = [examples.rationale_ids(cold.tokenizer, pair.triple.rationale) for pair in em.pairs]
        is_valid = [True] * len(em.pairs)
    else:
        rows = jsonl.read_records(tmp_path / "rationales.jsonl", pairs.Rationale)
        assert [row.pair_id for row in rows] == [pair.triple.id for pair in em.pairs]  # two rounds see all 10
        assert ([tuple(row.token_ids) for row in rows] == greedy) == (arm == "fixed")
        blocks, is_valid = [row.block_ids for row in rows], [row.valid for row in rows]
    expected = [
        (
            "theta",
            [
                (pair.theta_prompt_ids, (*blocks[pair.index], *pair.problem_ids))
                for pair in pairs.pairs_of_round(em.pairs, r, em.config)
                if is_valid[pair.index]
            ],
        )
        for r in range(2)
    ]
    assert fitted == expected
    unsharp = jax.tree.map(np.asarray, cold.params("phi", sharpness=UNSURE))
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / "round_001" / "phi"), unsharp)
    assert not (tmp_path / "round_000" / "candidates.jsonl").exists()
    assert {row["variant"] for _, _, row in jsonl.iter_rows(tmp_path / "nll.jsonl")} == {arm}


def test_an_arm_takes_over_the_figures_of_the_cold_start(cold, whole, tmp_path, monkeypatch):
    """The same rows as if it had measured it again; the proposals are those that the first arm drew."""
    measured = []
    real = rounds.held_out
    monkeypatch.setattr(
        rounds,
        "held_out",
        lambda *models, **given: measured.append(given["em_round"].index) or real(*models, **given),
    )
    for name in ("alone", "shared"):
        em = make_em(cold, tmp_path / name, arm="given", max_rounds=1)
        if name == "shared":
            rounds.share_cold_start(whole[0].directory, em.directory)
        run(cold, em)
    assert measured == [-1, 0, 0]
    for file in ("nll.jsonl", "diagnostics.jsonl", "held_out_proposals.jsonl"):
        assert (tmp_path / "alone" / file).read_bytes() == (tmp_path / "shared" / file).read_bytes()


def test_an_arm_is_the_given_settings_but_for_its_own():
    config, e_step = (
        EmConfig(max_rounds=7, fixed_temperature=0.3),
        dataclasses.replace(E_STEP, temperature=0.9, num_cold_samples=1, num_winners=2),
    )
    changed = {}
    for arm in get_args(Arm):
        of_arm = settings_of_arm(arm, config, e_step)
        own = [
            (field.name, getattr(after, field.name))
            for before, after in zip((config, e_step), of_arm, strict=True)
            for field in dataclasses.fields(before)
            if getattr(before, field.name) != getattr(after, field.name)
        ]
        changed[arm] = dict(own)
    assert changed == {
        "e_step": {},
        "self_training": {
            "arm": "self_training",
            "group_size": 1,
            "num_cold_samples": 0,
            "num_winners": 1,
        },
        "reward_weighted": {
            "arm": "reward_weighted",
            "objective": "reward_weighted",
            "num_winners": 1,
        },
        "fixed": {"arm": "fixed"},
        "fixed_sampled": {"arm": "fixed_sampled", "fixed_temperature": 0.9},
        "given": {"arm": "given"},
    }
    assert [settings_of_arm(arm, config, e_step)[0].has_e_step for arm in changed] == [True] * 3 + [False] * 3


def rationale(token_ids, finish_reason="stop"):
    return pairs.Rationale(
        pair_id="t0",
        rationale="a",
        token_ids=token_ids,
        finish_reason=finish_reason,
        valid=True,
        retokenized=False,
        log_q=-1.0,
    )


def test_pairs_that_cannot_fit_are_left_out(cold):
    tokenized = pairs.tokenize_pairs(cold.tokenizer, TRIPLES[:4])
    longest = max(
        max(len(p.theta_prompt_ids) + len(p.problem_ids) + 24, len(p.phi_prompt_ids)) for p in tokenized
    )
    kept = pairs.within_positions(tokenized, max_rationale_tokens=16, max_positions=longest + 16)
    assert kept == tokenized
    assert len(pairs.within_positions(tokenized, max_rationale_tokens=16, max_positions=longest + 15)) < 4


@pytest.mark.parametrize("objective", some_fast(["reward_weighted", "grpo"]))
def test_other_objectives_and_a_kept_optimizer_run(cold, tmp_path, objective):
    em = make_em(
        cold,
        tmp_path,
        e_step_config=dataclasses.replace(E_STEP, objective=objective),
        optimizer_between_rounds="keep",
    )
    fits, train = [], loop.Fitter.train

    def spied(self, lm, params, batches, *, opt_state, **settings):
        carried = 0 if opt_state is None else int(optimizer.num_updates(opt_state))
        fits.append((jax.tree.map(np.array, params), carried, batches.num_steps))
        return train(self, lm, params, batches, opt_state=opt_state, **settings)

    with mock.patch.object(loop.Fitter, "train", spied):
        counts = run(cold, em, sharpness=UNSURE)
    assert counts["rounds"] == 2
    before, carried, num_steps = zip(*fits, strict=True)  # phi's and theta's of round 0, then of round 1
    assert carried == (0, 0, *num_steps[:2])
    of_round_0 = [params_of(tmp_path / "round_000" / role) for role in ("phi", "theta")]
    jax.tree.map(np.testing.assert_array_equal, list(before[2:]), of_round_0)
    candidates = jsonl.read_records(tmp_path / "round_000" / "candidates.jsonl", records.Candidate)
    groups = [[c.weight for c in candidates[i : i + 3] if c.valid] for i in range(0, len(candidates), 3)]
    assert any(len({*weights}) > 1 for weights in groups)  # or nothing would be compared
    for i in range(0, len(candidates), 3):
        row = [c for c in candidates[i : i + 3] if c.valid]
        target = 1.0 if objective == "reward_weighted" else 0.0
        if row:
            np.testing.assert_allclose(sum(c.weight for c in row), target, atol=1e-3)
    figures = jsonl.read_json(tmp_path / "round_000" / "diagnostics.json")
    if objective == "reward_weighted":
        light = [c for c in candidates if c.valid and c.weight < 1e-3]
        assert figures["phi_dropped_weights"] == len(light) > 0
        assert figures["phi_targets"] == sum(c.valid for c in candidates) - len(light)
    else:
        assert "phi_dropped_weights" not in figures


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
def test_eight_devices_give_the_rounds_of_one(cold, tmp_path, objective, sizes):
    """The same rationales, 1e-3 of their summed scores, and the same parameters after two rounds of fits.

    Where a gradient is next to nothing, as where the advantages of GRPO cancel, Adam's step is of any size up
    to the rate: so there the parameters agree by their mean, and each to within two steps of 1e-3.
    """
    e_step = dataclasses.replace(E_STEP, objective=objective)
    for name, mesh in (("one", MESH), ("eight", mesh_lib.make_mesh(mesh_lib.MeshConfig(**sizes)))):
        em = make_em(cold, tmp_path / name, mesh, e_step_config=e_step)
        run(cold, em, mesh, sharpness=UNSURE)
    for round_index in range(2):
        one, eight = (tmp_path / name / f"round_00{round_index}" for name in ("one", "eight"))
        candidates = [
            jsonl.read_records(directory / "candidates.jsonl", records.Candidate)
            for directory in (eight, one)
        ]
        assert any(c.weight for c in candidates[1] if not c.won) == (objective != "best_of_g")
        for ours, theirs in zip(*candidates, strict=True):
            assert (ours.token_ids, ours.won) == (theirs.token_ids, theirs.won)
            terms = [(c.log_p_z, c.log_p_x, c.log_q, c.weight) for c in (ours, theirs)]
            np.testing.assert_allclose(*terms, rtol=1e-3, atol=1e-3)
        for role in ("theta", "phi"):
            ours, theirs = (jax.tree.leaves(params_of(directory / role)) for directory in (eight, one))
            apart = np.concatenate([np.abs(a - b).ravel() for a, b in zip(ours, theirs, strict=True)])
            assert apart.mean() < 1e-6
            assert apart.max() < (2e-3 if objective == "grpo" else 1e-4)


def test_a_run_of_fewer_rounds_than_are_there_has_the_rows_of_its_own(tmp_path):
    by_pair = {"x_tokens": [1, 1], "bound": [None, None]}
    figures = [{"nll_bound": value, "held_out_by_pair": by_pair} for value in (3.0, 2.0, 1.0)]
    config = EmConfig(max_rounds=2)
    longer = history.History(epath.Path(tmp_path), config)
    for row in figures:
        longer.add(row)
    shorter = history.History(epath.Path(tmp_path), dataclasses.replace(config, max_rounds=1))
    assert shorter.read().index == 0
    assert shorter.rows == longer.rows[:2]
    assert [row["round"] for _, _, row in jsonl.iter_rows(tmp_path / "nll.jsonl")] == [-1, 0]


def test_pairs_of_rounds_cover_all_before_any_comes_twice(cold):
    tokenized = pairs.tokenize_pairs(cold.tokenizer, TRIPLES[:10])
    config = EmConfig(max_rounds=2, pairs_per_round=5)

    def seen(seed):
        of_seed = dataclasses.replace(config, seed=seed)
        return [pair.index for r in range(2) for pair in pairs.pairs_of_round(tokenized, r, of_seed)]

    assert sorted(seen(0)) == sorted(seen(1)) == list(range(10))
    assert seen(0) != seen(1)


def test_held_out_closes_an_unfinished_rationale(cold):
    tokenizer = cold.tokenizer
    begun = tuple(tokenizer.encode("<!-- BEGIN RATIONALE -->\nhal"))
    z = rationale(begun, finish_reason="length")
    whole_text = "<!-- BEGIN RATIONALE -->\nhal\n<!-- END RATIONALE -->\n"
    assert tokenizer.decode(held_out.closed_block(tokenizer, z)) == whole_text
    ended = rationale((*begun, tokenizer.eos_id))
    assert held_out.closed_block(tokenizer, ended) == begun


def test_the_leading_rationale_is_what_theta_wrote_before_the_problem(cold):
    tokenizer, triple = cold.tokenizer, TRIPLES[0]
    z = examples.rationale_ids(tokenizer, triple.rationale)
    ids = (*z, *examples.problem_ids(tokenizer, triple.problem))
    assert examples.leading_rationale(tokenizer, ids) == (tuple(z), True)
    assert examples.leading_rationale(tokenizer, z[:-4]) == (tuple(z[:-4]), False)


def test_no_pairs_and_repeated_ids_are_refused(cold, tmp_path):
    em = make_em(cold, tmp_path)
    with pytest.raises(WrongUse, match="no pairs"):
        dataclasses.replace(em, pairs=[])
    with pytest.raises(WrongUse, match="no held-out pairs"):
        dataclasses.replace(em, held_out_pairs=[])
    with pytest.raises(WrongUse, match="'t0' occurs twice"):
        pairs.tokenize_pairs(cold.tokenizer, [TRIPLES[0], TRIPLES[0]])
