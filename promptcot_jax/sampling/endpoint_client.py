"""One request to an OpenAI-compatible server, tried until it is answered or cannot be.

What may pass (429, 5xx, time-outs, dropped connections, replies that cannot be read) is tried again after an
exponential, jittered pause, no earlier than `Retry-After` says. What cannot pass ends the work and names the
setting. Whether a refusal for length is the fault of the prompt or of the setting for new tokens, no code
says that all servers send, so their sentences are read: those of OpenAI, vLLM, SGLang, llama.cpp, TGI,
Anthropic, Gemini and DashScope. A prompt that is too long by itself concerns its row; new tokens that leave
no room for prompts would turn every row away. The package `openai` is imported when a client is made: only
work with endpoints needs it.
"""

import asyncio
import collections
import dataclasses
import datetime
import email.utils
import itertools
import json
import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.sampling.text_model import FinishReason

log = logging.getLogger(__name__)

_MALFORMED_TRIES = 3  # a reply that cannot be read may have been paid for: not asked for without end
_LONGEST_PAUSE = 60.0  # seconds, of our own choice; `Retry-After` may ask for more
_PASSING = frozenset({408, 409, 425, 429})  # and 5xx
# Other servers' words beside OpenAI's three, in small letters: TGI, Anthropic, Mistral, Gemini and proxies
# before them; null is what some send for an end like any other.
_FINISH_REASONS: Mapping[str | None, FinishReason] = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", None), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_length", "model_length"), "length"),
    **dict.fromkeys(("content_filter", "safety", "refusal"), "filtered"),
}
_BROKEN_OFF = frozenset({"error", "abort", "insufficient_system_resource"})  # the server's own fault
_OF_CONTEXT = re.compile(
    r"context.?(?:length|window|size|limit)|max_model_len|maximum model length|`inputs`"
    r"|(?:prompt|input|messages)\b.{0,60}(?:too long|longer than|exceeds?\b|length)",
    re.IGNORECASE,
)
_OF_NEW_TOKENS = re.compile(
    r"max\w*tokens\b.*(?:too large|>|at most|maximum|should be|less than|<=)", re.IGNORECASE
)
_CONTEXT_LENGTH = re.compile(
    r"(?:context.?(?:length|window|size)|model length)\D{0,20}(\d+)|(\d+) maximum"
    r"|\+ \d+ > (\d+)|tokens allowed \((\d+)|must be <= (\d+)",
    re.IGNORECASE,
)
_PROMPT_LENGTH = re.compile(
    r"(\d+) (?:input tokens|in the (?:messages|prompt)|tokens from the input|\+ \d+ >)"
    r"|(?:request|input|prompt)(?: has| contains)?(?: at least)? \(?(?:length )?(\d+)"
    r"|(?:too long|resulted in|token count|given):? \(?(\d+)",
    re.IGNORECASE,
)
_SMALL_PROMPT = 1 / 8  # of the context: where so short a prompt finds no room, the new tokens took it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server said to one request."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


class EndpointFailed(Exception):
    """There was no answer in all the time a request was given, or none that can be read; others are kept."""


class _Malformed(Exception):
    """A reply that is no completion."""


class Client:
    """Asks one server, with `async with`; `retries` counts what went wrong on the way, by reason."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        attempt_seconds: float,
        deadline_seconds: float,
        first_pause: float,
    ):
        """See `endpoint.EndpointConfig`.

        Raises:
            WrongUse: the package `openai` is not installed.
        """
        self._openai = openai_package()
        self._base_url, self._api_key = base_url, api_key
        self._attempt_seconds, self._deadline_seconds = attempt_seconds, deadline_seconds
        self._first_pause = first_pause
        self._is_closing, self._last_unreadable = False, ""
        self._unknown_reasons: set[str] = set()
        self.retries: collections.Counter[str] = collections.Counter()

    async def __aenter__(self) -> "Client":
        # Its own retries would be invisible, and know no deadline.
        self._client = self._openai.AsyncOpenAI(
            base_url=self._base_url, api_key=self._api_key, max_retries=0, timeout=self._attempt_seconds
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    def stop_trying(self) -> None:
        """Requests under way end with their present try."""
        self._is_closing = True

    def unreadable(self, count: int) -> EndpointFailed:
        """What is wrong where nothing that the server said to `count` requests could be read."""
        return EndpointFailed(
            f"{self._base_url} answered the first {count} requests with nothing that can be read (the last: "
            f"{self._last_unreadable}). EndpointConfig.base_url must be that of an OpenAI-compatible server, "
            "with no proxy that answers in its place. Nothing is kept of this; the same command asks again."
        )

    async def ask(self, body: Mapping[str, Any]) -> Answer:
        """What the server says to one request.

        Raises:
            WrongUse: the server refuses the key, the model or a setting.
            EndpointFailed: there was no answer within the deadline.
        """
        deadline, malformed = time.monotonic() + self._deadline_seconds, 0
        for attempt in itertools.count():
            retry_after = 0.0
            seconds = min(self._attempt_seconds, max(deadline - time.monotonic(), 0.001))
            try:
                async with asyncio.timeout(seconds):  # the client's own bounds single reads only
                    return read_answer(await self._post(body), body, self._on_unknown)
            except _Malformed as error:
                malformed, self._last_unreadable = malformed + 1, str(error)
                if malformed == _MALFORMED_TRIES:
                    return Answer(text="", finish_reason="malformed", prompt_tokens=0, completion_tokens=0)
                reason, said = "malformed", str(error)
            except (TimeoutError, self._openai.APITimeoutError):
                reason, said = "timeout", f"no reply in {seconds:.0f} s"
            except self._openai.APIConnectionError as error:
                reason, said = "connection", str(error.__cause__ or error)
            except self._openai.APIStatusError as error:
                if (answer := self._judged(error, body)) is not None:
                    return answer
                reason = "rate_limited" if error.status_code == 429 else "server_error"
                said, retry_after = self._said(error), _retry_after(error.response.headers)
            self.retries[reason] += 1
            pause = max(retry_after, self._pause(attempt))
            if self._is_closing or time.monotonic() + pause > deadline:
                raise EndpointFailed(
                    f"{self._base_url} did not answer within EndpointConfig.deadline_seconds="
                    f"{self._deadline_seconds:.0f} ({attempt + 1} tries; the last: {reason}, {said}). What "
                    "it answered is kept; the same command asks for the rest."
                )
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def _on_unknown(self, reason: str) -> None:
        if reason not in self._unknown_reasons:
            self._unknown_reasons.add(reason)
            log.warning(
                "%s: finish_reason=%r is not known; replies that have it are taken as ended by themselves",
                self._base_url,
                reason,
            )

    async def _post(self, body: Mapping[str, Any]) -> bytes:
        rest = {name: value for name, value in body.items() if name not in ("model", "messages")}
        reply = await self._client.chat.completions.with_raw_response.create(
            model=body["model"], messages=body["messages"], extra_body=rest
        )
        return reply.http_response.content

    def _pause(self, attempt: int) -> float:
        """Seconds; between half of an exponentially growing time and all of it."""
        return min(self._first_pause * 2.0 ** min(attempt, 30), _LONGEST_PAUSE) * random.uniform(0.5, 1.0)

    def _judged(self, error: Any, body: Mapping[str, Any]) -> Answer | None:
        """What an error status means for this request alone; None: it may pass.

        Raises:
            WrongUse: it will be the same for every request.
        """
        status, said = error.status_code, self._said(error)
        if (status in _PASSING or status >= 500) and error.code != "insufficient_quota":
            return None
        if status in (400, 413, 422) and error.code == "content_filter":
            return Answer(text="", finish_reason="filtered", prompt_tokens=0, completion_tokens=0)
        lengths = about_tokens(body), most_new_tokens(body)
        if status in (400, 413, 422) and _is_of_prompt(said, error.code, *lengths):
            return Answer(text="", finish_reason="too_long", prompt_tokens=0, completion_tokens=0)
        raise WrongUse(f"{self._base_url} answers {status}: {said}; {_remedy(error, said, body)}")

    def _said(self, error: Any) -> str:
        """The server's words in one short line, without the key, which some repeat."""
        message = error.body.get("message") if isinstance(error.body, dict) else None
        said = " ".join(str(message or error.message).split())
        return said.replace(self._api_key, "[key]")[:500].rstrip(".")


def _remedy(error: Any, said: str, body: Mapping[str, Any]) -> str:
    status, new_tokens = error.status_code, most_new_tokens(body)
    if error.code == "insufficient_quota":
        return "the account's credit is used up; the same command goes on when there is more."
    if status in (401, 403):
        return "set EndpointConfig.api_key_variable to an environment variable that holds a valid key."
    if status == 404:
        return (
            f"EndpointConfig.model={body['model']!r} must be a model of this server, and "
            "EndpointConfig.base_url must end where its paths begin (mostly in /v1)."
        )
    if new_tokens is not None and _is_of_new_tokens(said):
        return (
            f"{new_tokens} new tokens are asked for: lower max_new_tokens of EndpointConfig.sampling, or "
            "what EndpointConfig.extra_body sets in its place."
        )
    return "change the setting it names; EndpointConfig.extra_body adds fields and takes them out."


def _is_of_prompt(said: str, code: str | int | None, prompt_tokens: int, new_tokens: int | None) -> bool:
    """Whether a refusal is for a prompt that is too long by itself.

    Args:
        said, code: of the server's error.
        prompt_tokens: a guess; what the server says counts where it is more ("at least" stops counting).
        new_tokens: how many the request asks for; None: it does not say.
    """
    if code != "context_length_exceeded" and not _OF_CONTEXT.search(said):
        return False
    context = _number(_CONTEXT_LENGTH, said)
    if context is None or new_tokens is None:
        return True
    prompt = max(_number(_PROMPT_LENGTH, said) or 0, prompt_tokens)
    return prompt >= context or (new_tokens < context and prompt > context * _SMALL_PROMPT)


def _is_of_new_tokens(said: str) -> bool:
    """Whether a refusal that is not for its prompt is for the new tokens asked for."""
    return bool(_OF_CONTEXT.search(said) or _OF_NEW_TOKENS.search(said))


def _number(pattern: re.Pattern[str], said: str) -> int | None:
    """What the group that matched says; thousands may be set apart."""
    match = pattern.search(re.sub(r"(?<=\d),(?=\d{3})", "", said))
    return None if match is None else int(next(group for group in match.groups() if group))


def openai_package() -> Any:
    """The package `openai`.

    Raises:
        WrongUse: it is not installed.
    """
    try:
        import openai
    except ImportError:
        raise WrongUse(
            "Endpoints need the package 'openai'; install the extra 'endpoint': pip install '.[endpoint]'."
        ) from None
    return openai


def read_answer(
    content: bytes, body: Mapping[str, Any], on_unknown: Callable[[str], None] = lambda reason: None
) -> Answer:
    """The completion that a reply holds; tokens that it does not count are estimated.

    What a server with a reasoning parser puts into a field of its own stands before the answer between
    `<think>` and `</think>`, where models in JAX have it.

    Args:
        on_unknown: is called with a `finish_reason` that is not known; where there is text, it is an end.

    Raises:
        _Malformed: it holds none.
    """
    try:
        reply = json.loads(content)
        choice = reply["choices"][0]
        message, stated = choice["message"], choice.get("finish_reason")
        text, thinking = message.get("content"), message.get("reasoning_content") or message.get("reasoning")
        reason = _FINISH_REASONS.get(stated and str(stated).lower())
        usage = reply.get("usage") or {}
        counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _Malformed(f"{type(error).__name__}: {error}, in {content[:80]!r}") from None
    if reason is None and text and isinstance(text, str) and str(stated).lower() not in _BROKEN_OFF:
        on_unknown(str(stated))
        reason = "stop"
    if reason is None:
        raise _Malformed(f"its finish_reason is {stated!r}")
    if text is None and reason != "stop":  # all of it was reasoning, or was filtered
        text = ""
    if isinstance(text, str) and isinstance(thinking, str) and thinking.strip():
        text = f"<think>\n{thinking.strip()}" + (f"\n</think>\n\n{text}" if text else "")
    if not isinstance(text, str) or any(not isinstance(count, int | None) for count in counts):
        raise _Malformed("it holds no text")
    prompt_tokens, completion_tokens = counts
    return Answer(
        text=text.encode(errors="replace").decode(),  # half a surrogate pair could never be written
        finish_reason=reason,
        prompt_tokens=about_tokens(body) if prompt_tokens is None else prompt_tokens,
        completion_tokens=-(-len(text) // 4) if completion_tokens is None else completion_tokens,
    )


def about_tokens(body: Mapping[str, Any]) -> int:
    """Tokens of a request's messages as one may guess before a server has counted: four characters each."""
    return sum(-(-len(str(message["content"])) // 4) for message in body["messages"])


def most_new_tokens(body: Mapping[str, Any]) -> int | None:
    """How long a request lets its reply be, in tokens; None where it does not say."""
    stated = (body.get("max_completion_tokens"), body.get("max_tokens"))
    return max((tokens for tokens in stated if isinstance(tokens, int)), default=None)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait, 0 where it says nothing: a number, or a date."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        until = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return 0.0
    now = datetime.datetime.now(until.tzinfo)
    return max((until - now).total_seconds(), 0.0)
