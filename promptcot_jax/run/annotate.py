"""`promptcot annotate`: triples (c, z, x) of a user's problems, by teacher models (paper section 3.2)."""

import collections
import dataclasses
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import AnnotatedTriple, SeedProblem
from promptcot_jax.core.workdir import InputPath, in_workdir
from promptcot_jax.data import rows
from promptcot_jax.models import hashed_tfidf
from promptcot_jax.parallel import hosts
from promptcot_jax.run import encoders, stage
from promptcot_jax.sources import text_models
from promptcot_jax.synthesis import annotating, cold_start_report, seed_problems
from promptcot_jax.synthesis.annotating import AnnotateConfig, Reject

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
    path = in_workdir(problems, workdir)
    seeds = seed_problems.read(
        path, domain=config.domain, level=config.level, bad_rows=bad_rows, counts=counts
    )
    encode = None
    if config.duplicates.embedding_threshold is not None:
        place = in_workdir(encoder, workdir)
        encode = encoders.make_encoder(place, [seed.problem for seed in seeds])
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
                place = os.path.join(directory, _directory_name(i, names[i]))
                made = annotating.annotate(own, teacher, place, config)
            triples += made.triples
            rejects += made.rejects
            tally += made.tally
    order = {seed.id: number for number, seed in enumerate(seeds)}
    triples.sort(key=lambda triple: order[triple.id])
    rejects.sort(key=lambda reject: order[reject.id])
    report = cold_start_report.report(
        num_seeds=len(seeds),
        triples=triples,
        rejects=rejects,
        rows_of_annotators={name: len(own) for name, own in zip(names, shares, strict=True)},
        replies=tally,
        left_out={name: count for name, count in counts.items() if name.startswith("bad_")},
    )
    by_id = {seed.id: seed for seed in seeds}
    lines = {triple.id: _line(triple, by_id[triple.id]) for triple in triples}
    hosts.wait_for_first("write triples", lambda: _write(workdir, lines, rejects, report, config))
    for line in cold_start_report.lines(report):
        log.info("annotate: %s", line)
    if report["warning"]:
        log.warning("annotate: %s", report["warning"])
    return stage.StageResult(counts=_counts(report))


def _directory_name(number: int, name: str) -> str:
    """Of an annotator's replies; names of models hold slashes."""
    return f"{number}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name).strip('-')}"


def _line(triple: AnnotatedTriple, seed: SeedProblem) -> dict[str, Any]:
    carried = {name: getattr(seed, name) for name in _CARRIED}
    return dataclasses.asdict(triple) | {name: value for name, value in carried.items() if value}


def _write(
    workdir: str,
    lines: Mapping[str, Mapping[str, Any]],
    rejects: Sequence[Reject],
    report: Mapping[str, Any],
    config: AnnotateConfig,
) -> None:
    """Writes everything but the replies; `lines` are the triples by id."""
    held_out = {row_id for row_id in lines if annotating.is_held_out(row_id, config)}
    jsonl.write_records(os.path.join(workdir, "annotate", "rejects.jsonl"), rejects)
    jsonl.write_json(os.path.join(workdir, "annotate", "report.json"), report)
    files = {"triples_heldout.jsonl": held_out, "triples.jsonl": lines.keys() - held_out}
    for name, ids in files.items():
        rows_of_file = [line for row_id, line in lines.items() if row_id in ids]
        jsonl.write_records(os.path.join(workdir, name), rows_of_file)


def _counts(report: Mapping[str, Any]) -> dict[str, int]:
    """What the manifest holds: rows in and out, and what was lost on the way by reason."""
    rows_read = report["rows"]
    dropped = report["left_out_by_reason"] | report["rejected_by_reason"]
    return (
        {"in": rows_read["in"], "out": rows_read["triples"], "repaired": rows_read["repaired"]}
        | {f"dropped_{name}": count for name, count in dropped.items()}
        | dict(report["replies"])
    )
