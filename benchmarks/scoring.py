"""Teacher-forced scoring at the 135M shape, float32, every position scored: ours against `transformers`.

    python benchmarks/scoring.py --torch_python=PATH        # an interpreter with torch and transformers

The other side does the usual: logits of all positions, log-softmax, gather.
"""

import argparse
import sys
import time
from collections.abc import Callable

import pairs


def ours(rows: int, tokens: int) -> Callable[[], float]:
    import jax
    import numpy as np

    from promptcot_jax.models import causal_lm, config
    from promptcot_jax.sampling import scoring

    lm = causal_lm.CausalLM(config.DecoderConfig(**pairs.SHAPE_135M, tie_embeddings=True))
    params = lm.init(jax.random.key(0))
    texts = np.random.default_rng(0).integers(0, lm.config.vocab_size, (rows, tokens + 1)).tolist()

    def work() -> float:
        start = time.perf_counter()
        scoring.score(
            lm, params, [text[:1] for text in texts], [text[1:] for text in texts], batch_tokens=rows * tokens
        )
        return time.perf_counter() - start

    return work


def theirs(rows: int, tokens: int) -> Callable[[], float]:
    import torch

    model = pairs.torch_model()
    texts = torch.randint(0, pairs.SHAPE_135M["vocab_size"], (rows, tokens + 1))

    def work() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            log_probs = torch.log_softmax(model(texts[:, :-1], use_cache=False).logits, dim=-1)
            log_probs.gather(-1, texts[:, 1:, None]).numpy()
        return time.perf_counter() - start

    return work


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--torch_python", help="interpreter with torch and transformers; without it, ours alone"
    )
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--worker", choices=("ours", "transformers"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        pairs.serve({"ours": ours, "transformers": theirs}[options.worker](options.rows, options.tokens))
        return
    pythons = {"ours": sys.executable} | (
        {"transformers": options.torch_python} if options.torch_python else {}
    )
    shape = [f"--rows={options.rows}", f"--tokens={options.tokens}"]
    commands = {side: [python, __file__, f"--worker={side}", *shape] for side, python in pythons.items()}
    title = f"{options.rows} x {options.tokens} tokens scored"
    pairs.report(title, options.rows * options.tokens, pairs.alternate(commands, options.pairs))


if __name__ == "__main__":
    main()
