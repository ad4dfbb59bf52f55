"""From JSON Lines to packed batches: this package's path, and `datasets` + `tokenizers`, on the same rows.

    PYTHONPATH=. python benchmarks/data_pipeline.py FILE... --megabytes 200    # `pip install datasets` first
    PYTHONPATH=. python benchmarks/data_pipeline.py FILE... --megabytes 2000 --sides cold warm

FILE holds rows with `problem` and `solution`. They are repeated, numbered, up to the size asked for, as
traces of `sft_traces`. All sides read, render, tokenize (SmolLM2's tokenizer), pack into rows and give every
batch as NumPy arrays; none trains. Each reading is a process of its own, so that its peak resident size is
its own; the sides take turns.

* cold: tokenizes into the token store, then reads an epoch: a permutation of all, first-fit, segment ids,
  positions, loss mask.
* warm: the same epoch from a store that is there.
* datasets: `load_dataset("json")`, `map` to ids and labels, `map` that joins and cuts them to rows (no
  shuffling, no segment ids, no positions: less work than ours), all kept in its own cache as usual.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

ROW_LENGTH, ROWS_PER_BATCH = 1024, 16
SIDES = ("cold", "warm", "datasets", "datasets_2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument(
        "--one", nargs=3, metavar=("SIDE", "ROWS", "CACHE"), help="what a reading's process does"
    )
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(*options.one)))
        return
    with tempfile.TemporaryDirectory() as directory:
        rows = os.path.join(directory, "rows.jsonl")
        count = write_rows(rows, options.files, options.megabytes << 20)
        print(f"{count} rows, {os.path.getsize(rows) >> 20} MB, load before {os.getloadavg()[0]:.1f}")
        found = {side: [] for side in options.sides}
        for turn, side in itertools.product(range(options.repeats), options.sides):
            cache = os.path.join(directory, "warm" if side == "warm" else f"{side}-{turn}")
            if side == "warm" and not os.path.exists(cache):
                started("cold", rows, cache)
            found[side].append(started(side, rows, cache))
            if side == "cold" and not turn and "warm" in options.sides:
                os.rename(cache, os.path.join(directory, "warm"))
            elif side != "warm":
                shutil.rmtree(cache)
        print(
            f"{'side':12}{'tokens':>12}{'rows':>8}{'seconds':>9}{'k tokens/s (all runs)':>34}{'peak MB':>9}"
        )
        for side, runs in found.items():
            speeds = [run["tokens"] / run["seconds"] / 1000 for run in runs]
            listed = f"{statistics.median(speeds):,.0f} ({', '.join(f'{speed:,.0f}' for speed in speeds)})"
            seconds = statistics.median(run["seconds"] for run in runs)
            peak = max(run["peak"] for run in runs)
            print(
                f"{side:12}{runs[0]['tokens']:>12}{runs[0]['rows']:>8}{seconds:>9.1f}{listed:>34}{peak:>9.0f}"
            )


def write_rows(path: str, files: list[str], size: int) -> int:
    """Repeats the files' rows, each with a number of its own, until the file has the size."""
    pairs = []
    for name in files:
        with open(name, encoding="utf-8") as lines:
            found = [json.loads(line) for line in lines]
        pairs.extend((row["problem"], row["solution"]) for row in found if row.get("solution"))
    with open(path, "w", encoding="utf-8") as file:
        for count, (problem, solution) in enumerate(itertools.cycle(pairs)):
            if file.tell() >= size:
                return count
            row = {
                "id": f"row-{count}",
                "domain": "math",
                "prompt": f"({count}) {problem}",
                "completion": f"{solution}\nSo the answer is \\boxed{{{count}}}.",
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    raise AssertionError("cycle does not end")


def started(side: str, rows: str, cache: str) -> dict[str, float]:
    """One reading in a process of its own."""
    command = [sys.executable, __file__, "--one", side, rows, cache]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measured(side: str, rows: str, cache: str) -> dict[str, float]:
    """Tokens, rows of the batches, seconds and the peak resident size in megabytes."""
    batches = with_datasets(rows, cache, side) if side.startswith("datasets") else ours(rows, cache)
    next(batches)  # everything is imported, and the tokenizer is there
    start, tokens, num_rows = time.perf_counter(), 0, 0
    for in_batch, rows_of_batch in batches:
        tokens, num_rows = tokens + in_batch, num_rows + rows_of_batch
    seconds = time.perf_counter() - start
    return {"tokens": tokens, "rows": num_rows, "seconds": seconds, "peak": peak_megabytes()}


def peak_megabytes() -> float:
    """Of this process and its workers; not getrusage, which tells the parent's peak too."""
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def ours(rows: str, cache: str) -> Iterator[tuple[int, int]]:
    """Tokens and rows of each batch; first (0, 0), when all is ready."""
    import numpy as np

    from promptcot_jax.checkpoints import load
    from promptcot_jax.data import example_sets, gguf_tokenizer, packing, training_sets

    tokenizer = gguf_tokenizer.read_tokenizer(load.smollm2_path())
    tokenizer.encode("ready")
    yield 0, 0
    config = training_sets.DataConfig(cache_dir=cache)
    found, _ = training_sets.open_task("sft_traces", rows, tokenizer, config=config, workdir="")
    kept, _ = example_sets.within_length(found, example_sets.LengthPolicy(max_length=ROW_LENGTH))
    epochs = packing.PackedEpochs(
        kept,
        row_length=ROW_LENGTH,
        rows_per_batch=ROWS_PER_BATCH,
        num_epochs=1,
        seed=0,
        pad_id=tokenizer.pad_id,
    )
    for batch in packing.read_ahead(epochs):
        segment_ids = np.asarray(batch.segment_ids)
        yield int(np.count_nonzero(segment_ids)), int(np.count_nonzero(segment_ids[:, 0]))


def with_datasets(rows: str, cache: str, side: str) -> Iterator[tuple[int, int]]:
    """The same by `datasets` and `tokenizers`, as their users write it."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets
    import numpy as np

    from promptcot_jax.checkpoints import load
    from promptcot_jax.core import records
    from promptcot_jax.data import examples, gguf_tokenizer

    datasets.disable_progress_bars()
    tokenizer = gguf_tokenizer.read_tokenizer(load.smollm2_path())
    tokenizer.encode("ready")
    yield 0, 0
    workers = 2 if side.endswith("_2") else None

    def tokenized(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        found = [
            examples.solution_text(
                records.SftTrace(id=i, domain="math", prompt=prompt, completion=completion), tokenizer
            )
            for i, prompt, completion in zip(batch["id"], batch["prompt"], batch["completion"], strict=True)
        ]
        ids, labels = [], []
        backend = tokenizer.backend
        prompts = backend.encode_batch_fast([text.prompt for text in found], add_special_tokens=False)
        completions = backend.encode_batch_fast([text.blocks[0] for text in found], add_special_tokens=False)
        for prompt, completion in zip(prompts, completions, strict=True):
            read, written = prompt.ids, [*completion.ids, tokenizer.eos_id]
            if len(read) + len(written) <= ROW_LENGTH:
                ids.append(read + written)
                labels.append([-100] * len(read) + written)
        return {"input_ids": ids, "labels": labels}

    def packed(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {name: list(itertools.chain.from_iterable(parts)) for name, parts in batch.items()}
        whole = len(joined["input_ids"]) // ROW_LENGTH * ROW_LENGTH
        return {
            name: [ids[start : start + ROW_LENGTH] for start in range(0, whole, ROW_LENGTH)]
            for name, ids in joined.items()
        }

    data = datasets.load_dataset("json", data_files=rows, split="train", cache_dir=cache)
    data = data.map(tokenized, batched=True, remove_columns=data.column_names, num_proc=workers)
    data = data.map(packed, batched=True, num_proc=workers)
    for batch in data.with_format("numpy").iter(batch_size=ROWS_PER_BATCH):
        yield int(np.asarray(batch["input_ids"]).size), len(batch["labels"])


if __name__ == "__main__":
    main()
