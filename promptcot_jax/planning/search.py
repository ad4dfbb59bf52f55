"""Which settings would make a stage fit: a short list, tried in an order from cheap to dear.

Only settings that change nothing of what comes out (`EXECUTION_ONLY`) are tried, so that a run may take the
advice in the middle. Training: more micro-batches, then remat "full", then another mesh. Sampling: fewer
tokens in the cache, fewer slots. Where arguments and resident arrays alone are too large, only a mesh that
splits them further is tried.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from promptcot_jax.parallel import mesh as mesh_lib

Change = dict[str, Any]  # dotted name below a stage's arguments -> value

_MOST_MICRO_BATCHES = 64
_TENSOR = (2, 4, 8)


def changes(arguments: Mapping[str, Any], settings: tuple[str, ...], num_chips: int) -> Iterator[Change]:
    """Changes to a stage's arguments to try, most welcome first.

    Args:
        settings: what matters to the programs that do not fit, as `Program.settings` names it.
    """
    if "micro_batches" in settings:
        yield from _of_training(arguments, num_chips)
    if "cache_tokens" in settings or "score_tokens" in settings:
        yield from _of_sampling(arguments)
    if "mesh" in settings:
        yield from _of_mesh(arguments, settings, num_chips)


def apply(arguments: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """The arguments with a change made."""
    changed = dict(arguments)
    for name, value in change.items():
        first, *rest = name.split(".")
        changed[first] = _replaced(changed[first], rest, value)
    return changed


def _replaced(value: Any, path: list[str], new: Any) -> Any:
    if not path:
        return new
    inner = _replaced(getattr(value, path[0]), path[1:], new)
    return dataclasses.replace(value, **{path[0]: inner})


def _of_training(arguments: Mapping[str, Any], num_chips: int) -> Iterator[Change]:
    where = _holder_of(arguments, "micro_batches")
    loop, names = _at(arguments, where), (f"{where}.micro_batches", f"{where}.remat")
    numbers = _micro_batch_counts(arguments, loop.micro_batches, num_chips)
    for remat in dict.fromkeys((loop.remat, "full")):
        # The step in between is seldom the answer, and each try is a compilation.
        few = numbers if len(numbers) < 4 else [numbers[1], numbers[len(numbers) // 2], numbers[-1]]
        for count in few:
            change: Change = dict(zip(names, (count, remat), strict=True))
            if change != {names[0]: loop.micro_batches, names[1]: loop.remat}:
                yield change


def _micro_batch_counts(arguments: Mapping[str, Any], first: int, num_chips: int) -> list[int]:
    """Of a fit those that divide its rows; self-play fills them up, and stops at a row of each shard."""
    rows = _rows(arguments)
    if "rollouts" not in arguments:
        return [n for n in _doublings(first, _MOST_MICRO_BATCHES) if rows % n == 0]
    shards = _row_shards(_resolved(arguments["mesh"], num_chips))
    return _doublings(first, max(first, min(_MOST_MICRO_BATCHES, -(-rows // shards))))


def _of_sampling(arguments: Mapping[str, Any]) -> Iterator[Change]:
    where, scores = _holder_of(arguments, "engine"), _holder_of(arguments, "score_tokens")
    engine = _at(arguments, where).engine
    for slots in _halvings(engine.num_slots, 1):
        change: Change = {f"{where}.engine.num_slots": slots}
        if scores:
            tokens = _at(arguments, scores).score_tokens
            change[f"{scores}.score_tokens"] = max(1, tokens * slots // engine.num_slots)
        yield change


def _holder_of(arguments: Mapping[str, Any], setting: str) -> str:
    """Which of the arguments has a setting, by its dotted name; "" where none has it."""
    holders = ("loop_config", "batch_sizes", "rollouts", "teacher.config", "solver.config", "config")
    found = (holder for holder in holders if holder.split(".")[0] in arguments)
    return next((holder for holder in found if hasattr(_at(arguments, holder), setting)), "")


def _at(arguments: Mapping[str, Any], holder: str) -> Any:
    first, *rest = holder.split(".")
    return functools.reduce(getattr, rest, arguments[first])


def _of_mesh(arguments: Mapping[str, Any], settings: tuple[str, ...], num_chips: int) -> Iterator[Change]:
    """Meshes that split what lies on a chip further, with the micro-batches that they allow."""
    where = next((f"{asked}.mesh" for asked in ("teacher", "solver") if asked in arguments), "mesh")
    config, tried = _resolved(_at(arguments, where), num_chips), set()
    slices = config.num_slices
    for tensor in (config.tensor, *_TENSOR):
        inside = num_chips // slices
        if inside % (tensor * config.sequence * config.expert):
            continue
        fsdp = inside // (tensor * config.sequence * config.expert)
        shape = dataclasses.replace(config, data=slices, fsdp=fsdp, tensor=tensor)
        if shape in tried or shape == config:
            continue
        tried.add(shape)
        change: Change = {where: shape}
        if "micro_batches" in settings:
            most = max(1, _rows(arguments) // _row_shards(shape))
            few = [n for n in _doublings(1, most) if _rows(arguments) % n == 0]
            loop = _holder_of(arguments, "micro_batches")
            change |= {f"{loop}.micro_batches": few[-1], f"{loop}.remat": "full"}
        yield change


def _row_shards(mesh: mesh_lib.MeshConfig) -> int:
    """Into how many parts a mesh without open axes splits rows."""
    return mesh.data * mesh.fsdp * mesh.expert


def _resolved(config: mesh_lib.MeshConfig, num_chips: int) -> mesh_lib.MeshConfig:
    """The configuration with the axis at -1 filled in."""
    known = 1
    for size in config.shape:
        known *= size if size != -1 else 1
    free = {axis: num_chips // known for axis in mesh_lib.AXES if getattr(config, axis) == -1}
    return dataclasses.replace(config, **free)


def _rows(arguments: Mapping[str, Any]) -> int:
    """Of a training step; of self-play where no two of what it learns from share one."""
    if "rollouts" in arguments:
        group_size = arguments["rollouts"].group_size
        return arguments["config"].most_units(arguments["algorithm"], group_size)
    fits = [arguments[name] for name in ("fit", "phi_fit", "theta_fit") if name in arguments]
    return min(fit.rows_per_batch for fit in fits)


def _doublings(first: int, most: int) -> list[int]:
    return list(itertools.takewhile(lambda n: n <= most, (first * 2**i for i in itertools.count())))


def _halvings(first: int, least: int) -> list[int]:
    return list(itertools.takewhile(lambda n: n >= least, (first // 2**i for i in itertools.count(1))))
