"""Grading math answers on one core: ours and math-verify alone, on the same pairs, one after the other.

    python benchmarks/math_grading.py                    # 1,000 generated pairs
    python benchmarks/math_grading.py --cases=FILE       # JSON Lines with `gold`, `pred`, `match`
    python benchmarks/math_grading.py --cores=2

Both are warm: imports, the start of our worker and the first parse are not counted. math-verify runs in this
process with its defaults (its LaTeX and plain-number extraction, five seconds a step by `signal.alarm`).
"""

import argparse
import json
import logging
import os
import random
import time
from collections.abc import Callable

Pair = tuple[str, str, bool]  # reference, candidate, whether they are equal


def generated(num_pairs: int, seed: int = 0) -> list[Pair]:
    """A mix of answers as benchmarks have them; half of the candidates are wrong."""
    draw = random.Random(seed)

    def pair() -> Pair:
        a, b, c = (draw.randint(2, 99) for _ in range(3))
        is_right = draw.random() < 0.5
        d = b if is_right else b + draw.randint(1, 9)
        reference, candidate = draw.choice(
            [
                (f"{b}", f"{d}"),
                (f"{a},{b:02}0", f"{a}{d:02}0"),
                (f"{b}.5", rf"\frac{{{2 * d + 1}}}{{2}}"),
                (rf"\frac{{{b}}}{{{a}}}", rf"\frac{{{d * c}}}{{{a * c}}}"),
                (rf"{a}\frac{{1}}{{2}}", f"{a + d - b}.5"),
                (f"{b}", rf"{d}\text{{ cm}}"),
                (rf"{b}\%", f"{d}"),
                (f"x={b}", f"{d}"),
                (f"{a}, {100 + b}", f"{100 + d}, {a}"),
                (f"({a}, {b})", rf"\left({a}, {d}\right)"),
                (rf"[{a}, \infty)", rf"x \geq {a + d - b}"),
                (rf"{b}\sqrt{{{a}}}", rf"\sqrt{{{d * d * a}}}"),
                (rf"\frac{{{b}\pi}}{{3}}", rf"\frac{{{d}}}{{3}}\pi"),
                (f"{a}+{b}i", f"{d}i+{a}"),
                (f"2^{{{b}}}", rf"2 \cdot 2^{{{d - 1}}}"),
                (f"x^2-{b * b}", f"(x-{b})(x+{d})"),
                (rf"\frac{{x+{b}}}{{{a}}}", rf"\frac{{x}}{{{a}}}+\frac{{{d}}}{{{a}}}"),
                (f"y={a}x+{b}", f"{a}x-y=-{d}"),
                (rf"\sin^2 x+{b}", rf"{d + 1}-\cos^2 x"),
                (rf"\log_2 {2 ** (b % 10 + 1)}", f"{d % 10 + 1}" if is_right else f"{b % 10 + 2}"),
            ]
        )
        return reference, candidate, is_right

    return [pair() for _ in range(num_pairs)]


def is_scored(row: dict[str, str]) -> bool:
    """Whether a row is an answer and not prose, and no two graders dispute it."""
    return row.get("form") != "unboxed" and row.get("kind") != "disputed"


def ours() -> Callable[[str, str], bool]:
    from promptcot_jax.verify import math_answers

    return math_answers.grade_math


def math_verify_alone() -> Callable[[str, str], bool]:
    from math_verify import parse, verify

    logging.disable(logging.WARNING)  # it warns of each time-out
    return lambda reference, candidate: verify(parse(f"${reference}$"), parse(f"${candidate}$"))


def measure(name: str, grade: Callable[[str, str], bool], pairs: list[Pair]) -> None:
    grade("x+1", "1+x")
    seconds, right, false_accepts = [], 0, 0
    for reference, candidate, is_right in pairs:
        start = time.perf_counter()
        is_match = grade(reference, candidate)
        seconds.append(time.perf_counter() - start)
        right += is_match == is_right
        false_accepts += is_match and not is_right
    print(
        f"{name:12} {1_000 * sum(seconds) / len(pairs):6.1f} s per 1,000 pairs, slowest {max(seconds):.2f} s,"
        f" right {right / len(pairs):.3f}, false accepts {false_accepts}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", help="JSON Lines instead of generated pairs")
    parser.add_argument("--pairs", type=int, default=1_000)
    parser.add_argument("--cores", type=int, default=1)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    if arguments.cases:
        with open(arguments.cases) as file:
            rows = [json.loads(line) for line in file]
        pairs = [(row["gold"], row["pred"], row["match"]) for row in rows if is_scored(row)]
    else:
        pairs = generated(arguments.pairs)
    print(f"{len(pairs)} pairs on {arguments.cores} core(s)")
    measure("ours", ours(), pairs)
    measure("math-verify", math_verify_alone(), pairs)
    if arguments.cores > 1:
        from promptcot_jax.verify import math_answers

        start = time.perf_counter()
        math_answers.grade_many([pair[:2] for pair in pairs])
        print(
            f"ours, as one batch: {1_000 * (time.perf_counter() - start) / len(pairs):.1f} s per 1,000 pairs"
        )


if __name__ == "__main__":
    main()
