"""Our losses on arrays that TRL's own code was run on (`benchmarks/trl_losses.py`).

Losses, their gradients by the log-probabilities, and metrics are compared.
They go the whole way through `grpo_loss` and `dpo_loss`: several sequences share a packed row.
"""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.data import examples, packing
from promptcot_jax.models import causal_lm
from promptcot_jax.objectives import advantages, token_log_probs
from promptcot_jax.trainers import dpo, grpo, sft
from tests import toys
from tests.cases import some_fast

TRL = json.loads((pathlib.Path(__file__).parents[1] / "fixtures" / "trl_losses.json").read_text())
LENGTHS = TRL["lengths"]
ARRAYS = {name: np.array(values) for name, values in TRL["arrays"].items()}
EPSILON = 1e-4  # of the deviation, in both

# A case of TRL's by name -> the same in our settings. TRL's `epsilon_high` is as `epsilon` unless it is set,
# ours is wider; of CISPO TRL's is the cap of the ratio itself, with nothing below.
NO_CORRECTION = {"sampler_correction": "none"}
GRPO = {"aggregation": "sequence", "clip_high": 0.2, **NO_CORRECTION}
GRPO_SETTINGS = {
    "grpo": GRPO | {"kl_beta": 0.04},
    "grpo, no KL": GRPO,
    "grpo, on policy": GRPO | {"kl_beta": 0.04, "single_update": True},
    "dr_grpo": GRPO | {"aggregation": "constant", "constant_length": TRL["most_tokens"], "kl_beta": 0.04},
    "dapo": NO_CORRECTION,
    "dapo, KL": NO_CORRECTION | {"kl_beta": 0.1},
    "dapo, sampler corrected": {"sampler_correction": "token", "sampler_cap": 1.2, "kl_beta": 0.1},
    "bnpo": NO_CORRECTION,
    "gspo": GRPO | {"ratio": "sequence", "clip_low": 0.05, "clip_high": 0.1},
    "gspo of the paper": GRPO | {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    "cispo": NO_CORRECTION | {"surrogate": "cispo", "clip_low": 1.0, "clip_high": 0.25, "kl_beta": 0.1},
    "cispo, sequence": NO_CORRECTION
    | {"surrogate": "cispo", "ratio": "sequence", "clip_low": 1.0, "clip_high": 0.05},
}
DPO_SETTINGS = {
    "sigmoid": {"beta": 0.1},
    "sigmoid, beta 2": {"beta": 2.0},
    "sigmoid_norm": {"beta": 3.0, "length_normalized": True},
    "label smoothing": {"beta": 0.5, "label_smoothing": 0.2},
}


@dataclasses.dataclass(frozen=True)
class TwoTokens(causal_lm.CausalLM):
    """Its parameters are the log-probabilities of token 0 after each position; token 1 has the rest.

    The rest adds up to the whole, so that the gradient by a parameter is that by a log-probability.
    """

    def hidden_states(self, params, token_ids, segment_ids=None, positions=None, *, remat="projections"):
        log_probs = jnp.minimum(params["log_probs"], -1e-6)  # there is none at a position without a label
        return jnp.stack([log_probs, jnp.log(-jnp.expm1(log_probs))], axis=-1)

    def output_embedding(self, params):
        return jnp.eye(2)


LM = TwoTokens(toys.toy_config())


def _batch(rows, names, more):
    """Sequences by number in packed rows, each after a prompt of one token, with their values and more."""
    values = {
        name: np.broadcast_to(ARRAYS[name][:, None], ARRAYS["log_probs"].shape)
        if ARRAYS[name].ndim == 1
        else ARRAYS[name]
        for name in names
    } | more
    packed = [
        [
            examples.TokenExample(
                prompt_ids=(1,),
                completion_ids=(0,) * LENGTHS[i],
                token_values={name: of_all[i, : LENGTHS[i]] for name, of_all in values.items()},
            )
            for i in row
        ]
        for row in rows
    ]
    return packing.pack_rows(packed, num_rows=len(rows), row_length=16, value_names=tuple(values))


def _value_and_gradient(loss, rows, names, recorded):
    """Loss, gradient by the log-probabilities, figures; and TRL's gradient in the same places."""
    batch = _batch(
        rows, names, {"log_probs": ARRAYS["log_probs"], "gradient": np.array(recorded["gradient"])}
    )
    params = {"log_probs": sft.of_next_token(batch.values["log_probs"])}

    def of(params):
        total, count, *figures = loss(params, batch)
        return total / count, figures

    (value, figures), slope = jax.value_and_grad(of, has_aux=True)(params)
    return value, slope["log_probs"], jax.device_get(figures), sft.of_next_token(batch.values["gradient"])


@pytest.mark.parametrize("name", some_fast(GRPO_SETTINGS, fast=(3, 6, 10)))
def test_grpo_and_its_relatives(name):
    recorded, config = TRL["grpo"][name], grpo.Grpo(**GRPO_SETTINGS[name])
    value, gradient, figures, expected = _value_and_gradient(
        lambda params, batch: grpo.GrpoLoss(config=config)(LM, params, batch),
        [(0, 1, 2), (3, 4), (5,)],
        config.value_names,
        recorded,
    )
    np.testing.assert_allclose(value, recorded["loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)
    found, metrics = grpo.GrpoLoss(config=config).metrics_of(figures), recorded["metrics"]
    for figure in ("entropy", "kl"):
        if figure in metrics:
            np.testing.assert_allclose(found[figure], metrics[figure], rtol=1e-5)
    if config.surrogate == "cispo":  # TRL has no name for its low side, which is none
        clipped = {"high_mean": metrics["cispo_clip_ratio"], "low_mean": 0.0}
    else:
        clipped = {side: metrics[f"clip_ratio/{side}"] for side in ("low_mean", "high_mean")}
    if config.ratio == "token":
        for side, share in clipped.items():
            np.testing.assert_allclose(found[f"clip_ratio/{side}"], share, rtol=1e-5, err_msg=side)


@pytest.mark.parametrize("name", some_fast(["gspo of the paper", "gspo"]))
def test_trl_counts_clipped_sequences_where_ours_counts_their_tokens(name):
    recorded, settings = TRL["grpo"][name], GRPO_SETTINGS[name]
    gap = ARRAYS["log_probs"] - ARRAYS["old_log_probs"]  # 0 beyond the end
    ratio, worth = np.exp(gap.sum(axis=1) / LENGTHS), ARRAYS["advantages"]
    is_clipped = {
        "low_mean": (ratio < 1 - settings["clip_low"]) & (worth < 0),
        "high_mean": (ratio > 1 + settings["clip_high"]) & (worth > 0),
    }
    config = grpo.Grpo(**settings)
    batch = _batch([(0, 1, 2), (3, 4, 5)], config.value_names, {"log_probs": ARRAYS["log_probs"]})
    params = {"log_probs": sft.of_next_token(batch.values["log_probs"])}
    *_, figures = grpo.GrpoLoss(config=config)(LM, params, batch)
    found = grpo.GrpoLoss(config=config).metrics_of([jax.device_get(figures)])
    for side, sequences in is_clipped.items():
        np.testing.assert_allclose(recorded["metrics"][f"clip_ratio/{side}"], sequences.mean(), rtol=1e-5)
        of_tokens = np.average(sequences, weights=LENGTHS)
        np.testing.assert_allclose(found[f"clip_ratio/{side}"], of_tokens, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "is_one_division"),
    [
        ("dapo, two micro-batches", GRPO_SETTINGS["dapo, KL"], True),
        ("bnpo, two micro-batches", GRPO_SETTINGS["bnpo"], False),
    ],
)
def test_of_micro_batches_trl_divides_once_for_dapo_and_takes_means_of_means_for_bnpo(
    name, settings, is_one_division
):
    """Ours divides once whatever the loss; a mean of means is that of ours on each micro-batch."""
    recorded, config = TRL["grpo"][name], grpo.Grpo(**settings)

    def of(rows):
        return _value_and_gradient(
            lambda params, batch: grpo.GrpoLoss(config=config)(LM, params, batch),
            rows,
            config.value_names,
            recorded,
        )

    whole, gradient, _, expected = of([(0, 1, 2), (3, 4, 5)])
    parts = [of([row]) for row in ((0, 1, 2), (3, 4, 5))]
    mean = np.mean([value for value, *_ in parts])
    assert not np.isclose(whole, mean, rtol=1e-3)
    np.testing.assert_allclose(whole if is_one_division else mean, recorded["loss"], rtol=1e-5)
    of_means = np.concatenate([slope for _, slope, *_ in parts]) / len(parts)
    np.testing.assert_allclose(gradient if is_one_division else of_means, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", DPO_SETTINGS)
def test_dpo(name):
    recorded, config = TRL["dpo"][name], dpo.Dpo(**DPO_SETTINGS[name])
    value, gradient, figures, expected = _value_and_gradient(
        lambda params, batch: dpo.DpoLoss(config=config)(LM, params, batch),
        [(0, 3, 1, 4), (2, 5)],
        config.value_names,
        recorded,
    )
    np.testing.assert_allclose(value, recorded["loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)
    found = config.loss(1.0).metrics_of(figures)
    assert found.keys() == recorded["metrics"].keys()
    for figure, mean in recorded["metrics"].items():
        # TRL's rewards are of sums even where its loss compares means; ours are what the loss compares.
        if config.length_normalized and figure.startswith("rewards/"):
            continue
        np.testing.assert_allclose(found[figure], mean, rtol=1e-4, err_msg=figure)


def test_likelihood():
    """TRL's "sft" as a loss of preferred completions."""
    value, gradient, _, expected = _value_and_gradient(
        lambda params, batch: sft.SftLoss()(LM, params, batch), [(0, 1), (2,)], (), TRL["dpo"]["sft"]
    )
    np.testing.assert_allclose(value, TRL["dpo"]["sft"]["loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("baseline", ["mean_and_std", "mean", "leave_one_out"])
def test_advantages(baseline):
    """TRL's deviation is an estimate for a population: it divides by one less than the group has."""
    expected = np.array(TRL["advantages"][baseline])
    rewards = np.array([[np.nan if r is None else r for r in group] for group in TRL["rewards"]])
    is_graded = np.isfinite(rewards)
    found = advantages.group_advantages(
        jnp.asarray(rewards, jnp.float32), jnp.asarray(is_graded), baseline=baseline, epsilon=EPSILON
    )
    if baseline == "mean_and_std":
        std = np.nanstd(rewards, axis=1, keepdims=True)
        count = is_graded.sum(axis=1, keepdims=True)
        expected = expected * (std * np.sqrt(count / (count - 1)) + EPSILON) / (std + EPSILON)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_log_probabilities_and_entropies():
    recorded = TRL["log_softmax"]
    logits, weights = jnp.asarray(recorded["logits"]), jnp.asarray(recorded["weights"])

    def of(logits):
        log_probs, entropies = token_log_probs.chunked_log_probs_and_entropies(
            logits,
            jnp.eye(logits.shape[-1]),
            jnp.asarray(recorded["labels"]),
            temperature=recorded["temperature"],
        )
        return jnp.sum(weights * log_probs), (log_probs, entropies)

    gradient, (log_probs, entropies) = jax.grad(of, has_aux=True)(logits)
    np.testing.assert_allclose(log_probs, recorded["log_probs"], rtol=1e-5)
    np.testing.assert_allclose(entropies, recorded["entropies"], rtol=1e-5)
    np.testing.assert_allclose(gradient, recorded["gradient"], rtol=1e-4, atol=1e-6)
