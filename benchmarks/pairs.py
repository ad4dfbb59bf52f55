"""Ours against another implementation, in alternating pairs, each side in a process of its own.

One side works at a time. Alternation makes the ratio robust against a machine whose speed drifts; a process
of its own gives each side its own peak of memory. Standard library only at the top: the other side's
interpreter has neither JAX nor this package.
"""

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

# SmolLM2-135M: the shape of all speed comparisons.
SHAPE_135M = {
    "vocab_size": 49152,
    "embed_dim": 576,
    "mlp_dim": 1536,
    "num_layers": 30,
    "num_heads": 9,
    "num_kv_heads": 3,
    "head_dim": 64,
}


def random_batch(rows: int, length: int, vocab_size: int):
    """A packed batch of ours whose every token is trained, a text a row."""
    import numpy as np

    from promptcot_jax.data import packing

    token_ids = np.random.default_rng(0).integers(0, vocab_size, (rows, length), np.int32)
    return packing.PackedBatch(
        token_ids=token_ids,
        segment_ids=np.ones_like(token_ids),
        positions=np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        loss_mask=np.ones_like(token_ids, bool),
        values={},
    )


def torch_model(max_positions: int = 2048):
    """The same shape in `transformers`, float32, random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=SHAPE_135M["vocab_size"],
        hidden_size=SHAPE_135M["embed_dim"],
        intermediate_size=SHAPE_135M["mlp_dim"],
        num_hidden_layers=SHAPE_135M["num_layers"],
        num_attention_heads=SHAPE_135M["num_heads"],
        num_key_value_heads=SHAPE_135M["num_kv_heads"],
        head_dim=SHAPE_135M["head_dim"],
        tie_word_embeddings=True,
        max_position_embeddings=max_positions,
    )
    return transformers.LlamaForCausalLM(config).eval()


class Server:
    """Worker side: a run for each line of standard input, answered with its seconds, in parts or whole."""

    def __init__(self):
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print must not mix with the answers

    def is_asked(self) -> bool:
        """Waits to be asked for a run; False when there are to be no more."""
        return bool(sys.stdin.readline())

    def answer(self, seconds: float, parts: dict[str, float] | None = None) -> None:
        """Of a run that is done: its seconds, what they went to, and the peak so far."""
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found = {"seconds": seconds, "peak_mb": peak_mb, "parts": parts or {}}
        print(json.dumps(found), file=self._answers, flush=True)


def serve(work: Callable[[], float]) -> None:
    """Worker side where a run is a call."""
    server = Server()
    while server.is_asked():
        server.answer(work())


class Steps:
    """Worker side where the loop belongs to a library, which calls `next` before each of its steps."""

    def __init__(self):
        self._server, self._began, self._cpu_seconds = Server(), 0.0, 0.0

    def next(self, parts: dict[str, float]) -> bool:
        """Answers for the step before, waits to be asked for another; False when there are to be no more."""
        if self._began:
            cpu_seconds = time.process_time() - self._cpu_seconds
            self._server.answer(time.perf_counter() - self._began, parts | {"cpu": cpu_seconds})
        is_asked = self._server.is_asked()
        self._began, self._cpu_seconds = time.perf_counter(), time.process_time()
        return is_asked


@dataclasses.dataclass(frozen=True)
class Measured:
    """Runs of one side."""

    seconds: list[float]
    peak_mb: float
    parts: list[dict[str, float]] = dataclasses.field(
        default_factory=list
    )  # of each run, where they are known


def alternate(commands: dict[str, list[str]], num_pairs: int, warm_ups: int = 1) -> dict[str, Measured]:
    """Runs every command's worker to warm up, then `num_pairs` times, turn by turn."""
    workers = {
        side: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for side, command in commands.items()
    }
    answers: dict[str, list[dict[str, Any]]] = {side: [] for side in workers}
    try:
        for _ in range(num_pairs + warm_ups):
            for side, worker in workers.items():
                print("run", file=worker.stdin, flush=True)
                line = worker.stdout.readline()
                if not line:
                    raise SystemExit(
                        f"The {side} side ended with code {worker.wait()}; its message is above."
                    )
                answers[side].append(json.loads(line))
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    return {
        side: Measured(
            [run["seconds"] for run in runs[warm_ups:]],
            runs[-1]["peak_mb"],
            [run["parts"] for run in runs[warm_ups:]],
        )
        for side, runs in answers.items()
    }


def report(title: str, num_tokens: int, sides: dict[str, Measured]) -> None:
    """One line a side, then the median over pairs of the ratio of speeds."""
    print(title)
    for side, measured in sides.items():
        speed = num_tokens / statistics.median(measured.seconds)
        spread = ", ".join(f"{num_tokens / seconds:.1f}" for seconds in measured.seconds)
        print(f"  {side:13s} {speed:8.1f} tokens/s ({spread}), peak {measured.peak_mb:.0f} MB")
    if len(sides) == 2:
        ours, theirs = sides.values()
        ratios = [b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"  ratio         {statistics.median(ratios):8.2f} ({each})")
    sys.stdout.flush()


def report_parts(title: str, names: Sequence[str], sides: dict[str, Measured]) -> None:
    """A row of a table for each side, medians of seconds; then ratios of speeds, and the load."""
    print(title)
    print(f"| | a step | {' | '.join(names)} | rest | processor time | peak, MB |")
    print("| --- " * (len(names) + 5) + "|")
    for side, measured in sides.items():
        whole = statistics.median(measured.seconds)
        parts = [statistics.median(run[name] for run in measured.parts) for name in names]
        rest = statistics.median(
            seconds - sum(run[name] for name in names)
            for seconds, run in zip(measured.seconds, measured.parts, strict=True)
        )
        cells = [f"{part:.2f} s ({100 * part / whole:.1f} %)" for part in (*parts, rest)]
        cells.append(f"{statistics.median(run['cpu'] for run in measured.parts):.2f} s")
        print(f"| {side} | {whole:.2f} s | {' | '.join(cells)} | {measured.peak_mb:.0f} |")
    for name, without in {"of steps": (), "without sampling": ("sampling",)}.items():
        ours, theirs = (
            [
                seconds - sum(run[part] for part in without)
                for seconds, run in zip(measured.seconds, measured.parts, strict=True)
            ]
            for measured in sides.values()
        )
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"ratio {name} {statistics.median(ratios):.2f} ({each})")
    print(f"load {os.getloadavg()[0]:.1f}", flush=True)
