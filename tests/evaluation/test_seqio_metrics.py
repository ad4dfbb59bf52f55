"""`seqio.Evaluator` on our evaluation tasks gives the verdicts of `promptcot evaluate`."""

import json

import pytest
import seqio

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import (
    AssertTest,
    CallTest,
    MathPrompt,
    ProgramPrompt,
    StdioTest,
)
from promptcot_jax.data.seqio import converters, seqio_tasks
from promptcot_jax.data.seqio.vocabulary import TokenizerVocabulary
from promptcot_jax.evaluation import seqio_metrics
from promptcot_jax.verify import programs
from tests import toys

VOCABULARY = TokenizerVocabulary(toys.byte_tokenizer())
MATH = [
    MathPrompt(id="a", problem="Half of 1?", answer="\\frac{1}{2}"),
    MathPrompt(id="b", problem="1+1?", answer="2"),
    MathPrompt(id="c", problem="Roots of x^2=1?", answer="\\{-1, 1\\}"),
]
COMPLETIONS = {"Half": "It is \\boxed{0.5}.", "1+1?": "\\boxed{3}", "Root": "the answer is 1 and -1"}


def evaluated(name: str) -> dict[str, float]:
    """What seqio makes of the fixed completions."""
    evaluator = seqio.Evaluator(
        mixture_or_task_name=name,
        feature_converter=converters.PackedLM(pack=False),
        eval_split="test",
        sequence_length={"inputs": 400, "targets": 100},
    )

    def predict(dataset, *_, **__):
        found = []
        for index, fields in dataset.as_numpy_iterator():
            prompt = VOCABULARY.decode(fields["token_ids"][~fields["loss_mask"]].tolist())
            ids = [*VOCABULARY.encode(COMPLETIONS[prompt[:4]]), VOCABULARY.eos_id]
            found.append((int(index), ids + [VOCABULARY.pad_id] * (40 - len(ids))))  # of one length, as T5X's
        return found

    metrics, _ = evaluator.evaluate(compute_metrics=True, step=1, predict_fn=predict, score_fn=None)
    return metrics.result()[name]


def test_answers_are_graded_as_the_stage_grades_them(tmp_path):
    jsonl.write_records(tmp_path / "toy.jsonl", MATH)
    seqio_tasks.register_tasks(
        VOCABULARY,
        evaluation_sets={"toy": str(tmp_path / "toy.jsonl")},
        metric_fns=[seqio_metrics.answer_accuracy],
    )
    found = evaluated("evaluate_toy")
    assert found == pytest.approx({"accuracy": 1 / 3, "no_answer": 1 / 3})


def test_programs_are_run_on_the_tests_of_the_reference(monkeypatch):
    asked = []

    def run_many(jobs, settings):
        asked.extend(jobs)
        return [programs.TestReport(passed=True, status="passed", results=()) for _ in jobs]

    monkeypatch.setattr(seqio_metrics.program_pool, "run_many", run_many)
    tests = (StdioTest("a", "b"), CallTest("f", (1, (2,)), {3}), AssertTest("assert f(1)"))
    row = ProgramPrompt(id="p", problem="Echo.", tests=tests)
    target = json.dumps([jsonl.to_row(test) for test in tests])
    found = seqio_metrics.program_accuracy([target, target], ["```python\nprint()\n```", "no program"])
    assert found == {"accuracy": 0.5, "no_answer": 0.5}
    assert asked == [("print()\n", row.tests)]
    with pytest.raises(WrongUse, match="target 0: field 'tests'"):
        seqio_metrics.program_accuracy(['[{"input": "a"}]'], [""])
