"""Verification on problems whose truth is known: what each check finds, and how often it is wrong.

    python benchmarks/verification.py votes WORKDIR [--problems=240] [--figure=FILE.svg]
    python benchmarks/verification.py judge MODEL [--problems=16]  # a model in JAX, by path or name
    python benchmarks/verification.py programs [--problems=24]

The problems are the corpus's own, whose generator knows every answer, and copies with planted faults
(`faults.py`), one kind each; what rules find of these is `planted_faults.py`'s. In `votes` promptcot-tiny
votes, through `promptcot verify`, on families that it knows. `judge` shows sound and faulty problems to a
model. In `programs` no model is asked: the solutions of a problem are its reference program in two texts and,
in place of some, programs with a planted fault. Figures go to standard output as tables.
"""

import argparse
import collections
import random
import tempfile
import time
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import faults
from matplotlib import pyplot

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import MathCorpusRow, ProgramCorpusRow
from promptcot_jax.corpus import generator
from promptcot_jax.data import templates
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.run import stage
from promptcot_jax.sampling import engine, rollouts, token_choice
from promptcot_jax.sources import text_models
from promptcot_jax.synthesis import judging, program_tests, program_trials
from promptcot_jax.synthesis.answer_votes import VoteTally
from promptcot_jax.synthesis.input_proposals import Proposals
from promptcot_jax.synthesis.problem_files import OpenProblem
from promptcot_jax.synthesis.program_tests import Material
from promptcot_jax.synthesis.program_trials import TestConfig
from promptcot_jax.synthesis.solutions import Solution
from promptcot_jax.verify import math_answers, mutants
from promptcot_jax.verify.programs import ProgramSettings

SEED = 11  # of the corpus here and of the faults; training corpora have others
KNOWN_FAMILIES = ("arithmetic_series", "border_area", "common_multiples", "vieta")  # to promptcot-tiny
KINDS: tuple[faults.FaultKind, ...] = typing.get_args(faults.FaultKind)
THRESHOLDS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


def corpus_rows(num_rows: int, row_type: type) -> list:
    rows = generator.generate(generator.CorpusConfig(seed=SEED, num_train=3 * num_rows + 60)).train
    return [row for row in rows if isinstance(row, row_type)][:num_rows]


def table(headings: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Prints a Markdown table."""
    print(f"\n| {' | '.join(headings)} |\n|{' --- |' * len(headings)}")
    for line in lines:
        print(
            f"| {' | '.join(f'{value:.3f}' if isinstance(value, float) else str(value) for value in line)} |"
        )


def votes(place: Path, num_problems: int, figure: str | None) -> None:
    """Label accuracy by agreement, what wrong answers and ill-posed statements do to the votes."""
    corpus = generator.CorpusConfig(
        seed=SEED, num_train=0, num_heldout=num_problems, num_novel=0, families=KNOWN_FAMILIES
    )
    rows = [row for row in generator.generate(corpus).heldout if isinstance(row, MathCorpusRow)]
    truth = {row.id: row.answer for row in rows}
    planted = [faults.plant(row, kind, SEED) for kind in KINDS for row in rows[: num_problems // 3]]
    kind_of = {one.row.id: one.kind for one in planted}
    # Sound problems state no answer, but for a second set of them that states the right one.
    stated = rows[: num_problems // 3]
    lines: list[dict] = [{"id": row.id, "problem": row.problem} for row in rows]
    lines += [
        {"id": f"{row.id}-right_answer", "problem": row.problem, "answer": row.answer} for row in stated
    ]
    for one in planted:
        own = {"id": one.row.id, "problem": one.row.problem}
        lines.append(own | ({"answer": one.row.answer} if one.kind == "wrong_answer" else {}))
    jsonl.write_records(place / "problems.jsonl", lines)
    bindings = (
        "VOTER='promptcot-tiny'",
        "MAX_VOTE_TOKENS=256",
        "NUM_SLOTS=128",
        "verifying.VerifyConfig.statement_rules=False",  # so that all kinds come to the votes
    )
    started = time.monotonic()
    stage.run_stage("verify", ("stages/verify.gin",), bindings, str(place))
    print(f"{len(lines)} problems, 8 solutions each: {time.monotonic() - started:.0f} s")
    tallies = {tally.id: tally for tally in jsonl.read_records(place / "verify" / "votes.jsonl", VoteTally)}
    sound = [(tallies[row.id], truth[row.id]) for row in rows]
    label_curve(sound, figure)
    fault_votes(tallies, kind_of, [row.id for row in rows])
    answer_checks(tallies, kind_of, [f"{row.id}-right_answer" for row in stated])


def label_curve(sound: Sequence[tuple[VoteTally, str]], figure: str | None) -> None:
    right = [
        bool(tally.votes) and math_answers.grade_math(answer, tally.votes[0].answer)
        for tally, answer in sound
    ]
    single = [
        sum(len(group.samples) for group in tally.votes if math_answers.grade_math(answer, group.answer))
        / len(tally.endings)
        for tally, answer in sound
    ]
    lines = []
    for threshold in THRESHOLDS:
        kept = [ok for ok, (tally, _) in zip(right, sound, strict=True) if _is_kept(tally, threshold)]
        accuracy, error = float(np.mean(kept)) if kept else float("nan"), 0.0
        if kept:
            error = (accuracy * (1 - accuracy) / len(kept)) ** 0.5
        lines.append((threshold, len(kept), len(kept) / len(sound), accuracy, error))
    print(f"\none sample: {np.mean(single):.3f} right; of {len(sound)} sound problems, kept if not tied:")
    table(("agreement at least", "labels", "share kept", "label accuracy", "standard error"), lines)
    if figure:
        draw(lines, float(np.mean(single)), figure)


def _is_kept(tally: VoteTally, threshold: float) -> bool:
    return bool(tally.votes) and not tally.is_tied and tally.agreement >= threshold


def draw(lines: Sequence[Sequence[float]], single: float, path: str) -> None:
    shares, accuracies = [line[2] for line in lines], [line[3] for line in lines]
    thresholds, errors = [line[0] for line in lines], [line[4] for line in lines]
    canvas, axes = pyplot.subplots(figsize=(5.5, 3.6))
    axes.errorbar(thresholds, accuracies, yerr=errors, marker="o", label="labels that are right")
    axes.plot(thresholds, shares, marker="s", linestyle="--", label="problems that get a label")
    axes.axhline(single, color="grey", linestyle=":", label="one sample that is right")
    axes.set(xlabel="agreement of 8 solutions, at least", ylabel="share", ylim=(0, 1.02))
    axes.legend(fontsize=8)
    canvas.tight_layout()
    canvas.savefig(path, metadata={"Date": None})


def fault_votes(tallies: Mapping[str, VoteTally], kind_of: Mapping[str, str], sound: Sequence[str]) -> None:
    """How votes on ill-posed problems differ from those on sound ones."""
    groups = {"sound": [tallies[name] for name in sound]}
    for kind in KINDS:
        if kind != "wrong_answer":
            groups[kind] = [tallies[name] for name, own in kind_of.items() if own == kind]
    table(
        ("problems", "number", "mean agreement", "refused at 0.5", "refused at 0.75"),
        [
            (
                name,
                len(own),
                float(np.mean([tally.agreement for tally in own])),
                float(np.mean([not _is_kept(tally, 0.5) for tally in own])),
                float(np.mean([not _is_kept(tally, 0.75) for tally in own])),
            )
            for name, own in groups.items()
        ],
    )


def answer_checks(tallies: Mapping[str, VoteTally], kind_of: Mapping[str, str], right: Sequence[str]) -> None:
    """Stated answers against the majority: a wrong one is found if it is outvoted."""
    wrong = [name for name, kind in kind_of.items() if kind == "wrong_answer"]
    lines = []
    for threshold in (0.25, 0.5, 0.75, 1.0):
        caught, lost = (
            sum(_is_kept(tallies[n], threshold) and tallies[n].given_answer == "outvoted" for n in names)
            for names in (wrong, right)
        )
        passed = sum(
            _is_kept(tallies[name], threshold) and tallies[name].given_answer == "confirmed" for name in wrong
        )
        precision = caught / (caught + lost) if caught + lost else float("nan")
        lines.append((threshold, caught / len(wrong), precision, passed))
    print(f"\nanswers that a row states, {len(wrong)} wrong and {len(right)} right:")
    table(("agreement at least", "recall as outvoted", "precision", "wrong ones confirmed"), lines)


def judge(path: str, num_problems: int) -> None:
    """A judge's verdicts on sound and on ill-posed problems, and its agreement with itself."""
    rows = corpus_rows(2 * num_problems, MathCorpusRow)
    sound, others = rows[:num_problems], rows[num_problems:]
    kinds = [faults.ILL_POSED[i % len(faults.ILL_POSED)] for i in range(num_problems)]
    faulty = [faults.plant(row, kind, SEED).row for row, kind in zip(others, kinds, strict=True)]
    problems = [OpenProblem(id=row.id, problem=row.problem) for row in (*sound, *faulty)]
    source = text_models.JaxModel(
        path=path,
        mesh=mesh_lib.MeshConfig(),
        config=rollouts.RolloutConfig(
            sampling=token_choice.SamplingConfig(temperature=0.0, max_new_tokens=256),
            engine=engine.EngineConfig(num_slots=16),
        ),
    )
    started = time.monotonic()
    asked = {"judgings": judging.requests(problems, judging.JudgeConfig())}
    with tempfile.TemporaryDirectory() as directory:
        replies = text_models.ask(source, asked, directory, directory)["judgings"]
    judgements = judging.judgements_of(replies, judging.JudgeConfig())
    print(f"{len(problems)} problems, 2 judgings each: {time.monotonic() - started:.0f} s")
    print(judging.report(judgements))
    print(f"\nthe first reply:\n{replies[0].text}")
    refused = [judgement.fault(judging.JudgeConfig()) is not None for judgement in judgements]
    unread = [judgement.sound_share is None for judgement in judgements]
    lines = [
        (name, len(own), float(np.mean(own)), float(np.mean(lost)))
        for name, own, lost in (
            ("sound", refused[:num_problems], unread[:num_problems]),
            ("ill-posed", refused[num_problems:], unread[num_problems:]),
        )
    ]
    table(("problems", "number", "refused", "of all, without a verdict"), lines)


def programs(num_problems: int) -> None:
    """Outputs that are accepted, and wrong, as more of eight solutions are faulty; kill rates of suites."""
    rows = corpus_rows(num_problems, ProgramCorpusRow)
    draw_from = random.Random(SEED)
    lines = []
    for num_wrong, alike in ((0, False), (2, False), (4, False), (6, False), (4, True), (6, True)):
        materials = [_material(row, num_wrong, alike, draw_from) for row in rows]
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "trials.jsonl"
            trials = program_tests.try_all(materials, path, TestConfig(), ProgramSettings())
        outcomes = collections.Counter(
            (program_trials.fault(t, TestConfig()) or ("kept",))[0] for t in trials
        )
        expected = [{test.input: test.output for test in row.tests} for row in rows]
        settled = [
            tried.output.split() == known[tried.input].split()
            for trial, known in zip(trials, expected, strict=True)
            for tried in trial.tests
        ]
        lines.append(
            (
                f"{num_wrong} of 8{', alike' if alike else ''}",
                outcomes["kept"] / len(trials),
                len(settled),
                len(settled) - sum(settled),
                float(np.mean([trial.kill_rate for trial in trials if trial.num_mutants])),
                ", ".join(f"{name} {count}" for name, count in outcomes.items() if name != "kept"),
            )
        )
    table(("faulty solutions", "kept", "outputs accepted", "wrong ones", "mean kill rate", "rejects"), lines)
    suites(rows)


def _material(row: ProgramCorpusRow, num_wrong: int, alike: bool, draw_from: random.Random) -> Material:
    """The row's inputs, its program in two texts, and mutants of it, or one mutant in two texts."""
    program = typing.cast(str, templates.last_code_fence(row.solution))
    faulty = mutants.mutants(program, 200)
    wrong = [draw_from.choice(faulty)] * num_wrong if alike else draw_from.sample(faulty, num_wrong)
    texts = [*wrong, *([program] * (8 - num_wrong))]
    texts = [text + "\npass" * (i % 2) for i, text in enumerate(texts)]  # a comment would be no other program
    draw_from.shuffle(texts)
    return Material(
        problem=OpenProblem(id=row.id, domain="code", problem=row.problem),
        solutions=[Solution(answer=text, status="answered", num_tokens=1) for text in texts],
        proposals=Proposals(inputs=tuple(test.input for test in row.tests)),
    )


def suites(rows: Sequence[ProgramCorpusRow]) -> None:
    """Kill rates of suites that shrink: what a threshold can tell."""
    lines = []
    for num_inputs in (1, 2, 3, 4):
        materials = [_material(row, 0, False, random.Random(SEED)) for row in rows]
        config = TestConfig(min_tests=1, max_tests=num_inputs)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "trials.jsonl"
            trials = program_tests.try_all(materials, path, config, ProgramSettings())
        rates = [trial.kill_rate for trial in trials]
        below = [float(np.mean([rate < limit for rate in rates])) for limit in (0.5, 0.7, 0.9)]
        lines.append((num_inputs, float(np.mean(rates)), float(np.min(rates)), *below))
    table(("tests of a problem", "mean kill rate", "least", "below 0.5", "below 0.7", "below 0.9"), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("votes", "judge", "programs"))
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--problems", type=int)
    parser.add_argument("--figure")
    given = parser.parse_args()
    if given.what == "votes":
        votes(Path(given.arguments[0]), given.problems or 240, given.figure)
    elif given.what == "judge":
        judge(given.arguments[0], given.problems or 16)
    else:
        programs(given.problems or 24)


if __name__ == "__main__":
    main()
