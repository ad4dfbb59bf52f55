"""Plans the paper's runs on slices and writes the table of docs/plan.md.

    python benchmarks/plan_table.py --workdir=plans            # all rows; some minutes a program
    python benchmarks/plan_table.py --workdir=plans --only=paper_em --write

A row that the same code planned before is read from its `plan.json`; `--write` puts the table between the
markers of docs/plan.md. Nothing is run on a TPU: all is compiled only.
"""

import argparse
import functools
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "plan.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
_BINDINGS = ("MODEL_PATH='model'", "TRIPLES='triples.jsonl'", "TRIPLES_HELDOUT='held_out.jsonl'")

# Run, mesh ("" where the run includes one), model for stages that read a path, topology, stages.
ROWS = (
    ("paper_em", "v5p_64", "", "v5p-64", ("cold_start", "em")),
    ("paper_self_play", "v5p_32", "", "v5p-32", ("self_play",)),
    ("paper_sft", "v5p_128", "", "v5p-128", ("sft",)),
    ("paper_evaluate", "v5e_16", "qwen3_4b_thinking", "v5litepod-16", ("evaluate",)),
    ("paper_evaluate", "v5p_32", "qwen3_30b_a3b", "v5p-32", ("evaluate",)),
    ("slice_v5e_8", "", "", "v5litepod-8", ("cold_start", "em")),
    ("slice_v5e_16", "", "", "v5litepod-16", ("cold_start", "em")),
    ("slice_v4_8", "", "", "v4-8", ("cold_start", "em")),
    ("slice_v6e_8", "", "", "v6e-8", ("cold_start", "em")),
    ("slice_v6e_8_self_play", "", "", "v6e-8", ("self_play",)),
)


def name_of(row) -> str:
    run, _, model, topology, _ = row
    return "-".join(filter(None, (run, model, topology)))


def command(row, workdir: pathlib.Path) -> list[str]:
    run, mesh, model, topology, stages = row
    files = [f"runs/{run}.gin", *([f"meshes/{mesh}.gin"] if mesh else []), "stages/plan.gin"]
    files += [f"models/{model}.gin"] if model else []
    bindings = [f"TOPOLOGY='{topology}'", f"PLAN_STAGES={stages}"]
    bindings += _BINDINGS if "em" in stages else _BINDINGS[:1]
    return [
        *(sys.executable, "-m", "promptcot_jax", "plan"),
        *(f"--gin_file={file}" for file in files),
        *(f"--gin.{binding}" for binding in bindings),
        f"--workdir={workdir / name_of(row)}",
    ]


@functools.cache
def code() -> str:
    """Digest of what decides a plan: the package and its gin files."""
    digest = hashlib.sha256()
    for folder, kind in (("promptcot_jax", "*.py"), ("configs", "*.gin")):
        for path in sorted((ROOT / folder).rglob(kind)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def is_planned(row, workdir: pathlib.Path) -> bool:
    """Whether this code has planned a row."""
    made_by = workdir / name_of(row) / "code"
    return made_by.exists() and made_by.read_text() == code()


def lines_of(row, workdir: pathlib.Path) -> list[str]:
    """Lines of the table: one for each program, with the settings that fit where those of the file do not."""
    if not is_planned(row, workdir):
        return []
    path = workdir / name_of(row) / "plan.json"
    plan, lines = json.loads(path.read_text()), []
    for stage in plan["stages"]:
        advice = stage["fits_with"]
        changed = "" if not advice else ", ".join(f"{k}={v}" for k, v in advice["settings"].items())
        for phase in (advice or stage)["phases"]:
            lines.append(line_of(row[0], row[2], plan["topology"], phase, changed))
    return lines


def line_of(run: str, model: str, topology: dict, phase: dict, changed: str) -> str:
    total = phase["total_bytes"]
    memory = "?" if total is None else f"{total / 1e9:.1f}"
    parts = {name: size for name, size in phase["parts"].items() if size > 5e7}
    shown = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items())
    if resident := sum(phase["resident"].values()):
        shown += f", resident {resident / 1e9:.1f}"
    sent = sum(one["bytes"] for one in phase["traffic"].values()) / 1e9
    estimate = phase["estimate"] or {}
    times = (
        f"{estimate['seconds']:.3f} ({estimate['bound']}) | {estimate['tokens_per_second']:,.0f}"
        if estimate
        else "- | -"
    )
    verdict = "yes" if phase["fits"] else "**no**"
    verdict += f" with {changed}" if changed else ""
    name = f"{run}{f' ({model})' if model else ''}"
    limit = f"{phase['limit_bytes'] / 1e9:.1f}"
    return (
        f"| {name} | {topology['name']} ({topology['chips']}) | {phase['name']} | {verdict} | "
        f"{memory} of {limit} | {shown} | {sent:.1f} | {times} | {phase['compile_seconds']:.0f} |"
    )


def table(workdir: pathlib.Path) -> str:
    columns = ("run", "slice (chips)", "program", "fits", "GB a chip", "of which", "GB sent", "s at least")
    columns += ("tokens/s at most", "compiled in s")
    head = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    return "\n".join([*head, *(line for row in ROWS for line in lines_of(row, workdir))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--write", action="store_true", help="put the table into docs/plan.md")
    arguments = parser.parse_args()
    for row in ROWS:
        if arguments.only in name_of(row) and not is_planned(row, arguments.workdir):
            place = arguments.workdir / name_of(row)
            shutil.rmtree(place, ignore_errors=True)
            status = subprocess.run(command(row, arguments.workdir), cwd=ROOT, check=False).returncode
            print(f"{name_of(row)}: exit code {status}", file=sys.stderr)
            if (place / "plan.json").exists():
                (place / "code").write_text(code())
    text = table(arguments.workdir)
    print(text)
    if arguments.write:
        page = PAGE.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
