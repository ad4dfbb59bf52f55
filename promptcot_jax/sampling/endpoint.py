"""Any OpenAI-compatible server as a `TextModel`: teachers, judges and solvers that somebody else runs.

Requests go out concurrently, up to a limit. Every reply is on disk before it counts (`PaidReplies`), so that
nothing is lost or paid twice when the process is killed. Replies are found by a digest of everything that was
asked, not by number: a stage that starts anew with more rows, or with other thresholds, asks only for what it
never had. What nothing was paid for, or what a broken proxy may have said, is not kept. When one request
fails for good, no new ones start, and those under way are waited for: they will be paid. Of several hosts the
first alone asks; the others wait for its file.
"""

import asyncio
import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import os
import re
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, ClassVar

from etils import epath

from promptcot_jax.core import jsonl, manifest, prng
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.progress import Progress
from promptcot_jax.core.settings import NonNegativeFloat, PositiveFloat, PositiveInt, settings
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling import endpoint_client
from promptcot_jax.sampling.endpoint_client import Answer
from promptcot_jax.sampling.text_model import FinishReason, Reply, TextRequest, reasons
from promptcot_jax.sampling.token_choice import SamplingConfig

log = logging.getLogger(__name__)

# Of the server as it is today: another address or a longer context may give a reply to the same request.
_NOT_KEPT: frozenset[FinishReason] = frozenset({"malformed", "too_long"})
_MOST_UNREADABLE = 8  # requests that ended so, one after another, before any reply could be read


@settings
class EndpointConfig:
    """A model behind an OpenAI-compatible server, and how it is asked."""

    EXECUTION_ONLY: ClassVar = frozenset(
        {
            *("base_url", "api_key_variable", "concurrency", "attempt_seconds", "deadline_seconds"),
            *("first_pause", "prompt_price", "completion_price", "cost_limit"),
        }
    )

    model: str  # its name there
    base_url: str  # of the server, the `/v1` included
    # The environment variable that holds the key; None: the server wants none. The key itself is in no
    # setting, file or message.
    api_key_variable: str | None = None
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=4096)
    seed: int = 0
    # More fields of a request, over ours; None takes one out, such as
    # {"max_tokens": None, "max_completion_tokens": 4096, "seed": None}.
    extra_body: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    concurrency: PositiveInt = 16  # requests under way at once
    attempt_seconds: PositiveFloat = 600.0  # of one try
    deadline_seconds: PositiveFloat = 3600.0  # of a request with all its tries and pauses
    first_pause: PositiveFloat = 1.0  # seconds before the second try, doubled with each
    prompt_price: NonNegativeFloat = 0.0  # of a million tokens, in any currency
    completion_price: NonNegativeFloat = 0.0
    # What the replies of this model may cost in one stage, in that currency, where each of a stage's models
    # has a limit of its own; None: no limit.
    cost_limit: NonNegativeFloat | None = None

    def __post_init__(self):
        if not self.model.strip():
            raise ValueError("EndpointConfig.model is empty; it must be a name that the server knows.")
        if not re.fullmatch(r"https?://[^/@\s]+(/\S*)?", self.base_url):
            raise ValueError(
                "EndpointConfig.base_url must be a URL such as 'http://localhost:8000/v1', without user or "
                f"password; got {self.base_url.rpartition('@')[2]!r}."
            )
        if self.cost_limit is not None and self.prompt_price + self.completion_price == 0:
            raise ValueError(
                "EndpointConfig.cost_limit is set, but no price is; set prompt_price and completion_price."
            )
        ceiling = {"max_tokens": self.sampling.max_new_tokens} | dict(self.extra_body)
        if self.cost_limit is not None and endpoint_client.most_new_tokens(ceiling) is None:
            raise ValueError(
                "EndpointConfig.cost_limit is set, but extra_body takes max_tokens out and a reply may have "
                "any length; set max_completion_tokens in its place."
            )

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Of so many tokens."""
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PaidReply:
    key: str
    answer: Answer


def _key_of(body: Mapping[str, Any], sample: int) -> str:
    """Digest of a request: its body (model, messages, sampling, seed) and which of several samples it is."""
    asked = json.dumps({"body": body, "sample": sample}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(asked.encode(errors="surrogatepass")).hexdigest()[:32]


class PaidReplies:
    """Answers by the key of their request, of one file; a directory of objects in a bucket."""

    def __init__(self, path: epath.PathLike):
        """Reads what is there; a last line that a killed writer did not finish is cut off.

        Raises:
            WrongUse: a line is damaged; the message names file and line.
        """
        self._path = epath.Path(path)
        self._in_bucket = "://" in os.fspath(path)  # where nothing can be appended to
        self._answers: dict[str, Answer] = {}
        if not self._path.exists():
            return
        if self._in_bucket:
            for file in self._path.glob("*.json"):
                self._take(file.read_bytes(), os.fspath(file))
            return
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self._path, len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            self._take(line, f"{os.fspath(self._path)}:{number}")

    def _take(self, line: bytes, where: str) -> None:
        try:
            row = jsonl.parse_line(line)
        except jsonl.BadLine as error:
            raise WrongUse(f"{where}: {error}; remove this line, and its reply is asked for again.") from None
        paid = jsonl.record_from_row(_PaidReply, row, where=where)
        if paid.answer.finish_reason not in _NOT_KEPT:  # earlier versions kept these
            self._answers.setdefault(paid.key, paid.answer)

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Answer:
        return self._answers[key]

    def add(self, key: str, answer: Answer) -> None:
        """Returns when the answer would survive a crash; what is not kept is here until the process ends."""
        self._answers[key] = answer
        if answer.finish_reason in _NOT_KEPT:
            return
        line = (jsonl.to_line(_PaidReply(key=key, answer=answer)) + "\n").encode()
        if self._in_bucket:
            self._path.mkdir(parents=True, exist_ok=True)
            (self._path / f"{key}.json").write_bytes(line)
            return
        os.makedirs(self._path.parent, exist_ok=True)
        with open(self._path, "ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


class EndpointModel:
    """See `TextModel`; `cost_limit` holds for all calls of one instance together."""

    def __init__(self, config: EndpointConfig, directory: epath.PathLike):
        """Sends nothing yet.

        Args:
            directory: of the files of paid replies, one for each model.

        Raises:
            WrongUse: the key's variable is not set, or the package `openai` is not installed.
        """
        self.name = config.model
        self._config, self._cost = config, 0.0
        self._counted: set[str] = set()  # keys of the replies that are in `_cost`
        slug = re.sub(r"[^\w.-]+", "-", config.model)
        self._paid_path = epath.Path(directory) / f"{slug}-{manifest.text_digest(config.model)[:8]}.replies"

        def check() -> None:
            endpoint_client.openai_package()
            _api_key(config)

        hosts.wait_for_first(f"look for the key of {self.name}", check)

    def check_cost(self, requests: Sequence[TextRequest]) -> float:
        """See `TextModel.check_cost`. What was paid earlier is not taken off."""
        limit = self._config.cost_limit
        bodies = [self._body(request) for request in requests]
        prompt_tokens = sum(endpoint_client.about_tokens(body) for body in bodies)
        completion_tokens = sum(_most_billed(body) for body in bodies)
        cost = self._config.cost(prompt_tokens, completion_tokens)
        text = f"{self.name}: {len(requests):,} requests, about {prompt_tokens:,} prompt tokens and "
        if requests and not completion_tokens:
            text += "completion tokens without a limit: no cost can be foreseen"
        else:
            text += f"at most {completion_tokens:,} completion tokens: " + (
                f"about {cost:,.2f} if every reply is as long" if cost else "no prices are set"
            )
        if limit is not None and cost > limit:
            raise WrongUse(
                f"{text}, and EndpointConfig.cost_limit is {limit:,.2f}; raise it, or lower max_new_tokens "
                "or the number of rows."
            )
        log.info("%s", text)
        return cost

    def complete(self, requests: Sequence[TextRequest], path: epath.PathLike) -> list[Reply]:
        """See `TextModel.complete`.

        Raises:
            WrongUse: the server refuses the key, the model or a setting, or `cost_limit` is reached.
            EndpointFailed: it did not answer in time, or with nothing that can be read. The same call asks
                for the missing replies.
        """
        path = epath.Path(path)
        hosts.wait_for_first(f"replies of {self.name}", lambda: self._write(requests, path))
        return jsonl.read_file(path, Reply)

    def _write(self, requests: Sequence[TextRequest], path: epath.Path) -> None:
        """Asks for what is missing, and writes the file of all."""
        bodies = [self._body(request) for request in requests]
        keys = [_key_of(body, request.sample) for body, request in zip(bodies, requests, strict=True)]
        if path.exists():
            self._check_is_of(requests, keys, path)
            return
        paid, name = PaidReplies(self._paid_path), path.name.removesuffix(".jsonl")
        missing = {key: body for key, body in zip(keys, bodies, strict=True) if key not in paid}
        for key in set(keys) - missing.keys():
            self._count(key, paid[key])
        if missing:
            log.info("%s: %d of %d replies are missing", name, len(missing), len(set(keys)))
            _run(self._ask_all(missing, paid, name, was_read=len(missing) < len(set(keys))))
        replies = [
            Reply(id=request.id, sample=request.sample, **dataclasses.asdict(paid[key]))
            for request, key in zip(requests, keys, strict=True)
        ]
        jsonl.write_records(path, replies)
        ended = ", ".join(f"{reason} {count}" for reason, count in reasons(replies).items())
        cost = f"; cost so far {self._cost:,.4f}" if self._cost else ""
        log.info("%s: %d replies of %s (%s)%s", name, len(replies), self.name, ended, cost)

    def _check_is_of(self, requests: Sequence[TextRequest], keys: Sequence[str], path: epath.Path) -> None:
        """Takes a finished file for these requests."""
        replies = jsonl.read_file(path, Reply)
        if [(reply.id, reply.sample) for reply in replies] != [(r.id, r.sample) for r in requests]:
            raise WrongUse(f"{os.fspath(path)}: replies to other requests; remove the file.")
        for key, reply in zip(keys, replies, strict=True):
            self._count(key, reply)

    def _body(self, request: TextRequest) -> dict[str, Any]:
        """What is sent: the messages and the settings, those that not every server knows only where set."""
        sampling = self._config.sampling
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": [dict(message) for message in request.messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "seed": prng.derived_seed(self._config.seed, request.sample) & 0x7FFFFFFF,
        }
        body |= {"top_k": sampling.top_k} if sampling.top_k else {}
        body |= {"min_p": sampling.min_p} if sampling.min_p else {}
        body |= self._config.extra_body
        return {name: value for name, value in body.items() if value is not None}

    async def _ask_all(
        self, missing: Mapping[str, Mapping[str, Any]], paid: PaidReplies, name: str, *, was_read: bool
    ) -> None:
        """Asks for all that is missing; the first failure is raised when what was under way has ended.

        Args:
            was_read: whether a reply to a request of this file could be read already.
        """
        config, failures = self._config, []
        waiting, under_way, num_done, num_unreadable = iter(missing.items()), 0.0, 0, 0
        most_unreadable = _MOST_UNREADABLE if len(paid) else min(_MOST_UNREADABLE, len(missing))
        client = endpoint_client.Client(
            base_url=config.base_url,
            api_key=_api_key(config),
            attempt_seconds=config.attempt_seconds,
            deadline_seconds=config.deadline_seconds,
            first_pause=config.first_pause,
        )

        async def ask_one_after_another(progress: Progress) -> None:
            nonlocal under_way, num_done, num_unreadable, was_read
            for key, body in waiting:
                at_most = config.cost(endpoint_client.about_tokens(body), _most_billed(body))
                under_way += at_most
                try:
                    self._check_limit(under_way)
                    answer = await client.ask(body)
                except (WrongUse, endpoint_client.EndpointFailed) as failure:
                    failures.append(failure)
                    client.stop_trying()
                    return
                finally:
                    under_way -= at_most
                paid.add(key, answer)
                self._count(key, answer)
                num_done += 1
                progress.update(num_done, f"cost {self._cost:,.2f}" if self._cost else None)
                was_read |= answer.finish_reason != "malformed"
                num_unreadable += 1
                if not was_read and num_unreadable == most_unreadable:
                    failures.append(client.unreadable(num_unreadable))
                    client.stop_trying()
                if failures:
                    return

        num_workers = min(config.concurrency, len(missing))
        with Progress(name, unit="reply", start=0, total=len(missing)) as progress:
            async with client:
                await asyncio.gather(*(ask_one_after_another(progress) for _ in range(num_workers)))
        if client.retries:
            counted = ", ".join(f"{reason} {count}" for reason, count in sorted(client.retries.items()))
            log.warning("%s: tried again for %s", name, counted)
        if failures:
            raise failures[0]

    def _check_limit(self, under_way: float) -> None:
        limit = self._config.cost_limit
        if limit is not None and self._cost + under_way > limit:
            raise WrongUse(
                f"{self.name}: replies have cost {self._cost:,.4f}, and those under way may bring it above "
                f"EndpointConfig.cost_limit={limit:,.4f}; raise it, and the same command goes on."
            )

    def _count(self, key: str, answer: Answer | Reply) -> None:
        """Adds to the cost; a reply that several files share is paid once."""
        if key not in self._counted:
            self._counted.add(key)
            self._cost += self._config.cost(answer.prompt_tokens, answer.completion_tokens)


def _most_billed(body: Mapping[str, Any]) -> int:
    """Completion tokens that a request may be billed for; 0 where it sets no limit."""
    return (endpoint_client.most_new_tokens(body) or 0) * int(body.get("n") or 1)


def _api_key(config: EndpointConfig) -> str:
    """The key, or a word in its place for servers that want none.

    Raises:
        WrongUse: the variable is not set.
    """
    if config.api_key_variable is None:
        return "no-key"
    key = os.environ.get(config.api_key_variable, "").strip()
    if not key:
        raise WrongUse(
            f"EndpointConfig.api_key_variable names {config.api_key_variable}, which is not set in the "
            "environment; export it with the key, or set another variable, or None for a server without keys."
        )
    return key


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Runs to the end, also inside a notebook, whose own event loop is at work in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()
