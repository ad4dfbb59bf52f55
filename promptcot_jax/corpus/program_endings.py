"""How programming tasks wrap the instances of a family: one, several, a sum, a decision, a remainder."""

import random

from promptcot_jax.corpus.families import ProgramEnding, Values

# Every program starts alike: the words of the input, taken one by one.
PROGRAM_HEAD = "import sys\n\ntokens = iter(sys.stdin.read().split())\n\n\ndef solve():\n"


def _no_parameters(draw: random.Random, results: list[int]) -> Values:
    return {}


def _draw_threshold(draw: random.Random, results: list[int]) -> Values:
    above_least = [result for result in results if result > min(results)]  # so that both verdicts occur
    return {"threshold": draw.choice(above_least or [max(results) + 1])}


def _draw_limit(draw: random.Random, results: list[int]) -> Values:
    return {"limit": draw.randint(3, 60)}


def _draw_divisor(draw: random.Random, results: list[int]) -> Values:
    return {"divisor": draw.randint(5, 97)}


SINGLE = ProgramEnding(
    name="single",
    concept="",
    extra_level=0,
    question="Read {reads}. Print {quantity}.",
    goal="",
    skeleton="print the result of a single instance",
    step="Keep one instance per run, so that the input stays simple.",
    blueprint="single instance",
    has_cases=False,
    program="print(solve())",
    draw=_no_parameters,
    report=lambda results: str(results[0]),
)

PROGRAM_ENDINGS = (
    ProgramEnding(
        name="cases",
        concept="multiple test cases",
        extra_level=0,
        question="The input starts with t (1 <= t <= {limit}); then come t cases, each with {reads}. "
        "For each case print {quantity}.",
        goal="answers many independent cases in one run",
        skeleton="answer several cases in one run",
        step="Put up to {limit} cases into a run, so state must be reset.",
        blueprint="up to {limit} cases, one line each",
        has_cases=True,
        program="for _ in range(int(next(tokens))):\n    print(solve())",
        draw=_draw_limit,
        report=lambda results, limit: "\n".join(map(str, results)),
    ),
    ProgramEnding(
        name="total",
        concept="accumulation",
        extra_level=0,
        question="First read t (from 1 to {limit}), then t blocks, each with {reads}. "
        "Find {quantity} for every block and print the sum.",
        goal="adds the results of many independent blocks",
        skeleton="accumulate the results of several blocks",
        step="Accumulate over up to {limit} blocks, so only one number is printed.",
        blueprint="sum over up to {limit} blocks",
        has_cases=True,
        program="print(sum(solve() for _ in range(int(next(tokens)))))",
        draw=_draw_limit,
        report=lambda results, limit: str(sum(results)),
    ),
    ProgramEnding(
        name="decision",
        concept="decision problems",
        extra_level=0,
        question="Read {reads}. Print YES if {quantity} is at least {threshold}, otherwise NO.",
        goal="turns the result into a yes or no",
        skeleton="compare the result with a fixed threshold",
        step="Compare with the threshold {threshold}, so equality must count.",
        blueprint="YES from {threshold} on",
        has_cases=False,
        program='print("YES" if solve() >= {threshold} else "NO")',
        draw=_draw_threshold,
        report=lambda results, threshold: "YES" if results[0] >= threshold else "NO",
    ),
    ProgramEnding(
        name="modulo",
        concept="modular output",
        extra_level=0,
        question="Read {reads}. Print the remainder of {quantity} on division by {divisor}.",
        goal="prints the result only after a reduction",
        skeleton="reduce the result before printing",
        step="Print the residue modulo {divisor} and nothing else.",
        blueprint="output modulo {divisor}",
        has_cases=False,
        program="print(solve() % {divisor})",
        draw=_draw_divisor,
        report=lambda results, divisor: str(results[0] % divisor),
    ),
    ProgramEnding(
        name="best",
        concept="maximum over cases",
        extra_level=1,
        question="The first number is t, between 1 and {limit}; t data sets follow, each with {reads}. "
        "Find {quantity} for each of them and print the largest result.",
        goal="keeps the best result among many data sets",
        skeleton="keep the largest result among several data sets",
        step="Hold up to {limit} data sets against each other and keep the largest result.",
        blueprint="maximum over up to {limit} data sets",
        has_cases=True,
        program="print(max(solve() for _ in range(int(next(tokens)))))",
        draw=_draw_limit,
        report=lambda results, limit: str(max(results)),
    ),
)
