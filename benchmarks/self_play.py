"""Iterations of GRPO self-play on a small decoder with random weights: where the time of an iteration goes.

    python benchmarks/self_play.py                  # 4 prompts x 8 samples, 64 + 64 tokens, KL on
    python benchmarks/self_play.py --without_mesh   # as a notebook has it: no sharding rules in the model
    python benchmarks/self_play.py --vocab_size=2048
    python benchmarks/self_play.py --vocab_size=2048 --compare_staleness=3 --grading_seconds=1

Every iteration is one update, of completions that all have their full length (a stop token is one of
thousands). Verdicts are made up from a sample's number, so grading costs next to nothing; what it would cost
beside decoding is another measurement (`benchmarks/verification.py`). With --grading_seconds it sleeps so
long for a iteration, in the place of sandboxes that work elsewhere. Printed are medians over the iterations
after the first three, which compile; with --compare_staleness of so many runs each with MAX_STALENESS 0 and
1, by turns.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHAPE = {
    "embed_dim": 256,
    "mlp_dim": 1024,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 4,
    "head_dim": 64,
}
PROMPTS, SAMPLES, PROMPT_TOKENS, NEW_TOKENS, COMPILING_ITERATIONS = 4, 8, 64, 64, 3
KL_BETA, LEARNING_RATE = 0.04, 1e-6


def byte_tokenizer():
    """One id per byte, and an end token."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    from promptcot_jax.data.tokenizer import Tokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[])
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    return Tokenizer.from_backend(backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def toy(vocab_size: int) -> tuple[Any, Any, list[list[int]]]:
    """A small decoder, a tokenizer and prompts."""
    import numpy as np

    from promptcot_jax.models import causal_lm, config

    rng = np.random.default_rng(0)
    lm = causal_lm.CausalLM(config.DecoderConfig(vocab_size=vocab_size, tie_embeddings=True, **SHAPE))
    return lm, byte_tokenizer(), rng.integers(0, 256, (64, PROMPT_TOKENS)).tolist()


def run(
    directory: Path,
    lm: Any,
    params: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    num_iterations: int,
    algorithm: Any,
    *,
    prompts_per_iteration: int = PROMPTS,
    samples: int = SAMPLES,
    remat: str = "projections",
    max_staleness: int = 0,
    grading_seconds: float = 0.0,
) -> list[dict[str, float]]:
    """Rows of the metrics."""
    from etils import epath

    from promptcot_jax.core.records import MathPrompt
    from promptcot_jax.data.prompt_stream import PromptStream, Task
    from promptcot_jax.parallel import mesh as mesh_lib
    from promptcot_jax.sampling import engine, rollouts, token_choice
    from promptcot_jax.trainers import self_play
    from promptcot_jax.trainers.grading import Grader
    from promptcot_jax.trainers.optimizer import OptimizerConfig
    from promptcot_jax.trainers.self_play_config import SelfPlayConfig
    from promptcot_jax.verify.rewards import Reward, RewardConfig

    class MadeUp(Grader):
        def _verdicts(self, draws, texts, num_tokens):
            time.sleep(grading_seconds * len(draws) / (prompts_per_iteration * samples))
            right = [draw.index % 2 == 0 for draw in draws]
            return [Reward(correct=float(r), format=1.0, length=0.0, status="match") for r in right]

    tasks = [
        Task(prompt=MathPrompt(id=str(i), problem="?", answer="1"), prompt_ids=tuple(prompt))
        for i, prompt in enumerate(prompts)
    ]
    made = self_play.SelfPlay(
        lm=lm,
        tokenizer=tokenizer,
        stream=PromptStream(tasks, seed=0),
        grader=MadeUp(
            tokenizer=tokenizer,
            config=RewardConfig(),
            run_many=lambda jobs: [],
        ),
        config=SelfPlayConfig(
            num_iterations=num_iterations,
            prompts_per_iteration=prompts_per_iteration,
            units_per_update=prompts_per_iteration * samples,
            checkpoint_every=num_iterations,
            tensorboard=False,
            remat=remat,
            max_staleness=max_staleness,
        ),
        algorithm=algorithm,
        rollouts=rollouts.RolloutConfig(
            sampling=token_choice.SamplingConfig(max_new_tokens=NEW_TOKENS),
            engine=engine.EngineConfig(num_slots=prompts_per_iteration * samples),
            group_size=samples,
        ),
        optimizer=OptimizerConfig(learning_rate=LEARNING_RATE),
        mesh=mesh_lib.make_mesh(mesh_lib.MeshConfig()),
        directory=epath.Path(directory),
        seed=0,
    )
    made.run(params)
    path = directory / self_play.DIRECTORY / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def in_turns(num_steps: int, *arguments: Any, **settings: Any) -> None:
    """Worker side of a comparison: iterations that begin when they are asked for.

    One more is planned than is done, because the end of a run saves a checkpoint.
    """
    import jax
    import pairs

    from promptcot_jax.trainers import self_play

    steps, parts = pairs.Steps(), {}

    class InTurns(self_play._Iterations):
        def step(self, step: int, state: Any) -> Any:
            if not steps.next(parts):
                raise SystemExit
            state = super().step(step, state)
            jax.block_until_ready(state)
            parts.update({name: self._row[f"seconds/{name}"] for name in ("sampling", "scoring", "training")})
            return state

    self_play._Iterations = InTurns
    with tempfile.TemporaryDirectory() as directory:
        run(Path(directory), *arguments, num_iterations=num_steps + 1, **settings)


def compare_staleness(num_runs: int, play: Callable[..., list[dict[str, float]]]) -> None:
    """Prints what an iteration takes with each staleness, of runs by turns."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for number in range(2 * num_runs):
        with tempfile.TemporaryDirectory() as directory:
            rows = play(Path(directory), max_staleness=number % 2)
        # Without the last one, which draws no next one ahead.
        found = [row["seconds"] for row in rows[COMPILING_ITERATIONS:-1]]
        print(
            f"run {number}, max_staleness={number % 2}: an iteration {statistics.median(found):.3f} s",
            flush=True,
        )
        seconds[number % 2] += found
    for staleness, found in seconds.items():
        quarters = statistics.quantiles(found)
        print(
            f"max_staleness={staleness}: an iteration {quarters[1]:.3f} s, median of {len(found)} "
            f"(middle half {quarters[0]:.3f} to {quarters[2]:.3f})"
        )


def main() -> None:
    """Prints the split."""
    import jax

    from promptcot_jax.models import language_model
    from promptcot_jax.trainers.grpo import Grpo

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vocab_size", type=int, default=32_000)
    parser.add_argument("--iterations", type=int, default=13)
    parser.add_argument("--without_mesh", action="store_true")
    parser.add_argument("--remat", default="projections")
    parser.add_argument("--grading_seconds", type=float, default=0.0)
    parser.add_argument("--compare_staleness", type=int, default=0, metavar="RUNS")
    arguments = parser.parse_args()
    lm, tokenizer, prompts = toy(arguments.vocab_size)

    def play(directory: Path, **settings: Any) -> list[dict[str, float]]:
        return run(
            directory,
            lm if arguments.without_mesh else language_model.on_mesh(lm),
            lm.init(jax.random.key(0)),
            tokenizer,
            prompts,
            arguments.iterations,
            Grpo(kl_beta=KL_BETA),
            remat=arguments.remat,
            grading_seconds=arguments.grading_seconds,
            **settings,
        )

    if arguments.compare_staleness:
        compare_staleness(arguments.compare_staleness, play)
        return
    with tempfile.TemporaryDirectory() as directory:
        rows = play(Path(directory))
    rows = rows[COMPILING_ITERATIONS:]
    whole = statistics.median(row["seconds"] for row in rows)
    print(f"an iteration: {whole:.3f} s, median of {len(rows)}")
    for name in ("sampling", "grading", "scoring", "training", "other"):
        part = statistics.median(row[f"seconds/{name}"] for row in rows)
        print(f"  {name:9} {part:7.3f} s  {100 * part / whole:5.1f} %")


if __name__ == "__main__":
    main()
