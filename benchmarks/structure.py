"""Counts what a reader of the package has to hold: modules, lines, long functions, wrappers, settings.

    python benchmarks/structure.py [--repo=DIR]
    python benchmarks/structure.py --way

With `--repo` another checkout is counted, such as one of an older commit; nothing of it is imported. With
`--way` a small EM run goes as far as the first training step: listed are the package's files whose functions
then lie between the stage and the function that `jax.jit` traces.
"""

import argparse
import ast
import collections
import dataclasses
import os
import re
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "promptcot_jax"
LONG = 60  # lines of a function
MANY = 8  # parameters of a function
_MACRO = re.compile(r"^([A-Z][A-Z0-9_]*)\s*=", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Module:
    """One source file of the package."""

    name: str
    path: Path
    tree: ast.Module
    num_lines: int


def modules_of(repo: Path) -> list[Module]:
    """All modules that hold code, by name."""
    found = []
    for path in sorted((repo / PACKAGE).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if text.strip():
            name = ".".join(path.relative_to(repo).with_suffix("").parts).removesuffix(".__init__")
            found.append(Module(name, path, ast.parse(text), text.count("\n")))
    return found


def imports_of(module: Module, names: set[str]) -> set[str]:
    """The package's modules that a module imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in names else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & names) - {module.name}


def functions_of(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods, nested ones too."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def num_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Parameters that a caller may give, `self` left out."""
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def macros_of(repo: Path) -> collections.Counter[str]:
    """How many gin files of `configs/stages` and `configs/data` set each macro."""
    counts = collections.Counter[str]()
    for room in ("stages", "data"):
        for path in (repo / "configs" / room).glob("*.gin"):
            counts.update(set(_MACRO.findall(path.read_text(encoding="utf-8"))))
    return counts


def figures_of(repo: Path) -> dict[str, int]:
    """The figures of one checkout by name."""
    modules = modules_of(repo)
    names = {module.name for module in modules}
    importers = collections.Counter(name for module in modules for name in imports_of(module, names))
    sizes = {module.name: module.num_lines for module in modules}
    alone = [name for name in names if importers[name] == 1]
    functions = [function for module in modules for function in functions_of(module)]
    long = [f for f in functions if (f.end_lineno or f.lineno) - f.lineno + 1 > LONG]
    macros = macros_of(repo)
    return {
        "modules": len(modules),
        "lines": sum(sizes.values()),
        "modules with one importer": len(alone),
        "lines in modules with one importer": sum(sizes[name] for name in alone),
        "functions": len(functions),
        f"functions over {LONG} lines": len(long),
        f"functions with over {MANY} parameters": sum(num_parameters(f) > MANY for f in functions),
        "methods __post_init__": sum(f.name == "__post_init__" for f in functions),
        "gin files": sum(1 for _ in (repo / "configs").rglob("*.gin")),
        "macros of stages": len(macros),
        "macros set in two or more of these files": sum(count > 1 for count in macros.values()),
        "lines of templates, styles, scripts and texts": _lines(
            repo / PACKAGE, (".html", ".css", ".js", ".jinja", ".svg", ".toml", ".md")
        ),
        "lines of tests": _lines(repo / "tests", (".py",)),
        "words of documentation": _words(repo),
    }


def _lines(directory: Path, endings: tuple[str, ...]) -> int:
    files = (path for path in directory.rglob("*") if path.suffix in endings)
    return sum(path.read_text(encoding="utf-8").count("\n") for path in files)


def _words(repo: Path) -> int:
    made = repo / "docs" / "macros.md"  # by `make macros`
    pages = {repo / "README.md", *(repo / "docs").rglob("*.md")} - {made}
    return sum(len(page.read_text(encoding="utf-8").split()) for page in pages)


class _Arrived(BaseException):
    """The traced function was called; no `Exception`, so that nothing on the way handles it."""


def way_of_theta() -> list[str]:
    """Files of the package from `run/em.py` to the traced step, in the order of the calls."""
    from promptcot_jax import api  # after the search path is set
    from promptcot_jax.trainers import loop

    # Enough of a cold start for rationales that end, without which EM has nothing to fit.
    bindings = ["STAGES=['corpus', 'cold_start']", "NUM_TRAIN=360", "COLD_START_ROWS=300"]
    bindings += ["COLD_START_EPOCHS=2", "EM_FIRST_TRIPLE=300", "EM_PAIRS_PER_ROUND=24", "VOCAB_SIZE=512"]
    files: list[str] = []

    def look(frame: types.FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and frame.f_code.co_name == "run" and name.endswith("trainers/train_step.py"):
            sys.setprofile(None)
            caller: types.FrameType | None = frame
            while caller is not None:
                _, found, file = caller.f_code.co_filename.rpartition(f"/{PACKAGE}/")
                if found and (not files or files[-1] != file):
                    files.append(file)
                caller = caller.f_back
            raise _Arrived

    def watched(*args: object, **kwargs: object) -> object:
        sys.setprofile(look)
        return fit(*args, **kwargs)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as workdir:
        api.run_stage("run", ("runs/from_scratch.gin",), tuple(bindings), workdir)
        fit, loop.fit = loop.fit, watched
        try:
            api.run_stage("em", ("runs/from_scratch.gin",), tuple(bindings[1:]), workdir)
        except _Arrived:
            pass
        finally:
            sys.setprofile(None)
            loop.fit = fit
    files.reverse()
    return files[max(i for i, file in enumerate(files) if file == "run/em.py") :]


def main() -> None:
    """Prints the figures, or theta's way, one a line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repo", type=Path, default=Path(os.path.dirname(os.path.dirname(__file__)) or "."))
    parser.add_argument("--way", action="store_true")
    options = parser.parse_args()
    repo = options.repo
    if options.way:
        sys.path.insert(0, str(repo.resolve()))
        files = way_of_theta()
        print(f"{len(set(files))} files, {len(files)} changes of file", *files, sep="\n")
        return
    for name, value in figures_of(repo).items():
        print(f"{name:45} {value:>8,}")


if __name__ == "__main__":
    main()
