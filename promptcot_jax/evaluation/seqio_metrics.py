"""Metric functions for `seqio.Evaluator`, as the evaluation tasks of `data.seqio_tasks` take them.

They give the verdicts that `promptcot evaluate` gives: of a completion only the boxed answer, or the program
in its last code fence, can be right. seqio wants the arguments named as they are.
"""

import functools
import json
from collections.abc import Sequence

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import MathPrompt, ProgramPrompt, Prompt
from promptcot_jax.evaluation import accuracy
from promptcot_jax.sampling.text_model import Reply
from promptcot_jax.verify import program_pool
from promptcot_jax.verify.programs import ProgramSettings

DEFAULT = ProgramSettings()


def answer_accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Shares of completions whose boxed answer is equivalent to the reference, and that have none.

    Args:
        targets: reference answers.
    """
    problems = [MathPrompt(id=str(i), problem="", answer=answer) for i, answer in enumerate(targets)]
    return _shares(problems, predictions, lambda jobs: [])


def program_accuracy(
    targets: Sequence[str], predictions: Sequence[str], *, settings: ProgramSettings = DEFAULT
) -> dict[str, float]:
    """Shares of completions whose program passes all tests, and that hold none.

    Args:
        targets: tests as the JSON text of a list of such objects as rows have.

    Raises:
        WrongUse: one is no test.
        SandboxUnavailable: no sandbox works here and `settings` do not allow to do without.
    """
    problems = [
        jsonl.record_from_row(
            ProgramPrompt,
            {"id": str(i), "problem": "", "tests": json.loads(tests)},
            where=f"target {i}",
        )
        for i, tests in enumerate(targets)
    ]
    return _shares(problems, predictions, functools.partial(program_pool.run_many, settings=settings))


def _shares(
    problems: Sequence[Prompt], predictions: Sequence[str], run_programs: accuracy.RunMany
) -> dict[str, float]:
    replies = [
        Reply(id=p.id, sample=0, text=text, finish_reason="stop", prompt_tokens=0, completion_tokens=0)
        for p, text in zip(problems, predictions, strict=True)
    ]
    records = accuracy.graded(problems, replies, run_programs)
    return {
        "accuracy": sum(record.correct for record in records) / max(len(records), 1),
        "no_answer": sum(record.status == "no_answer" for record in records) / max(len(records), 1),
    }
