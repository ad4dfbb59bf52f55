"""A workdir as `synthesize` and `verify` leave it, made up: for tests of `export` and its page."""

import dataclasses
import json
import pathlib
import random
from typing import Any

from promptcot_jax.core import jsonl, manifest
from promptcot_jax.core.records import (
    AnswerGroup,
    StdioTest,
    VerifiedMathPrompt,
    VerifiedProgramPrompt,
)

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\"><!-- & <b>bold</b> \u2028 \U0001f600"
CONCEPTS = (
    "modular arithmetic",
    "geometric series",
    "Vieta's formulas",
    "inclusion-exclusion",
    "<i>sets</i>",
)
STATEMENT = (
    r"Let $a_1, a_2, \ldots, a_{NN}$ be a sequence with $a_{n+1} = \frac{a_n^2 + 1}{2}$ and "
    r"$a_1 \le \sqrt{3}$. A ticket costs $5 and a book $12. Find $\sum_{k=1}^{NN} k^{2} \pmod{7}$."
)
RATIONALE = (
    "I begin with a sum of squares, since $\\frac{n(n+1)(2n+1)}{6}$ closes it.\nThen I ask for a residue."
)
LINEAGE: dict[str, Any] = {
    "log_p_z": -41.3,
    "log_p_x": -27.5,
    "model_digest": "0123456789abcdef",
    "round_index": 2,
    "seed": 7,
    "filters": ("language",),
    "concepts_in_words": 0.5,
    "concepts_in_meaning": 0.0,
    "seed_similarity": 0.25,
}
COUNTS = {
    "synthesize": {"in": 64, "out": 40, "dropped_unfinished": 14, "dropped_contaminated": 10},
    "verify": {
        "in": 40,
        "out": 0,
        "out_math": 0,
        "out_code": 0,
        "dropped_votes_low_agreement": 3,
        "dropped_judge_unique_answer": 1,
    },
}


INPUTS = {"synthesize": "triples.jsonl", "verify": "problems.jsonl"}


def math_row(i: int, rng: random.Random) -> VerifiedMathPrompt:
    """Three votes in four or more agree."""
    num_right = rng.choice((4, 5, 6, 7, 8))
    samples = rng.sample(range(8), 8)
    votes = [AnswerGroup(f"\\frac{{{i}}}{{2}}", tuple(sorted(samples[:num_right])))]
    votes += [AnswerGroup("0", tuple(sorted(samples[num_right:])))] if num_right < 8 else []
    return VerifiedMathPrompt(
        id=f"m{i}",
        concepts=tuple(rng.sample(CONCEPTS, 3)),
        level=rng.choice(("AIME", "HMMT-Feb", "3")),
        problem=HOSTILE if i == 1 else STATEMENT.replace("NN", str(i + 20)),
        answer=votes[0].answer,
        agreement=num_right / 8,
        votes=tuple(votes),
        num_solutions=8,
        pass_share=num_right / 8,
        mean_tokens=100.1 + i,
        pool="easy" if num_right > 6 else "medium" if num_right > 5 else "hard",
        solver="solver-7b",
        checks=("statement", "judge", "votes"),
        rationale=RATIONALE,
        sample=i % 4,
        **LINEAGE,
    )


def code_row(i: int, rng: random.Random) -> VerifiedProgramPrompt:
    return VerifiedProgramPrompt(
        id=f"c{i}",
        concepts=("arithmetic series",),
        level="codeforces",
        problem=f"Read n (1 <= n <= {i + 10}). Print the sum of the whole numbers from 1 to n.",
        tests=tuple(StdioTest(f"{n}\n", f"{n * (n + 1) // 2}\n") for n in (1, 5, 9)),
        agreement=0.75,
        test_agreements=(1.0, 0.875, 0.75),
        num_solutions=8,
        pass_share=rng.choice((0.25, 0.75)),
        mean_tokens=64.0,
        pool="medium",
        solver="solver-7b",
        solution="n = int(input())\nprint(n * (n + 1) // 2)",
        num_mutants=12,
        kill_rate=0.75,
        checks=("statement", "judge", "tests", "mutants"),
        rationale="Ask for a sum that has a closed form.",
        **LINEAGE,
    )


def write(workdir: pathlib.Path, *, num_rows: int = 36) -> None:
    """Verified prompts, a quarter of them programs, their seeds, and what the manifest says of them."""
    rng = random.Random(0)
    rows = [code_row(i, rng) if i % 4 == 3 else math_row(i, rng) for i in range(num_rows)]
    lines = [dataclasses.asdict(row) for row in rows]
    lines[0] |= {"source": "mine", "given_answer": "0.0", "colour": "red"}
    jsonl.write_records(workdir / "verified_prompts.jsonl", lines)
    triples = [
        {
            "id": f"t{i}",
            "concepts": ["sums"],
            "rationale": "z",
            "problem": "x",
            "source": ("mine", "gsm8k")[i % 2],
        }
        for i in range(5)
    ]
    jsonl.write_records(workdir / "triples.jsonl", triples)
    own = {
        "out": num_rows,
        "out_math": num_rows - num_rows // 4,
        "out_code": num_rows // 4,
        "in": num_rows + 4,
    }
    counts = COUNTS | {"verify": COUNTS["verify"] | own}
    for stage, of_stage in counts.items():
        entry = manifest.StageEntry(
            stage=stage,
            status="complete",
            config_digest=f"digest-of-{stage}",
            seed=11,
            inputs={
                "/home/somebody/models/theta": "feedfeedfeedfeed",
                f"{{workdir}}/{INPUTS[stage]}": "beadbeadbeadbead",
            },
            counts=of_stage,
            versions={"python": "3.11.7", "jax": "0.10.2"},
            wall_seconds=random.random(),  # a card must not depend on it
        )
        manifest.record(workdir, entry)
    settings = {
        "synthesize": {"synthesize.benchmarks.aime24": "/home/somebody/aime24.jsonl", "synthesize.seed": 11},
        "verify": {
            "verify.solver": "EndpointConfig",
            "verify.solver.model": "solver-7b",
            "verify.judge.path": "/home/somebody/models/theta",
            "verify.config.votes.min_agreement": 0.5,
        },
    }
    for stage, of_stage in settings.items():
        jsonl.write_json(workdir / "config" / f"{stage}.settings.json", of_stage)
    judge = {"well_posed_share": 0.81, "agreement": {"well_posed": {"equal_share": 0.9, "kappa": 0.62}}}
    jsonl.write_json(workdir / "verify" / "report.json", json.loads(json.dumps({"judge": judge})))
