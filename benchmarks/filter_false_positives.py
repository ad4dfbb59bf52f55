"""How often each rule of `synthesize` refuses a real, well-formed problem.

    python benchmarks/filter_false_positives.py                       # rows of the project's own corpus
    python benchmarks/filter_false_positives.py FILE.jsonl [FILE ...] # rows with a `problem`

Every rule is applied to every row, whatever other rules say. The rules on other texts compare the second half
of a file with its first half as seeds (`near_seed`, `..._of_seed`), and within the second half. Rows with
`concepts` also say how often concepts are found used, their own and those of another row.
"""

import argparse
import collections
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import ConceptSet
from promptcot_jax.corpus import generator
from promptcot_jax.data import templates
from promptcot_jax.run import encoders
from promptcot_jax.synthesis import filters, near_duplicates, pair_checks
from promptcot_jax.synthesis.drafts import Author, Draft
from promptcot_jax.synthesis.filters import FilterConfig, Written
from promptcot_jax.synthesis.selection import Selection

OFF = FilterConfig(
    unfinished=False,
    proofs=False,
    multiple_choice=False,
    yes_no=False,
    max_questions=0,
    english=False,
    min_words=0,
    max_words=0,
    solution_in_problem=False,
    max_rationale_overlap=None,
)


def corpus_rows(count: int) -> list[dict[str, Any]]:
    config = generator.CorpusConfig(seed=0, num_train=count, num_heldout=0, num_novel=0)
    return [vars(row) for row in generator.generate(config).train]


def written_of(row: Mapping[str, Any]) -> Written:
    return Written(
        domain="code" if "tests" in row else "math",
        concepts=tuple(row.get("concepts", ())),
        rationale=row.get("rationale", ""),
        problem=row["problem"],
    )


def on_its_own(written: Sequence[Written]) -> collections.Counter[str]:
    """Of each rule on the text how many rows break it."""
    config, broken = FilterConfig(), collections.Counter[str]()
    for own in written:
        broken.update(fault.reason for fault in filters.faults(own, config))
    return broken


def on_others(written: Sequence[Written], encoder: str, max_seed_similarity: float | None) -> Any:
    """Problems and rejects of the second half, with the first half as seeds."""
    half = len(written) // 2
    seeds = [own.problem for own in written[:half]]
    config = vars(OFF) | {"max_seed_similarity": max_seed_similarity}
    selection = Selection(
        FilterConfig(**config),
        near_duplicates.DuplicateConfig(),
        encode=encoders.make_encoder(encoder, seeds),
        seed_problems=seeds,
    )
    sets, drafts = {}, []
    for i, own in enumerate(written[half:]):
        sets[str(i)] = ConceptSet(id=str(i), domain=own.domain, concepts=own.concepts or ("none",))
        text = templates.rationale_block(own.rationale or "none") + templates.problem_block(own.problem)
        drafts.append(
            Draft(
                request=i,
                concept_set_id=str(i),
                sample=0,
                text=text,
                finish_reason="stop",
                num_tokens=1,
                log_p_z=0.0,
                log_p_x=0.0,
                retokenized=False,
            )
        )
    return selection.select(drafts, sets, Author(model_digest="", round_index=-1, seed=0))


def used_concepts(written: Sequence[Written], shift: int) -> float:
    """Share of rows none of whose concepts, or of those `shift` rows on, is found by its words."""
    texts = [f"{own.problem}\n{own.rationale}" for own in written]
    lists = [own.concepts for own in written[shift:] + written[:shift]]
    none = [not any(pair_checks.concepts_in_words(c, t)) for c, t in zip(lists, texts, strict=True)]
    return float(np.mean(none))


def report(name: str, rows: Sequence[Mapping[str, Any]], encoder: str) -> None:
    written, started = [written_of(row) for row in rows], time.perf_counter()
    broken = on_its_own(written)
    seconds = time.perf_counter() - started
    half = len(written) - len(written) // 2
    print(f"{name}: {len(written)} rows, {seconds / len(written) * 1e6:.0f} us a row on its own")
    for reason in filters.REASONS:
        print(f"  {reason:28} {broken[reason]:5}  {100 * broken[reason] / len(written):.2f} %")
    problems, rejects = on_others(written, encoder, None)
    similarities = [problem.seed_similarity for problem in problems]
    by_reason = collections.Counter(reject.reason for reject in rejects)
    _, with_seeds = on_others(written, encoder, FilterConfig().max_seed_similarity)
    by_reason["near_seed"] = sum(reject.reason == "near_seed" for reject in with_seeds)
    for reason, count in sorted(by_reason.items()):
        print(f"  {reason:28} {count:5}  {100 * count / half:.2f} % of {half}")
    print(f"  nearest seed: median {np.median(similarities):.2f}, 99 % {np.quantile(similarities, 0.99):.2f}")
    if written[0].concepts:
        own, others = used_concepts(written, 0), used_concepts(written, 137)
        print(f"  no concept used: own {100 * own:.1f} %, of another row {100 * others:.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--encoder", default="hashed_tfidf")
    parser.add_argument("--rows", type=int, default=3000, help="of the corpus")
    arguments = parser.parse_args()
    report("corpus", corpus_rows(arguments.rows), arguments.encoder)
    for file in arguments.files:
        report(pathlib.Path(file).stem, [row for _, _, row in jsonl.iter_rows(file)], arguments.encoder)


if __name__ == "__main__":
    main()
