"""What was run for a programming problem, and whether it makes tests."""

import collections
import dataclasses
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


def fault(trial: Trial, config: TestConfig) -> tuple[str, str] | None:
    """Why a trial gives no tests: the reason, and a sentence on it."""
    num_inputs, num_tests = len(trial.inputs), len(trial.tests)
    verdicts = collections.Counter(tried.verdict for tried in trial.inputs)
    given = collections.Counter(trial.given)
    is_short = num_tests < config.min_tests
    if trial.num_lost:
        return "sandbox_failed", f"the sandbox failed in {trial.num_lost} runs of programs"
    if count := given["contradicted"]:
        return "given_tests_contradict", f"{count} tests of the row have one input and other outputs"
    if not trial.inputs:
        return "no_inputs", "there are no inputs to try"
    if all(verdict == "none" for verdict in trial.solutions):
        return "no_program", f"none of {len(trial.solutions)} solutions is a program that counts"
    if (count := verdicts["invalid"]) and num_inputs - count < config.min_tests:
        return "invalid_inputs", f"the validator refuses {count} of {num_inputs} inputs"
    if is_short and (count := verdicts["disputed"]):
        message = f"too few of the solutions print the same for {count} of {num_inputs} inputs"
        return "solutions_disagree", message
    if is_short:
        return "too_few_tests", f"{num_tests} tests, fewer than {config.min_tests}"
    if count := given["outvoted"]:
        return "given_test_outvoted", f"{count} outputs of the row are not the majority's"
    if count := given["unconfirmed"]:
        message = (
            f"{count} of {len(trial.given)} tests of the row are disputed, too long, or more than are tried"
        )
        return "given_test_unconfirmed", message
    if not trial.program:
        return "no_solution_passes", "no solution prints every test's output"
    if trial.control == "failed":
        return "unrepeatable", "a solution that passed does not pass once more"
    if trial.num_mutants and trial.kill_rate < config.min_kill_rate:
        return "weak_tests", f"{trial.num_killed} of {trial.num_mutants} mutants fail a test"
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
