"""`promptcot export`: a set to pass on, its data card, and a page to browse it."""

import collections
import contextlib
import functools
import os
from collections.abc import Iterator

from etils import epath

from promptcot_jax.core import building, file_sets, jsonl, manifest
from promptcot_jax.core.workdir import InputPath, as_given
from promptcot_jax.data import exported_sets, rows
from promptcot_jax.data.exported_sets import RECORD_TYPES, RecordKind
from promptcot_jax.report import browse
from promptcot_jax.run import stage
from promptcot_jax.synthesis import data_card, exporting, outcomes, provenance
from promptcot_jax.synthesis.exporting import ExportConfig

CARD, PAGE = "README.md", "browse.html"


def export(
    *,
    workdir: str,
    config: ExportConfig,
    bad_rows: rows.BadRows,
    input_rows: InputPath = "{workdir}/verified_prompts.jsonl",
    kind: RecordKind | None = None,
    triples: InputPath = "{workdir}/triples.jsonl",
) -> stage.StageResult:
    """Writes `export/`: `README.md`, `browse.html`, `data/` (Parquet) and `jsonl/`.

    Of triples, those of `triples_heldout.jsonl` beside the file are the held-out split.

    Args:
        kind: of the rows; None: their file's name says it.
        triples: what the concepts of new problems come from, for the card's sources; need not be there.

    Raises:
        WrongUse: the rows cannot be read or are none, two share an id, or a licence is of no source.
    """
    kind = exporting.kind_of(input_rows, kind)
    counts: collections.Counter[str] = collections.Counter()
    own, seeds = exporting.Origins(), exporting.Origins()
    read = functools.partial(
        exporting.read, kind=kind, source=config.source, bad_rows=bad_rows, counts=counts, origins=own
    )
    records, held_out = read(input_rows), None
    if kind == "triples":
        heldout_path = input_rows.removesuffix(".jsonl") + "_heldout.jsonl"
        if file_sets.files_named(heldout_path):  # what training held out stays so
            of_file = read(heldout_path)
            records, held_out = records + of_file, {record.id for record in of_file}
    else:
        seeds = exporting.seed_origins(triples)
    rows.check_ids((record.id for record in records), input_rows)
    licences = exporting.licences_of(own, seeds, config)
    splits = exporting.split(records, config, held_out)
    made = provenance.read(workdir, kind, as_given(input_rows), manifest.file_digest(input_rows))
    with _appearing_whole(os.path.join(workdir, "export")) as directory:
        for domain, of_domain in splits.items():
            record_type = RECORD_TYPES[kind][domain]
            path_of_domain = os.path.join(directory, "data", domain)
            exported_sets.write(path_of_domain, of_domain, record_type, "parquet", config.rows_per_file)
            if config.json_lines:
                path_of_domain = os.path.join(directory, "jsonl", domain)
                exported_sets.write(path_of_domain, of_domain, record_type, "jsonl", config.rows_per_file)
        if config.json_lines:
            front = exported_sets.front_matter(splits, kind, "", "jsonl", {"pretty_name": config.name})
            text = f"{front}\nThe rows of `../data` as JSON lines; see `../{CARD}`.\n"
            jsonl.write_atomically(os.path.join(directory, "jsonl", CARD), text.encode())
        page = browse.render(config.name, splits, config.browse_rows)
        jsonl.write_atomically(os.path.join(directory, PAGE), page.encode())
        card = data_card.render(splits, config, made, licences, seeds.counts)
        jsonl.write_atomically(os.path.join(directory, CARD), card.encode())  # last: it names the files
    bad = outcomes.dropped(rows.bad(counts))
    of_splits = {
        f"{domain}_{name}": len(some) for domain, own in splits.items() for name, some in own.items()
    }
    return stage.StageResult(
        counts={"in": len(records) + sum(bad.values()), "out": len(records)} | bad | of_splits
    )


@contextlib.contextmanager
def _appearing_whole(directory: str) -> Iterator[str]:
    """Where to write what becomes `directory`; in a bucket, which renames nothing, the directory itself."""
    if "://" in directory:
        (epath.Path(directory) / CARD).unlink(missing_ok=True)
        yield directory
        return
    with building.whole_directory(directory) as aside:
        yield aside
