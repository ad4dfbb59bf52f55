"""A workdir as a short run leaves it, made up: for the report's tests and for looking at the page."""

import dataclasses
import pathlib
import random

from promptcot_jax.core import jsonl, manifest
from promptcot_jax.core.records import (
    AttemptedProblem,
    AttemptRecord,
    Candidate,
    CompletionSample,
    MathCorpusRow,
    Problem,
    SampleKind,
)
from promptcot_jax.evaluation import accuracy
from promptcot_jax.report import samples_page

PLANS = {
    "vague": "Combine the two ideas so that the second one closes what the first one opens.",
    "plan": "Start from a sum of consecutive squares, since it has a closed form, and hide its length.\n"
    "Then ask for the remainder, so that modular arithmetic is needed and a calculator is not enough.",
    "stepwise": "Step 1: choose n with n(n+1)(2n+1)/6 not divisible by 7.\n"
    "Step 2: state the sum S = 1^2 + ... + n^2.\n"
    "Step 3: ask for S mod 7.\nStep 4: check that the answer is not 0 or 1, which a guess would hit.",
}
SVG = (
    '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 100" width="200">'
    '<rect x="10" y="20" width="120" height="60" fill="#1f6fb5"/><text x="14" y="95">d</text></svg>'
)
SETTINGS = {
    "em": {
        "em.em_config": "EmConfig",
        "em.em_config.max_rounds": 5,
        "em.e_step.group_size": 8,
        "em.e_step.temperature": 1.0,
        "em.e_step.objective": "best_of_g",
        "em.phi_optimizer.learning_rate": 1e-4,
        "em.theta_optimizer.learning_rate": 2e-6,
        "em.theta": "{workdir}/cold_start/theta",
    },
    "self_play": {"self_play.config.num_iterations": 40, "self_play.rollouts.group_size": 8},
    "evaluate": {
        "evaluate.solver": "{workdir}/policy",
        "evaluate.problems": ["{workdir}/triples_heldout.jsonl"],
    },
}
DEVICES = {
    "em": (
        manifest.DeviceUse(kind="TPU v5 lite", unit="chip", count=16, hosts=4, wall_seconds=450.0),
        manifest.DeviceUse(kind="TPU v5 lite", unit="chip", count=8, hosts=2, wall_seconds=900.0),
    ),
    "self_play": (manifest.DeviceUse(kind="TPU v4", unit="chip", count=4, hosts=1, wall_seconds=1800.0),),
    "sft": (manifest.DeviceUse(kind="cpu", unit="processor", count=2, hosts=1, wall_seconds=1800.0),),
}
HOSTILE = "<script>alert('x')</script> & \"quotes\" \\boxed{<b>7</b>}"


def write(workdir: pathlib.Path, *, num_rounds: int = 5, num_pairs: int = 6) -> None:
    """Writes every file that the report reads."""
    workdir.mkdir(exist_ok=True)
    rng = random.Random(0)
    rows = [_corpus_row(i, rng) for i in range(num_pairs)]
    jsonl.write_records(workdir / "triples.jsonl", rows)
    jsonl.write_records(
        workdir / "triples_heldout.jsonl", [dataclasses.replace(r, id=f"held-{r.id}") for r in rows]
    )
    jsonl.write_records(workdir / "em" / "nll.jsonl", [_nll(i, rng) for i in range(-1, num_rounds)])
    diagnostics = [{"round": -1}] + [_diagnostics(i, rng) for i in range(num_rounds)]
    jsonl.write_records(workdir / "em" / "diagnostics.jsonl", diagnostics)
    for i in range(num_rounds):
        candidates = [c for row in rows for c in _candidates(row, i, rng)]
        jsonl.write_records(workdir / "em" / f"round_{i:03d}" / "candidates.jsonl", candidates)
    jsonl.write_records(workdir / "problems.jsonl", [_problem(i, rng) for i in range(24)])
    _write_attempts(workdir, rows, rng)
    for place in (
        "cold_start/theta_training",
        "cold_start/phi_training",
        "em/round_000/theta_training",
        "sft",
    ):
        losses = [
            {"step": s, "loss": 3.2 * (s + 4) ** -0.35 + rng.gauss(0, 0.03), "learning_rate": 1e-3}
            | ({"eval_nll": 3.3 * (s + 4) ** -0.34} if s % 50 == 0 else {})
            for s in range(0, 400, 10)
        ]
        jsonl.write_records(workdir / place / "metrics.jsonl", losses)
    _write_self_play(workdir / "self_play", rng)
    _write_reports(workdir)
    _write_analyses(workdir / "analyses")
    _write_manifest(workdir)
    (workdir / "config").mkdir(exist_ok=True)
    for stage, settings in SETTINGS.items():
        jsonl.write_json(workdir / "config" / f"{stage}.settings.json", settings)
    (workdir / "config" / "em.operative.gin").write_text("em.max_rounds = 5\nEStepConfig.group_size = 8\n")


def _corpus_row(i: int, rng: random.Random) -> MathCorpusRow:
    n = rng.randrange(20, 90)
    return MathCorpusRow(
        id=f"math-{i:04d}",
        family="sums" if i % 2 else "remainders",
        style=rng.choice(sorted(PLANS)),
        concepts=("sum of consecutive squares", "modular arithmetic", "closed forms")[: 2 + i % 2],
        level=str(1 + i % 5),
        rationale=PLANS["plan"],
        problem=f"Let S = 1^2 + 2^2 + ... + {n}^2. Find the remainder when S is divided by 7.",
        answer="3",
        solution=r"\boxed{3}",
    )


def _nll(i: int, rng: random.Random) -> dict:
    fall = 0.7 ** (i + 1)
    row = {
        "variant": "e_step",
        "seed": 1,
        "round": i,
        "theta_tokens_seen": (i + 1) * 180_000,
        "nll_bound": 0.40 + 0.07 * fall,
        "nll_x_given_q": 0.21 + 0.10 * fall,
        "nll_x_given_p": 0.33 + 0.08 * fall + rng.gauss(0, 0.003),
        "best_round": i,
        "nll_z": 0.41 + 0.03 * fall,
        "nll_z_and_x": 0.33 + 0.02 * fall,
        "nll_elbo": 0.43 + 0.08 * fall,
        "nll_x_given_like": 0.51 - 0.04 * fall,
        "nll_x_given_other": 0.58 - 0.04 * fall,
        "z_gap": 0.30 - 0.14 * fall,
        "z_gap_other": 0.37 - 0.14 * fall,
    }
    return row | ({"nll_direct": 0.477} if i < 0 else {})


def _diagnostics(i: int, rng: random.Random) -> dict:
    vague = 0.3 - 0.04 * i
    return {
        "round": i,
        "pairs": 512,
        "skipped_pairs": 7 - i,
        "valid_share": 0.93 + 0.01 * i,
        "reward_mean": -92 + 6 * i + rng.gauss(0, 1),
        "reward_chosen_mean": -80 + 6 * i,
        "reward_spread": 24 - 2.5 * i,
        "choice_share": 0.95 - 0.04 * i,
        "log_q_agreement": None if i == 3 else 0.2 + 0.2 * i,
        "log_q_agreement_chance": None if i == 3 else 0.13 + 0.05 * i,
        "close_share": None if i == 3 else 0.02 * i,
        "kl_q_posterior_estimate": 3.0 - 0.3 * i,
        "effective_samples": 1.8 + 0.2 * i,
        "held_out_effective_samples": 2.1 + 0.2 * i,
        "reward_length_correlation": -0.42 + 0.02 * i,
        "length_mean": 64 - 2 * i,
        "length_chosen_mean": 52 - 2 * i,
        "copy_rate": 0.11,
        "copy_rate_chosen": 0.14 + 0.01 * i,
        "distinct_rationales": 0.96 - 0.04 * i,
        "problems_parsed_share": 0.9 + 0.01 * i,
        "problems_distinct_share": 0.97 - 0.02 * i,
        "style_share": {"vague": 0.33, "plan": 0.35, "stepwise": 0.32},
        "style_share_greedy": {"plan": 1.0},
        "style_log_p": {style: {"z": -9.5, "x": -13.5} for style in ("plan", "stepwise", "vague")},
        "style_share_chosen": {"vague": vague, "plan": 0.4, "stepwise": 0.55 - vague, "other": 0.05},
    }


def _candidates(row: MathCorpusRow, i: int, rng: random.Random) -> list[Candidate]:
    candidates = []
    for sample in range(8):
        style = sorted(PLANS)[sample % 3]
        is_cut = sample == 5
        candidates.append(
            Candidate(
                pair_id=row.id,
                sample=sample,
                rationale=HOSTILE if sample == 6 else PLANS[style],
                token_ids=(5, 6, 7),
                finish_reason="length" if is_cut else "stop",
                valid=not is_cut,
                retokenized=False,
                log_p_z=-60 + rng.gauss(0, 6) + 4 * i,
                log_p_x=-22 + rng.gauss(0, 4) + 2 * i,
                log_q=-41 + rng.gauss(0, 5),
                length=len(PLANS[style]) // 4,
                weight=0.0,
                won=False,
            )
        )
    best = max(range(8), key=lambda g: (candidates[g].valid, candidates[g].log_p_z + candidates[g].log_p_x))
    candidates[best] = dataclasses.replace(candidates[best], weight=1.0, won=True)
    return candidates


def _problem(i: int, rng: random.Random) -> Problem:
    return Problem(
        id=f"drawn-{i:05d}-r4-s1-0",
        domain="math",
        concepts=("greatest common divisors", "linear equations in integers"),
        level=str(1 + i % 5),
        rationale=PLANS["stepwise"],
        problem=HOSTILE
        if i == 0
        else f"Find all pairs of integers (x, y) with 0 < x < 50 and {2 * i + 3}x + 14y = {i + 9}.",
        log_p_z=-55 + rng.gauss(0, 5),
        log_p_x=-20 + rng.gauss(0, 5),
        model_digest="8f2c",
        round_index=4,
        seed=1,
        sample=0,
    )


def _write_attempts(workdir: pathlib.Path, rows: list[MathCorpusRow], rng: random.Random) -> None:
    attempts = []
    for row in rows:
        for sample in range(2):
            is_right = rng.random() < 0.5
            attempts.append(
                AttemptRecord(
                    problem_id=f"held-{row.id}",
                    sample=sample,
                    completion="The closed form gives n(n+1)(2n+1)/6, so S mod 7 is "
                    + (r"\boxed{3}" if is_right else r"\boxed{4}"),
                    answer="3" if is_right else "4",
                    reference="3",
                    correct=is_right,
                    status="match" if is_right else "mismatch",
                    finish_reason="stop" if sample else "length",
                    num_tokens=70 + sample,
                )
            )
    problems = [
        AttemptedProblem(
            id=f"held-{row.id}",
            set="triples_heldout",
            domain=row.domain,
            level=row.level,
            concepts=row.concepts,
            problem=row.problem,
        )
        for row in rows
    ]
    jsonl.write_records(workdir / "evaluate" / "problems.jsonl", problems)
    jsonl.write_records(workdir / "evaluate" / "attempts.jsonl", attempts)
    result = accuracy.summary(
        attempts,
        [],
        splits={
            "level": {f"held-{r.id}": r.level for r in rows},
            "family": {f"held-{r.id}": r.family for r in rows},
        },
    )
    result |= {"not_graded": 40, "not_graded_reason": "no sandbox works here"}
    jsonl.write_json(
        workdir / "results.json", {"results": {"triples_heldout": result, "triples_novel": result}}
    )


def completion_sample(*, iteration: int, kind: SampleKind) -> CompletionSample:
    """What a policy wrote, right and with its thinking."""
    return CompletionSample(
        iteration=iteration,
        kind=kind,
        prompt_id="math-0001",
        domain="math",
        group=iteration * 4,
        sample=2,
        prompt="<|user|>Find S mod 7.<|assistant|>",
        problem="Find S mod 7.",
        reference="3",
        completion=f"<think>\n{HOSTILE}\n</think>\nSo \\boxed{{3}}.",
        answer="3",
        graded=True,
        correct=True,
        reward=1.0,
        format=1.0,
        length=0.0,
        status="match",
        finish_reason="stop",
        num_tokens=70,
    )


def _write_self_play(directory: pathlib.Path, rng: random.Random) -> None:
    rows = []
    for iteration in range(30):
        reward = 0.3 + 0.01 * iteration
        row = {
            "step": iteration + 1,
            "reward": reward,
            "reward_std": 0.4 * rng.random(),
            "frac_reward_zero_std": 0.2,
            "reward/correct": reward,
            "reward/status/match": reward,
            "reward/status/no_answer": 1 - reward,
            "completions/mean_length": 400 - 3 * iteration,
            "completions/mean_terminated_length": 0.0 if iteration == 4 else 350.0,
            "completions/clipped_ratio": 1.0 if iteration == 4 else 0.1,
            "groups/drawn": 20,
            "groups/used": 16,
            "sequences": 128,
            "seconds/sampling": 6.0,
            "seconds/training": 4.0,
        }
        if iteration != 7:  # nothing to learn from
            row |= {
                "loss": 0.01,
                "grad_norm": None if iteration == 9 else 0.5,
                "entropy": 0.6,
                "updates": 2,
                "num_skipped": 1,
            }
        if iteration % 10 == 9:
            row |= {"eval/avg_at_k": 0.2 + 0.01 * iteration, "eval/standard_error": 0.05}
        rows.append(row)
    jsonl.write_records(directory / "metrics.jsonl", rows)
    kinds: tuple[SampleKind, ...] = ("best", "worst", "random")
    samples = [
        completion_sample(iteration=iteration, kind=kind) for iteration in (0, 10, 20, 29) for kind in kinds
    ]
    jsonl.write_records(directory / "samples.jsonl", samples)
    samples_page.write(directory / "samples.html", samples)


def _write_reports(workdir: pathlib.Path) -> None:
    """Of annotate, verify and distill, with some of what they left out."""
    spread = {"min": 4, "q1": 20, "median": 31.5, "q3": 40, "p95": 66, "max": 90, "mean": 33.25}
    jsonl.write_json(
        workdir / "annotate" / "report.json",
        {
            "rows": {"in": 60, "left_out": 2, "triples": 50, "rejected": 8, "share_rejected": 0.1379},
            "left_out_by_reason": {"bad_json": 2},
            "rejected_by_reason": {"concepts_unreadable": 8},
            "annotators": {"gpt-oss-120b": {"rows": 58, "triples": 50}},
            "replies": {"concepts_stop": 58, "rationales_length": 3},
            "words": {"problem": spread, "rationale": spread},
            "concepts": {"distinct": 71, "coverage": spread},
            "copying": {"share": spread, "longest_run": spread},
            "answer_stated": {"no": 41, "yes": 9},
            "warning": "50 triples; the paper's cold start had 15,586.",
        },
    )
    jsonl.write_json(
        workdir / "verify" / "report.json",
        {
            "rows": {"in": 24, "out": 9, "out_math": 9, "out_code": 0, "rejected": 15},
            "rejected_by_reason": {"statement_fragment": 4, "votes_no_majority": 11},
            "pools": {"easy": 2, "hard": 7},
            "judge": {
                "well_posed_share": 0.81,
                "agreement": {"well_posed": {"equal_share": 0.9, "kappa": 0.62}},
            },
            "votes": {
                "problems": 20,
                "agreeing": {"0.5": 9, "1.0": 2},
                "tied": 3,
                "mean_agreement": 0.61,
                "solutions": {"answer": 140, "no_answer": 20},
            },
            "tests": {"problems": 0, "lost_runs": 0},
            "replies": {"solutions": {"stop": 150, "length": 10, "prompt_tokens": 9, "completion_tokens": 8}},
        },
    )
    reject = {"domain": "math", "check": "votes", "reason": "no_majority", "message": HOSTILE, "figures": {}}
    rejects = [reject | {"id": f"drawn-{i}", "problem": f"Find the value of {i}."} for i in range(15)]
    jsonl.write_records(workdir / "verify" / "rejects.jsonl", rejects)
    jsonl.write_json(
        workdir / "distill" / "report.json",
        {
            "prompts": {"in": 9, "asked": 9, "with_traces": 7},
            "traces": {"out": 7, "held_out": 1, "with_thinking": 7, "verified": {"no": 2, "yes": 5}},
            "rejected_by_reason": {"cut_off": 2},
            "replies": {"stop": 7, "length": 2, "prompt_tokens": 900, "completion_tokens": 51_000},
            "tokens_of_a_trace": spread,
            "characters": {"prompt": spread, "completion": spread, "answer_part": spread},
        },
    )


def _write_analyses(directory: pathlib.Path) -> None:
    directory.mkdir()
    (directory / "difficulty.svg").write_text(SVG)
    (directory / "distribution.svg").write_text(SVG.replace("<rect", "<script>alert(1)</script><rect"))
    made = {
        "name": "difficulty",
        "title": "Difficulty of five sets",
        "caption": f"Accuracy of a model, {HOSTILE}",
        "files": ["difficulty.svg", "difficulty.csv"],
    }
    entry = {"command": "promptcot analyze --gin_file=stages/analyze.gin --workdir=DIR", "made": [made]}
    left_out = {"scaling": "there are fewer than two sizes"}
    jsonl.write_json(directory / "index.json", {"analyses": {"difficulty": entry}, "left_out": left_out})


def _write_manifest(workdir: pathlib.Path) -> None:
    stages = {
        "corpus": {"train": 6000, "heldout": 400, "novel": 400, "vocabulary": 1024},
        "cold_start": {
            "theta_rows": 5990,
            "theta_dropped_overlong": 10,
            "theta_tokens": 1_432_118,
            "phi_rows": 6000,
        },
        "em": {"pairs": 512, "held_out_pairs": 64, "rounds": 5, "skipped_pairs": 21, "m_step_skipped": 4},
        "annotate": {"in": 60, "out": 50, "dropped_bad_json": 2, "dropped_concepts_unreadable": 8},
        "synthesize": {
            "concept_sets": 64,
            "in": 256,
            "out": 201,
            "dropped_unfinished": 9,
            "dropped_unparseable": 12,
            "dropped_empty": 0,
            "dropped_duplicate": 31,
            "dropped_duplicate_of_seed": 3,
            "retokenized": 5,
        },
        "verify": {"in": 24, "out": 9, "dropped_votes_no_majority": 11, "dropped_statement_fragment": 4},
        "distill": {"in": 9, "out": 7, "dropped_cut_off": 2},
        "self_play": {
            "in": 300,
            "out": 290,
            "iterations": 30,
            "prompts_drawn": 600,
            "rollouts": 4800,
            "updates": 58,
        },
        "sft": {"rows": 5990, "tokens": 812_345},
        "evaluate": {"in": 440, "out": 400, "dropped_not_graded": 40},
    }
    for i, (stage, counts) in enumerate(stages.items()):
        manifest.record(
            workdir,
            manifest.StageEntry(
                stage=stage,
                status="running" if stage == "evaluate" else "complete",
                config_digest=f"{i}a0b1c2d3e4f5a6b",
                seed=1,
                inputs={"triples.jsonl": "0123456789abcdef"} if i else {},
                counts=counts,
                versions={"python": "3.11.9", "jax": "0.10.2"},
                wall_seconds=12.0 * (i + 1) ** 2,
                devices=DEVICES.get(stage, ()),
                attempts=3 if stage == "em" else 1,
                timed_attempts=2 if stage == "em" else 1,
            ),
        )
