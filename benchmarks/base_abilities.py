"""What a base model knows of the seed corpus, family by family: a Markdown table.

    python benchmarks/base_abilities.py --model promptcot-tiny

Held-out rows of seed 21, which no run of the project trains on. Perplexity of a token of the statement (after
its first word), and of one of the worked solution; share of the statements' first five words that the model,
at temperature 0.7, continues to a well-posed problem (`promptcot_jax/corpus/oracle.py`); share of the
problems that it solves greedily, and on average over samples at temperature 1.
"""

import argparse
import math
import time
from collections.abc import Sequence

from promptcot_jax import api
from promptcot_jax.core.records import MathCorpusRow
from promptcot_jax.corpus import generator, math_families, oracle
from promptcot_jax.data import templates
from promptcot_jax.verify import boxes

SEED = 21
FIRST_WORDS = 5
MAX_NEW_TOKENS = 320


def perplexity(model: api.Model, prompts: Sequence[str], texts: Sequence[str]) -> float:
    """Per token of the texts, their end not counted; texts beyond the model's positions are left out."""
    fitting = [
        (prompt, text)
        for prompt, text in zip(prompts, texts, strict=True)
        if len(model.tokenizer.encode(prompt + text)) < model.config.max_positions
    ]
    if not fitting:
        return math.nan
    scores = model.score(*zip(*fitting, strict=True))
    return math.exp(-sum(s.log_prob for s in scores) / sum(len(s.token_log_probs) for s in scores))


def solved_share(model: api.Model, rows: Sequence[MathCorpusRow], attempts: int, temperature: float) -> float:
    """Share of the attempts whose boxed answer is the row's."""
    prompts = [templates.solver_prompt(row.problem, "math") for row in rows]
    completions = model.generate(
        prompts, n=attempts, max_new_tokens=MAX_NEW_TOKENS, temperature=temperature, seed=SEED
    )
    right = sum(
        boxes.extract_answer(completion.text) == row.answer
        for row, of_row in zip(rows, completions, strict=True)
        for completion in of_row
    )
    return right / (len(rows) * attempts)


def continued_share(model: api.Model, rows: Sequence[MathCorpusRow]) -> float:
    """Share of the beginnings that become a well-posed problem."""
    starts = [" ".join(row.problem.split()[:FIRST_WORDS]) for row in rows]
    completions = model.generate(starts, max_new_tokens=128, temperature=0.7, stop=("\n",), seed=SEED)
    written = [start + of_start[0].text for start, of_start in zip(starts, completions, strict=True)]
    return sum(oracle.read(text) is not None for text in written) / len(rows)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="promptcot-tiny")
    parser.add_argument("--rows", type=int, default=40, help="of each family")
    parser.add_argument("--attempts", type=int, default=4, help="samples of each problem")
    arguments = parser.parse_args()
    model, start = api.load_model(arguments.model), time.monotonic()
    names = tuple(family.name for family in math_families.families())
    corpus = generator.generate(
        generator.CorpusConfig(
            seed=SEED, num_train=0, num_heldout=arguments.rows * len(names), num_novel=0, families=names
        )
    )
    print(
        "| family | perplexity of x | of the solution | continued well | solved, greedy | solved, sampled |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name in names:
        rows = [row for row in corpus.heldout if isinstance(row, MathCorpusRow) and row.family == name]
        words = [row.problem.partition(" ") for row in rows]
        of_problem = perplexity(model, [w[0] for w in words], [w[1] + w[2] for w in words])
        asked = [templates.solver_prompt(row.problem, "math") for row in rows]
        of_solution = perplexity(model, asked, [row.solution for row in rows])
        continued = continued_share(model, rows)
        greedy = solved_share(model, rows, 1, 0.0)
        sampled = solved_share(model, rows, arguments.attempts, 1.0)
        shares = " | ".join(f"{share:.2f}" for share in (continued, greedy, sampled))
        print(f"| {name} | {of_problem:.2f} | {of_solution:.3f} | {shares} |", flush=True)
    print(f"\n{arguments.rows} rows of each family, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
