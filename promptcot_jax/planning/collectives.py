"""Collectives of a compiled program and the bytes that they move, read from its text.

XLA's own cost analysis counts a loop's body once. Here a collective inside a loop counts once for each step:
loops over layers, micro-batches and pieces of a windowed matrix product compare a counter with a constant. A
loop whose number of steps is data (pieces of the head, steps of a burst) takes the number that is given.
By default FSDP does not show as all-gathers on TPUs: XLA cuts each product into pieces, and passes the
weights around a ring by collective-permutes while it multiplies. A collective that is spread over several
fusions stands in each of them under the same channel, and counts once.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_WIDTHS = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_WIDTHS |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*)$")
_OPERATION = re.compile(rf"(?<=[\s)}}\]])({'|'.join(KINDS)})(-start)?\(")
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_WHILE = re.compile(r"\bwhile\(.*\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)")
_CALLED = re.compile(r"\b(?:calls|to_apply|called_computations|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su](?:32|64)\[\]\S* constant\((\d+)\)")
_COMPARE = re.compile(r"\bcompare\(%?([\w.\-]+), %?([\w.\-]+)\), direction=(LT|LE|NE)")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Of one kind of collective: how many run, and bytes that a chip sends in them."""

    count: int
    bytes: float


def traffic(program: str, *, loop_steps: int = 1) -> dict[str, Traffic]:
    """Collectives by kind in one run of a compiled program.

    Args:
        program: its text, as `compiled.as_text()` gives it.
        loop_steps: of each loop whose number of steps is data.
    """
    computations, entry = _computations(program)
    counts: collections.Counter[str] = collections.Counter()
    sent: dict[str, float] = collections.defaultdict(float)

    def visit(name: str, times: int, channels: set[str]) -> None:
        for instruction in computations.get(name, ()):
            if found := _OPERATION.search(instruction):
                channel = _CHANNEL.search(instruction)
                if channel and channel[1] in channels:
                    continue
                channels |= {channel[1]} if channel else set()
                counts[found[1]] += times
                sent[found[1]] += times * _bytes_sent(found[1], instruction, found.start())
            if loop := _WHILE.search(instruction):
                condition, body = loop.groups()
                visit(
                    body,
                    times * (_trip_count(instruction, computations.get(condition, ())) or loop_steps),
                    set(),
                )
            elif not found:  # what a reduction applies to its numbers holds no collectives
                for called in _CALLED.findall(instruction):
                    for inner in re.findall(r"[\w.\-]+", called):
                        visit(inner, times, channels)

    visit(entry, 1, set())
    return {kind: Traffic(counts[kind], sent[kind]) for kind in KINDS if counts[kind]}


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
    """Instructions of each computation, without their names, and the name of the entry."""
    found: dict[str, list[str]] = {}
    entry, name = "", None
    for line in program.splitlines():
        if header := _HEADER.match(line):
            name = header[1]
            found[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            name = None
        elif name is not None and _INSTRUCTION.match(line):
            found[name].append(line)
    return found, entry


def _trip_count(instruction: str, condition: Sequence[str]) -> int | None:
    """Steps of a loop; None where that is data."""
    if known := _TRIP_COUNT.search(instruction):
        return int(known[1])
    constants = {name: int(value) for line in condition for name, value in _CONSTANT.findall(line)}
    for line in condition:
        if (compare := _COMPARE.search(line)) and compare[2] in constants:
            return constants[compare[2]] + (compare[3] == "LE")
    return None


def _bytes_sent(kind: str, instruction: str, end: int) -> float:
    """Bytes that a chip sends, by the ring algorithm, from the result's shapes and the size of a group.

    A collective that is started and ended apart (`-start`) has its operands in its result too.
    """
    result = instruction[:end].partition(" = ")[2]
    sizes = [_size(element, shape) for element, shape in _SHAPE.findall(result)]
    is_started = "-start(" in instruction[end : end + 40]
    group = _group_size(instruction)
    if kind == "collective-permute":
        return max(sizes, default=0.0)
    if is_started and kind != "all-reduce" and len(sizes) > 1:
        sizes = sizes[len(sizes) // 2 :]
    total, share = sum(sizes), (group - 1) / group
    if kind == "all-reduce":
        return 2 * total * share
    if kind == "reduce-scatter":
        return total * (group - 1)
    return total * share


def _size(element: str, shape: str) -> float:
    return float(_WIDTHS.get(element, 0) * math.prod(int(size) for size in shape.split(",") if size))


def _group_size(instruction: str) -> int:
    """Devices of a group, in any of the forms in which XLA writes groups; 2 where it writes none."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", instruction):
        return listed[1].count(",") + 1
    if counted := re.search(r"replica_groups=\[(\d+),(\d+)\]", instruction):
        return int(counted[2])
    if over_mesh := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", instruction):
        sizes: Mapping[str, str] = dict(re.findall(r"'([^']+)'=(\d+)", over_mesh[1]))
        axes = re.findall(r"'([^']+)'", over_mesh[2])
        return math.prod(int(sizes[axis]) for axis in axes if axis in sizes) or 1
    return 2
