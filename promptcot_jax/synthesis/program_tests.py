"""Tests of programming problems that several programs vouch for (paper section 3.4: 3 to 4 tests by a model).

The paper's tests are a model's guess, output included. Here a model proposes inputs, word for word or by a
program that makes them, a validator of its own leaves out those that the task does not allow, and an output
is accepted only where enough of the solver's programs, different ones among them, print it in the sandbox.
The suite must then fail mutants of a program that passes it (`verify.mutants`). What is left are errors that
the solver's programs make alike, and misreadings that they share.
"""

import ast
import dataclasses
import functools
import warnings
from collections.abc import Iterable, Mapping, Sequence

from etils import epath

from promptcot_jax.core import shards
from promptcot_jax.core.records import StdioTest
from promptcot_jax.synthesis import input_proposals
from promptcot_jax.synthesis import solutions as solutions_lib
from promptcot_jax.synthesis.input_proposals import Proposals
from promptcot_jax.synthesis.problem_files import OpenProblem
from promptcot_jax.synthesis.program_trials import (
    GivenVerdict,
    InputVerdict,
    Origin,
    SolutionVerdict,
    TestConfig,
    Trial,
    TriedInput,
    Validator,
)
from promptcot_jax.synthesis.solutions import Solution
from promptcot_jax.verify import mutants, output_match, program_pool
from promptcot_jax.verify.mutants import Kills, Suite
from promptcot_jax.verify.programs import ProgramOutput, ProgramSettings

_SHARD = 8  # problems whose programs are run between two writes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
    """What a problem's tests are made from."""

    problem: OpenProblem
    solutions: Sequence[Solution]
    proposals: Proposals


@dataclasses.dataclass
class _TestBuilder:
    """A problem's tests in the making."""

    material: Material
    origins: dict[str, Origin] = dataclasses.field(default_factory=dict)  # of the inputs, in order
    invalid: set[str] = dataclasses.field(default_factory=set)
    validator: Validator = "none"
    # Of each program, by the input.
    outputs: dict[str, dict[str, ProgramOutput]] = dataclasses.field(default_factory=dict)
    tried: list[TriedInput] = dataclasses.field(default_factory=list)
    given: list[GivenVerdict] = dataclasses.field(default_factory=list)
    verdicts: list[SolutionVerdict] = dataclasses.field(default_factory=list)
    program: str = ""
    num_lost: int = 0

    @property
    def valid_inputs(self) -> list[str]:
        return [text for text in self.origins if text not in self.invalid]

    @property
    def tests(self) -> list[StdioTest]:
        return [StdioTest(tried.input, tried.output) for tried in self.tried if tried.verdict == "accepted"]


def try_all(
    materials: Sequence[Material], path: epath.PathLike, config: TestConfig, settings: ProgramSettings
) -> list[Trial]:
    """Runs all programs of all problems and writes what came of it to `path`, shard by shard.

    Raises:
        SandboxUnavailable: no program can be run here.
    """
    return shards.map_in_shards(
        path,
        materials,
        lambda some: _try_some(some, config, settings),
        Trial,
        shard_size=_SHARD,
        name="trials",
    )


def _try_some(materials: Sequence[Material], config: TestConfig, settings: ProgramSettings) -> list[Trial]:
    builders = [_TestBuilder(material) for material in materials]
    _gather_inputs(builders, config, settings)
    _validate(builders, settings)
    _run_solutions(builders, settings)
    for builder in builders:
        _vote(builder, config, settings)
        _judge_given(builder, settings)
        _judge_solutions(builder)
    killed = _kill(builders, config, settings)
    return [_trial(builder, kills) for builder, kills in zip(builders, killed, strict=True)]


def _gather_inputs(builders: Sequence[_TestBuilder], config: TestConfig, settings: ProgramSettings) -> None:
    """Those of the row, of the proposals and of the maker, different ones only."""
    makers = [builder for builder in builders if builder.material.proposals.maker]
    trials = [
        (builder.material.proposals.maker, builder.material.proposals.maker_seeds) for builder in makers
    ]
    printed = program_pool.outputs_of_many(trials, settings)
    generated: dict[int, list[str]] = {}
    for builder, outputs in zip(makers, printed, strict=True):
        builder.num_lost += _num_lost(outputs)
        generated[id(builder)] = [output.output for output in outputs if output.failure is None]
    for builder in builders:
        sources: Mapping[Origin, Sequence[str]] = {
            "given": [test.input for test in builder.material.problem.tests],
            "proposed": builder.material.proposals.inputs,
            "made": generated.get(id(builder), []),
        }
        for origin, texts in sources.items():
            for text in texts:
                if len(text) <= config.max_characters and len(builder.origins) < config.max_inputs:
                    builder.origins.setdefault(_whole_lines(text), origin)


def _num_lost(outputs: Iterable[ProgramOutput]) -> int:
    return sum(output.failure == "sandbox_error" for output in outputs)


def _whole_lines(text: str) -> str:
    """An input that ends its last line: with and without that it is one input."""
    return text if text.endswith("\n") else f"{text}\n"


def _validate(builders: Sequence[_TestBuilder], settings: ProgramSettings) -> None:
    """Marks inputs that a problem's validator refuses; one that does not work refuses nothing.

    Nor does one that refuses an input of the row's own tests: a model's reading of the task does not overrule
    what the row states, which is for the votes to confirm.
    """
    checked = [builder for builder in builders if builder.material.proposals.validator and builder.origins]
    trials = [(builder.material.proposals.validator, list(builder.origins)) for builder in checked]
    for builder, outputs in zip(checked, program_pool.outputs_of_many(trials, settings), strict=True):
        builder.num_lost += _num_lost(outputs)
        words = [output.output.strip() if output.failure is None else "" for output in outputs]
        pairs = zip(builder.origins, words, strict=True)
        refused = {text for text, word in pairs if word == input_proposals.INVALID}
        is_readable = all(word in (input_proposals.VALID, input_proposals.INVALID) for word in words)
        if not is_readable or any(builder.origins[text] == "given" for text in refused):
            builder.validator = "unusable"
        else:
            builder.validator, builder.invalid = "used", refused


def _run_solutions(builders: Sequence[_TestBuilder], settings: ProgramSettings) -> None:
    """Runs each different program once on each valid input."""
    jobs = [
        (builder, program)
        for builder in builders
        for program in dict.fromkeys(solution.answer for solution in builder.material.solutions)
        if program
    ]
    outputs = program_pool.outputs_of_many(
        [(program, builder.valid_inputs) for builder, program in jobs], settings
    )
    for (builder, program), own in zip(jobs, outputs, strict=True):
        builder.num_lost += _num_lost(own)
        builder.outputs[program] = dict(zip(builder.valid_inputs, own, strict=True))


def _vote(builder: _TestBuilder, config: TestConfig, settings: ProgramSettings) -> None:
    """Settles each input's output by the votes of the solutions that print something."""
    num_accepted = 0
    for text, origin in builder.origins.items():
        if text in builder.invalid:
            builder.tried.append(TriedInput(input=text, origin=origin, verdict="invalid"))
            continue
        groups = _groups(builder, text, settings)
        output, samples, is_settled = _majority(builder, groups, config)
        verdict: InputVerdict = "disputed"
        if is_settled:
            verdict = "accepted" if num_accepted < config.max_tests else "spare"
            num_accepted += 1
        builder.tried.append(
            TriedInput(
                input=text,
                origin=origin,
                verdict=verdict,
                output=output,
                samples=tuple(samples),
                num_outputs=len(groups),
            )
        )


def _judge_given(builder: _TestBuilder, settings: ProgramSettings) -> None:
    """What became of each test of the row's: one that was not tried, or not settled, is unconfirmed."""
    settled = {tried.input: tried.output for tried in builder.tried if tried.verdict in ("accepted", "spare")}
    stated = builder.material.problem.tests
    for test in stated:
        text = _whole_lines(test.input)
        others = [other.output for other in stated if _whole_lines(other.input) == text]
        if not all(_equal(test.output, other, settings) for other in others):
            builder.given.append("contradicted")
        elif text not in settled:
            builder.given.append("unconfirmed")
        else:
            builder.given.append("confirmed" if _equal(test.output, settled[text], settings) else "outvoted")


def _groups(builder: _TestBuilder, text: str, settings: ProgramSettings) -> dict[str, list[int]]:
    """The solutions that print something for an input, by what they print."""
    groups: dict[str, list[int]] = {}
    for sample, solution in enumerate(builder.material.solutions):
        printed = builder.outputs[solution.answer][text] if solution.answer else ProgramOutput()
        if printed.failure is not None or not printed.output.strip():
            continue
        first = next((o for o in groups if _equal(o, printed.output, settings)), printed.output)
        groups.setdefault(first, []).append(sample)
    return groups


def _majority(
    builder: _TestBuilder, groups: Mapping[str, list[int]], config: TestConfig
) -> tuple[str, list[int], bool]:
    """The output that most solutions print for an input, which do, and whether that settles it."""
    solutions = builder.material.solutions
    ranked = sorted(groups.items(), key=lambda group: -len(group[1]))  # on a tie the first to print it
    if not ranked:
        return "", [], False
    output, samples = ranked[0]
    is_tied = len(ranked) > 1 and len(ranked[1][1]) == len(samples)
    is_settled = (
        not is_tied
        and len(samples) >= config.min_agreement * len(solutions)
        and len({_without_layout(solutions[sample].answer) for sample in samples}) >= config.min_programs
        and len(output) <= config.max_characters
    )
    return output, samples, is_settled


@functools.lru_cache(1 << 10)  # each input asks for the same programs
def _without_layout(program: str) -> str:
    """A program as its syntax tree has it: comments, blank lines and spaces do not tell programs apart."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Python thinks of the model's strings
            return ast.unparse(ast.parse(program))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return program.strip()


def _equal(expected: str, printed: str, settings: ProgramSettings) -> bool:
    return output_match.outputs_match(expected, printed.encode(), settings.float_tolerance)


def _judge_solutions(builder: _TestBuilder) -> None:
    """The verdict on each solution, and the program whose mutants are tried.

    That is by the accepted tests. Without any nothing passes: by all valid inputs a solution fails, disagrees
    where solutions print different outputs, and else is untested. One is lost if the sandbox failed in a run
    of it, which says nothing of it.
    """
    accepted = [tried for tried in builder.tried if tried.verdict == "accepted"]
    judged_by = accepted or [tried for tried in builder.tried if tried.verdict != "invalid"]
    is_disputed = any(tried.num_outputs > 1 for tried in judged_by)
    for sample, solution in enumerate(builder.material.solutions):
        if not solution.answer:
            builder.verdicts.append("none")
        elif _num_lost(builder.outputs[solution.answer].values()):
            builder.verdicts.append("lost")
        elif accepted and all(sample in tried.samples for tried in accepted):
            builder.verdicts.append("passes")
            builder.program = builder.program or solution.answer
        else:
            printed = [builder.outputs[solution.answer][tried.input] for tried in judged_by]
            has_failed = any(output.failure is not None for output in printed)
            without_tests = "disagrees" if is_disputed else "untested"
            builder.verdicts.append("fails" if has_failed else "disagrees" if accepted else without_tests)


def _kill(builders: Sequence[_TestBuilder], config: TestConfig, settings: ProgramSettings) -> list[Kills]:
    """What became of the mutants of each problem's program, where there are tests enough."""
    return mutants.kill(
        [
            Suite(
                program=builder.program if len(builder.tests) >= config.min_tests else "", tests=builder.tests
            )
            for builder in builders
        ],
        settings,
        max_mutants=config.max_mutants,
        mutant_seconds=config.mutant_seconds,
    )


def _trial(builder: _TestBuilder, kills: Kills) -> Trial:
    solutions = builder.material.solutions
    return Trial(
        id=builder.material.problem.id,
        inputs=tuple(builder.tried),
        given=tuple(builder.given),
        endings=tuple(solution.status for solution in solutions),
        solutions=tuple(builder.verdicts),
        mean_tokens=solutions_lib.mean_tokens(solutions),
        validator=builder.validator,
        program=builder.program,
        control=kills.control,
        num_mutants=kills.num_mutants,
        num_killed=kills.num_killed,
        num_lost=builder.num_lost + kills.num_lost,
    )
