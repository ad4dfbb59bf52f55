"""A played cloud for tests of tpu_scripts/: where it lies, the scripts pointed at it, what it was asked."""

import dataclasses
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
SCRIPTS = HERE.parents[1] / "tpu_scripts"

# What a machine has: a sudo, and a curl that brings the installer of the uv below.
# That one installs the test's program as `promptcot`.
BIN = {
    "gcloud": f'#!/bin/bash\nexec {sys.executable} -S -E {HERE}/fake_gcloud.py "$@"\n',
    "sudo": '#!/bin/bash\nexec "$@"\n',
    "curl": """#!/bin/bash
echo 'mkdir -p "$HOME/.local/bin"; cp "$FAKE_CLOUD/uv" "$HOME/.local/bin/uv"'
""",
}
# For the first try of a program: every machine has begun it before one goes on.
TOGETHER = """touch "$FAKE_CLOUD/began.$WORKER"
  until [ -e "$FAKE_CLOUD/began.0" ] && [ -e "$FAKE_CLOUD/began.1" ]; do sleep 0.05; done"""
UV = """#!/bin/bash
echo "uv $*" >> "$FAKE_CLOUD/uv_calls"
[ "$1" != venv ] || { mkdir -p venv/bin; ln -sf /bin/true venv/bin/python; }
[ "$1" != pip ] || { [ ! -e "$FAKE_CLOUD/install_fails" ] || { echo "no such package"; exit 1; }
  cp "$FAKE_CLOUD/program" venv/bin/promptcot; }
"""
SETTINGS = {
    "PROJECT": "a-project",
    "ZONE": "us-east1-d",
    "NAME": "slice",
    "ACCELERATOR": "v5p-16",  # of two machines, by either provisioner
    "CAPACITY": "spot",
    "WORKDIR": "gs://bucket/run",
    "POLL_SECONDS": "0.05",
    "BACKOFF_SECONDS": "0.01",
    "GRACE_SECONDS": "1",
    "LOST_SECONDS": "1",
    "COMMAND_SECONDS": "20",
    "MAX_ATTEMPTS": "6",
}


def table() -> list[list[str]]:
    return [
        line.split()
        for line in (SCRIPTS / "accelerators.txt").read_text().splitlines()
        if line[:1] not in "#"
    ]


def machines_of(accelerator: str) -> int:
    return next((int(row[2]) for row in table() if row[0] == accelerator), 0)


@dataclasses.dataclass
class Cloud:
    """The played cloud and the scripts pointed at it."""

    root: pathlib.Path
    settings: dict[str, str]

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.write_text(text)
        path.chmod(0o755)

    def program(self, text: str) -> None:
        """What `promptcot` does on each machine."""
        self.write("program", f"#!/bin/bash\n{text}\n")

    def script(self, name: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        lines = "".join(f"{key}={value}\n" for key, value in (self.settings | settings).items())
        self.write("settings", lines)
        at, rest = list(arguments), []
        if "--" in at:
            at, rest = at[: at.index("--")], at[at.index("--") :]
        return subprocess.run(
            ["bash", str(SCRIPTS / f"{name}.sh"), *at, f"--settings={self.root}/settings", *rest],
            env={
                "PATH": f"{self.root}/bin:/usr/bin:/bin",
                "FAKE_CLOUD": str(self.root),
                "FAKE_MACHINES": str(machines_of((self.settings | settings)["ACCELERATOR"])),
                "HOME": str(self.root),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
        )

    def babysit(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return self.script("babysit", "em", *arguments, "--", "--gin_file=em.gin", **settings)

    def calls(self, *words: str) -> list[list[str]]:
        """The calls of gcloud that hold these words."""
        path = self.root / "commands.jsonl"
        calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in calls if all(word in " ".join(call) for word in words)]

    def said_by_program(self) -> list[str]:
        path = self.root / "said"
        return path.read_text().splitlines() if path.exists() else []


def assert_ends(result: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    text = result.stdout + result.stderr
    assert result.returncode == code, text
    for part in said:
        assert part in text, text
