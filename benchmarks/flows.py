"""What benchmarks of whole flows share: stages by the command line, rows of GSM8K as worked solutions."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path


class GinText:
    """Text that gin reads as it stands."""

    def __init__(self, text: str):
        self._text = text

    def __repr__(self) -> str:
        return self._text


def promptcot(stage: str, workdir: Path, *files: str, **settings: object) -> None:
    """Runs a stage, unless it is complete."""
    command = [f"--gin_file={file}" for file in files]
    command += [f"--gin.{name}={value!r}" for name, value in settings.items()]
    started = time.perf_counter()
    print("promptcot", stage, *command, f"--workdir={workdir}", flush=True)
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]  # of reward functions
    subprocess.run(
        [sys.executable, "-m", "promptcot_jax", stage, *command, f"--workdir={workdir}"],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    print(f"{time.perf_counter() - started:,.0f} s", flush=True)


def solved(row: dict) -> dict:
    """A row of GSM8K as a worked solution; its notes to a calculator are left out."""
    solution = re.sub(r"<<.*?>>", "", row["solution"])
    return {
        "id": row["id"],
        "concepts": ["arithmetic"],
        "problem": row["problem"],
        "answer": row["answer"],
        "solution": f"{solution}\nThe answer is $\\boxed{{{row['answer']}}}$.",
    }


def rows_of(path: Path) -> list[dict]:
    with path.open() as lines:
        return [json.loads(line) for line in lines]


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
