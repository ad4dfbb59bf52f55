"""gin files as text: what their header comments say, and their macros with default and meaning.

For `--help`, which neither imports gin nor parses values, and for the macros of `stages/shared.gin`.

A file begins with a comment: its first line sums it up, then come more lines, then headings such as
`# command:` and `# Required:`. A macro is a line `NAME = value`; the comment behind the value, or on lines
above it, is its meaning.
"""

import dataclasses
import functools
import glob
import os
import re
from collections.abc import Iterable, Sequence

SHARED = "stages/shared.gin"  # read before all others

_HEADING = re.compile(r"(command|reads|result|hardware|time|with|Required|Commonly overridden):\s*(.*)")
_MACRO = re.compile(r"([A-Z][A-Z0-9_]*) = (.*)")
_VALUE = re.compile(r"""((?:'[^']*'|"[^"]*"|[^#'"])*)(?:#\s*(.*))?""")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Macro:
    """A macro as one file has it."""

    name: str
    default: str  # as gin reads it
    meaning: str  # "" where the file sets a macro of another file


@dataclasses.dataclass(frozen=True, kw_only=True)
class GinFile:
    """What the text of a gin file says."""

    summary: str
    headings: dict[str, str]
    macros: tuple[Macro, ...]
    includes: tuple[str, ...]
    reads: frozenset[str]  # macros that it refers to

    def listed(self, heading: str) -> list[str]:
        """The names or files under a heading."""
        return [name for name in re.split(r",\s*", self.headings.get(heading, "")) if name]


def packaged_configs() -> str:
    """Directory of the configs: beside the package in a checkout, inside it once installed."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    beside = os.path.join(os.path.dirname(package), "configs")
    is_checkout = os.path.isfile(os.path.join(beside, "runs", "quickstart.gin"))
    return beside if is_checkout else os.path.join(package, "configs")


def packaged() -> list[str]:
    """The gin files that come with the package, by their paths in its configs."""
    configs = packaged_configs()
    return sorted(os.path.relpath(path, configs) for path in glob.glob(os.path.join(configs, "*", "*.gin")))


def prefixes(search_paths: Sequence[str] = ()) -> list[str]:
    """Directories that a relative file is looked for in; "" is the current one."""
    configs = packaged_configs()
    return ["", *search_paths, configs, os.path.dirname(configs)]


def find(file: str, search_paths: Sequence[str] = ()) -> str | None:
    """The path of a gin file, or None where there is no such file."""
    paths = (os.path.join(prefix, file) for prefix in prefixes(search_paths))
    return next(filter(os.path.isfile, paths), None)


@functools.cache
def read(path: str) -> GinFile:
    """What a gin file says."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    lines = text.splitlines()
    header = [line.removeprefix("#").strip() for line in lines[: _length_of_comment(lines)]]
    code = "\n".join(_VALUE.match(line)[1] for line in lines)  # type: ignore[index]  # matches any text
    return GinFile(
        summary=header[0].removesuffix(".") if header else "",
        headings=_headings(header),
        macros=tuple(_macros(lines)),
        includes=tuple(re.findall(r"^include ['\"](.+?)['\"]", text, flags=re.MULTILINE)),
        reads=frozenset(re.findall(r"%([A-Z][A-Z0-9_]*)", code)),
    )


def with_includes(files: Iterable[str], search_paths: Sequence[str] = ()) -> dict[str, GinFile]:
    """Files and what they include, by name, each after what it includes; missing files are left out."""
    found: dict[str, GinFile] = {}
    for file in files:
        if path := find(file, search_paths):
            said = read(path)
            found |= with_includes(said.includes, search_paths)
            found[file] = said
    return found


def of_stage(stage: str) -> dict[str, GinFile]:
    """The gin file of a stage with all that it includes, `stages/shared.gin` first."""
    return with_includes([SHARED, f"stages/{stage}.gin"])


def macros_of(files: dict[str, GinFile]) -> dict[str, Macro]:
    """Macros of the files by name, with the default of the last and the meaning of the first that has one.

    Those of `stages/shared.gin` that no other file refers to are left out.
    """
    used = set[str]().union(*(said.reads for name, said in files.items() if name != SHARED))
    found: dict[str, Macro] = {}
    for file, said in files.items():
        for macro in said.macros:
            if file != SHARED or macro.name in used:
                earlier = found.get(macro.name)
                meaning = earlier.meaning if earlier and earlier.meaning else macro.meaning
                found[macro.name] = dataclasses.replace(macro, meaning=meaning)
    return found


def _length_of_comment(lines: Sequence[str]) -> int:
    return next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))


def _headings(header: Iterable[str]) -> dict[str, str]:
    """Text behind each heading, the lines after it joined."""
    found: dict[str, str] = {}
    heading = ""
    for line in header:
        if match := _HEADING.match(line):
            heading, line = match.groups()
            found[heading] = line
        elif not line:
            heading = ""
        elif heading:
            found[heading] = f"{found[heading].removesuffix(chr(92)).rstrip()} {line}"
    return found


def _macros(lines: Sequence[str]) -> Iterable[Macro]:
    above: list[str] = []
    for i, line in enumerate(lines):
        if match := _MACRO.match(line):
            value, meaning = _VALUE.match(match[2]).groups()  # type: ignore[union-attr]  # matches any text
            value = value.strip()
            for more in lines[i + 1 :] if value.endswith(("(", "[", "{")) else ():
                value += more.strip()
                if not more.startswith(" "):
                    break
            yield Macro(name=match[1], default=value, meaning=meaning or " ".join(above))
        above = [*above, line.removeprefix("#").strip()] if line.startswith("#") else []
