"""Text in, text out: what a stage asks of a teacher, a judge or a solver, whoever answers.

Two backends keep the protocol `TextModel`: a model in JAX through the rollout engine (`jax_text_model`), and
any OpenAI-compatible server (`endpoint`). A reply that cannot be used is a reply too, with its reason, so
that one odd request never ends a stage; `reasons` counts them.
"""

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

from etils import epath

from promptcot_jax.data.tokenizer import Message

# stop: ended by itself. length: cut off by max_new_tokens. filtered: blocked by the server. too_long: the
# prompt leaves no room for the completion. malformed: no try gave a text that can be read.
FinishReason = Literal["stop", "length", "filtered", "too_long", "malformed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRequest:
    """One reply to ask for.

    Attributes:
        id: of what it is about; comes back on the reply.
        messages: a conversation that ends with the user's turn.
        sample: tells apart several replies to the same messages.
    """

    id: str
    messages: tuple[Message, ...]
    sample: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back for a request; the text is empty where none did."""

    id: str
    sample: int
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


@runtime_checkable
class TextModel(Protocol):
    """Answers requests; a call that was killed goes on with the missing replies when it is made again."""

    @property
    def name(self) -> str:
        """What the model is called in records and logs."""
        ...

    def check_cost(self, requests: Sequence[TextRequest]) -> float:
        """About what replies to all of these will cost, each as long as it may be; also logged, unless free.

        Raises:
            WrongUse: more than the settings allow.
        """
        ...

    def complete(self, requests: Sequence[TextRequest], path: epath.PathLike) -> list[Reply]:
        """One reply for each request, in order, also written to `path` (ending in `.jsonl`).

        All hosts make the same calls. The same requests give the same bytes, however often it was killed and
        in whatever order the replies came.

        Raises:
            WrongUse: a setting is wrong; the message names it.
        """
        ...


def user_turn(text: str) -> tuple[Message, ...]:
    """A conversation of one question."""
    return ({"role": "user", "content": text},)


def reasons(replies: Iterable[Reply]) -> dict[str, int]:
    """How many replies ended for each reason, those without any left out."""
    counts = collections.Counter(reply.finish_reason for reply in replies)
    return {reason: counts[reason] for reason in get_args(FinishReason) if counts[reason]}
