"""A model in JAX as a `TextModel`: conversations through its chat template into the rollout engine."""

import dataclasses
import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from etils import epath

from promptcot_jax.core import jsonl, prng, thinking
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.settings import PositiveInt, settings
from promptcot_jax.data.tokenizer import Message, Tokenizer
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling import rollouts
from promptcot_jax.sampling.completions import Completion
from promptcot_jax.sampling.text_model import Reply, TextRequest

Record = TypeVar("Record")

# What ends the thinking of a model that has spent its budget for it.
END_OF_THINKING = "\n\nThe budget for thinking is spent; the answer follows from what is there.\n</think>\n\n"


@settings
class ChatConfig:
    """How conversations become prompts, and how long a model may think."""

    use_template: bool = True  # False: the messages are read one after another, as by a base model
    # Variables of the chat template, such as {'enable_thinking': False} of Qwen3's.
    template_settings: dict[str, Any] | None = None
    # Tokens after which thinking that is still open is ended by a sentence, so that the other tokens of
    # `max_new_tokens` remain for an answer; None: there is no such limit.
    thinking_budget: PositiveInt | None = None


PLAIN_CHAT = ChatConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ThinkingPart:
    """What a reply has when its budget for thinking is spent; a row of `NAME-thinking.jsonl`."""

    token_ids: tuple[int, ...]
    finish_reason: str


class JaxTextModel:
    """See `TextModel`; calls need `jax.set_mesh` where the model lies on a mesh."""

    def __init__(
        self,
        name: str,
        lm: LanguageModel,
        params: Params,
        tokenizer: Tokenizer,
        config: rollouts.RolloutConfig,
        chat: ChatConfig = PLAIN_CHAT,
    ):
        """Makes the decoding layout, once for all calls.

        Args:
            params: in training layout.
            config: how replies are drawn; how many there are of a row is the requests' to say.

        Raises:
            ValueError: the budget for thinking leaves no token for an answer.
        """
        self.name = name
        self._tokenizer, self._config, self._chat = tokenizer, config, chat
        if chat.thinking_budget is not None and chat.thinking_budget >= config.sampling.max_new_tokens:
            raise ValueError(
                f"thinking_budget is {chat.thinking_budget} of max_new_tokens="
                f"{config.sampling.max_new_tokens}; leave tokens for the answer."
            )
        self._sampler = rollouts.make_sampler(lm, params, tokenizer, config, "text")

    def check_cost(self, requests: Sequence[TextRequest]) -> float:
        """Replies are free."""
        return 0.0

    def complete(self, requests: Sequence[TextRequest], path: epath.PathLike) -> list[Reply]:
        """See `TextModel.complete`. The files of one stage must differ in name: it keys their noise.

        Requests that are too long are not in the file: nothing was drawn for them.
        """
        prompts = [self._prompt_ids(request.messages) for request in requests]
        budget, most = self._chat.thinking_budget, self._config.sampling.max_new_tokens
        closing = () if budget is None else self._tokenizer.encode(END_OF_THINKING)
        room = self._sampler.lm.config.max_positions - most - len(closing)
        fitting = [i for i, ids in enumerate(prompts) if len(ids) <= room]

        def reply(i: int, completion: Completion) -> Reply:
            reason = completion.finish_reason
            return self._reply(requests[i], prompts[i], completion.token_ids, reason)

        if budget is None:
            drawn = self._draw(path, prompts, fitting, requests, reply, Reply, most)
        else:
            drawn = self._think_first(path, prompts, fitting, requests, closing, budget)
        by_index = dict(zip(fitting, drawn, strict=True))
        return [
            by_index[i] if i in by_index else self._reply(request, prompts[i], (), "too_long")
            for i, request in enumerate(requests)
        ]

    def _think_first(
        self,
        path: epath.PathLike,
        prompts: Sequence[Sequence[int]],
        fitting: Sequence[int],
        requests: Sequence[TextRequest],
        closing: Sequence[int],
        budget: int,
    ) -> list[Reply]:
        """Replies whose thinking is ended at the budget; those that are not done go on from there."""
        path = epath.Path(path)
        stem = path.name.removesuffix(".jsonl")

        def begin(i: int, completion: Completion) -> _ThinkingPart:
            return _ThinkingPart(token_ids=completion.token_ids, finish_reason=completion.finish_reason)

        first = path.parent / f"{stem}-thinking.jsonl"
        parts = dict(
            zip(
                fitting,
                self._draw(first, prompts, fitting, requests, begin, _ThinkingPart, budget),
                strict=True,
            )
        )
        so_far = {
            i: (*one.token_ids, *(closing if self._is_thinking(prompts[i], one.token_ids) else ()))
            for i, one in parts.items()
        }
        open_ones = [i for i, one in parts.items() if one.finish_reason == "length"]

        def go_on(i: int, completion: Completion) -> Reply:
            ids = (*so_far[i], *completion.token_ids)
            return self._reply(requests[i], prompts[i], ids, completion.finish_reason)

        longer = [(*ids, *so_far.get(i, ())) for i, ids in enumerate(prompts)]
        rest = self._config.sampling.max_new_tokens - budget
        second = path.parent / f"{stem}-after_thinking.jsonl"
        ended = dict(
            zip(open_ones, self._draw(second, longer, open_ones, requests, go_on, Reply, rest), strict=True)
        )
        replies = [
            ended.get(i) or self._reply(requests[i], prompts[i], parts[i].token_ids, "stop") for i in fitting
        ]
        hosts.wait_for_first(f"write {path.name}", lambda: jsonl.write_records(path, replies))
        return replies

    def _is_thinking(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> bool:
        text = completion_text(self._tokenizer, prompt_ids, token_ids)
        return thinking.fault_of(text) == "unfinished_thinking"

    def _draw(
        self,
        path: epath.PathLike,
        prompts: Sequence[Sequence[int]],
        some: Sequence[int],
        requests: Sequence[TextRequest],
        make: Callable[[int, Completion], Record],
        record_type: type[Record],
        max_new_tokens: int,
    ) -> list[Record]:
        """What `make` makes of a completion of each of some requests, by their numbers."""
        name = os.path.basename(os.fspath(path))
        sampling = dataclasses.replace(self._config.sampling, max_new_tokens=max_new_tokens)
        return rollouts.map_draws(
            path,
            [rollouts.Draw(index=i, row=i, sample=requests[i].sample) for i in some],
            lambda draws, drawn: [make(draw.index, one) for draw, one in zip(draws, drawn, strict=True)],
            record_type,
            sampler=dataclasses.replace(self._sampler, key=self._key(name), sampling=sampling),
            prompt_ids=prompts.__getitem__,
            shard_size=self._config.requests_per_shard,
            name=name.removesuffix(".jsonl"),
        )

    def _key(self, name: str):
        return prng.stream_key(self._config.seed, "text", zlib.crc32(name.encode()) & 0x7FFFFFFF)

    def _prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The conversation as the chat template writes it; a base model reads the bare messages."""
        if self._chat.use_template and self._tokenizer.chat_template is not None:
            text = self._tokenizer.render_chat(messages, settings=self._chat.template_settings)
            return self._tokenizer.prompt_ids(text)
        contents = "\n\n".join(self._tokenizer.quoted(message["content"].strip()) for message in messages)
        return self._tokenizer.prompt_ids(f"{contents}\n")  # one question ends like `templates.solver_prompt`

    def _reply(
        self, request: TextRequest, prompt_ids: Sequence[int], token_ids: Sequence[int], finish_reason: Any
    ) -> Reply:
        has_end = finish_reason == "stop" and token_ids and token_ids[-1] in self._tokenizer.stop_ids
        return Reply(
            id=request.id,
            sample=request.sample,
            text=completion_text(self._tokenizer, prompt_ids, token_ids[:-1] if has_end else token_ids),
            finish_reason=finish_reason,
            prompt_tokens=len(prompt_ids),
            completion_tokens=len(token_ids),
        )


def completion_text(tokenizer: Tokenizer, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str:
    """A completion without its end token, with the tag of thinking that its prompt opened."""
    tail = tokenizer.decode(prompt_ids[-thinking.TAIL_TOKENS :])
    return thinking.restored(tail, tokenizer.decode(token_ids))
