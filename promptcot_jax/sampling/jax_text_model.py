"""A model in JAX as a `TextModel`: conversations through its chat template into the rollout engine."""

import dataclasses
import os
import zlib
from collections.abc import Sequence

from etils import epath

from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.data.tokenizer import Message, Tokenizer
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.sampling import rollouts
from promptcot_jax.sampling.completions import Completion
from promptcot_jax.sampling.text_model import Reply, TextRequest


class JaxTextModel:
    """See `TextModel`; calls need `jax.set_mesh` where the model lies on a mesh."""

    def __init__(
        self,
        name: str,
        lm: LanguageModel,
        params: Params,
        tokenizer: Tokenizer,
        config: rollouts.RolloutConfig,
    ):
        """Makes the decoding layout, once for all calls.

        Args:
            params: in training layout.
            config: how replies are drawn; how many there are of a row is the requests' to say.
        """
        self.name = name
        self._tokenizer, self._config = tokenizer, config
        self._sampler = rollouts.make_sampler(lm, params, tokenizer, config, "text")

    def check_cost(self, requests: Sequence[TextRequest]) -> float:
        """Replies are free."""
        return 0.0

    def complete(self, requests: Sequence[TextRequest], path: epath.PathLike) -> list[Reply]:
        """See `TextModel.complete`. The files of one stage must differ in name: it keys their noise.

        Requests that are too long are not in the file: nothing was drawn for them.
        """
        prompts = [self._prompt_ids(request.messages) for request in requests]
        room = self._sampler.lm.config.max_positions - self._config.sampling.max_new_tokens
        fitting = [i for i, ids in enumerate(prompts) if len(ids) <= room]
        name = os.path.basename(os.fspath(path))

        def replies(
            draws: Sequence[rollouts.Draw[int]], completions: Sequence[Completion]
        ) -> Sequence[Reply]:
            return [
                self._reply(requests[draw.index], len(prompts[draw.index]), completion)
                for draw, completion in zip(draws, completions, strict=True)
            ]

        drawn = rollouts.map_draws(
            path,
            [rollouts.Draw(index=i, row=i, sample=requests[i].sample) for i in fitting],
            replies,
            Reply,
            sampler=dataclasses.replace(self._sampler, key=self._key(name)),
            prompt_ids=prompts.__getitem__,
            shard_size=self._config.requests_per_shard,
            name=name.removesuffix(".jsonl"),
        )
        by_index = dict(zip(fitting, drawn, strict=True))
        return [
            by_index[i] if i in by_index else _too_long(request, len(prompts[i]))
            for i, request in enumerate(requests)
        ]

    def _key(self, name: str):
        return prng.stream_key(self._config.seed, "text", zlib.crc32(name.encode()) & 0x7FFFFFFF)

    def _prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The conversation as the chat template writes it; a base model reads the turns one after another."""
        if self._tokenizer.chat_template is not None:
            return self._tokenizer.prompt_ids(self._tokenizer.render_chat(messages))
        turns = "\n\n".join(self._tokenizer.quoted(message["content"].strip()) for message in messages)
        return self._tokenizer.prompt_ids(f"{turns}\n")  # one question ends like `templates.solver_prompt`

    def _reply(self, request: TextRequest, prompt_tokens: int, completion: Completion) -> Reply:
        return Reply(
            id=request.id,
            sample=request.sample,
            text=self._tokenizer.decode(completion.ids_without_end),
            finish_reason=completion.finish_reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(completion.token_ids),
        )


def _too_long(request: TextRequest, prompt_tokens: int) -> Reply:
    return Reply(
        id=request.id,
        sample=request.sample,
        text="",
        finish_reason="too_long",
        prompt_tokens=prompt_tokens,
        completion_tokens=0,
    )
