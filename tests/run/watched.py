"""`promptcot` on one of several hosts, which lists the files of the workdir that it opens for writing.

    python -m tests.run.watched STAGE ... --workdir=DIR --process_index=I

The list is DIR.written-I, a name a line; files under `logs/` are left out, for each host has its own.
"""

import os
import sys
from pathlib import Path
from typing import Any

from promptcot_jax.run import cli


def written_by(workdir: Path, index: int) -> list[str]:
    """What a host has listed."""
    return _list_of(workdir, index).read_text().splitlines()


def _list_of(workdir: Path, index: int | str) -> Path:
    return workdir.with_name(f"{workdir.name}.written-{index}")


def watch(arguments: list[str]) -> None:
    """Begins the list of this host, by the flags of its command."""
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in arguments if "=" in argument)
    workdir = Path(flags["workdir"])
    path = _list_of(workdir, flags["process_index"])
    file = path.open("w", buffering=1)

    def look(event: str, details: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(details[0], str | bytes | os.PathLike):
            return
        name, _, flags = details
        opened = Path(os.fsdecode(name))
        if flags & (os.O_WRONLY | os.O_RDWR) and opened.is_relative_to(workdir):
            if opened.relative_to(workdir).parts[0] != "logs":
                print(opened.relative_to(workdir), file=file)

    sys.addaudithook(look)


if __name__ == "__main__":
    watch(sys.argv[1:])
    sys.exit(cli.main())
