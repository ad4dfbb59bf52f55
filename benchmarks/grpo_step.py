"""A step of GRPO on a small decoder with random weights, ours and Tunix's in turns, and what it goes to.

    python benchmarks/grpo_step.py --tunix_python=PATH                      # an interpreter with google-tunix
    python benchmarks/grpo_step.py --tunix_python=PATH --vocab_size=2048

A step is all of it: 4 prompts x 8 samples drawn (64 + 64 tokens), graded by made-up verdicts, scored under
the reference, and one update. Both sides: 4 layers of width 256, float32, KL on (k3), the mean over sequences
of means over tokens, AdamW with clipped norms, nothing computed twice (`--remat` says otherwise), the whole
distribution. Ours writes its rollouts and metrics as a run does.
"""

import argparse
import sys

import pairs

PARTS = ("sampling", "scoring", "training")


def ours(vocab_size: int, remat: bool, num_steps: int) -> None:
    import jax
    import self_play as iterations

    from promptcot_jax.models import language_model
    from promptcot_jax.trainers.grpo import Grpo

    lm, tokenizer, prompts = iterations.toy(vocab_size)
    iterations.in_turns(
        num_steps,
        lm=language_model.on_mesh(lm),
        params=lm.init(jax.random.key(0)),
        tokenizer=tokenizer,
        prompts=prompts,
        algorithm=Grpo(
            kl_beta=iterations.KL_BETA, aggregation="sequence", clip_high=0.2, sampler_correction="none"
        ),
        remat="full" if remat else "none",
    )


def tunix(vocab_size: int, remat: bool, num_steps: int) -> None:
    import tunix_grpo

    tunix_grpo.train(vocab_size, remat, num_steps + 1)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tunix_python", help="interpreter with google-tunix")
    parser.add_argument("--vocab_size", type=int, default=32_000)
    parser.add_argument("--remat", action="store_true", help="layers are computed again for the gradient")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--warm_ups", type=int, default=3)
    sides = {"ours": ours, "tunix": tunix}
    parser.add_argument("--worker", choices=tuple(sides), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        sides[options.worker](options.vocab_size, options.remat, options.pairs + options.warm_ups)
        return
    if not options.tunix_python:
        raise SystemExit("Say where Tunix is, by --tunix_python; for ours alone there is self_play.py.")
    settings = [f"--{name}={getattr(options, name)}" for name in ("vocab_size", "pairs", "warm_ups")]
    settings += ["--remat"] if options.remat else []
    commands = {
        side: [python, __file__, f"--worker={side}", *settings]
        for side, python in {"ours": sys.executable, "tunix": options.tunix_python}.items()
    }
    title = f"vocabulary {options.vocab_size:,}, {'remat of layers' if options.remat else 'no remat'}"
    pairs.report_parts(title, PARTS, pairs.alternate(commands, options.pairs, options.warm_ups))


if __name__ == "__main__":
    main()
