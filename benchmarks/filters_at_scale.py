"""Rows through the filters and the search for repetitions: time and peak memory as rows grow, what is found.

    python benchmarks/filters_at_scale.py                       # 10^4, 10^5 and 10^6 rows, two processes
    python benchmarks/filters_at_scale.py --rows 10000 --processes 1

A seeded generator makes problems from some thousand combinations of sentence templates with random names,
things and numbers, so that many rows look alike and are none the less new. A twentieth repeats an earlier row
to the letter but for case, a twentieth but for one word, and another twentieth breaks a rule. Rows are drafts
in memory, an iteration of 50,000 at a time; kept and rejected rows go to files. Each number of rows is a
process of its own, whose peak memory is that of all it imports, its rows and its tables; the workers' is
shown apart.
"""

import argparse
import collections
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import ConceptSet
from promptcot_jax.data import templates
from promptcot_jax.models.hashed_tfidf import HashedTfidf
from promptcot_jax.synthesis.drafts import Author, Draft
from promptcot_jax.synthesis.filters import FilterConfig
from promptcot_jax.synthesis.near_duplicates import DuplicateConfig
from promptcot_jax.synthesis.selection import Selection
from promptcot_jax.synthesis.text_sketches import BatchWorkers

ROWS_A_ITERATION = 50_000
SHARE = 0.05  # of each of the three kinds of planted rows
CONCEPTS = ConceptSet(id="set", concepts=("counting", "divisors", "linear equations"), level="3")
SYLLABLES = ("ba", "co", "di", "fe", "gu", "ha", "ki", "lo", "me", "nu", "po", "ra", "si", "te", "vo", "wa")
FRAMES = (
    "A {0} holds {n} {1} in {n} equal rows and {2} takes away {n} of them every day",
    "{2} buys {n} {1} at {n} coins each and sells them to a {0} for {n} coins apiece",
    "Every {0} has between {n} and {n} {1}, and {2} counts those with exactly {n} of them",
    "The number of {1} in a {0} grows by {n} each year and {2} starts with {n}",
    "In a {0} there are {n} places, {n} of which are taken by {1} that belong to {2}",
    "{2} walks {n} steps along a {0}, turns at the {n} th of the {1}, and goes on for {n} more",
)
TWISTS = (
    "while the {0} loses {n} {1} in each of the first {n} hours",
    "so that no two of the {1} of one {0} are next to each other",
    "and later {2} gives {n} of the {1} to a friend who has a {0} already",
    "but the {0} of {2} has room for no more than {n} {1} at one time",
    "although {n} of the {1} turn out to be broken once the {0} arrives",
)
QUESTIONS = (
    "Find the number of {1} that are left in the {0}.",
    "How many {1} does {2} have in the end?",
    "What is the least number of days until the {0} is empty?",
    "What remainder does the total number of {1} leave on division by {n}?",
)
FAULTS = (
    "Prove that this is possible.",
    "Is it an even number?",
    "The answer is {n}.",
    "Find the sum of its",
)


def word(draw: random.Random) -> str:
    return "".join(draw.choices(SYLLABLES, k=draw.randint(2, 3)))


def new_problem(draw: random.Random) -> str:
    """A statement of three sentences of a template's parts; its words are drawn from thousands."""
    parts = [draw.choice(FRAMES), draw.choice(TWISTS), draw.choice(FRAMES), draw.choice(TWISTS)]
    named = [word(draw), word(draw), word(draw).capitalize(), word(draw), word(draw), word(draw).capitalize()]
    first, second = named[:3], named[3:]
    texts = [fill(part, first if i < 2 else second, draw) for i, part in enumerate(parts)]
    question = fill(draw.choice(QUESTIONS), draw.choice((first, second)), draw)
    return f"{texts[0]}, {texts[1]}. {texts[2]}, {texts[3]}. {question}"


def fill(part: str, names: list[str], draw: random.Random) -> str:
    while "{n}" in part:
        part = part.replace("{n}", str(draw.randint(2, 999)), 1)
    return part.format(*names)


def with_other_words(text: str, draw: random.Random) -> str:
    words = text.split()
    words[draw.randrange(len(words) - 4)] = word(draw)
    return " ".join(words)


def draft_iterations(num_rows: int) -> Iterator[tuple[list[Draft], list[str]]]:
    """Iterations of drafts with the kind of each: new, exact, close, fault."""
    draw, earlier = random.Random(1), collections.deque[str](maxlen=20_000)
    for start in range(0, num_rows, ROWS_A_ITERATION):
        drafts, kinds = [], []
        for i in range(start, min(start + ROWS_A_ITERATION, num_rows)):
            chance = draw.random()
            if not earlier or chance >= 3 * SHARE:
                kind, problem = "new", new_problem(draw)
                if i % 7 == 0:
                    earlier.append(problem)
            elif chance < SHARE:
                kind, problem = "exact", draw.choice(earlier).upper()
            elif chance < 2 * SHARE:
                kind, problem = "close", with_other_words(draw.choice(earlier), draw)
            else:
                kind, problem = (
                    "fault",
                    f"{new_problem(draw)} {fill(draw.choice(FAULTS), ['', '', ''], draw)}",
                )
            kinds.append(kind)
            text = templates.rationale_block(f"Plan number {i}.") + templates.problem_block(problem)
            drafts.append(
                Draft(
                    request=i,
                    concept_set_id="set",
                    sample=i,
                    text=text,
                    finish_reason="stop",
                    num_tokens=100,
                    log_p_z=-1.0,
                    log_p_x=-1.0,
                    retokenized=False,
                )
            )
        yield drafts, kinds


def measure(num_rows: int, num_processes: int, directory: Path) -> None:
    """Selects, writes, and prints the time of selection alone, peak memory, and what was found of what."""
    draw = random.Random(2)
    seeds = [new_problem(draw) for _ in range(2000)]
    author = Author(model_digest="none", round_index=-1, seed=0)
    seconds, processor_seconds, kept = 0.0, 0.0, 0
    rejected, planted = collections.Counter[str](), collections.Counter[str]()
    with BatchWorkers(num_processes) as workers:
        selection = Selection(
            FilterConfig(), DuplicateConfig(), encode=HashedTfidf(seeds), seed_problems=seeds, workers=workers
        )
        for iteration, (drafts, kinds) in enumerate(draft_iterations(num_rows)):
            started, started_processor = time.perf_counter(), time.process_time()
            problems, rejects = selection.select(drafts, {"set": CONCEPTS}, author)
            seconds += time.perf_counter() - started
            processor_seconds += time.process_time() - started_processor
            kept += len(problems)
            planted.update(kinds)
            first = iteration * ROWS_A_ITERATION
            rejected.update(kinds[reject.subject["request"] - first] for reject in rejects)
            jsonl.write_records(directory / f"problems_{iteration:03d}.jsonl", problems)
            jsonl.write_records(
                directory / f"rejects_{iteration:03d}.jsonl", [reject.row for reject in rejects]
            )
    own, workers_own = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    processor_seconds += workers_own.ru_utime + workers_own.ru_stime
    found = ", ".join(f"{kind} {rejected[kind] / max(planted[kind], 1):.4f}" for kind in sorted(planted))
    print(
        f"{num_rows:>9,} rows: {seconds:,.1f} s, {processor_seconds:,.1f} s of processors, peak "
        f"{own.ru_maxrss / 1024:,.0f} MB (largest worker {workers_own.ru_maxrss / 1024:,.0f} MB), "
        f"{kept:,} kept; rejected of {found}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for num_rows in arguments.rows:
        if arguments.only:
            with tempfile.TemporaryDirectory() as directory:
                measure(num_rows, arguments.processes, Path(directory))
            continue
        command = [sys.executable, __file__, "--only", f"--rows={num_rows}"]
        subprocess.run([*command, f"--processes={arguments.processes}"], check=True)


if __name__ == "__main__":
    main()
