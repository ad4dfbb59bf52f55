"""Doing one stage: settings -> manifest "running" -> the stage's function -> manifest "complete".

A stage function is `run/NAME.py:NAME(*, workdir, ...) -> StageResult`; its arguments are plain values and
frozen dataclasses that gin fills in. It may be killed at any moment: called again with the same settings and
inputs it goes on where it stopped, which is the business of the rooms it calls. Here it is seen to that they
*are* the same, since files made under other settings would be mixed with new ones, and that a complete stage
is not done twice.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from promptcot_jax.checkpoints import store
from promptcot_jax.core import file_sets, jsonl, manifest
from promptcot_jax.core.errors import Interrupted, WrongUse
from promptcot_jax.core.workdir import in_workdir
from promptcot_jax.parallel import hardware, hosts
from promptcot_jax.run import compilation_cache, configuration, lock, stages

logger = logging.getLogger(__name__)

# Larger files of a model count by name and size: 64 GB are not read at every start.
_WHOLE_FILE_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage says of its work."""

    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)  # rows in, out, dropped by reason


def run_stage(
    stage: str,
    gin_files: Sequence[str] = (),
    bindings: Sequence[str] = (),
    workdir: epath.PathLike | None = None,
) -> None:
    """Does what `promptcot STAGE --gin_file=... --gin.NAME=VALUE --workdir=DIR` does.

    JAX keeps compiled programs on disk from then on; JAX_COMPILATION_CACHE_DIR says where, and
    JAX_ENABLE_COMPILATION_CACHE=false that it should not.

    Args:
        bindings: settings over the files', each "NAME=VALUE" as after `--gin.`.

    Raises:
        WrongUse: as the command line says it with exit code 2.
    """
    if stage not in stages.STAGES:
        raise WrongUse(f"'{stage}' is no stage; there are {', '.join(stages.STAGES)}.")
    if not workdir:
        raise WrongUse("--workdir=DIR is missing: the directory that holds a run's files.")
    compilation_cache.switch_on()
    configuration.load(gin_files, bindings)
    perform(stage, os.fspath(workdir))


def run_signature(stage: str, workdir: str) -> str:
    """What the hosts of a run tell each other before they begin; another version or setting shows in it."""
    settings = manifest.text_digest(configuration.parsed_text())
    versions = manifest.text_digest(json.dumps(manifest.versions(), sort_keys=True))
    return f"'promptcot {stage}' in {workdir}, settings {settings}, package versions {versions}"


def perform(stage: str, workdir: str) -> None:
    """Does one stage, or those that `run` lists, under the workdir's lock and the loaded configuration."""
    function = stages.stage_function(stage)
    arguments = configuration.arguments_of(stage, function)
    names = arguments["stages"] if stage == "run" else [stage]
    for name in names:  # all settings are looked at before the first stage starts
        if name == "run" or name not in stages.STAGES:
            raise WrongUse(f"run.stages names '{name}'; there are {', '.join(stages.STAGES)}.")
        configuration.arguments_of(name, stages.stage_function(name))
    with contextlib.ExitStack() as held:
        run_id = hosts.decided_by_first("lock", lambda: held.enter_context(lock.hold(workdir, stage)))
        if not hosts.is_first():
            lock.check_is_shared(workdir, run_id)
        held.enter_context(_logging_to(log_file(workdir, stage)))
        logger.info("run %s of 'promptcot %s' in %s", run_id, stage, workdir)
        if stage == "run":
            configuration.call(function, workdir)
        else:
            perform_locked(stage, workdir)


def log_file(workdir: str, stage: str) -> str:
    """Where a run of this stage keeps its log on this host."""
    host = "" if hosts.is_first() else f".host-{hosts.index()}"
    return os.path.join(workdir, "logs", f"{stage}{host}.log")


@contextlib.contextmanager
def _logging_to(path: str) -> Iterator[None]:
    """Appends the package's messages to a file, and the traceback of a failure."""
    if "://" in path:  # objects in a bucket cannot be appended to
        yield
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("promptcot_jax")
    package.addHandler(handler)
    try:
        yield
    except Interrupted as reason:
        logger.info("%s", reason)
        raise
    except BaseException:
        failure = ("stage", logging.ERROR, __file__, 0, "failed", (), sys.exc_info())
        handler.handle(logging.LogRecord(*failure))
        raise
    finally:
        package.removeHandler(handler)
        handler.close()


def perform_locked(stage: str, workdir: str) -> None:
    """Does one stage unless the manifest says that it is complete with these settings and inputs.

    Raises:
        WrongUse: it was begun or done with other settings or inputs.
    """
    function = stages.stage_function(stage)
    begun = hosts.decided_by_first(f"begin {stage}", lambda: _begin(stage, function, workdir))
    if begun is None:
        logger.info("%s: complete already, nothing to do", stage)
        return
    entry = manifest.entry_from_json(begun, where="the first host's entry")
    started = time.monotonic()
    logger.debug("%s: parsed configuration\n%s", stage, configuration.parsed_text())
    logger.info("%s: starts", stage)

    def work() -> dict[str, int]:
        return dict(configuration.call(function, workdir).counts)

    on_all_hosts = stages.STAGES[stage].needs_all_hosts
    try:
        counts = work() if on_all_hosts else hosts.decided_by_first(stage, work)
        entry = dataclasses.replace(entry, status="complete", counts=counts)
    finally:
        seconds = time.monotonic() - started
        entry = dataclasses.replace(
            entry,
            wall_seconds=round(entry.wall_seconds + seconds, 3),
            devices=manifest.with_use(entry.devices, hardware.held(seconds) if on_all_hosts else None),
            timed_attempts=entry.timed_attempts + 1,
        )
        logger.debug("%s: operative configuration\n%s", stage, configuration.operative_text())
        if hosts.is_first():
            operative = epath.Path(workdir) / "config" / f"{stage}.operative.gin"
            jsonl.write_atomically(operative, configuration.operative_text().encode())
            manifest.record(workdir, entry)
    hosts.wait_for_first(f"end {stage}")
    text = ", ".join(f"{name} {count}" for name, count in entry.counts.items())
    logger.info("%s: complete after %.1f s%s", stage, entry.wall_seconds, f" ({text})" if text else "")


def _begin(stage: str, function: Callable[..., Any], workdir: str) -> dict[str, Any] | None:
    """The manifest's entry of the attempt that begins, written; None where the stage is complete."""
    manifest.read(workdir)  # refuses one of another version before anything else is looked at
    arguments = configuration.arguments_of(stage, function)
    settings = configuration.settings_of(stage, arguments)
    inputs = _input_digests(function, arguments, workdir)
    deciding = configuration.settings_of(stage, arguments, deciding_only=True)
    earlier = _entry_to_continue(stage, workdir, settings, deciding, inputs)
    if earlier is not None and earlier.status == "complete":
        return None
    entry = manifest.StageEntry(
        stage=stage,
        status="running",
        config_digest=_digest(deciding),
        seed=_seed_of(settings),
        inputs=inputs,
        counts={},
        versions=manifest.versions(),
        wall_seconds=earlier.wall_seconds if earlier else 0.0,
        devices=earlier.devices if earlier else (),
        attempts=(earlier.attempts if earlier else 0) + 1,
        timed_attempts=earlier.timed_attempts if earlier else 0,
    )
    config_directory = epath.Path(workdir) / "config"
    jsonl.write_json(config_directory / f"{stage}.settings.json", settings)
    jsonl.write_atomically(config_directory / f"{stage}.gin", configuration.parsed_text().encode())
    manifest.record(workdir, entry)
    return dataclasses.asdict(entry)


def _digest(settings: Mapping[str, Any]) -> str:
    return manifest.text_digest(json.dumps(settings, sort_keys=True, default=str))


def _seed_of(settings: Mapping[str, Any]) -> int:
    """The stage's seed among its settings; 0 where it draws nothing at random."""
    seeds = [value for name, value in settings.items() if name.rpartition(".")[2] == "seed"]
    return int(seeds[0]) if seeds else 0


def _entry_to_continue(
    stage: str,
    workdir: str,
    settings: Mapping[str, Any],
    deciding: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> manifest.StageEntry | None:
    """The manifest's entry of an earlier attempt with the same `deciding` settings; None: it starts anew."""
    description = stages.STAGES[stage]
    entry = manifest.read(workdir).get(stage)
    left = [name for output in description.outputs for name in _files_left(workdir, output)]
    if description.is_derived or (description.outputs and not left):
        return None
    remove = " ".join(os.path.join(workdir, name) for name in left)
    if entry is None and left:
        raise WrongUse(
            f"{workdir} holds files that '{stage}' writes ({', '.join(left)}), but its manifest does not say "
            f"from which settings; use another --workdir, move them away, or remove them: rm -r {remove}"
        )
    if entry is None:
        return None
    is_same = entry.config_digest == _digest(deciding) and dict(entry.inputs) == dict(inputs)
    if not is_same:
        changes = _changed_settings(stage, workdir, settings, deciding) + _changed_inputs(entry, inputs)
        raise WrongUse(
            f"{workdir} holds '{stage}' {'done' if entry.status == 'complete' else 'begun'} with other "
            f"settings or inputs ({'; '.join(changes) or 'of another version'}); set them back, use another "
            f"--workdir, or remove what it wrote to do it again: rm -r {remove}"
        )
    if entry.status == "running":
        changes = _changed_settings(stage, workdir, settings, settings)
        if dict(entry.versions) != manifest.versions():
            changes.append("package versions")
        if changes:
            logger.warning(
                "%s: goes on otherwise than it began, bits may differ: %s", stage, "; ".join(changes)
            )
    return entry


def _files_left(workdir: str, output: str) -> list[str]:
    """What is in the workdir under an output's name: the file or directory, and its shards."""
    place = epath.Path(workdir) / output
    shards = f"{output.removesuffix('.jsonl')}-?????-of-?????.jsonl"
    found = [output] if place.exists() else []
    if output.endswith(".jsonl") and place.parent.exists():
        found += sorted(path.name for path in place.parent.glob(shards))
    return found


def _changed_settings(
    stage: str, workdir: str, settings: Mapping[str, Any], among: Mapping[str, Any]
) -> list[str]:
    """What differs from the settings that an earlier attempt stored, of the names that `among` has."""
    path = epath.Path(workdir) / "config" / f"{stage}.settings.json"
    if not path.exists():
        return []
    old, new = jsonl.read_json(path), json.loads(json.dumps(settings, default=str))
    left_out = settings.keys() - among.keys()
    names = [name for name in old | new if old.get(name) != new.get(name) and name not in left_out]
    return [f"{name} was {old.get(name)!r}, now {new.get(name)!r}" for name in names[:5]]


def _changed_inputs(entry: manifest.StageEntry, inputs: Mapping[str, str]) -> list[str]:
    names = [name for name in inputs if entry.inputs.get(name) != inputs[name]]
    return [f"the content of {name} has changed" for name in names if name in entry.inputs]


def _input_digests(
    function: Callable[..., Any], arguments: Mapping[str, Any], workdir: str
) -> dict[str, str]:
    """Digest of each input by its path as given; an absent one is the stage's to judge."""
    digests = {}
    for path in configuration.input_paths(function, arguments):
        place = epath.Path(in_workdir(path, workdir))
        if place.is_dir():
            digests[path] = _directory_digest(place)
            continue
        try:
            digests[path] = manifest.file_digest(place)
        except (WrongUse, FileNotFoundError):
            # A package's name such as "smollm2-135m", or an input that is not needed.
            digests[path] = "none"
    return digests


def _directory_digest(directory: epath.Path) -> str:
    """Digest of a model directory: names, sizes, and the content of all but very large files.

    Of our own checkpoints the parameters count by the digest in their provenance: equal parameters are stored
    in files of other names each time.
    """
    is_ours = (directory / store.PROVENANCE).exists()
    digest = hashlib.sha256()
    for file in sorted(file_sets.files_below(directory)):
        name = file.relative_to(directory)
        if is_ours and (name.parts[0] == "params" or file.name == store.MARKER):
            continue
        size = file.stat().length
        digest.update(f"{name} {size}\n".encode())
        if size <= _WHOLE_FILE_BYTES:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
