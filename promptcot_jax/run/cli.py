"""The command line: `promptcot STAGE --gin_file=F ... --gin.NAME=VALUE ... --workdir=DIR`.

Exit codes: 0 done, 1 failed at work (traceback in `WORKDIR/logs/STAGE.log`), 2 wrong use, 3 a plan that does
not fit, 75 left before the end for SIGTERM or a deadline, where the same command goes on; each said in one
sentence. Only flags and help are handled before the heavy imports, so that `--help` answers at once.
"""

import argparse
import logging
import os
import sys
import textwrap
import traceback
from collections.abc import Sequence
from typing import NoReturn

from promptcot_jax.core.errors import DoesNotFit, Interrupted, WrongUse
from promptcot_jax.run import stages

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
"""


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
    name, *rest = arguments
    if name not in stages.STAGES:
        raise WrongUse(f"'{name}' is no stage; there are {', '.join(stages.STAGES)}.")
    if "--help" in rest or "-h" in rest:
        _say(_stage_help(name))
        return 0
    if not stages.STAGES[name].built:
        raise WrongUse(f"the stage '{name}' is not built yet in this version.")
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


def _parse(name: str, rest: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Flags, and the `NAME=VALUE` of each `--gin.NAME=VALUE`, words of the stage's own among them."""
    parser = _Flags(add_help=False, allow_abbrev=False)
    macros = stages.STAGES[name].words
    if macros:
        parser.add_argument("words", nargs="*")
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
    """Loads the settings and does the stage."""
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
            hosts.HostsConfig(
                coordinator_address=flags.coordinator_address,
                process_count=flags.process_count,
                process_index=flags.process_index,
                start_seconds=flags.start_seconds,
                wait_seconds=flags.wait_seconds,
            ),
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
    lines = [
        f"  {name:<{width}}  {stage.summary}{'' if stage.built else ' (not built yet)'}"
        for name, stage in stages.STAGES.items()
    ]
    return f"usage: {_USAGE}\n\nstages:\n" + "\n".join(lines) + f"\n\nflags:\n{_FLAGS}"


def _stage_help(name: str) -> str:
    """Text of `promptcot STAGE --help`."""
    stage = stages.STAGES[name]
    words = "".join(f" {macro}" for macro in stage.words)
    text = f"promptcot {name}{words}: {stage.summary}\n\n"
    if not stage.built:
        text += "This stage is not built yet in this version; it will exit with code 2.\n\n"
    text += f"reads:  {stage.reads}\nwrites: {stage.writes}\n\n"
    if stage.settings:
        width = max(len(macro) for macro, _ in stage.settings)
        rows = [f"  {macro:<{width}}  {meaning}" for macro, meaning in stage.settings]
        text += "main settings (gin macros; set one with --gin.NAME=VALUE):\n" + "\n".join(rows) + "\n\n"
    if stage.example:
        text += f"example:\n{textwrap.indent(stage.example, '  ')}\n\n"
    return f"{text}flags:\n{_FLAGS}"
