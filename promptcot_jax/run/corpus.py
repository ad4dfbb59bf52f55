"""`promptcot corpus`: the project's own seeded problems, and a tokenizer trained on the training rows."""

import os
from collections.abc import Sequence

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import CorpusRow, Triple
from promptcot_jax.corpus import generator, plans
from promptcot_jax.data import templates, tokenizer_training
from promptcot_jax.run import stage


def corpus(
    *, workdir: str, config: generator.CorpusConfig | plans.PlansConfig, vocab_size: int
) -> stage.StageResult:
    """Writes `triples.jsonl`, `triples_heldout.jsonl`, `triples_novel.jsonl` (but of plans) and `tokenizer/`.

    Raises:
        WrongUse: the families have fewer distinct problems than are asked for.
    """
    splits: dict[str, Sequence[CorpusRow | Triple]]
    if isinstance(config, plans.PlansConfig):
        splits = dict(zip(("triples", "triples_heldout"), plans.generate(config), strict=True))
    else:
        try:
            rows = generator.generate(config)
        except ValueError as error:
            raise WrongUse(str(error)) from None
        splits = {"triples": rows.train, "triples_heldout": rows.heldout, "triples_novel": rows.novel}
    for name, records in splits.items():
        jsonl.write_records(os.path.join(workdir, f"{name}.jsonl"), records)
    tokenizer = tokenizer_training.train_tokenizer([_all_text(row) for row in splits["triples"]], vocab_size)
    tokenizer.save(os.path.join(workdir, "tokenizer"))
    counts = {name: len(records) for name, records in splits.items()}
    return stage.StageResult(counts=counts | {"vocabulary": tokenizer.vocab_size})


def _all_text(row: CorpusRow | Triple) -> str:
    """What the models will read and write of one row, without markers."""
    return "\n".join(
        (
            templates.theta_prompt(row.concepts, row.level, row.domain),
            row.rationale,
            *(
                (templates.phi_prompt(row.concepts, row.level, row.problem, row.domain),)
                if isinstance(row, Triple)  # for the two generators alone; there is no solver
                else (templates.solver_prompt(row.problem, row.domain), row.solution)
            ),
        )
    )
