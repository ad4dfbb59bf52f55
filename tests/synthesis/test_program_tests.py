"""Tests that programs vouch for: what is accepted, what is disputed, and why a problem gets none."""

import dataclasses

import pytest

from promptcot_jax.core.records import StdioTest, VerifiedProgramPrompt
from promptcot_jax.synthesis import outcomes, program_tests, program_trials, verifying
from promptcot_jax.synthesis.input_proposals import Proposals
from promptcot_jax.synthesis.problem_files import Entry, OpenProblem
from promptcot_jax.synthesis.program_tests import Material
from promptcot_jax.synthesis.program_trials import TestConfig, Trial
from promptcot_jax.synthesis.solutions import Solution
from promptcot_jax.verify import program_pool
from promptcot_jax.verify.programs import ProgramOutput, ProgramSettings, TestReport
from tests.cases import some_fast

DOUBLE = "print(int(input()) * 2)"
SUM = "n = int(input())\nprint(n + n)"
SQUARE = "print(int(input()) ** 2)"  # agrees on 0 and 2 alone
CRASH = "print(1 // 0)"
INPUTS = ("0", "2\n", "3", "10", "-4")
CONFIG = TestConfig()
SETTINGS = ProgramSettings(time_limit_s=3.0)


def solution(program: str, ending: str = "answered") -> Solution:
    return Solution(answer=program, status=ending, num_tokens=10)


def trial_of(tmp_path, programs, *, config=CONFIG, tests=(), **proposed) -> Trial:
    proposals = Proposals(**({"inputs": INPUTS} | proposed))
    material = Material(
        problem=OpenProblem(id="p", domain="code", problem="Double n.", tests=tests),
        solutions=[solution(text) if text else solution("", "no_answer") for text in programs],
        proposals=proposals,
    )
    [trial] = program_tests.try_all([material], tmp_path / "trials.jsonl", config, SETTINGS)
    return trial


def reason(trial: Trial, config: TestConfig = CONFIG) -> str | None:
    fault = program_trials.fault(trial, config)
    return fault and fault[0]


def test_an_output_is_accepted_where_enough_programs_print_it(tmp_path):
    trial = trial_of(tmp_path, [DOUBLE, SQUARE, SUM, DOUBLE, CRASH, "", SUM, SQUARE])
    assert [tried.verdict for tried in trial.inputs] == ["accepted"] * 5
    assert [tried.output for tried in trial.inputs] == ["0\n", "4\n", "6\n", "20\n", "-8\n"]
    assert trial.inputs[1].samples == (0, 1, 2, 3, 6, 7)
    assert trial.inputs[2].samples == (0, 2, 3, 6)
    assert trial.solutions == (
        *("passes", "disagrees", "passes", "passes", "fails", "none", "passes", "disagrees"),
    )
    assert trial.program == DOUBLE
    assert reason(trial) is None
    found = program_trials.found(trial)
    assert found["tests"] == tuple(StdioTest(t.input, t.output) for t in trial.inputs)
    assert found["agreement"] == 0.5 == found["pass_share"]
    assert found["test_agreements"] == (0.75, 0.75, 0.5, 0.5, 0.5)
    assert found["kill_rate"] > 0.6


@pytest.mark.parametrize(
    ("programs", "config", "expected"),
    [
        ([DOUBLE, SUM, SQUARE, CRASH], CONFIG, None),
        ([DOUBLE, DOUBLE, DOUBLE, DOUBLE], CONFIG, "solutions_disagree"),  # one text is one witness
        ([DOUBLE, DOUBLE, DOUBLE], TestConfig(min_programs=1), None),
        ([DOUBLE, SUM, SQUARE, CRASH], TestConfig(min_agreement=0.6), "solutions_disagree"),
        ([DOUBLE, SUM, SQUARE, SQUARE + " "], TestConfig(min_agreement=0.25), "solutions_disagree"),  # a tie
        ([DOUBLE, SUM], TestConfig(min_tests=6), "too_few_tests"),
        (
            [DOUBLE, f"# the same\n{DOUBLE}  # again\n\n"],
            CONFIG,
            "solutions_disagree",
        ),  # comments are no witness
        ([DOUBLE, "print( int( input() )*2 )"], CONFIG, "solutions_disagree"),
        (["", "", ""], CONFIG, "no_program"),
        ([CRASH, CRASH + "\n"], CONFIG, "solutions_disagree"),
        (["pass", "0"], CONFIG, "solutions_disagree"),  # what prints nothing says nothing
    ],
)
def test_when_there_are_tests(tmp_path, programs, config, expected):
    assert reason(trial_of(tmp_path, programs, config=config), config) == expected


def test_inputs_come_from_the_row_the_proposals_and_a_maker_each_once(tmp_path):
    maker = "print(int(input()) + 2)"
    tests = (StdioTest("10", "20"), StdioTest("7\n", "14\n"))
    trial = trial_of(
        tmp_path, [DOUBLE, SUM], tests=tests, inputs=("7", "8"), maker=maker, maker_seeds=("5\n", "7\n", "x")
    )
    assert [(tried.input, tried.origin) for tried in trial.inputs] == [
        ("10\n", "given"),
        ("7\n", "given"),
        ("8\n", "proposed"),
        ("9\n", "made"),
    ]
    assert trial.given == ("confirmed", "confirmed")
    assert reason(trial_of(tmp_path / "none", [DOUBLE, SUM], inputs=())) == "no_inputs"


def test_a_test_of_the_row_that_is_outvoted_refuses_the_problem(tmp_path):
    trial = trial_of(tmp_path, [DOUBLE, SUM], tests=(StdioTest("7", "15"),))
    assert trial.given == ("outvoted",)
    assert reason(trial) == "given_test_outvoted"


@pytest.mark.slow
def test_a_validator_catches_inputs_that_the_task_does_not_allow(tmp_path):
    validator = "print('VALID' if int(input()) >= 0 else 'INVALID')"
    trial = trial_of(tmp_path / "one", [DOUBLE, SUM], validator=validator)
    assert trial.validator == "used"
    assert [tried.verdict for tried in trial.inputs] == ["accepted"] * 4 + ["invalid"]
    # One that fails on an input, or says something else, refuses nothing.
    for i, broken in enumerate(
        ("print('VALID' if 1 // int(input()) else 'INVALID')", "print('OK')", "loop(")
    ):
        trial = trial_of(tmp_path / f"broken-{i}", [DOUBLE, SUM], validator=broken)
        assert (trial.validator, len(trial.tests)) == ("unusable", 5)
    trial = trial_of(tmp_path / "all", [DOUBLE, SUM], validator="print('INVALID')")
    assert reason(trial) == "invalid_inputs"


@pytest.mark.slow
def test_tests_that_let_mutants_pass_are_refused(tmp_path):
    program = "n = int(input())\nif n > 100:\n    print(n * 3 + 1)\nelse:\n    print(0)"
    other = f"{program}\npass"
    weak = trial_of(tmp_path / "weak", [program, other], inputs=("1", "2", "3"))
    assert len(weak.tests) == 3
    assert 0 < weak.kill_rate < 0.5
    assert reason(weak) == "weak_tests"
    strong = trial_of(tmp_path / "strong", [other, program], inputs=("1", "100", "101", "102", "500"))
    assert strong.kill_rate > 0.8
    assert reason(strong) is None
    assert reason(weak, dataclasses.replace(CONFIG, min_kill_rate=0.0)) is None


def test_more_tests_than_wanted_are_spare_and_too_long_ones_are_not_tried(tmp_path):
    config = TestConfig(min_tests=1, max_tests=2, max_inputs=4, max_characters=5)
    trial = trial_of(tmp_path, [DOUBLE, SUM], inputs=("1", "999999", "2", "3", "4", "5"), config=config)
    assert [tried.input for tried in trial.inputs] == ["1\n", "2\n", "3\n", "4\n"]
    assert [tried.verdict for tried in trial.inputs] == ["accepted", "accepted", "spare", "spare"]


@pytest.mark.slow
def test_a_program_that_loops_or_writes_no_text_costs_its_vote_alone(tmp_path):
    loop = "while True:\n    pass"
    noise = "import sys\nsys.stdout.buffer.write(b'\\xff')"
    trial = trial_of(tmp_path, [DOUBLE, loop, SUM, noise], inputs=INPUTS[:3])
    assert trial.solutions == ("passes", "fails", "passes", "fails")
    assert reason(trial) is None


def test_what_was_tried_is_not_run_again(tmp_path, monkeypatch):
    trial = trial_of(tmp_path, [DOUBLE, SUM])
    monkeypatch.setattr(program_pool, "outputs_of_many", None)
    assert trial_of(tmp_path, [DOUBLE, SUM]) == trial


def test_a_validator_does_not_overrule_the_rows_own_tests(tmp_path):
    validator = "print('VALID' if int(input()) >= 0 else 'INVALID')"
    wrong = trial_of(tmp_path / "wrong", [DOUBLE, SUM], tests=(StdioTest("-7", "99"),), validator=validator)
    assert (wrong.validator, wrong.given, reason(wrong)) == (
        "unusable",
        ("outvoted",),
        "given_test_outvoted",
    )
    right = trial_of(tmp_path / "right", [DOUBLE, SUM], tests=(StdioTest("-7", "-14"),), validator=validator)
    assert (right.given, reason(right)) == (("confirmed",), None)


@pytest.mark.parametrize(
    ("programs", "tests", "config", "given", "expected"),
    some_fast(
        [
            # All four programs print something else for 5.
            (
                [DOUBLE, SUM, "n = int(input())\nprint(n * 2 if n != 5 else 1)", SUM + " if n != 5 else n"],
                (StdioTest("5", "10"),),
                TestConfig(min_agreement=0.75),
                ("unconfirmed",),
                "given_test_unconfirmed",
            ),
            (
                [DOUBLE, SUM],
                (StdioTest("1", "2"), StdioTest("000004", "8")),
                TestConfig(max_characters=5),
                ("confirmed", "unconfirmed"),
                "given_test_unconfirmed",
            ),
            (
                [DOUBLE, SUM],
                tuple(StdioTest(f"{n}", f"{2 * n}") for n in range(4)),
                TestConfig(max_inputs=3, max_tests=3),
                ("confirmed", "confirmed", "confirmed", "unconfirmed"),
                "given_test_unconfirmed",
            ),
            (
                [DOUBLE, SUM],
                tuple(StdioTest(f"{n}", f"{2 * n}") for n in range(4)),
                TestConfig(max_tests=3),  # a spare test is confirmed as well
                ("confirmed",) * 4,
                None,
            ),
            (
                [DOUBLE, SUM],
                (StdioTest("7", "14"), StdioTest("7\n", "15\n"), StdioTest("8", "16")),
                CONFIG,
                ("contradicted", "contradicted", "confirmed"),
                "given_tests_contradict",
            ),
            (
                [DOUBLE, SUM],
                (StdioTest("7", "14"), StdioTest("7\n", "14\n")),
                CONFIG,
                ("confirmed", "confirmed"),
                None,
            ),
        ],
        fast=(0, 3),
    ),
)
def test_every_test_of_the_row_must_be_confirmed(tmp_path, programs, tests, config, given, expected):
    trial = trial_of(tmp_path, programs, tests=tests, config=config)
    assert (trial.given, reason(trial, config)) == (given, expected)


def test_without_an_accepted_test_no_solution_passes(tmp_path):
    triple = "print(int(input()) * 3)"
    programs = [DOUBLE, triple, "print(int(input()) + 5)", "print(int(input()) - 7)", CRASH, ""]
    disputed = trial_of(tmp_path / "disputed", programs, inputs=("3", "10", "-4"))
    assert {tried.verdict for tried in disputed.inputs} == {"disputed"}
    assert [tried.num_outputs for tried in disputed.inputs] == [4, 4, 4]
    assert disputed.solutions == (*["disagrees"] * 4, "fails", "none")
    assert reason(disputed) == "solutions_disagree"
    nothing = trial_of(tmp_path / "nothing", programs, inputs=())
    assert nothing.solutions == (*["untested"] * 5, "none")
    assert nothing.program == ""
    # Nobody contradicts the only program there is, and nobody vouches for it.
    alone = trial_of(tmp_path / "alone", [DOUBLE, DOUBLE])
    assert alone.solutions == ("untested", "untested")


@pytest.mark.slow
def test_mutants_of_a_slow_program_are_not_killed_by_the_clock(tmp_path):
    """It sleeps for a second, twice what its mutants have; what they change is never printed."""
    slow = "import time\nn = int(input())\nm = n + 3\ntime.sleep('ab'.count('a') and len('x'))\nprint('done')"
    config = TestConfig(mutant_seconds=0.5)
    trial = trial_of(tmp_path, [slow, f"{slow}\npass"], inputs=("1", "2", "3"), config=config)
    assert (trial.control, trial.num_mutants, trial.num_killed) == ("passed", 4, 0)
    assert reason(trial, config) == "weak_tests"


@pytest.mark.slow
def test_a_mutant_that_loops_is_killed_at_the_programs_own_pace(tmp_path):
    program = "n = int(input())\ni = 0\nwhile i < n:\n    i += 1\nprint(i)"
    trial = trial_of(tmp_path, [program, f"{program}\npass"], inputs=("1", "2", "3"))
    assert trial.control == "passed"
    assert (trial.num_mutants, trial.num_killed) == (7, 5)  # to count from 1 or -1 ends at n as well


def test_a_program_that_does_not_pass_once_more_is_refused(tmp_path, monkeypatch):
    run_many, jobs_run = program_pool.run_many, []

    def once_failed(jobs, settings):
        jobs_run.append(list(jobs))
        return run_many([("print('another time')", tests) for _, tests in jobs_run[-1]], settings)

    monkeypatch.setattr(program_pool, "run_many", once_failed)
    trial = trial_of(tmp_path, [DOUBLE, SUM])
    assert (trial.control, trial.num_mutants, reason(trial)) == ("failed", 0, "unrepeatable")
    assert [len(jobs) for jobs in jobs_run] == [1]


def sandbox_lost_for(monkeypatch, *programs):
    """Lets the sandbox fail in all runs of these programs, and of mutants if "mutants" is one of them."""
    run_many, outputs_of_many = program_pool.run_many, program_pool.outputs_of_many
    lost = TestReport(passed=False, status="sandbox_error", results=())

    def some_outputs(trials, settings):
        trials = list(trials)
        outputs = outputs_of_many(trials, settings)
        return [
            [ProgramOutput(failure="sandbox_error")] * len(own) if program in programs else own
            for (program, _), own in zip(trials, outputs, strict=True)
        ]

    def some_reports(jobs, settings):
        jobs = list(jobs)
        are_mutants = not any(program in (DOUBLE, SUM) for program, _ in jobs)
        return [lost] * len(jobs) if are_mutants and "mutants" in programs else run_many(jobs, settings)

    monkeypatch.setattr(program_pool, "outputs_of_many", some_outputs)
    monkeypatch.setattr(program_pool, "run_many", some_reports)


@pytest.mark.parametrize(
    ("lost", "num_lost", "verdicts"),
    some_fast(
        [
            (SUM, 5, ("passes", "lost", "passes", "passes")),
            ("print('VALID')", 5, ("passes",) * 4),
            ("print(input())", 2, ("passes",) * 4),
            ("mutants", 3, ("passes",) * 4),
        ],
        fast=(0,),
    ),
)
def test_where_the_sandbox_fails_a_problem_is_neither_accepted_nor_judged(
    tmp_path, monkeypatch, lost, num_lost, verdicts
):
    sandbox_lost_for(monkeypatch, lost)
    another, third = "print(2 * int(input()))", "n = input()\nprint(int(n) * 2)"
    trial = trial_of(
        tmp_path,
        [DOUBLE, SUM, another, third],
        validator="print('VALID')",
        maker="print(input())",
        maker_seeds=("0\n", "2\n"),
    )
    assert (trial.solutions, trial.num_lost, reason(trial)) == (verdicts, num_lost, "sandbox_failed")


def test_mutants_are_a_check_of_a_prompt_only_where_there_are_some(tmp_path):
    echo = "print(input())"
    config = verifying.VerifyConfig()
    for name, programs, checks in (
        ("echo", [echo, f"{echo}\npass"], ("statement", "tests")),
        ("double", [DOUBLE, SUM], ("statement", "tests", "mutants")),
    ):
        trial = trial_of(tmp_path / name, programs)
        entry = Entry(OpenProblem(id="p", domain="code", problem="Say n."), {}, {})
        prompt = verifying.by_tests(entry, trial, config, {"solver": "s", "checks": ("statement", "tests")})
        assert isinstance(prompt, VerifiedProgramPrompt)
        assert prompt.checks == checks


def test_lost_runs_are_in_the_report(tmp_path, monkeypatch):
    sandbox_lost_for(monkeypatch, SUM)
    trial = trial_of(tmp_path, [DOUBLE, SUM])
    entry = Entry(OpenProblem(id="p", domain="code", problem="Double n."), {}, {})
    reject = verifying.by_tests(entry, trial, verifying.VerifyConfig(), {"checks": ()})
    assert isinstance(reject, outcomes.Reject)
    report = verifying.report(
        num_in=1, prompts=[], rejects=[reject], judgements=None, tallies=[], trials=[trial], replies={}
    )
    assert report["rejected_by_reason"] == {"tests_sandbox_failed": 1}
    assert report["tests"]["lost_runs"] == 5
    assert report["tests"]["solutions"] == {"lost": 1, "untested": 1}
    assert "5 runs" in verifying.lines(report)[-1]
