"""An OpenAI-compatible server on loopback that plays what a test tells it to.

`answer(body, attempt)` says what comes of a request's body when it comes for the `attempt`-th time (from 0):
the text of a reply, or one of the plays below.
"""

import collections
import contextlib
import dataclasses
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Say:
    """A reply."""

    text: str | None
    finish_reason: str | None = "stop"
    prompt_tokens: int = 10
    completion_tokens: int = 5


@dataclasses.dataclass(frozen=True)
class Fail:
    """An error status."""

    status: int
    retry_after: str | None = None
    code: str | None = None
    message: str = "played"


@dataclasses.dataclass(frozen=True)
class Raw:
    """Status 200 and these bytes."""

    content: bytes


@dataclasses.dataclass(frozen=True)
class Hang:
    """Nothing for so long, then the connection ends."""

    seconds: float


class Drop:
    """The connection ends at once."""


Play = str | Say | Fail | Raw | Hang | Drop


def question(body: dict[str, Any]) -> str:
    """The last turn of a request."""
    return body["messages"][-1]["content"]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # more connections at once than the default five are not refused


class OpenAIServer:
    """A context manager; what it saw is in its attributes.

    Attributes:
        asked: every body that came, in order of arrival; `times`: when, by the monotonic clock.
        served: how often each question (its last turn) got a completion: what a provider would bill.
        most_at_once: requests that were under way at the same time, at most.
        keys: the keys that came.
    """

    def __init__(self, answer: Callable[[dict[str, Any], int], Play], *, seconds: float = 0.0):
        """`seconds`: every request takes at least so long."""
        self.asked: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.served: collections.Counter[str] = collections.Counter()
        self.keys: set[str] = set()
        self.most_at_once = 0
        self._answer, self._seconds = answer, seconds
        self._under_way, self._lock = 0, threading.Lock()
        self._attempts: collections.Counter[str] = collections.Counter()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> "OpenAIServer":
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                content = self.rfile.read(length)
                if len(content) < length:  # the client was killed while it asked
                    self.close_connection = True
                    return
                body = json.loads(content)
                with server._counted(body, self.headers.get("authorization", "")) as attempt:
                    play = server._answer(body, attempt)
                    time.sleep(server._seconds)
                    self._perform(Say(play) if isinstance(play, str) else play, body)

            def _perform(self, play: Play, body: dict[str, Any]) -> None:
                if self.path != "/v1/chat/completions":
                    play = Fail(404, message="no such path")
                if isinstance(play, Hang):
                    server._closing.wait(play.seconds)
                if isinstance(play, Hang | Drop):
                    self.close_connection = True
                elif isinstance(play, Fail):
                    headers = {} if play.retry_after is None else {"retry-after": play.retry_after}
                    error = {"message": play.message, "code": play.code, "type": "played"}
                    self._send(play.status, json.dumps({"error": error}).encode(), headers)
                elif isinstance(play, Raw):
                    self._send(200, play.content, {})
                elif isinstance(play, Say):
                    with server._lock:
                        server.served[question(body)] += 1
                    self._send(200, json.dumps(_completion(play, body)).encode(), {})

            def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
                try:
                    self.send_response(status)
                    headers |= {"content-type": "application/json", "content-length": str(len(content))}
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:  # the client has given up
                    self.close_connection = True

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        return Handler

    @contextlib.contextmanager
    def _counted(self, body: dict[str, Any], authorization: str) -> Iterator[int]:
        """A request under way; gives how often the same came before."""
        key = json.dumps(body, sort_keys=True)
        with self._lock:
            self.asked.append(body)
            self.times.append(time.monotonic())
            self.keys.add(authorization.removeprefix("Bearer "))
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
            self._attempts[key] += 1
            attempt = self._attempts[key] - 1
        try:
            yield attempt
        finally:
            with self._lock:
                self._under_way -= 1


def _completion(say: Say, body: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": say.text}
    return {
        "id": "played",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": say.finish_reason}],
        "usage": {
            "prompt_tokens": say.prompt_tokens,
            "completion_tokens": say.completion_tokens,
            "total_tokens": say.prompt_tokens + say.completion_tokens,
        },
    }
