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

    Raises:
        WrongUse: shards of other settings are in the way; a prompt and the budget exceed the model's
            positions.
    """
    path = epath.Path(path)
    directory = path.parent / f"{path.name.removesuffix('.jsonl')}-drawn"
    hosts.barrier(f"before {name}")  # all hosts see the same files, and none changes before all have looked
    sharded = shards.ShardedRecords(path, len(draws), record_type, shard_size=shard_size, name=name)
    waiting = {shard: [draws[i] for i in sharded.requests_of(shard)] for shard in sharded.to_do()}
    drawn = journal.Journal(directory)
    hosts.barrier(f"begin {name}")
    if waiting:
        try:
            made = sampler if isinstance(sampler, Sampler) else sampler()
            with _Worker(work, beside) as worker:
                _draw_shards(waiting, sharded, worker, made, prompt_ids, drawn, name, times or Times(), check)
        finally:
            if hosts.is_first():
                drawn.flush()

    def finish() -> None:
        sharded.put_together()
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
        self, work: Callable[[Sequence[Draw[Row]], Sequence[Completion]], Sequence[Record]], beside: bool
    ):
        self._work = work
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "rollouts") if beside else None
        self._under_way: dict[int, concurrent.futures.Future[Sequence[Record]]] = {}

    def __enter__(self) -> "_Worker[Row, Record]":
        return self

    def __exit__(self, *_: object) -> None:
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


def _draw_shards(
    waiting: dict[int, list[Draw[Row]]],
    sharded: shards.ShardedRecords[Record],
    worker: _Worker[Row, Record],
    sampler: Sampler,
    prompt_ids: Callable[[Row], Sequence[int]],
    drawn: journal.Journal,
    name: str,
    times: Times,
    check: Callable[[], None],
) -> None:
    """Draws what is missing of the waiting shards; a shard is written with its last completion."""
    shard_of = {draw.index: shard for shard, members in waiting.items() for draw in members}
    completions = {index: c for index, c in drawn.completions.items() if index in shard_of}
    writes = hosts.is_first()  # all hosts draw and make the same, in step
    if writes:
        drawn.forget(drawn.completions.keys() - completions.keys())
    num_missing = collections.Counter(shard_of[index] for index in shard_of.keys() - completions.keys())
    to_draw = [draw for members in waiting.values() for draw in members if draw.index not in completions]
    if completions:
        log.info("%s: %d of %d completions were drawn before", name, len(completions), len(shard_of))

    def begin(shard: int) -> None:
        worker.begin(shard, waiting[shard], [completions.pop(draw.index) for draw in waiting[shard]])
        write()

    def write(*, wait: bool = False) -> None:
        check()
        for shard, records in worker.finished(wait=wait):
            members = waiting.pop(shard)
            if writes:
                sharded.write(shard, records)
                drawn.forget([draw.index for draw in members])
            check()

    def write_rest() -> None:
        began = time.monotonic()
        write(wait=True)
        times.waited_seconds += time.monotonic() - began

    for shard in [shard for shard in waiting if not num_missing[shard]]:
        begin(shard)
    if not to_draw:
        write_rest()
        return
    began = time.monotonic()
    engine, requests = sampler.prepare(to_draw, prompt_ids, drawn.partial if sampler.continue_partial else {})
    num_drawn_before, metrics, num_continued = len(shard_of) - len(to_draw), engine.metrics, 0
    with Progress(name, unit="completion", start=num_drawn_before, total=len(shard_of)) as progress:

        def after_burst() -> None:
            progress.update(num_drawn_before + metrics.requests, *metrics.figures())
            write()
            if writes and drawn.is_due():
                drawn.flush(engine.under_way() if sampler.continue_partial else None)

        stream = engine.stream(sampler.params, requests, sampler.key, after_burst=after_burst)
        for request, completion in stream:
            completions[request.id] = completion
            if writes:
                drawn.add(request.id, completion)
            num_continued += completion.num_continued > 0
            shard = shard_of[request.id]
            num_missing[shard] -= 1
            if not num_missing[shard]:
                begin(shard)
    times.sampling_seconds += time.monotonic() - began
    times.new_tokens += metrics.new_tokens
    write_rest()
    log.info("%s: %s", name, metrics.text())
    if num_continued:
        log.warning(
            "%s: %d completions were continued where an interrupted run had left them (continue_partial); "
            "their distribution is right, but they are not those of an uninterrupted run",
            name,
            num_continued,
        )
