"""GSM8K and MBPP as a user's own problems: the whole flow on two cores, and loading what came out.

    PYTHONPATH=. python benchmarks/own_problems.py GSM8K.jsonl MBPP.jsonl WORKDIR [--seeds=64]

`configs/runs/own_problems.gin` from `annotate` to `export`, with two substitutes for a model that two cores
do not run. The annotator is played: a server on loopback that names concepts by words of the problem and
lists what stands in each sentence as a plan, so its rationales are formulaic; it proposes inputs for programs
without reading the task. The solver is SmolLM2-135M after a fit on solutions of GSM8K (rows that are no
seeds); programs it has not learnt. The problems' texts are real, and whatever is trained, sampled, filtered,
voted on and exported comes from a real model.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from flows import solved

from promptcot_jax.core import jsonl
from promptcot_jax.synthesis.input_proposals import VALID
from tests import annotators
from tests.openai_server import OpenAIServer

VOTE_GROUP_SIZE = 320  # of GSM8K, to fit the solver on
LONGEST = 320  # characters of a seed problem
CONCEPTS = {  # what a word of a problem stands for
    "math": {
        r"half|third|quarter|\d/\d": "fractions of a quantity",
        r"percent|%": "percentages",
        r"\b(?:each|per|every)\b": "unit rates",
        r"twice|times as|double|triple": "multiplicative comparison",
        r"more than|less than|fewer": "additive comparison",
        r"total|altogether|in all|combined": "sums of several parts",
        r"\bleft\b|remain": "remainders after subtraction",
        r"minute|hour|day|week|month": "time intervals",
        r"\$|cost|price|pay|dollar": "money and prices",
        r"mile|feet|meter|inch|yard": "units of length",
        r"average|mean\b": "arithmetic mean",
        r"years? old|\bage\b|older|younger": "age relations",
        r"split|share|divide|equally": "equal sharing by division",
        r"box|pack|dozen|row|bag": "equal groups by multiplication",
        r"earn|profit|salary|sold|sell": "earnings and expenses",
        r"gallon|liter|ounce|pound|cup": "units of volume and mass",
        r"discount|\boff\b|sale": "discounts",
    },
    "code": {
        r"list|array": "list traversal",
        r"string|word|character": "string processing",
        r"tuple": "tuple operations",
        r"sort": "sorting",
        r"max|largest|min|smallest": "extreme values of a sequence",
        r"count|number of": "counting elements",
        r"\bsum\b": "running sums",
        r"prime|divi|factor|multiple": "divisibility tests",
        r"regex": "regular expressions",
        r"matrix|row|column": "two-dimensional arrays",
        r"dictionar": "hash maps",
        r"binary|\bbits?\b": "bit operations",
        r"nth|n-th|sequence": "sequences defined by recurrence",
        r"check|whether": "predicates",
        r"remove|replace|filter": "filtering elements",
        r"volume|area|perimeter|side": "geometric formulas",
        r"substring": "substring search",
        r"unique|duplicate|\bset\b|distinct": "sets and duplicates",
        r"convert": "conversion between types",
    },
}
GENERAL = {
    "math": (
        "multi-step arithmetic",
        "translating words into equations",
        "order of operations",
        "whole-number multiplication",
        "subtraction of quantities",
    ),
    "code": (
        "iteration with loops",
        "conditional branching",
        "parsing of input",
        "linear search",
        "edge cases of small inputs",
    ),
}
SMALL_WORDS = frozenset(
    "a an and are as at be by for from had has have he her his how if in into is it its of on or she so than "
    "that the their them then there they this to was were what when which who will with".split()
)
SEED_LICENCES = {"gsm8k": "MIT", "mbpp": "CC-BY-4.0"}
LICENCES = SEED_LICENCES | {"synthesized": "CC-BY-4.0"}
BLIND_INPUTS = ["1\n", "5\n", "12\n", "3\n1 2 3\n", "4\n7 7 2 9\n", "hello world\n"]


def play(body: dict, attempt: int) -> str:
    """What the played annotator and writer of tests answers."""
    asked = body["messages"][0]["content"]
    if "Write a Python program that checks" in asked:
        return f"```python\nprint('{VALID}')\n```"
    if "Write a Python program that makes" in asked:
        return "```python\nimport random\nrandom.seed(int(input()))\nprint(random.randint(2, 99))\n```"
    if "inputs to test a program" in asked:
        return f"```json\n{json.dumps(BLIND_INPUTS)}\n```"
    problem = asked.partition("Problem:\n")[2].partition("\n\n")[0]
    domain = "code" if re.search(r"\b(?:function|program|regex)\b", problem) else "math"
    if "Name the" in asked:
        return annotators.concept_list(concepts_of(problem, domain))
    return annotators.thinking_process(plan_of(problem, concepts_of(problem, domain)))


def concepts_of(problem: str, domain: str) -> list[str]:
    named = [name for words, name in CONCEPTS[domain].items() if re.search(words, problem, re.IGNORECASE)]
    return [*named, *GENERAL[domain]][:5]


def plan_of(problem: str, concepts: list[str]) -> str:
    """A plan that says what stands in each sentence, without its small words."""
    *told, asked = [part for part in re.split(r"(?<=[.?!])\s+", problem) if part]
    steps = [f"I want a task about {concepts[0]}, and {concepts[1]} should be needed as well."]
    steps += [f"Step {i}: bring in {kept_words(part)}." for i, part in enumerate(told, start=1)]
    return " ".join([*steps, f"At the end ask for {kept_words(asked)}."])


def kept_words(sentence: str) -> str:
    words = re.findall(r"\$?\d[\d,./%]*|[^\W\d_]+", sentence)
    return ", ".join(word.rstrip(".,") for word in words if word.lower() not in SMALL_WORDS)


def write_seeds(gsm8k: Path, mbpp: Path, workdir: Path, num_seeds: int) -> None:
    """The seeds of both sets, and the solver's solutions, which are of other rows."""
    math = [row for _, _, row in jsonl.iter_rows(gsm8k)]
    code = [row for _, _, row in jsonl.iter_rows(mbpp)]
    short = [row for row in math if len(row["problem"]) <= LONGEST]
    seeds = [{**row, "domain": "math"} for row in short[:num_seeds]] + code[:num_seeds]
    kept = ("id", "source", "domain", "problem", "answer")
    jsonl.write_records(
        workdir / "mine.jsonl", [{name: row[name] for name in kept if name in row} for row in seeds]
    )
    jsonl.write_records(workdir / "solver" / "triples.jsonl", list(map(solved, short[-VOTE_GROUP_SIZE:-16])))
    jsonl.write_records(workdir / "solver" / "triples_heldout.jsonl", list(map(solved, short[-16:])))


def promptcot(*arguments: str) -> None:
    print("promptcot", *arguments, flush=True)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "promptcot_jax", *arguments], check=True)
    print(f"{time.perf_counter() - started:,.0f} s", flush=True)


def fit_solver(workdir: Path) -> None:
    settings = {
        "SFT_ROW_LENGTH": 512,
        "SFT_BATCH": 2,
        "SFT_EPOCHS": 1,
        "SFT_LEARNING_RATE": 1e-4,
        "SFT_WARMUP": 4,
    }
    promptcot(
        "sft",
        "--gin_file=stages/sft.gin",
        "--gin_file=models/smollm2_135m.gin",
        *(f"--gin.{name}={value}" for name, value in settings.items()),
        f"--workdir={workdir}",
    )


def run_flow(workdir: Path) -> None:
    with OpenAIServer(play) as server:
        promptcot(
            "run",
            "--gin_file=runs/own_problems.gin",
            f"--gin.PROBLEMS='{workdir / 'mine.jsonl'}'",
            "--gin.TEACHER='played-annotator'",
            f"--gin.BASE_URL='{server.base_url}'",
            "--gin.VOTED_BY=@verify/voter/text_models.JaxModel()",
            f"--gin.VOTER='{workdir / 'solver' / 'policy'}'",
            # At temperature 1 eight samples of this solver agree on no answer: nothing was kept.
            "--gin.VOTE_TEMPERATURE=0.3",
            "--gin.VOTE_GROUP_SIZE=4",
            "--gin.JUDGED_BY=None",
            "--gin.TEST_WRITER='played-annotator'",
            "--gin.SET_NAME='Word problems and small programs'",
            f"--gin.LICENCES={LICENCES}",
            f"--workdir={workdir / 'run'}",
        )
        print(f"{sum(server.served.values())} replies of the played annotator", flush=True)


def export_and_load(run: Path, kind: str, cache: Path) -> None:
    """Exports the run's rows of a kind, and prints what `datasets` and TFDS read back."""
    import datasets
    import tensorflow_datasets as tfds

    from promptcot_jax.data.seqio import tfds_builder

    export = run / "export"
    if not export.exists():
        promptcot(
            "export",
            "--gin_file=stages/export.gin",
            f"--gin.EXPORT_ROWS='{{workdir}}/{kind}.jsonl'",
            f"--gin.LICENCES={SEED_LICENCES if kind == 'triples' else LICENCES}",
            f"--workdir={run}",
        )
    for domain in sorted(path.name for path in (export / "data").iterdir()):
        for form, folder in {"parquet": export, "JSON lines": export / "jsonl"}.items():
            data = datasets.load_dataset(str(folder), domain, cache_dir=str(cache / kind / form))
            sizes = {name: len(rows) for name, rows in data.items()}
            print(f"{kind}, {domain}, datasets from {form}: {sizes}")
        builder = tfds_builder.Promptcot(config=f"exported_{kind}_{domain}", data_dir=cache / "tfds")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=export))
        sizes = {name: split.num_examples for name, split in builder.info.splits.items()}
        print(f"{kind}, {domain}, TFDS: {sizes}")
        for example in builder.as_dataset(split="train").take(1):
            print(example["problem"].numpy().decode(), flush=True)
    export.rename(run / f"export_{kind}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("gsm8k", type=Path)
    parser.add_argument("mbpp", type=Path)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--seeds", type=int, default=64, help="of each of the two sets")
    arguments = parser.parse_args()
    write_seeds(arguments.gsm8k, arguments.mbpp, arguments.workdir, arguments.seeds)
    fit_solver(arguments.workdir / "solver")
    run_flow(arguments.workdir)
    for kind in ("verified_prompts", "problems", "triples"):
        export_and_load(arguments.workdir / "run", kind, arguments.workdir / "loaded")


if __name__ == "__main__":
    main()
