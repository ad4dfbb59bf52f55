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
from collections.abc import Callable

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


def serve(work: Callable[[], float]) -> None:
    """Worker side: runs `work` for each line of standard input; answers its seconds and the peak so far."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    for _ in sys.stdin:
        seconds = work()
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mb": peak_mb}), file=answers, flush=True)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Runs of one side."""

    seconds: list[float]
    peak_mb: float


def alternate(commands: dict[str, list[str]], num_pairs: int, warm_ups: int = 1) -> dict[str, Measured]:
    """Runs every command's worker to warm up, then `num_pairs` times, turn by turn."""
    workers = {
        side: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for side, command in commands.items()
    }
    answers: dict[str, list[dict[str, float]]] = {side: [] for side in workers}
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
        side: Measured([run["seconds"] for run in runs[warm_ups:]], runs[-1]["peak_mb"])
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
