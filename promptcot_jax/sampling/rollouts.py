"""What a stage samples: how often for each row, by which settings, and into which record files.

Draws are numbered through the whole stage and a draw's noise is keyed by its number, so that its shard, its
neighbours and an interruption change nothing. `map_draws` keeps one engine full over all shards: a shard's
records are made as soon as its last completion is there, and what is finished of the others lies in a
journal, so that a killed stage goes on with exactly the missing draws.
"""

import collections
import concurrent.futures
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import jax
from etils import epath

from promptcot_jax.core import prng, shards
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.progress import Progress
from promptcot_jax.core.settings import PositiveInt, settings
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling import engine as engine_lib
from promptcot_jax.sampling import journal, token_choice
from promptcot_jax.sampling.completions import NOTHING_YET, Completion, PartialCompletion, Request

Row = TypeVar("Row")
Record = TypeVar("Record")

log = logging.getLogger(__name__)


@settings
class RolloutConfig:
    """How many samples of each row, how they are drawn, and how often they are written."""

    sampling: token_choice.SamplingConfig
    engine: engine_lib.EngineConfig = engine_lib.EngineConfig()
    group_size: PositiveInt = 1  # samples of each row
    requests_per_shard: PositiveInt = 128  # of each file of records
    # An interrupted stage goes on within completions that were under way, instead of drawing them again from
    # their prompts. For completions of tens of thousands of tokens. What was drawn is then read like a
    # prompt, which rounds otherwise: the stage no longer ends in the bits of an uninterrupted one, and logs
    # how many completions that concerns.
    continue_partial: bool = False
    seed: int = 0

    def __post_init__(self):
        if self.sampling.temperature == 0 and self.group_size > 1:
            raise ValueError(
                f"group_size is {self.group_size} at temperature 0, where all samples of a row are "
                "the same; set it to 1 or raise the temperature."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw(Generic[Row]):
    """One sample to draw for a row; `index` numbers it within the stage and keys its noise."""

    index: int
    row: Row
    sample: int  # 0 .. group_size - 1


def draws_of(rows: Sequence[Row], group_size: int, *, first: int = 0) -> list[Draw[Row]]:
    """All draws, numbered from `first`, the samples of a row side by side: they share its prompt."""
    return [
        Draw(index=first + i * group_size + sample, row=row, sample=sample)
        for i, row in enumerate(rows)
        for sample in range(group_size)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """A model with parameters to decode by, and how it is sampled.

    Attributes:
        params: in `CausalLM.decoding_layout`, made once for all that is drawn with them.
        key: of a noise stream and step.
    """

    lm: LanguageModel
    params: Params
    sampling: token_choice.SamplingConfig
    stop_ids: tuple[int, ...]
    key: jax.Array
    engine: engine_lib.EngineConfig = engine_lib.EngineConfig()
    continue_partial: bool = False

    def complete(
        self, draws: Sequence[Draw[Row]], prompt_ids: Callable[[Row], Sequence[int]]
    ) -> list[Completion]:
        """One completion for each draw, in order.

        Raises:
            WrongUse: a prompt and the budget exceed the model's positions.
        """
        engine, requests = self.prepare(draws, prompt_ids)
        stream = engine.stream(self.params, requests, self.key)
        completions = {request.id: completion for request, completion in stream}
        return [completions[draw.index] for draw in draws]

    def prepare(
        self,
        draws: Sequence[Draw[Row]],
        prompt_ids: Callable[[Row], Sequence[int]],
        partial: Mapping[int, PartialCompletion] | None = None,
    ) -> tuple[engine_lib.Engine, list[Request]]:
        """An engine of the right size, and the draws as requests of it, whose ids are the draws' indices.

        Raises:
            WrongUse: a prompt and the budget exceed the model's positions.
        """
        requests, prompts = [], {}
        for draw in draws:
            if id(draw.row) not in prompts:
                prompts[id(draw.row)] = tuple(prompt_ids(draw.row))
            requests.append(
                Request(
                    id=draw.index,
                    prompt_ids=prompts[id(draw.row)],
                    sampling=self.sampling,
                    stop_ids=self.stop_ids,
                    partial=(partial or {}).get(draw.index, NOTHING_YET),
                )
            )
        budget, limit = self.sampling.max_new_tokens, self.lm.config.max_positions
        longest = max(map(len, prompts.values()), default=0)
        if longest + budget > limit:
            raise WrongUse(
                f"A prompt of {longest} tokens and max_new_tokens={budget} exceed the model's {limit} "
                f"positions; lower max_new_tokens to {limit - longest} or less, or leave out long rows."
            )
        try:
            made = engine_lib.Engine(self.lm, self.engine, max_tokens=longest + budget)
        except ValueError as error:
            raise WrongUse(str(error)) from None
        return made, requests


def make_sampler(
    lm: LanguageModel, params: Params, tokenizer: Tokenizer, config: RolloutConfig, stream: str
) -> Sampler:
    """A sampler by a stage's settings, for parameters in training layout."""
    return Sampler(
        lm=lm,
        params=lm.decoding_layout(params),
        sampling=config.sampling,
        stop_ids=tuple(tokenizer.stop_ids),
        key=prng.stream_key(config.seed, stream),
        engine=config.engine,
        continue_partial=config.continue_partial,
    )


def map_draws(
    path: epath.PathLike,
    draws: Sequence[Draw[Row]],
    work: Callable[[Sequence[Draw[Row]], Sequence[Completion]], Sequence[Record]],
    record_type: type[Record],
    *,
    sampler: Sampler | Callable[[], Sampler],
    prompt_ids: Callable[[Row], Sequence[int]],
    shard_size: int,
    name: str,
    beside: bool = False,
    times: "Times | None" = None,
    check: Callable[[], None] = lambda: None,
    how_many: Callable[[Sequence[Record]], int] | None = None,
    on_error: Callable[[BaseException], None] = lambda error: None,
) -> list[Record]:
    """Draws everything and makes records of it, in order, also written to `path` (ending in `.jsonl`).

    Args:
        work: makes the records of one shard, consecutive draws with their completions.
        sampler: or what makes it, called where shards are missing.
        name: of the work, for the log.
        beside: `work` runs in a thread while others are drawn; it must not use the devices.
        times: gets what was drawn and how long it took added.
        check: called between bursts of decoding and between shards; what it raises ends the work, and what
            was drawn by then is kept.
        how_many: of the draws are drawn, by the records of the first ones: whole shards, and no fewer by more
            records. Asked whenever the next shard in order has its records, so that the queue grows while it
            runs, and what is drawn depends on neither speed nor number of slots. None: all.
        on_error: called with what ends the work early, before waiting for a shard that `work` has begun.

    Raises:
        WrongUse: shards of other settings are in the way; a prompt and the budget exceed the model's
            positions.
    """
    path = epath.Path(path)
    directory = path.parent / f"{path.name.removesuffix('.jsonl')}-drawn"
    hosts.barrier(f"before {name}")  # all hosts see the same files, and none changes before all have looked
    sharded = shards.ShardedRecords(path, len(draws), record_type, shard_size=shard_size, name=name)
    drawing = _Drawing(draws, sharded, journal.Journal(directory), how_many, name)
    hosts.barrier(f"begin {name}")
    if not sharded.is_whole:
        try:
            with _Worker(work, beside, on_error) as worker:
                drawing.run(worker, sampler, prompt_ids, times or Times(), check)
        finally:
            if hosts.is_first():
                drawing.journal.flush()

    def finish() -> None:
        sharded.put_together(drawing.num_wanted)
        journal.remove(directory)

    hosts.wait_for_first(f"end {name}", finish)
    return sharded.read()


@dataclasses.dataclass
class Times:
    """What drawing took, in seconds of the host's clock."""

    sampling_seconds: float = 0.0
    waited_seconds: float = 0.0  # for the work on what was drawn
    new_tokens: int = 0


class _Worker(Generic[Row, Record]):
    """Makes the records of finished shards, at once or in a thread; they are handed out in this one."""

    def __init__(
        self,
        work: Callable[[Sequence[Draw[Row]], Sequence[Completion]], Sequence[Record]],
        beside: bool,
        on_error: Callable[[BaseException], None],
    ):
        self._work, self._on_error = work, on_error
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "rollouts") if beside else None
        self._under_way: dict[int, concurrent.futures.Future[Sequence[Record]]] = {}

    def __enter__(self) -> "_Worker[Row, Record]":
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if error is not None:
            self._on_error(error)
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def begin(self, shard: int, draws: Sequence[Draw[Row]], completions: Sequence[Completion]) -> None:
        """Takes a shard on."""
        if self._thread is not None:
            self._under_way[shard] = self._thread.submit(self._work, draws, completions)
            return
        made: concurrent.futures.Future[Sequence[Record]] = concurrent.futures.Future()
        made.set_result(self._work(draws, completions))
        self._under_way[shard] = made

    def finished(self, *, wait: bool = False) -> Iterator[tuple[int, Sequence[Record]]]:
        """The shards whose records are there; with `wait` all that were taken on."""
        for shard in [shard for shard, future in self._under_way.items() if wait or future.done()]:
            yield shard, self._under_way.pop(shard).result()


class _Drawing(Generic[Row, Record]):
    """What is missing of a file: which draws, how far they are, and how many more there will be."""

    def __init__(
        self,
        draws: Sequence[Draw[Row]],
        sharded: shards.ShardedRecords[Record],
        drawn: journal.Journal,
        how_many: Callable[[Sequence[Record]], int] | None,
        name: str,
    ):
        """Looks at what earlier attempts left, and changes nothing: other hosts may still be looking."""
        self.journal = drawn
        self._sharded, self._how_many, self._name = sharded, how_many, name
        self._place_of = {draw.index: place for place, draw in enumerate(draws)}
        self._waiting = {shard: [draws[i] for i in sharded.requests_of(shard)] for shard in sharded.to_do()}
        self._shard_of = {draw.index: shard for shard, some in self._waiting.items() for draw in some}
        self._completions = {i: c for i, c in drawn.completions.items() if i in self._shard_of}
        self._writes = hosts.is_first()  # all hosts draw and make the same, in step
        # The records of the first shards, as far as all before them have theirs; for `how_many`.
        self._first: list[Record] = []
        self._next_shard, self._made = 0, dict[int, list[Record]]()
        self._num_under_way = 0
        self.num_wanted = 0 if how_many else len(draws)
        if how_many is not None and not sharded.is_whole:
            there = set(range(sharded.num_shards)) - self._waiting.keys()
            self._made = {shard: sharded.read_shard(shard) for shard in there}

    def run(
        self,
        worker: _Worker[Row, Record],
        sampler: Sampler | Callable[[], Sampler],
        prompt_ids: Callable[[Row], Sequence[int]],
        times: "Times",
        check: Callable[[], None],
    ) -> None:
        """Draws what is missing; a shard is written as soon as it has its records."""
        self._worker, self._check = worker, check
        if self._writes:
            self.journal.forget(self.journal.completions.keys() - self._completions.keys())
        missing = collections.Counter(self._shard_of[i] for i in self._shard_of.keys() - self._completions)
        if self._completions:
            log.info("%s: %d completions were drawn before", self._name, len(self._completions))
        self._decide()
        if not self._waiting or not self._is_wanted(next(iter(self._waiting.values()))[0]):
            return
        made = sampler if isinstance(sampler, Sampler) else sampler()  # here, and not in the worker's thread
        for shard in [shard for shard in self._waiting if not missing[shard]]:
            self._begin(shard)
        self._write_rest(times)
        to_draw = [draw for some in self._waiting.values() for draw in some]
        to_draw = [draw for draw in to_draw if draw.index not in self._completions]
        if not to_draw or not self._is_wanted(to_draw[0]):
            return
        began = time.monotonic()
        partial = self.journal.partial if made.continue_partial else {}
        engine, requests = made.prepare(to_draw, prompt_ids, partial)
        metrics, num_continued, num_before = engine.metrics, 0, len(self._place_of) - len(to_draw)
        waited_before = times.waited_seconds
        total = None if self._how_many else len(self._place_of)
        with Progress(self._name, unit="completion", start=num_before, total=total) as progress:

            def after_burst() -> None:
                progress.update(num_before + metrics.requests, *metrics.figures())
                self._write()
                if self._writes and self.journal.is_due():
                    self.journal.flush(engine.under_way() if made.continue_partial else None)

            queue = self._queue(to_draw, requests, times)
            for request, completion in engine.stream(made.params, queue, made.key, after_burst=after_burst):
                self._num_under_way -= 1
                self._completions[request.id] = completion
                if self._writes:
                    self.journal.add(request.id, completion)
                num_continued += completion.num_continued > 0
                shard = self._shard_of[request.id]
                missing[shard] -= 1
                if not missing[shard]:
                    self._begin(shard)
        times.sampling_seconds += time.monotonic() - began - (times.waited_seconds - waited_before)
        times.new_tokens += metrics.new_tokens
        self._write_rest(times)
        log.info("%s: %s", self._name, metrics.text())
        if num_continued:
            log.warning(
                "%s: %d completions were continued where an interrupted run had left them "
                "(continue_partial); their distribution is right, but they are not those of an "
                "uninterrupted run",
                self._name,
                num_continued,
            )

    def _queue(
        self, to_draw: Sequence[Draw[Row]], requests: Sequence[Request], times: "Times"
    ) -> Iterator[Request | None]:
        """The requests, in order, that are wanted; for `Engine.stream`."""
        for draw, request in zip(to_draw, requests, strict=True):
            while not self._is_wanted(draw) and self._num_under_way:
                self._decide()
                if not self._is_wanted(draw):
                    yield None
            if not self._is_wanted(draw):
                self._write_rest(times)  # the last word on how many there are
                if not self._is_wanted(draw):
                    return
            self._num_under_way += 1
            yield request

    def _begin(self, shard: int) -> None:
        some = self._waiting[shard]
        self._worker.begin(shard, some, [self._completions.pop(draw.index) for draw in some])
        self._write()

    def _write(self, *, wait: bool = False) -> None:
        self._check()
        for shard, records in self._worker.finished(wait=wait):
            some = self._waiting.pop(shard)
            if self._writes:
                self._sharded.write(shard, records)
                self.journal.forget([draw.index for draw in some])
            if self._how_many is not None:
                self._made[shard] = list(records)
            self._check()

    def _write_rest(self, times: "Times") -> None:
        began = time.monotonic()
        self._write(wait=True)
        times.waited_seconds += time.monotonic() - began
        self._decide()

    def _decide(self) -> None:
        """How many draws there are by the records of the first shards; all hosts go by the first one's."""
        if (how_many := self._how_many) is None:
            return

        def decided() -> int:
            while (records := self._made.pop(self._next_shard, None)) is not None:
                self._first += records
                self._next_shard += 1
            return how_many(self._first)

        self.num_wanted = hosts.decided_by_first(f"draws of {self._name}", decided)

    def _is_wanted(self, draw: Draw[Row]) -> bool:
        return self._place_of[draw.index] < self.num_wanted
