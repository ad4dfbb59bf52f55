"""`export`: what `datasets` and TFDS read back, what the card says, kills, wrong use."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tensorflow_datasets as tfds

from promptcot_jax.core import jsonl, manifest, records
from promptcot_jax.data import exported_sets, rows
from promptcot_jax.data.seqio import tfds_builder
from promptcot_jax.run import cli
from tests.checkpoints import conftest as checkpoint_toys
from tests.run import exported_workdir, killing

bucket = checkpoint_toys.bucket

GIN = "--gin_file=stages/export.gin"
LICENCES = "--gin.LICENCES={'synthesized': 'CC-BY-4.0', 'mine': 'MIT'}"
SHARE = "--gin.EXPORT_HELDOUT_SHARE=0.25"
SHARDS = "--gin.ROWS_PER_FILE=10"


def export(workdir: Path, *more: str) -> int:
    return cli.main(["export", GIN, f"--workdir={workdir}", *more])


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    exported_workdir.write(tmp_path / "run")
    return tmp_path / "run"


def plain(record: Any) -> dict[str, Any]:
    """A record as JSON has it."""
    return json.loads(jsonl.to_line(record))


def expected(workdir: Path) -> dict[str, dict[str, Any]]:
    """What a set must have of the workdir's rows, by id: the fields of its types, their sources."""
    types = exported_sets.ExportedMathPrompt | exported_sets.ExportedProgramPrompt
    found = jsonl.read_records(workdir / "verified_prompts.jsonl", types)
    return {row.id: plain(row) | {"source": row.source or "synthesized"} for row in found}


def split_of(data: Mapping[str, Any]) -> dict[str, set[str]]:
    return {name: {row["id"] for row in some} for name, some in data.items()}


def test_datasets_loads_the_same_rows_and_types_of_both_formats(workdir: Path, tmp_path: Path):
    assert export(workdir, LICENCES, SHARE, SHARDS) == 0
    wanted = expected(workdir)
    for folder in ("export", "export/jsonl"):
        found = {}
        for domain in ("math", "code"):
            place = tmp_path / "cache" / folder / domain
            data = datasets.load_dataset(str(workdir / folder), domain, cache_dir=str(place))
            assert set(data) == {"train", "heldout"}
            found |= {row["id"]: row for some in data.values() for row in some}
            features = data["train"].features
            assert features["agreement"] == datasets.Value("float64")
            assert features["seed"] == datasets.Value("int64")
            assert features["concepts"] == datasets.List(datasets.Value("string"))
            name = "votes" if domain == "math" else "tests"
            assert isinstance(features[name].feature, dict)
        assert found == wanted
    names = sorted(path.name for path in (workdir / "export" / "data" / "math").iterdir())
    assert names[-1] == "train-00002-of-00003.parquet"
    assert wanted["m0"]["given_answer"] == "0.0"
    assert wanted["m0"]["source"] == "mine"
    assert wanted["m0"]["filters"] == ["language"]


@pytest.mark.parametrize(("domain", "nested"), [("math", "votes"), ("code", "tests")])
def test_tfds_loads_the_same_rows_and_types(workdir: Path, tmp_path: Path, domain: str, nested: str):
    assert export(workdir, SHARE, SHARDS) == 0
    builder = tfds_builder.Promptcot(
        config=f"exported_verified_prompts_{domain}", data_dir=str(tmp_path / "tfds"), file_format="tfrecord"
    )
    config = tfds.download.DownloadConfig(manual_dir=str(workdir / "export"))
    builder.download_and_prepare(download_config=config)
    prepared = tfds.builder_from_directory(str(builder.data_path))
    found = {}
    record_type = exported_sets.RECORD_TYPES["verified_prompts"][domain]  # pyright: ignore[reportArgumentType]
    for split in prepared.info.splits:
        of_split = rows.iter_records(f"tfds:promptcot/{builder.builder_config.name}:{split}", record_type)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
            found |= {row.id: plain(row) for row in of_split}
    wanted = {name: row for name, row in expected(workdir).items() if row["domain"] == domain}
    assert found.keys() == wanted.keys()
    for name, row in wanted.items():
        assert found[name] == in_single_precision(row)
    first = next(iter(tfds.as_numpy(prepared.as_dataset(split="train"))))
    assert first[nested]["answer" if domain == "math" else "input"].size == len(
        wanted[first["id"].decode()][nested]
    )


def in_single_precision(value: Any) -> Any:
    """A row as TFDS holds it."""
    if isinstance(value, dict):
        return {name: in_single_precision(part) for name, part in value.items()}
    if isinstance(value, list):
        return [in_single_precision(part) for part in value]
    return float(np.float32(value)) if isinstance(value, float) else value


def test_a_row_stays_in_its_split_when_others_join(workdir: Path):
    assert export(workdir, SHARE) == 0
    before = split_of(read(workdir))
    exported_workdir.write(workdir, num_rows=80)
    remove_set(workdir)
    assert export(workdir, SHARE) == 0
    after = split_of(read(workdir))
    assert len(before["heldout"]) >= 5
    assert before["heldout"] == after["heldout"] & (before["heldout"] | before["train"])
    remove_set(workdir)
    assert export(workdir, SHARE, "--gin.EXPORT_SEED=1") == 0
    assert split_of(read(workdir)) != after


def remove_set(workdir: Path) -> None:
    """Removes the set, as the refusal to do it again says."""
    for path in sorted((workdir / "export").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (workdir / "export").rmdir()


def read(workdir: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {"train": [], "heldout": []}
    for split, some in found.items():
        for domain in ("math", "code"):
            path = workdir / "export" / "jsonl" / domain / f"{split}.jsonl"
            some += [row for _, _, row in jsonl.iter_rows(path)]
    return found


def test_the_card_has_every_count_of_the_manifest_and_what_it_does_not_know(workdir: Path):
    assert export(workdir, LICENCES, SHARE) == 0
    card = (workdir / "export" / "README.md").read_text()
    for name, entry in manifest.read(workdir).items():
        if name == "export":
            continue
        section = card.partition(f"### {name}\n")[2].partition("\n### ")[0].partition("\n## ")[0]
        counts = dict(re.findall(r"^\| ([\w: ]+) \| ([\d,]+) \|$", section, re.MULTILINE))
        said = {
            key.replace("dropped: ", "dropped_"): int(value.replace(",", "")) for key, value in counts.items()
        }
        assert said == entry.counts
        assert f"Seed {entry.seed}, settings {entry.config_digest}." in section
        assert all(digest in section for digest in entry.inputs.values())
    assert "**The licence of `gsm8k` is unknown.**" in card
    assert "| gsm8k | 0 | 2 | unknown |" in card
    assert "| mine | 1 | 3 | MIT |" in card
    assert 'license: "unknown"' in card
    assert "kappa 0.62" in card
    assert "dropped 10 problems that overlap with aime24" in card
    assert "| wrote rationale and problem | EM round 2 | 0123456789abcdef | 36 rows |" in card
    assert "/home/somebody" not in card
    assert "wrote 36 rows" not in card  # nothing is amiss
    found = read(workdir)
    sizes = {
        name: [len([r for r in some if r["domain"] == d]) for d in ("math", "code")]
        for name, some in found.items()
    }
    for i, domain in enumerate(("math", "code")):
        assert f"| {domain} | {sizes['train'][i]} | {sizes['heldout'][i]} |" in card
    concepts = [c.casefold() for some in found.values() for row in some for c in row["concepts"]]
    assert f"| modular arithmetic | {concepts.count('modular arithmetic')} |" in card
    counts = manifest.read(workdir)["export"].counts
    assert (counts["in"], counts["out"]) == (36, 36)
    assert counts["math_train"] == sizes["train"][0]


def test_the_card_says_where_rows_and_manifest_do_not_agree(workdir: Path):
    lines = (workdir / "verified_prompts.jsonl").read_text().split("\n")  # U+2028 ends no row
    (workdir / "verified_prompts.jsonl").write_text("\n".join(lines[:30]))
    entry = manifest.read(workdir)["verify"]
    manifest.record(workdir, dataclasses.replace(entry, stage="decontaminate", counts={"in": 3, "out": 3}))
    jsonl.write_json(workdir / "verify" / "report.json", {"judge": None})
    jsonl.write_json(workdir / "config" / "synthesize.settings.json", {})
    assert export(workdir) == 0
    card = (workdir / "export" / "README.md").read_text()
    assert "**`verify` of this workdir wrote 36 rows, and these are 30**" in card
    assert "**these rows do not come from what it wrote**" in card
    assert "compared with no benchmark" in card
    assert "No judge has read the statements" in card
    assert "**The licence of `gsm8k`, `mine`, `synthesized` is unknown.**" in card


def test_the_card_claims_only_the_stages_that_the_rows_come_from(workdir: Path):
    """Verified were rows of another file: what `synthesize` here dropped says nothing of them."""
    entry = manifest.read(workdir)["verify"]
    manifest.record(workdir, dataclasses.replace(entry, inputs={"/home/somebody/problems.jsonl": "d"}))
    assert export(workdir) == 0
    card = (workdir / "export" / "README.md").read_text()
    assert "### verify" in card
    assert "### synthesize" not in card
    assert "Other stages of this workdir, which these rows do not come from: `synthesize`." in card
    assert "compared with no benchmark" in card
    assert "dropped 10 problems" not in card
    remove_set(workdir)
    clean = {"{workdir}/problems_clean.jsonl": "d"}
    manifest.record(workdir, dataclasses.replace(entry, inputs=clean))
    counts = {"in": 40, "out": 38, "dropped_contaminated": 2, "dropped_contaminated_by_aime": 2}
    manifest.record(workdir, dataclasses.replace(entry, stage="decontaminate", counts=counts))
    assert export(workdir) == 0
    card = (workdir / "export" / "README.md").read_text()
    assert "`decontaminate` (13 words in a row) dropped 2 rows: aime 2." in card
    assert "dropped 10 problems that overlap with aime24" in card  # through problems.jsonl


def test_problems_and_triples_are_taken_out_too(workdir: Path, tmp_path: Path):
    lineage = exported_workdir.LINEAGE | {"sample": 0}
    problem = records.Problem(id="p", domain="code", concepts=("a",), rationale="z", problem="x", **lineage)
    jsonl.write_records(workdir / "problems.jsonl", [problem])
    assert export(workdir, "--gin.EXPORT_ROWS='{workdir}/problems.jsonl'") == 0
    data = datasets.load_dataset(str(workdir / "export"), cache_dir=str(tmp_path / "cache"))
    assert list(data["train"]) == [plain(problem) | {"source": "synthesized"}]
    card = (workdir / "export" / "README.md").read_text()
    assert "**Nobody has checked**" in card
    assert "### verify" not in card
    remove_set(workdir)
    triples = "--gin.EXPORT_ROWS='{workdir}/triples.jsonl'"
    assert export(workdir, triples, "--gin.LICENCES={'gsm8k': 'MIT', 'mine': 'MIT'}") == 0
    card = (workdir / "export" / "README.md").read_text()
    assert 'license: "mit"' in card
    assert "unknown" not in card.partition("## Sources")[2].partition("## Loading")[0]
    assert sum(len(some) for some in read_one(workdir).values()) == 5


def test_triples_that_training_held_out_are_the_held_out_split(workdir: Path):
    held_out = records.Triple(id="h", concepts=("a",), rationale="z", problem="x")
    jsonl.write_records(workdir / "triples_heldout.jsonl", [held_out])
    assert export(workdir, "--gin.EXPORT_ROWS='{workdir}/triples.jsonl'", SHARE) == 0
    ids = {name.split("-")[0]: [row["id"] for row in some] for name, some in read_one(workdir).items()}
    assert ids == {"train": [f"t{i}" for i in range(5)], "heldout": ["h"]}


def read_one(workdir: Path) -> dict[str, list[dict[str, Any]]]:
    files = (workdir / "export" / "jsonl" / "math").glob("*.jsonl")
    return {file.name: [json.loads(line) for line in file.read_text().splitlines()] for file in files}


def files_of(workdir: Path) -> dict[str, bytes]:
    found = (workdir / "export").rglob("*")
    return {str(path.relative_to(workdir)): path.read_bytes() for path in found if path.is_file()}


def test_equal_rows_give_equal_bytes(tmp_path: Path):
    for name in ("one", "other"):
        exported_workdir.write(tmp_path / name)
        assert export(tmp_path / name, LICENCES, SHARDS) == 0
    assert files_of(tmp_path / "one") == files_of(tmp_path / "other")


@pytest.mark.slow
def test_killed_in_the_middle_nothing_is_there_and_the_same_command_ends_in_the_same_bytes(tmp_path: Path):
    command = ["export", GIN, SHARE, "--gin.ROWS_PER_FILE=50"]
    for name in ("killed", "undisturbed"):
        exported_workdir.write(tmp_path / name, num_rows=8000)
    for pattern in ("export.*.part/data/math/*.parquet", "export.*.part/jsonl/code/*.jsonl"):
        killing.kill_when([*command, f"--workdir={tmp_path / 'killed'}"], tmp_path / "killed", pattern)
        assert not (tmp_path / "killed" / "export").exists()
    for name in ("killed", "undisturbed"):
        killing.run_to_end([*command, f"--workdir={tmp_path / name}"])
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "undisturbed")
    assert not list((tmp_path / "killed").glob("export.*"))
    killing.assert_same_outcome(tmp_path / "killed", tmp_path / "undisturbed")


class Killed(BaseException):
    """Stands for SIGKILL: nothing is written after it, whatever `finally` blocks try."""


def export_into(bucket: checkpoint_toys.Bucket, *, num_writes: int | None = None) -> list[str]:
    """Runs the command on a workdir in the bucket; all that it wrote, in order.

    Args:
        num_writes: objects after which it is killed.
    """
    written: list[str] = []
    usual = bucket.open

    def opened(path: Any, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            if len(written) == num_writes:
                raise Killed
            written.append(str(path).partition("bucket/run/")[2])
        return usual(path, mode, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket, "open", opened)
        try:
            assert cli.main(["export", GIN, "--workdir=gs://bucket/run", SHARE, SHARDS]) == 0
        except Killed:
            assert num_writes is not None
    return written


def test_in_a_bucket_the_card_is_last_and_a_killed_export_ends_in_the_same_bytes(
    workdir: Path, bucket: checkpoint_toys.Bucket
):
    def set_of_bucket() -> dict[str, bytes]:
        found = bucket.find("gs://bucket/run/export")
        return {name.partition("bucket/run/")[2]: bucket.cat_file(name) for name in found}

    assert export(workdir, SHARE, SHARDS) == 0
    whole = files_of(workdir)
    remove_set(workdir)
    exported_workdir.write(workdir)  # a manifest without the export

    def fresh_bucket() -> None:
        if bucket.exists("gs://bucket"):
            bucket.rm("gs://bucket", recursive=True)
        for path in workdir.rglob("*"):
            if path.is_file():
                bucket.pipe_file(f"gs://bucket/run/{path.relative_to(workdir)}", path.read_bytes())

    fresh_bucket()
    order = export_into(bucket)
    assert set_of_bucket() == whole
    of_set = [name for name in order if name.startswith("export/")]
    assert of_set[-1] == "export/README.md"
    assert len(set(of_set)) == len(of_set) == len(whole)
    # Before the first file and after it, in the middle, before the card and after it.
    for name, after in ((0, 0), (0, 1), (len(of_set) // 2, 0), (-1, 0), (-1, 1)):
        num_writes = order.index(of_set[name]) + after
        fresh_bucket()
        assert export_into(bucket, num_writes=num_writes) == order[:num_writes]
        left = set_of_bucket()
        assert ("export/README.md" in left) == (left == whole) == (of_set[-1] in order[:num_writes])
        export_into(bucket)
        assert set_of_bucket() == whole


def test_a_set_that_is_there_is_not_written_over(workdir: Path, capsys: pytest.CaptureFixture):
    assert export(workdir) == 0
    before = files_of(workdir)
    assert export(workdir) == 0
    assert export(workdir, SHARE) == 2
    assert "rm -r" in capsys.readouterr().err
    assert files_of(workdir) == before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["--gin.EXPORT_ROWS='{workdir}/other.jsonl'", "--gin.EXPORT_KIND='problems'"],
            "other.jsonl: no such file",
        ),
        (["--gin.EXPORT_ROWS='{workdir}/other.jsonl'"], "set EXPORT_KIND to one of"),
        (["--gin.EXPORT_KIND='prompts'"], "EXPORT_KIND"),
        (["--gin.EXPORT_HELDOUT_SHARE=1.0"], "heldout_share must lie in [0, 1), got 1.0"),
        (["--gin.EXPORT_HELDOUT_SHARE=-0.1"], "heldout_share must lie in [0, 1), got -0.1"),
        (["--gin.ROWS_PER_FILE=0"], "rows_per_file must be at least 1"),
        (["--gin.BROWSE_ROWS=0"], "browse_rows must be at least 1"),
        (["--gin.SET_NAME=' '"], "SET_NAME is empty"),
        (["--gin.LICENCES={'gms8k': 'MIT'}"], "LICENCES names 'gms8k', which is no source of this set"),
        (["--gin.LICENCES={'gsm8k': ''}"], "LICENCES has nothing for 'gsm8k'"),
        (["--gin.LICENCES='MIT'"], "LICENCES"),
        (["--gin.EXPORT_KIND='problems'"], "field 'log_p_z' of ExportedProblem is missing"),
    ],
)
def test_wrong_use_is_named(workdir: Path, settings: list[str], said: str, capsys: pytest.CaptureFixture):
    if "ExportedProblem" in said:
        (workdir / "verified_prompts.jsonl").write_text(
            json.dumps({"id": "p", "domain": "math", "concepts": [], "rationale": "z", "problem": "x"}) + "\n"
        )
    assert export(workdir, *settings) == 2
    assert said in capsys.readouterr().err
    assert not (workdir / "export").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rows to export; EXPORT_ROWS"),
        ('{"id": "a", "problem": "x", "answer": "1"}\n' * 2, "the id 'a' occurs twice"),
        ('{"id": "a", "problem": " ", "answer": "1"}\n', "the problem is empty"),
    ],
)
def test_rows_that_make_no_set_are_refused(
    workdir: Path, text: str, said: str, capsys: pytest.CaptureFixture
):
    (workdir / "verified_prompts.jsonl").write_text(text)
    assert export(workdir) == 2
    assert said in capsys.readouterr().err
    assert not (workdir / "export").exists()
