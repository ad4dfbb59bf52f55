"""What TRL's own loss code makes of small seeded arrays, as `tests/trainers/test_losses_of_trl.py` reads it.

Run by an interpreter with torch and trl; this package need not be there:

    python benchmarks/trl_losses.py [--output=tests/fixtures/trl_losses.json]

No model takes part in the losses: TRL's methods get the log-probabilities handed in, in float64, and their
gradients by these are recorded beside loss and metrics. Advantages come out of whole trainers with a toy
model, because TRL computes them in the midst of generation; rewards are dealt out from a list.
"""

import argparse
import collections
import importlib.metadata
import json
import pathlib
import tempfile
import types
import warnings

import numpy as np
import torch
import transformers
import trl
from trl.trainer import utils as trl_utils

LENGTHS = (5, 1, 7, 3, 2, 4)  # of the completions, padded to the longest
MOST_TOKENS = 9  # what Dr. GRPO divides by
GROUP_SIZE = 4
# Two prompts; NaN could not be graded. Of one prompt all rewards agree.
REWARDS = ((1.0, 0.0, 0.25, 0.5), (1.0, 1.0, 1.0, 1.0), (0.0, 1.0, float("nan"), 1.0))

GRPO_CASES = {
    "grpo": {"loss_type": "grpo", "beta": 0.04},
    "grpo, no KL": {"loss_type": "grpo"},
    "grpo, on policy": {"loss_type": "grpo", "beta": 0.04, "on_policy": True},
    "dr_grpo": {"loss_type": "dr_grpo", "beta": 0.04},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "dapo, KL": {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.1},
    "dapo, sampler corrected": {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.1, "cap": 1.2},
    "dapo, two micro-batches": {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.1, "micro_batches": 2},
    "bnpo": {"loss_type": "bnpo", "epsilon_high": 0.28},
    "bnpo, two micro-batches": {"loss_type": "bnpo", "epsilon_high": 0.28, "micro_batches": 2},
    "gspo": {"loss_type": "grpo", "level": "sequence", "epsilon": 0.05, "epsilon_high": 0.1},
    "gspo of the paper": {"loss_type": "grpo", "level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.25, "beta": 0.1},
    "cispo, sequence": {"loss_type": "cispo", "epsilon_high": 1.05, "level": "sequence"},
}
DPO_CASES = {
    "sigmoid": {"loss_type": "sigmoid", "beta": 0.1},
    "sigmoid, beta 2": {"loss_type": "sigmoid", "beta": 2.0},
    "sigmoid_norm": {"loss_type": "sigmoid_norm", "beta": 3.0},
    # TRL smooths labels in few of its losses; "aot" does, and of one pair at a time it is DPO.
    "label smoothing": {"loss_type": "aot", "beta": 0.5, "label_smoothing": 0.2, "one_by_one": True},
    "sft": {"loss_type": "sft", "beta": 0.1},
}


class OneProcess:
    """What the losses ask of `accelerate`."""

    num_processes = 1
    device = torch.device("cpu")

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        return x

    gather_for_metrics = gather

    def reduce(self, x: torch.Tensor, reduction: str) -> torch.Tensor:
        return x


def arrays_of_losses() -> dict[str, list]:
    """Log-probabilities of completions under several models, zero beyond their ends; and advantages."""
    rng = np.random.default_rng(50)  # one with clipping below and above, of tokens and of sequences
    shape = len(LENGTHS), max(LENGTHS)
    is_token = np.arange(shape[1]) < np.array(LENGTHS)[:, None]
    log_probs = -rng.gamma(2.0, 0.7, shape) - 0.05
    near = {"old_log_probs": 0.35, "sampler_log_probs": 0.1, "reference_log_probs": 0.4}
    found = {"log_probs": log_probs}
    for name, scale in near.items():
        beside = found["old_log_probs"] if name == "sampler_log_probs" else log_probs
        found[name] = np.minimum(beside + scale * rng.normal(size=shape), -1e-3)
    found = {name: np.where(is_token, values, 0.0).round(6) for name, values in found.items()}
    found["advantages"] = np.array([1.3, -0.7, 0.4, -1.1, 0.0, 0.9])
    return {name: values.tolist() for name, values in found.items()}


def entropies_of(log_probs: torch.Tensor) -> torch.Tensor:
    """Of a vocabulary of two tokens, of which one has these log-probabilities; TRL's own function."""
    rest = torch.log(-torch.expm1(torch.where(log_probs < 0, log_probs, -1.0)))
    return trl_utils.entropy_from_logits(torch.stack([log_probs, rest], dim=-1))


def grpo_loss(arrays: dict[str, list], settings: dict) -> dict:
    """Loss, gradient and metrics of `GRPOTrainer`; of micro-batches what its steps add up to."""
    values = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in arrays.items()}
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    num_micro_batches = settings.get("micro_batches", 1)
    log_probs = values["log_probs"].clone().requires_grad_()
    cap = settings.get("cap")
    epsilon = settings.get("epsilon", 0.2)
    metrics = {"train": collections.defaultdict(list)}
    losses = []
    for rows in torch.arange(len(LENGTHS)).chunk(num_micro_batches):
        of_rows = log_probs[rows]
        stand_in = types.SimpleNamespace(
            _get_per_token_logps_and_entropies=lambda *_, of_rows=of_rows, **__: (
                of_rows,
                entropies_of(of_rows.detach()),
                None,
            ),
            args=types.SimpleNamespace(
                delta=None, use_bias_correction_kl=False, steps_per_generation=num_micro_batches
            ),
            accelerator=OneProcess(),
            model=types.SimpleNamespace(training=True),
            loss_type=settings["loss_type"],
            importance_sampling_level=settings.get("level", "token"),
            beta=settings.get("beta", 0.0),
            epsilon_low=epsilon,
            epsilon_high=settings.get("epsilon_high", epsilon),
            max_completion_length=MOST_TOKENS,
            current_gradient_accumulation_steps=num_micro_batches,
            use_vllm=cap is not None,
            vllm_importance_sampling_correction=True,
            aux_loss_enabled=False,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            _entropy_bonus_enabled=False,
            _metrics=metrics,
        )
        inputs = {
            "prompt_ids": torch.zeros(len(rows), 1, dtype=torch.long),
            "prompt_mask": torch.ones(len(rows), 1, dtype=torch.long),
            "completion_ids": torch.zeros(len(rows), max(LENGTHS), dtype=torch.long),
            "completion_mask": mask[rows],
            "advantages": values["advantages"][rows],
            "ref_per_token_logps": values["reference_log_probs"][rows],
            "num_items_in_batch": mask.sum(),
        }
        if not settings.get("on_policy"):
            inputs["old_per_token_logps"] = values["old_log_probs"][rows]
        if cap is not None:  # TRL fills this in while it generates
            gap = values["old_log_probs"] - values["sampler_log_probs"]
            inputs["importance_sampling_ratio"] = torch.exp(gap).clamp(max=cap)[rows]
        loss = trl.GRPOTrainer._compute_loss(stand_in, None, inputs)
        loss.backward()
        losses.append(loss.item())
    return {
        "settings": settings,
        "loss": sum(losses),
        "gradient": log_probs.grad.tolist(),
        "metrics": {name: values[0] for name, values in metrics["train"].items()} if len(losses) == 1 else {},
    }


def dpo_loss(arrays: dict[str, list], settings: dict) -> dict:
    """Loss, gradient and metrics of `DPOTrainer`: the first half of the completions is preferred."""
    log_probs = torch.tensor(arrays["log_probs"], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor(arrays["reference_log_probs"], dtype=torch.float64)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    num_pairs = len(LENGTHS) // 2
    each = torch.arange(num_pairs).split(1 if settings.get("one_by_one") else num_pairs)
    metrics = {"train": collections.defaultdict(list)}
    losses = []

    def model_with(values: torch.Tensor):
        nothing = torch.zeros_like(values)
        return lambda **_: types.SimpleNamespace(
            log_probs=values, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )

    for pairs in each:
        rows = torch.cat([pairs, pairs + num_pairs])
        stand_in = types.SimpleNamespace(
            accelerator=OneProcess(),
            model=types.SimpleNamespace(training=True, is_gradient_checkpointing=False),
            ref_model=model_with(reference[rows]),
            args=types.SimpleNamespace(gradient_checkpointing_kwargs=None),
            beta=settings["beta"],
            label_smoothing=settings.get("label_smoothing", 0.0),
            loss_types=[settings["loss_type"]],
            loss_weights=[1.0],
            f_divergence_type="reverse_kl",
            ld_alpha=None,
            use_weighting=False,
            precompute_ref_logps=False,
            aux_loss_enabled=False,
            _metrics=metrics,
            _total_train_tokens=0,
            _tp_size=1,
        )
        completion_mask = torch.nn.functional.pad(mask[rows], (1, 0))  # after a prompt of one token
        inputs = {
            "input_ids": torch.zeros_like(completion_mask),
            "attention_mask": torch.ones_like(completion_mask),
            "completion_mask": completion_mask,
        }
        loss = trl.DPOTrainer._compute_loss(stand_in, model_with(log_probs[rows]), inputs, False)
        (loss / len(each)).backward()
        losses.append(loss.item())
    return {
        "settings": settings,
        "loss": float(np.mean(losses)),
        "gradient": log_probs.grad.tolist(),
        "metrics": {
            name: float(np.mean(found))
            for name, found in metrics["train"].items()
            if name.startswith(("rewards/", "logps/"))
        },
    }


def log_softmax() -> dict:
    """Log-probabilities and entropies of logits at a temperature, and the gradient of a weighted sum."""
    rng = np.random.default_rng(1)
    logits = torch.tensor(rng.normal(0.0, 2.0, (3, 5, 11)).round(6), requires_grad=True)
    labels = torch.tensor(rng.integers(0, 11, (3, 5)))
    weights = torch.tensor(rng.normal(size=(3, 5)).round(6))
    temperature = 0.7
    log_probs, entropies = trl_utils.selective_log_softmax_and_entropy(
        logits, labels, temperature=temperature, entropy_requires_grad=False
    )
    (weights * log_probs).sum().backward()
    return {
        "temperature": temperature,
        "logits": logits.tolist(),
        "labels": labels.tolist(),
        "weights": weights.tolist(),
        "log_probs": log_probs.tolist(),
        "entropies": entropies.tolist(),
        "gradient": logits.grad.tolist(),
    }


def toy_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Sixteen words."""
    import tokenizers

    words = {f"w{i}": i for i in range(14)} | {"<end>": 14, "<pad>": 15}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", pad_token="<pad>", unk_token="w0"
    )


def advantages(trainer: type, config: type, **settings) -> list[list[float]]:
    """Of `REWARDS`, by one step of a trainer."""
    import datasets

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=16,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            bos_token_id=None,
            eos_token_id=14,
            pad_token_id=15,
        )
    )
    dealt = [None if np.isnan(reward) else reward for group in REWARDS for reward in group]

    def reward(completions, **_):
        return dealt[: len(completions)]

    with tempfile.TemporaryDirectory() as directory:
        made = trainer(
            model=model,
            reward_funcs=reward,
            args=config(
                output_dir=directory,
                max_steps=1,
                per_device_train_batch_size=len(dealt),
                num_generations=GROUP_SIZE,
                max_completion_length=4,
                report_to=[],
                use_cpu=True,
                bf16=False,
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                **settings,
            ),
            processing_class=toy_tokenizer(),
            train_dataset=datasets.Dataset.from_list([{"prompt": f"w{i} w1"} for i in range(len(REWARDS))]),
        )
        made.train()
        return np.array(made._logs["advantages"]).reshape(-1, GROUP_SIZE).tolist()


def main() -> None:
    """Writes the fixture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    fixtures = pathlib.Path(__file__).resolve().parents[1] / "tests" / "fixtures"
    parser.add_argument("--output", type=pathlib.Path, default=fixtures / "trl_losses.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    arrays = arrays_of_losses()
    document = {
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "trl")},
        "lengths": LENGTHS,
        "most_tokens": MOST_TOKENS,
        "arrays": arrays,
        "grpo": {name: grpo_loss(arrays, settings) for name, settings in GRPO_CASES.items()},
        "dpo": {name: dpo_loss(arrays, settings) for name, settings in DPO_CASES.items()},
        "log_softmax": log_softmax(),
        "rewards": [[None if np.isnan(reward) else reward for reward in group] for group in REWARDS],
        "advantages": {
            "mean_and_std": advantages(trl.GRPOTrainer, trl.GRPOConfig),
            "mean": advantages(trl.GRPOTrainer, trl.GRPOConfig, scale_rewards="none"),
            "leave_one_out": advantages(trl.RLOOTrainer, trl.RLOOConfig, beta=0.0),
        },
    }

    def short(x):
        if isinstance(x, dict):
            return {name: short(value) for name, value in x.items()}
        if isinstance(x, (list, tuple)):
            return [short(value) for value in x]
        return float(f"{x:.9g}") if isinstance(x, float) else x

    options.output.write_text(json.dumps(short(document)) + "\n")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
