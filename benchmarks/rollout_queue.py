"""How busy slots are, and decode steps a prompt of use: one queue an iteration, against tries in turn.

    PYTHONPATH=. python benchmarks/rollout_queue.py

Simulated, no model: lengths of completions are log-normal, half of their variance the prompt's; a sample is
right with the prompt's probability, Beta(0.6, 0.6); prompts of use have right and wrong samples. A step of
decoding costs the same however many slots are busy. The queue's rule is the trainer's own
(`rollout_collector.prompts_to_draw`). In tries, as self-play had them before, each try takes as many prompts
as are likely to fill the iteration, and ends with its last completion; what is of use beyond that is lost.
"""

import dataclasses
import heapq
import math

import numpy as np

from promptcot_jax.trainers.rollout_collector import prompts_to_draw, share_of_use

GROUP_SIZE = 8
MAX_TRIES = 4
NUM_ITERATIONS = 200
LEAST_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class Setting:
    """Of a run: the median length stands for the data."""

    name: str
    slots: int
    prompts: int
    median: int
    longest: int


SETTINGS = (
    Setting("slice_v6e_8_self_play, median 2,500", 64, 16, 2_500, 8_192),
    Setting("slice_v6e_8_self_play, median 5,000", 64, 16, 5_000, 8_192),
    Setting("slice_v6e_8_self_play, 32 slots", 32, 16, 2_500, 8_192),
    Setting("paper_self_play", 256, 83, 5_000, 16_384),
)


def prompts_of(rng: np.random.Generator, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Lengths [prompts, samples], and which prompts are of use; as many as an iteration takes at most."""
    count = MAX_TRIES * setting.prompts
    spread = rng.normal(0, 0.55, (count, 1)) + rng.normal(0, 0.55, (count, GROUP_SIZE))
    lengths = np.clip(setting.median * np.exp(spread), 50, setting.longest).astype(int)
    right = rng.random((count, GROUP_SIZE)) < rng.beta(0.6, 0.6, (count, 1))
    return lengths, right.any(1) & ~right.all(1)


@dataclasses.dataclass
class Total:
    """Over iterations."""

    steps: int = 0
    tokens: int = 0
    drawn: int = 0
    used: int = 0
    older: int = 0


def in_tries(lengths: np.ndarray, of_use: np.ndarray, setting: Setting, total: Total) -> None:
    """One iteration."""
    first, found, tries = 0, 0, 0
    while found < setting.prompts and tries < MAX_TRIES:
        share = max(found / first, LEAST_SHARE) if first else 1.0
        last = first + min(setting.prompts, math.ceil((setting.prompts - found) / share))
        ends = [0] * setting.slots
        for length in lengths[first:last].ravel():
            heapq.heapreplace(ends, ends[0] + length)
        total.steps += max(ends)
        total.tokens += lengths[first:last].sum()
        found, first, tries = found + of_use[first:last].sum(), last, tries + 1
    total.drawn, total.used = total.drawn + first, total.used + min(found, setting.prompts)


def in_a_queue(
    lengths: np.ndarray, of_use: np.ndarray, setting: Setting, total: Total, left_over: int, share: float
) -> tuple[int, float]:
    """One iteration; what it leaves over, and the share of use."""

    def wanted(finished: int) -> int:
        return prompts_to_draw(
            [*of_use[:finished]],
            wanted=setting.prompts - left_over,
            share=share,
            weight=setting.prompts,
            most=len(lengths),
        )

    rows, running, begun, finished, now = lengths.ravel(), [], 0, 0, 0
    open_samples, num_prompts = [GROUP_SIZE] * len(lengths), wanted(0)
    while True:
        while begun < num_prompts * GROUP_SIZE and len(running) < setting.slots:
            heapq.heappush(running, (now + rows[begun], begun))
            begun += 1
        if not running:
            break
        now, row = heapq.heappop(running)
        open_samples[row // GROUP_SIZE] -= 1
        while finished < len(lengths) and not open_samples[finished]:
            finished += 1
            num_prompts = wanted(finished)
    total.steps += now
    total.tokens += rows[:begun].sum()
    found = left_over + of_use[:num_prompts].sum()
    total.drawn, total.used = total.drawn + num_prompts, total.used + min(found, setting.prompts)
    total.older += left_over
    kept = min(max(found - setting.prompts, 0), setting.prompts // 2)
    return kept, share_of_use(num_prompts, found - left_over, share, setting.prompts)


def main() -> None:
    """Prints a row of Markdown for each setting and way."""
    print("| lengths and slots | drawn in | slots busy | steps a prompt of use | prompts drawn | left over |")
    print("| --- | --- | --- | --- | --- | --- |")
    for setting in SETTINGS:
        rng, tries, queue, carried = np.random.default_rng(0), Total(), Total(), (0, 1.0)
        for _ in range(NUM_ITERATIONS):
            lengths, of_use = prompts_of(rng, setting)
            in_tries(lengths, of_use, setting, tries)
            carried = in_a_queue(lengths, of_use, setting, queue, *carried)
        for name, total in (("tries", tries), ("one queue", queue)):
            busy, steps = total.tokens / (setting.slots * total.steps), total.steps / total.used
            drawn, older = total.drawn / NUM_ITERATIONS, total.older / NUM_ITERATIONS
            print(f"| {setting.name} | {name} | {busy:.2f} | {steps:,.0f} | {drawn:.1f} | {older:.1f} |")


if __name__ == "__main__":
    main()
