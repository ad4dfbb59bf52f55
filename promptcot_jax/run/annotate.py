"""`promptcot annotate`: triples (c, z, x) of a user's problems, by teacher models (paper section 3.2)."""

import collections
import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from typing import Any

from promptcot_jax.core.records import AnnotatedTriple, SeedProblem
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.data import rows
from promptcot_jax.models import hashed_tfidf
from promptcot_jax.run import encoders, stage
from promptcot_jax.sources import text_models
from promptcot_jax.synthesis import annotating, outcomes, problem_files
from promptcot_jax.synthesis.annotating import AnnotateConfig

log = logging.getLogger(__name__)

_CARRIED = ("answer", "solution", "source", "license")  # of a seed row onto its triple, where it has them


def annotate(
    *,
    workdir: str,
    problems: InputPath,
    annotators: tuple[text_models.TextModelSource, ...],
    config: AnnotateConfig,
    bad_rows: rows.BadRows,
    encoder: InputPath = hashed_tfidf.NAME,
) -> stage.StageResult:
    """Writes `triples.jsonl`, `triples_heldout.jsonl` and `annotate/`: replies, rejects, report.

    Args:
        annotators: one of them is drawn for each problem.
        encoder: of problems, see `encoders.make_encoder`; used where `config.duplicates` compares vectors.

    Raises:
        WrongUse: the problems cannot be read, a teacher cannot be had or its price is above its limit, or two
            have one name.
    """
    names = [text_models.name_of(source) for source in annotators]
    annotating.check_names(names)
    counts: collections.Counter[str] = collections.Counter()
    seeds = problem_files.read_seeds(
        problems, domain=config.domain, level=config.level, bad_rows=bad_rows, counts=counts
    )
    encode = None
    if config.duplicates.embedding_threshold is not None:
        encode = encoders.make_encoder(encoder, [seed.problem for seed in seeds])
    kept, rejects = annotating.without_repeats(seeds, config, encode)
    shares = annotating.by_annotator(kept, len(annotators), config.seed)
    directory = os.path.join(workdir, "annotate")
    foreseen = [annotating.foreseen(own, config) for own in shares]
    text_models.check_costs("annotate", zip(annotators, foreseen, strict=True), workdir)
    triples: list[AnnotatedTriple] = []
    tally: collections.Counter[str] = collections.Counter()
    for i, (source, own) in enumerate(zip(annotators, shares, strict=True)):
        if own:
            with text_models.opened(source, workdir) as teacher:
                replies_path = os.path.join(directory, _directory_name(i, names[i]))
                annotated = annotating.annotate(own, teacher, replies_path, config)
            triples += annotated.triples
            rejects += annotated.rejects
            tally += annotated.tally
    order = {seed.id: number for number, seed in enumerate(seeds)}
    triples.sort(key=lambda triple: order[triple.id])
    rejects = outcomes.in_order(rejects, order)
    report = annotating.report(
        num_seeds=len(seeds),
        triples=triples,
        rejects=rejects,
        rows_of_annotators={name: len(own) for name, own in zip(names, shares, strict=True)},
        replies=tally,
        left_out=rows.bad(counts),
    )
    by_id = {seed.id: seed for seed in seeds}
    lines = [_line(triple, by_id[triple.id]) for triple in triples]
    outcomes.publish(
        "annotate",
        workdir,
        files=outcomes.held_out_files(
            "triples", lines, lambda line: annotating.is_held_out(line["id"], config)
        ),
        rejects=rejects,
        report=report,
        lines=annotating.lines(report),
    )
    if report["warning"]:
        log.warning("annotate: %s", report["warning"])
    return stage.StageResult(counts=_counts(report))


def _directory_name(number: int, name: str) -> str:
    """Of an annotator's replies; names of models hold slashes."""
    return f"{number}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name).strip('-')}"


def _line(triple: AnnotatedTriple, seed: SeedProblem) -> dict[str, Any]:
    carried = {name: getattr(seed, name) for name in _CARRIED}
    return dataclasses.asdict(triple) | {name: value for name, value in carried.items() if value}


def _counts(report: Mapping[str, Any]) -> dict[str, int]:
    """What the manifest holds: rows in and out, and what was lost on the way by reason."""
    of_rows = report["rows"]
    return (
        {"in": of_rows["in"], "out": of_rows["triples"], "repaired": of_rows["repaired"]}
        | outcomes.dropped(report["left_out_by_reason"], report["rejected_by_reason"])
        | dict(report["replies"])
    )
