"""Writes macros.md from the gin files: every macro with its default and its meaning, once.

python docs/macros.py > docs/macros.md
"""

from collections.abc import Iterable

from promptcot_jax.run import gin_files, stages
from promptcot_jax.run.gin_files import Macro

HEAD = """\
# Macros

To change a setting, give its macro on the command line or in a gin file of your own:

    promptcot em --gin_file=stages/em.gin --gin.MAX_ROUNDS=3 --workdir=runs/mine

This page lists every macro by the file that gives its default. `make macros` makes it from these files.
`promptcot STAGE --list-macros` prints those of one stage, with what its own file sets anew. Settings without
a macro have a line in the stage's file or are fields of a class, set by `--gin.module.Class.field=VALUE`.
"""


def page() -> str:
    """The page's text: a section for each file, those of stages first, in the order of a run."""
    files = gin_files.with_includes([gin_files.SHARED, *(f"stages/{name}.gin" for name in stages.STAGES)])
    files |= gin_files.with_includes(gin_files.packaged())
    homes = {file: [macro for macro in said.macros if macro.meaning] for file, said in files.items()}
    sections = [
        f"## `{file}`\n\n{files[file].summary}.\n\n{_table(macros)}"
        for file, macros in homes.items()
        if macros and not file.startswith("runs/")
    ]
    return "\n\n".join([HEAD.rstrip(), *sections]) + "\n"


def _table(macros: Iterable[Macro]) -> str:
    rows = [f"| `{macro.name}` | {_default(macro)} | {_cell(macro.meaning)} |" for macro in macros]
    return "\n".join(["| macro | default | meaning |", "| --- | --- | --- |", *rows])


def _default(macro: Macro) -> str:
    return "required" if macro.default == "%gin.REQUIRED" else f"`{_cell(macro.default)}`"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    print(page(), end="")
