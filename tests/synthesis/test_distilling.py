"""Grades of traces, and what becomes of one that could not be graded."""

from pathlib import Path

import pytest

from promptcot_jax.core.records import StdioTest
from promptcot_jax.sampling.text_model import Reply
from promptcot_jax.synthesis import distilling, solutions
from promptcot_jax.synthesis.distilling import DistillConfig
from promptcot_jax.synthesis.problem_files import OpenProblem
from promptcot_jax.verify import program_pool
from promptcot_jax.verify.programs import ProgramSettings, TestReport

PROBLEMS = [
    OpenProblem(id="m", problem="Half?", answer="1/2"),
    OpenProblem(id="c", domain="code", problem="Twice.", tests=(StdioTest("1\n", "2\n"),)),
    OpenProblem(id="n", problem="None?"),
]
TEXTS = {"m": "\\boxed{0.5}", "c": "```python\nprint(2)\n```", "n": "\\boxed{3}"}
REPLIES = [
    Reply(id=name, sample=0, text=text, finish_reason="stop", prompt_tokens=3, completion_tokens=4)
    for name, text in TEXTS.items()
]


@pytest.mark.parametrize("verification", ["flag", "only"])
def test_a_sandbox_that_fails_says_nothing_of_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verification
):
    lost = TestReport(passed=False, status="sandbox_error", results=())
    monkeypatch.setattr(program_pool, "run_many", lambda jobs, settings: [lost for _ in jobs])
    config = DistillConfig(heldout_share=0.0, verification=verification)
    made, rejects = distilling.read(PROBLEMS, REPLIES, config, teacher="t", seed=0)
    assert not rejects
    grades = distilling.grade(made, PROBLEMS, tmp_path / "grades.jsonl", ProgramSettings())
    assert [(grade.id, grade.verified, grade.status) for grade in grades] == [
        ("m-0", "yes", "match"),
        ("c-0", "unknown", "sandbox_error"),
    ]
    kept, rejects = distilling.keep(made, grades, config)
    if verification == "flag":
        assert [trace.verified for trace in kept] == ["yes", "unknown", "unknown"]
        return
    assert [trace.id for trace in kept] == ["m-0"]
    assert [(reject.subject["id"], reject.reason) for reject in rejects] == [
        ("c", "sandbox_error"),
        ("n", "not_graded"),
    ]
    assert all("could not be graded" in reject.evidence["message"] for reject in rejects)


def test_a_trace_is_held_to_the_answer_in_mathematics_and_to_the_tests_in_programming():
    tests = PROBLEMS[1].tests
    problems = [
        *PROBLEMS,
        OpenProblem(id="ma", problem="A third?", tests=tests),
        OpenProblem(id="ca", domain="code", problem="Thrice.", answer="6"),
    ]
    config = DistillConfig(heldout_share=0.0, verification="only")
    kept, rejects = distilling.worth_asking(problems, config, None)
    assert [problem.id for problem in kept] == ["m", "c"]
    assert [(reject.subject["id"], reject.reason) for reject in rejects] == [
        (name, "nothing_to_verify_by") for name in ("n", "ma", "ca")
    ]


def test_traces_of_a_prompt_are_held_out_together_and_about_as_many_as_asked_for():
    problems = [OpenProblem(id=f"p{i}", problem=f"{i}?") for i in range(1000)]
    config = DistillConfig(group_size=2, heldout_share=0.1)
    replies = [
        Reply(
            id=request.id,
            sample=request.sample,
            text=f"{request.sample} \\boxed{{1}}",
            finish_reason="stop",
            prompt_tokens=1,
            completion_tokens=1,
        )
        for request in solutions.requests(problems, config.group_size)
    ]
    made, _ = distilling.read(problems, replies, config, teacher="t", seed=0)
    held_out = [trace.prompt_id for trace in made if distilling.is_held_out(trace, config)]
    assert all(held_out.count(name) == 2 for name in held_out)
    assert 140 < len(held_out) < 260


def test_a_report_of_nothing_has_no_lengths():
    config = DistillConfig(heldout_share=0.0)
    figures = distilling.report(num_in=1, asked=[], replies=[], kept=[], rejects=[], config=config)
    assert figures["traces"]["out"] == 0
    assert figures["tokens_of_a_trace"] == {}
    assert len(distilling.lines(figures)) == 1
