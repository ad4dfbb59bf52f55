"""Accuracies of finished evaluations, as studies over sizes, arms and seeds read them."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from promptcot_jax.analyses import figures
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptRecord
from promptcot_jax.report.page import at
from promptcot_jax.verify import problem_accuracy

ATTEMPTS = "attempts"  # the name under which a file of attempts counts as one set


def accuracies(path: str) -> dict[str, float | None]:
    """Accuracy by set: of `results.json`, of a workdir that holds it, or of a file of attempts.

    None: nothing of the set could be graded.

    Raises:
        WrongUse: there is no such file, or no accuracy in it.
    """
    file = epath.Path(path)
    if file.is_dir():
        file = file / "results.json"
    if not file.exists():
        raise WrongUse(
            f"{os.fspath(file)}: no such file; run 'promptcot evaluate' there first, or correct the path."
        )
    if file.name.endswith(".jsonl"):
        found = {
            ATTEMPTS: problem_accuracy.over_problems(jsonl.read_records(file, AttemptRecord))["accuracy"]
        }
    else:
        content = jsonl.read_json(file)
        found = {name: at(one).get("accuracy") for name, one in at(content, "results").items()}
    shown = {name: float(value) if isinstance(value, int | float) else None for name, value in found.items()}
    if all(value is None for value in shown.values()):
        raise WrongUse(
            f"{os.fspath(file)}: it holds no accuracy; expected the results.json or attempts.jsonl that "
            "'promptcot evaluate' writes, of problems that could be graded."
        )
    return shown


def read(path: str) -> dict[str, float]:
    """Accuracy by set, of sets of which something could be graded; see `accuracies`."""
    return {name: value for name, value in accuracies(path).items() if value is not None}


def attempts_of(path: str) -> list[AttemptRecord] | None:
    """The attempts behind an accuracy: of a workdir, of the one with a `results.json`, or a file of them."""
    file = epath.Path(path)
    if not file.name.endswith(".jsonl"):
        file = (file if file.is_dir() else file.parent) / "evaluate" / "attempts.jsonl"
    return jsonl.read_records(file, AttemptRecord) if file.exists() else None


def mean_accuracy(found: Mapping[str, float | None], sets: Sequence[str] = (), *, path: str) -> float:
    """Mean over sets, each counting alike as in the paper's averages over benchmarks.

    Args:
        found: see `accuracies`.
        sets: which; none: all of which something could be graded.
        path: where they were found, for messages.

    Raises:
        WrongUse: a set is not among the results, or nothing of it could be graded.
    """
    for name in sets:
        if name not in found:
            raise WrongUse(f"{path}: no result of the set '{name}'; it has {', '.join(found)}.")
        if found[name] is None:
            raise WrongUse(
                f"{path}: nothing of the set '{name}' could be graded; evaluate it again, or leave it out of "
                "`sets`."
            )
    averaged = {name: found[name] for name in sets} if sets else found
    return float(np.mean([value for value in averaged.values() if value is not None]))


def matches(pattern: str, names: Sequence[str]) -> list[tuple[dict[str, int], str]]:
    """The files that a path with, say, `{size}` and `{seed}` in it stands for, and these numbers, by them.

    Args:
        names: those that stand in braces; each stands for digits. A path without any stands for itself.

    Raises:
        WrongUse: there is no such file.
    """
    wildcard = re.compile("|".join(re.escape(f"{{{name}}}") for name in names))
    if not wildcard.search(pattern):
        return [({}, pattern)]
    pattern = pattern if "://" in pattern else os.path.normpath(pattern)
    base = wildcard.split(pattern)[0].rpartition("/")[0]  # the directories before the first of them
    expression = re.escape(pattern)
    for name in names:  # a second time it stands for the same digits
        braced = re.escape(f"{{{name}}}")
        expression = expression.replace(braced, f"(?P<{name}>[0-9]+)", 1).replace(braced, f"(?P={name})")
    root = epath.Path(base or ("/" if pattern.startswith("/") else "."))
    paths = map(os.fspath, root.glob(wildcard.sub("*", pattern[len(base) :].lstrip("/"))))
    found = [
        ({name: int(number) for name, number in match.groupdict().items()}, file)
        for file in paths
        if (match := re.fullmatch(expression, file))
    ]
    if not found:
        raise WrongUse(
            f"{pattern}: no file matches this pattern; {wildcard.findall(pattern)[0]} stands for a number."
        )
    return sorted(found, key=lambda item: (sorted(item[0].items()), item[1]))


def differences(first: Mapping[int, float], other: Mapping[int, float]) -> dict[str, Any] | None:
    """Mean and deviation of an arm's accuracy less the first's, seed by seed; None without a common seed."""
    common = sorted(first.keys() & other.keys())
    return figures.spread([other[seed] - first[seed] for seed in common]) if common else None
