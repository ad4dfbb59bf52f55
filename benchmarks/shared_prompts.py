"""A gradient of GRPO with each prompt computed once for its completions, and once for each of them.

    python benchmarks/shared_prompts.py          # promptcot-tiny: 8 prompts of 50 to 90 tokens, 8 x 60 to 160
    python benchmarks/shared_prompts.py --toy    # the decoder of grpo_step.py: 4 prompts of 64 tokens, 8 x 64

Rows of several lengths, in turns; made-up tokens. `trainers.self_play_config.LONG_ROW` is chosen by it.
"""

import argparse
import statistics
import time
from typing import Any

import numpy as np

LENGTHS, GROUP_SIZE = (128, 192, 256, 384, 512, 640, 768, 1024), 8
VALUES = ("advantages", "old_log_probs", "sampler_log_probs")


def units(num_prompts: int, prompt: tuple[int, int], completion: tuple[int, int], vocab_size: int) -> Any:
    """Completions with made-up numbers, in groups; lengths from and to, both included."""
    from promptcot_jax.data.examples import TokenExample

    rng, found = np.random.default_rng(0), []
    for _ in range(num_prompts):
        prompt_ids = rng.integers(0, vocab_size, rng.integers(prompt[0], prompt[1] + 1))
        for _ in range(GROUP_SIZE):
            size = int(rng.integers(completion[0], completion[1] + 1))
            example = TokenExample(
                prompt_ids=prompt_ids,
                completion_ids=rng.integers(0, vocab_size, size),
                token_values=dict.fromkeys(VALUES, rng.normal(-5.0, 0.1, size)),
            )
            found.append((example,))
    return found


def main() -> None:
    """Prints a line for each length of rows."""
    import jax

    from promptcot_jax import api
    from promptcot_jax.models import language_model
    from promptcot_jax.trainers.grpo import Grpo
    from promptcot_jax.trainers.policy_updates import Minibatches

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.toy:
        import self_play

        lm, _, _ = self_play.toy(2048)
        params, learned_from = lm.init(jax.random.key(0)), units(4, (64, 64), (64, 64), 2048)
    else:
        model = api.load_model("promptcot-tiny")
        lm, params = model.lm, model.params
        learned_from = units(8, (50, 90), (60, 160), lm.config.vocab_size)
    longest = max(unit[0].length for unit in learned_from)
    loss = Grpo().loss(1.0)
    step = jax.jit(jax.value_and_grad(lambda params, batch: loss(lm, params, batch, remat="none")[0]))

    batches: dict[tuple[int, bool], Any] = {}
    for row_length in (length for length in LENGTHS if length >= longest):
        for is_shared in (False, True):
            source = Minibatches(
                learned_from,
                num_minibatches=1,
                num_passes=1,
                row_length=row_length,
                rows_multiple=1,
                seed=0,
                value_names=VALUES,
                prefix_capacity=language_model.prefix_capacity(lm, row_length) if is_shared else 0,
            )
            batches[row_length, is_shared] = jax.device_put(source.batch(0))
            jax.block_until_ready(step(params, batches[row_length, is_shared]))
    seconds: dict[tuple[int, bool], list[float]] = {key: [] for key in batches}
    for _ in range(arguments.rounds):
        for key, batch in batches.items():
            start = time.perf_counter()
            jax.block_until_ready(step(params, batch))
            seconds[key].append(time.perf_counter() - start)
    for (row_length, is_shared), batch in batches.items():
        found, num_tokens = seconds[row_length, is_shared], int((batch.segment_ids > 0).sum())
        print(
            f"{batch.token_ids.shape[0]:3} rows of {row_length:4}, {'shared' if is_shared else 'apart '}: "
            f"{num_tokens:6,} tokens in {batch.token_ids.size:6,} places, "
            f"{statistics.median(found):.3f} s (fastest {min(found):.3f})"
        )


if __name__ == "__main__":
    main()
