"""What was run for a programming problem, and whether it makes tests: a small function a reason."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from promptcot_jax.core.records import StdioTest
from promptcot_jax.core.settings import (
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Share,
    settings,
)
from promptcot_jax.verify.mutants import Control

Origin = Literal["given", "proposed", "made"]
InputVerdict = Literal["accepted", "spare", "disputed", "invalid"]
GivenVerdict = Literal["confirmed", "outvoted", "unconfirmed", "contradicted"]  # of a test of the row's
SolutionVerdict = Literal["passes", "disagrees", "fails", "untested", "lost", "none"]
Validator = Literal["none", "used", "unusable"]  # unusable: it fails, or refuses a test of the row's


@settings
class TestConfig:
    """When a problem's tests are enough."""

    # Of a problem; the paper has 3 to 4.
    min_tests: PositiveInt = 3
    max_tests: PositiveInt = 16
    max_inputs: PositiveInt = 32  # that are tried for them
    max_characters: PositiveInt = 20_000  # of an input or an output
    min_agreement: PositiveShare = 0.5  # share of all solutions that must print a test's output
    min_programs: PositiveInt = 2  # among these, that differ in more than layout and comments
    max_mutants: NonNegativeInt = 24  # of the program whose mutants are tried
    min_kill_rate: Share = 0.5  # share of the mutants that must fail; some do what the program does
    # Time limit of a mutant of a program that is fast itself, see `verify.mutants`; many loop for ever.
    mutant_seconds: PositiveFloat = 2.0

    __test__ = False  # not a test case of pytest's

    def __post_init__(self):
        if not self.min_tests <= self.max_tests <= self.max_inputs:
            raise ValueError(
                "min_tests, max_tests and max_inputs must be in this order, got "
                f"{self.min_tests}, {self.max_tests} and {self.max_inputs}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TriedInput:
    """An input, and what the solutions print for it."""

    input: str
    origin: Origin
    verdict: InputVerdict  # spare: its output was accepted when there were tests enough
    output: str = ""  # that most solutions print, as the first of them did
    samples: tuple[int, ...] = ()  # the solutions that print it
    num_outputs: int = 0  # that the solutions print, different ones


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """All that was run for one problem, a row of `verify/trials.jsonl`."""

    id: str
    inputs: tuple[TriedInput, ...]
    given: tuple[GivenVerdict, ...]  # of each test of the row's; contradicted: by another of them
    endings: tuple[str, ...]  # of each solution as a text
    solutions: tuple[SolutionVerdict, ...]  # of each as a program, see `_judge_solutions`
    mean_tokens: float
    validator: Validator
    program: str  # that passes; empty where none does
    control: Control
    num_mutants: int
    num_killed: int
    num_lost: int  # runs of programs, the writer's and mutants included, of which the sandbox failed

    @property
    def tests(self) -> list[TriedInput]:
        """The accepted inputs."""
        return [tried for tried in self.inputs if tried.verdict == "accepted"]

    @property
    def kill_rate(self) -> float:
        """Share of the mutants that fail a test; 0 where there are none."""
        return self.num_killed / self.num_mutants if self.num_mutants else 0.0


Check = Callable[[Trial, TestConfig], str | None]


def _sandbox_failed(trial: Trial, config: TestConfig) -> str | None:
    return f"the sandbox failed in {trial.num_lost} runs of programs" if trial.num_lost else None


def _no_inputs(trial: Trial, config: TestConfig) -> str | None:
    return None if trial.inputs else "there are no inputs to try"


def _no_program(trial: Trial, config: TestConfig) -> str | None:
    if any(verdict != "none" for verdict in trial.solutions):
        return None
    return f"none of {len(trial.solutions)} solutions is a program that counts"


def _invalid_inputs(trial: Trial, config: TestConfig) -> str | None:
    num_invalid = sum(tried.verdict == "invalid" for tried in trial.inputs)
    if len(trial.inputs) - num_invalid >= config.min_tests or not num_invalid:
        return None
    return f"the validator refuses {num_invalid} of {len(trial.inputs)} inputs"


def _solutions_disagree(trial: Trial, config: TestConfig) -> str | None:
    num_disputed = sum(tried.verdict == "disputed" for tried in trial.inputs)
    if len(trial.tests) >= config.min_tests or not num_disputed:
        return None
    return f"too few of the solutions print the same for {num_disputed} of {len(trial.inputs)} inputs"


def _too_few_tests(trial: Trial, config: TestConfig) -> str | None:
    num_tests = len(trial.tests)
    return None if num_tests >= config.min_tests else f"{num_tests} tests, fewer than {config.min_tests}"


def _given_test_outvoted(trial: Trial, config: TestConfig) -> str | None:
    num_outvoted = trial.given.count("outvoted")
    return f"{num_outvoted} outputs of the row are not the majority's" if num_outvoted else None


def _given_test_unconfirmed(trial: Trial, config: TestConfig) -> str | None:
    num_open = trial.given.count("unconfirmed")
    if not num_open:
        return None
    return f"{num_open} of {len(trial.given)} tests of the row are disputed, too long, or more than are tried"


def _given_tests_contradict(trial: Trial, config: TestConfig) -> str | None:
    num_contradicted = trial.given.count("contradicted")
    return (
        f"{num_contradicted} tests of the row have one input and other outputs" if num_contradicted else None
    )


def _no_solution_passes(trial: Trial, config: TestConfig) -> str | None:
    return None if trial.program else "no solution prints every test's output"


def _unrepeatable(trial: Trial, config: TestConfig) -> str | None:
    return "a solution that passed does not pass once more" if trial.control == "failed" else None


def _weak_tests(trial: Trial, config: TestConfig) -> str | None:
    if not trial.num_mutants or trial.kill_rate >= config.min_kill_rate:
        return None
    return f"{trial.num_killed} of {trial.num_mutants} mutants fail a test"


_CHECKS: Mapping[str, Check] = {
    check.__name__.removeprefix("_"): check
    for check in (
        _sandbox_failed,
        _given_tests_contradict,
        _no_inputs,
        _no_program,
        _invalid_inputs,
        _solutions_disagree,
        _too_few_tests,
        _given_test_outvoted,
        _given_test_unconfirmed,
        _no_solution_passes,
        _unrepeatable,
        _weak_tests,
    )
}


def fault(trial: Trial, config: TestConfig) -> tuple[str, str] | None:
    """Why a trial gives no tests: the reason, and a sentence on it."""
    for reason, check in _CHECKS.items():
        if message := check(trial, config):
            return reason, message
    return None


def found(trial: Trial) -> dict[str, Any]:
    """What the programs say of a problem, as fields of `VerifiedProgramPrompt`."""
    num_solutions, tests = len(trial.solutions), trial.tests
    agreements = tuple(len(tried.samples) / num_solutions for tried in tests)
    return {
        "tests": tuple(StdioTest(tried.input, tried.output) for tried in tests),
        "agreement": min(agreements),
        "test_agreements": agreements,
        "num_solutions": num_solutions,
        "pass_share": sum(verdict == "passes" for verdict in trial.solutions) / num_solutions,
        "mean_tokens": trial.mean_tokens,
        "solution": trial.program,
        "num_mutants": trial.num_mutants,
        "kill_rate": round(trial.kill_rate, 4),
    }
