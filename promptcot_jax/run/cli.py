"""The command line: `promptcot STAGE --gin_file=F ... --gin.NAME=VALUE ... --workdir=DIR`.

Exit codes: 0 done, 1 failed at work (traceback in `WORKDIR/logs/STAGE.log`), 2 wrong use, 3 a plan that does
not fit, 75 left before the end for SIGTERM or a deadline, where the same command goes on; each said in one
sentence. Only flags and help are handled before the heavy imports, so that `--help` answers at once.
"""

import argparse
import difflib
import importlib.metadata
import logging
import os
import sys
import textwrap
import traceback
from collections.abc import Sequence
from typing import NoReturn

from promptcot_jax.core.errors import DoesNotFit, Interrupted, WrongUse
from promptcot_jax.run import gin_files, stages

_USAGE = "promptcot STAGE [--gin_file=F ...] [--gin_search_paths=D,E] [--gin.NAME=VALUE ...] --workdir=DIR"
_FLAGS = """\
  --workdir=DIR            holds everything a run reads and writes; one run at a time
  --gin_file=FILE          settings; repeatable, later files win. Looked for in the current directory,
                           in the search paths and in the configs that come with the package
  --gin_search_paths=D,E   more places to look for gin files and their includes
                           Modules that a gin file imports may lie in the current directory
  --gin.NAME=VALUE         one setting, over the files: a macro (--gin.SEED=3) or a parameter
                           (--gin.sft.sft.seed=3). A string keeps its quotes: --gin.TRIPLES="'mine.jsonl'"
  --tfds_data_dir=DIR      where the data sets are that 'tfds:NAME' names as a path; it sets TFDS_DATA_DIR,
                           without which it is ~/tensorflow_datasets
  --seqio_additional_cache_dirs=D,E
                           where seqio looks for tasks that 'cache_tasks' wrote, with USE_CACHED_TASKS = True
  --process_count=N        hosts of the run; each starts the same command. A Cloud TPU slice knows its hosts
                           itself; given here too, another number is refused
  --coordinator_address=HOST:PORT, --process_index=I
                           elsewhere: where the first host is, and which of them this one is, from 0
  --start_seconds=S, --wait_seconds=S
                           deadlines: for all hosts to be there (600), for what the first does alone (3600)
  --compilation_cache_dir=DIR
                           where compiled programs are kept for the next start, local or gs://, or "off";
                           without it JAX_COMPILATION_CACHE_DIR, else a directory in ~/.cache/promptcot_jax
  --help                   this text; 'promptcot STAGE --help' describes one stage
  --list-macros            'promptcot STAGE --list-macros': all settings of a stage; with --gin_file=FILE
                           those of the file too
  --version                of the package
"""


_OF_HOSTS = ("coordinator_address", "process_count", "process_index", "start_seconds", "wait_seconds")


class _Flags(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise WrongUse(f"{message}; see 'promptcot --help'.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _command(arguments)
    except WrongUse as error:
        print(f"promptcot: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _command(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        _say(_overview())
        return 0 if arguments else 2
    if arguments == ["--version"]:
        _say(f"promptcot_jax {importlib.metadata.version('promptcot_jax')}")
        return 0
    name, *rest = arguments
    if name not in stages.STAGES:
        close = difflib.get_close_matches(name, stages.STAGES, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise WrongUse(f"'{name}' is no stage{hint}; there are {', '.join(stages.STAGES)}.")
    if "--help" in rest or "-h" in rest:
        _say(_stage_help(name))
        return 0
    if "--list-macros" in rest:
        flags = _flags().parse_known_args(rest)[0]
        _say(_macro_list(name, flags.gin_file, _listed(flags.gin_search_paths)))
        return 0
    flags, bindings = _parse(name, rest)
    if flags.workdir in getattr(flags, "words", ()) and not os.path.isdir(flags.workdir):
        raise WrongUse(f"{flags.workdir} is no workdir; name one that is there, or give --workdir=DIR.")
    return _do(name, flags, bindings)


def _say(text: str) -> None:
    """Prints; a reader that has seen enough (`promptcot --help | head`) is no failure."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes at its end


def _flags() -> _Flags:
    parser = _Flags(add_help=False, allow_abbrev=False)
    parser.add_argument("--gin_file", action="append", default=[])
    parser.add_argument("--gin_search_paths", default="")
    parser.add_argument("--seqio_additional_cache_dirs", default="")
    parser.add_argument("--workdir")
    parser.add_argument("--coordinator_address")
    parser.add_argument("--process_count", type=int)
    parser.add_argument("--process_index", type=int)
    parser.add_argument("--start_seconds", type=float, default=600.0)
    parser.add_argument("--wait_seconds", type=float, default=3600.0)
    parser.add_argument("--tfds_data_dir")
    parser.add_argument("--compilation_cache_dir")
    return parser


def _parse(name: str, rest: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Flags, and the `NAME=VALUE` of each `--gin.NAME=VALUE`, words of the stage's own among them."""
    parser = _flags()
    macros = stages.STAGES[name].words
    if macros:
        parser.add_argument("words", nargs="*")
    bindings = [argument.removeprefix("--gin.") for argument in rest if argument.startswith("--gin.")]
    flags = parser.parse_args([argument for argument in rest if not argument.startswith("--gin.")])
    if macros and flags.words:
        if len(flags.words) != len(macros):
            raise WrongUse(f"'{name}' takes {' and '.join(macros)}, got {len(flags.words)} of them.")
        bindings += [f"{macro}={word!r}" for macro, word in zip(macros, flags.words, strict=True)]
        flags.gin_file = flags.gin_file or [f"stages/{name}.gin"]
        flags.workdir = flags.workdir or flags.words[-1]
    if not flags.workdir:
        raise WrongUse("--workdir=DIR is missing: the directory that holds a run's files.")
    return flags, bindings


def _do(name: str, flags: argparse.Namespace, bindings: list[str]) -> int:
    # TensorFlow (under seqio) talks of GPUs that nobody asked for.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.update(stages.STAGES[name].environment)
    if flags.tfds_data_dir:  # TFDS's own variable: its import below and every process started here see it
        os.environ["TFDS_DATA_DIR"] = flags.tfds_data_dir
    from promptcot_jax.parallel import hosts  # heavy; dispatch imports late
    from promptcot_jax.run import compilation_cache, configuration, stage

    _log_to_console()
    if not {"", os.getcwd()} & set(sys.path):  # a model of the user's own; `python -m` has it there already
        sys.path.append(os.getcwd())
    compilation_cache.switch_on(flags.compilation_cache_dir)
    configuration.load(flags.gin_file, bindings, _listed(flags.gin_search_paths))
    if cache_dirs := _listed(flags.seqio_additional_cache_dirs):
        from promptcot_jax.data.seqio import seqio_registry  # TensorFlow, which most runs do without

        seqio_registry.add_cache_dirs(cache_dirs)
    try:
        hosts.start(
            hosts.HostsConfig(**{name: getattr(flags, name) for name in _OF_HOSTS}),
            stage.run_signature(name, flags.workdir),
        )
        stage.perform(name, flags.workdir)
    except WrongUse as error:
        raise WrongUse(configuration.plain_message(error)) from None
    except DoesNotFit as error:
        print(f"promptcot: {' '.join(configuration.plain_message(error).split())}", file=sys.stderr)
        return 3
    except Interrupted as error:
        print(f"promptcot: '{name}' {configuration.plain_message(error)}", file=sys.stderr)
        return 75  # EX_TEMPFAIL: try again
    except KeyboardInterrupt:
        print("promptcot: interrupted; the same command goes on from here", file=sys.stderr)
        return 1
    except hosts.HostsMissing as error:
        print(f"promptcot: '{name}' failed: HostsMissing: {error}", file=sys.stderr)
        return 1
    except Exception as error:  # any failure at work: one line here, the traceback in the log
        message = " ".join(configuration.plain_message(error).split())
        log = stage.log_file(flags.workdir, name)
        if not os.path.isfile(log):  # a workdir in a bucket has no logs
            traceback.print_exc()
        print(
            f"promptcot: '{name}' failed: {type(error).__name__}: {message} (traceback: "
            f"{log if os.path.isfile(log) else 'above'})",
            file=sys.stderr,
        )
        return 1
    return 0


def _listed(paths: str) -> list[str]:
    return [path for path in paths.split(",") if path]


def _log_to_console() -> None:
    """Shows the package's own messages, one line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    package = logging.getLogger("promptcot_jax")
    package.handlers[:] = [handler]
    package.setLevel(logging.DEBUG)
    package.propagate = False


def _overview() -> str:
    """Text of `promptcot --help`."""
    width = max(map(len, stages.STAGES))
    lines = [f"  {name:<{width}}  {_file_of(name).summary}" for name in stages.STAGES]
    return f"usage: {_USAGE}\n\nstages:\n" + "\n".join(lines) + f"\n\nflags:\n{_FLAGS}"


def _stage_help(name: str) -> str:
    """Text of `promptcot STAGE --help`."""
    said = _file_of(name)
    macros = gin_files.macros_of(gin_files.of_stage(name))
    words = "".join(f" {macro}" for macro in stages.STAGES[name].words)
    parts = [
        f"promptcot {name}{words}: {said.summary}",
        f"reads:  {said.headings['reads']}\nwrites: {said.headings['result']}",
    ]
    for heading, title in (
        ("Required", "required settings (gin macros; set one with --gin.NAME=VALUE):"),
        ("Commonly overridden", "commonly overridden, with their defaults:"),
    ):
        if listed := [macros[macro] for macro in said.listed(heading)]:
            parts.append(f"{title}\n{_table(listed)}")
    if macros:
        others = f"all {len(macros)} settings: promptcot {name} --list-macros\n"
        parts.append(
            f"{others}by parameter:    --gin.MODULE.CLASS.NAME=VALUE, as configs/stages/{name}.gin has them"
        )
    parts += [
        f"example:\n  {said.headings['command']}",
        "flags: --workdir=DIR, --gin_file=FILE, --gin_search_paths, --tfds_data_dir, ...: promptcot --help",
    ]
    return "\n\n".join(parts)


def _macro_list(name: str, more: Sequence[str], search_paths: Sequence[str]) -> str:
    """Text of `promptcot STAGE --list-macros`; without `more` files those that go with its own."""
    own = gin_files.of_stage(name)
    macros = gin_files.macros_of(own)
    added = list(more or _file_of(name).listed("with"))
    parts = [f"settings of '{name}' (gin macros; set one with --gin.NAME=VALUE), by the file that has them"]
    listed = set[str]()
    for file in reversed(own):  # the stage's own file first; a macro that it sets is shown there
        shown = [macros[macro.name] for macro in own[file].macros if macro.name in macros.keys() - listed]
        listed |= {macro.name for macro in shown}
        parts += [f"{file}:\n{_table(shown)}"] * bool(shown)
    for file, said in gin_files.with_includes(added, search_paths).items():
        if file not in own and said.macros:
            title = f"{file}, with --gin_file={file}" if file in added else file
            parts.append(f"{title}:\n{_table(said.macros)}")
    return "\n\n".join(parts)


def _file_of(stage: str) -> gin_files.GinFile:
    return gin_files.of_stage(stage)[f"stages/{stage}.gin"]


def _table(macros: Sequence[gin_files.Macro]) -> str:
    """A line for each macro: name, default, meaning; long ones go on below."""
    heads = [
        macro.name if macro.default == "%gin.REQUIRED" else f"{macro.name} = {macro.default}"
        for macro in macros
    ]
    width = max((len(head) for head in heads if len(head) <= 40), default=0)
    lines = []
    for head, macro in zip(heads, macros, strict=True):
        wrapped = textwrap.wrap(macro.meaning, 108 - width) or [""]
        if len(head) > width:
            wrapped = ["", *wrapped]
        lines.append(f"  {head:<{width}}  {wrapped[0]}".rstrip())
        lines += [f"  {'':<{width}}  {line}" for line in wrapped[1:] if line]
    return "\n".join(lines)
