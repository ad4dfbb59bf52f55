"""Replies that were paid for, on disk as soon as they are here: a file that only grows, a line a reply.

Replies are found by a digest of everything that was asked, not by place: a stage that starts anew with more
rows, or with other thresholds, asks only for what it never had. What nothing was paid for, or what a broken
proxy may have said, is not kept: the next stage asks again.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.sampling.text_model import FinishReason

# Of the server as it is today: another address or a longer context may give a reply to the same request.
_NOT_KEPT: frozenset[FinishReason] = frozenset({"malformed", "too_long"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server said to one request."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PaidReply:
    key: str
    answer: Answer


def key_of(body: Mapping[str, Any], sample: int) -> str:
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
            for place in self._path.glob("*.json"):
                self._take(place.read_bytes(), os.fspath(place))
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
