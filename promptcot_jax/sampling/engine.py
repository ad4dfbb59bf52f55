"""The rollout engine: a fixed number of slots kept full from a stream of requests, in the trainer's process.

Each pass of the engine fills free slots from the queue, reads prompt blocks that are not in the cache yet,
and decodes a burst of steps; rows that ended are handed out and their slots are free again. Decisions are
taken on the host between bursts, from a few numbers a row; all arithmetic is in the compiled programs of
`slots`, which see the same shapes whatever comes in.

Exactness: a request's tokens are a function of parameters, prompt, settings, noise key and request id. Its
noise belongs to it and to the step, its prompt is cut at multiples of a page from its start, and its
attention adds up page after page; so order, neighbours, sharing, restarts and a small pool change nothing,
not even rounding. Another number of slots, another page size or mesh rounds the matrix products otherwise.

Pages are taken as rows grow. Where the pool is spent, the request that started last starts again later from
its prompt, which costs time and changes no token.
"""

import collections
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.settings import NonNegativeInt, PositiveInt, Range, settings
from promptcot_jax.models import language_model
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.parallel.programs import Program
from promptcot_jax.sampling import batching, metrics, slots
from promptcot_jax.sampling.completions import Completion, PartialCompletion, Request
from promptcot_jax.sampling.scheduler import ActiveRequest, Block, ShardScheduler

DecodeText = Callable[[Sequence[int]], str]
FinishReason = Literal["stop", "stop_text", "length"]  # of a row; a stop text counts as a stop outside

_STEPS_WITH_STOP_TEXTS = 16  # stop texts are looked for between bursts; what is decoded past one is wasted
_STEPS_BESIDE_PREFILL = 4  # of the rows under way, between two pieces of prompts


@settings
class EngineConfig:
    """Shapes of an engine; what a request may ask for is in `completions.Request`."""

    EXECUTION_ONLY: ClassVar = frozenset(
        {"num_slots", "page_size", "prefill_blocks", "blocks_per_turn", "burst_steps", "cache_tokens"}
    )

    num_slots: PositiveInt = 32  # rows of a decode step, over all devices
    # Tokens of a cache page and of a prompt block; on a TPU a multiple of 8.
    page_size: Annotated[int, Range(at_least=2)] = 64
    prefill_blocks: PositiveInt = 1  # blocks that one call of the prefill program reads, on each data shard
    # Blocks read between two bursts at most, on each data shard, so that a long prompt does not hold up the
    # rows under way; more while most rows wait for their prompts.
    blocks_per_turn: PositiveInt = 16
    burst_steps: PositiveInt = 64  # steps between two looks at the rows, if none ends before
    cache_tokens: NonNegativeInt = 0  # that the cache holds, over all devices; 0: all slots at their longest

    def __post_init__(self):
        if self.prefill_blocks > self.blocks_per_turn:
            raise ValueError(
                f"prefill_blocks={self.prefill_blocks} are read by one call, more than "
                f"blocks_per_turn={self.blocks_per_turn}; raise blocks_per_turn or lower prefill_blocks."
            )


class Engine:
    """The shapes and the bookkeeping; parameters and cache come and go with every stream."""

    def __init__(self, lm: language_model.LanguageModel, config: EngineConfig, *, max_tokens: int):
        """With rules in `lm`, call this and `stream` inside `jax.set_mesh`.

        Args:
            max_tokens: of a request, prompt and completion together.

        Raises:
            ValueError: the cache cannot hold a single request of that length.
        """
        self.lm, self.config, self.max_tokens = lm, config, max_tokens
        self.metrics = metrics.Metrics()
        num_shards = batching.num_data_shards(lm.rules)
        slots_of_shard = -(-config.num_slots // num_shards)
        most_pages = -(-max_tokens // config.page_size)  # of a request
        # One page more than a request's own, for what its prompt leaves of a page that others share.
        least = most_pages + 1
        pages = slots_of_shard * least
        if config.cache_tokens:
            pages = min(pages, config.cache_tokens // num_shards // config.page_size)
        if pages < least:
            raise ValueError(
                f"cache_tokens={config.cache_tokens} holds {pages} pages of {config.page_size} tokens on "
                f"each of {num_shards} data shards, but a request of {max_tokens} tokens may need "
                f"{least}; raise cache_tokens or lower max_new_tokens."
            )
        self.shapes = slots.Shapes(
            num_shards=num_shards,
            num_slots=num_shards * slots_of_shard,
            num_pages=num_shards * (pages + 1),  # page 0 of each shard belongs to no request
            page_size=config.page_size,
            width=batching.few_counts(most_pages),
            num_blocks=num_shards * config.prefill_blocks,
            burst_steps=config.burst_steps,
        )
        self._rows: Callable[[], list[ActiveRequest]] = list

    def stream(
        self,
        params: Params,
        requests: Iterable[Request | None],
        key: jax.Array,
        decode_text: DecodeText | None = None,
        after_burst: Callable[[], None] | None = None,
    ) -> Iterator[tuple[Request, Completion]]:
        """One stream: each request with its completion, as soon as it has one.

        Requests are taken as slots become free, and nothing is decoded while the caller keeps a result
        waiting. Closing the iterator drops what is unfinished.

        Args:
            requests: None among them stands for "none at present": another is asked for after the next burst,
                if rows are under way.
            params: in `lm.decoding_layout`, or as the trainer has them.
            decode_text: turns token ids into text; needed where a request has stop texts.
            after_burst: called after every burst, whether a row has ended or not.

        Raises:
            ValueError: a request that there is no room for, ids outside the vocabulary, stop texts without
                `decode_text`; another mesh than the engine was made in.
        """
        num_shards = batching.num_data_shards(self.lm.rules)
        if num_shards != self.shapes.num_shards:
            raise ValueError(
                f"The engine was made for {self.shapes.num_shards} data shards, but there are "
                f"{num_shards} here; make it and go through its stream inside the same `jax.set_mesh`."
            )
        stream = _RequestStream(self, params, requests, key, decode_text)
        self._rows = stream.rows
        try:
            while stream.fill_slots():
                stream.read_prompts()
                yield from stream.decode()
                if after_burst is not None:
                    after_burst()
        finally:
            self._rows = list

    def under_way(self) -> dict[int, PartialCompletion]:
        """What there is so far of the completions that are being drawn, by request id."""
        return {
            row.request.id: PartialCompletion(
                tuple(row.token_ids), np.concatenate(row.log_probs), np.concatenate(row.sampler_log_probs)
            )
            for row in self._rows()
            if row.token_ids
        }

    def check(self, request: Request) -> None:
        """Refuses a request that the engine cannot serve.

        Raises:
            ValueError: says why.
        """
        name = f"Request {request.id}"
        if not request.prompt_ids:
            raise ValueError(
                f"{name} has an empty prompt; begin it with at least one token, such as the model's bos."
            )
        if not 0 <= request.id < 2**32:
            raise ValueError(f"{name}: ids must lie in [0, 2**32): they are folded into the noise key.")
        limit = min(self.max_tokens, self.lm.config.max_positions)
        if request.most_tokens > limit:
            raise ValueError(
                f"{name}: a prompt of {len(request.prompt_ids)} tokens and max_new_tokens="
                f"{request.sampling.max_new_tokens} exceed {limit}, the model's max_positions or what the "
                "engine was made for; shorten one of them."
            )
        if len(request.partial.token_ids) >= request.sampling.max_new_tokens:
            raise ValueError(f"{name} goes on from {len(request.partial.token_ids)} tokens, all it may have.")
        batching.check_token_ids([request.known_ids], self.lm.config.vocab_size, f"{name}, prompt")
        batching.check_token_ids([request.stop_ids], self.lm.config.vocab_size, f"{name}, list of stop ids")
        if len(request.stop_ids) > slots.MOST_STOP_IDS:
            raise ValueError(
                f"{name} has {len(request.stop_ids)} stop ids, {slots.MOST_STOP_IDS} at most; leave some out."
            )
        if "" in request.stop_texts:
            raise ValueError(f"{name} has an empty stop text, which would end every completion at once.")

    def _new_schedulers(self) -> list[ShardScheduler]:
        shapes = self.shapes
        count, num_pages = shapes.num_slots // shapes.num_shards, shapes.num_pages // shapes.num_shards
        starts = range(0, shapes.num_slots, count)
        return [ShardScheduler(range(start, start + count), num_pages, shapes.page_size) for start in starts]


class _RequestStream:
    """One call of `Engine.stream`: its queue, its rows and its cache."""

    def __init__(
        self,
        engine: Engine,
        params: Params,
        requests: Iterable[Request | None],
        key: jax.Array,
        decode_text: DecodeText | None,
    ):
        self._engine, self._params, self._key, self._decode_text = engine, params, key, decode_text
        self._lm, self._config, self._metrics = engine.lm, engine.config, engine.metrics
        self._source, self._put_back = iter(requests), collections.deque[Request]()
        self._is_exhausted = False  # nothing more comes from the source
        self._schedulers = engine._new_schedulers()
        self._shapes = shapes = engine.shapes
        self._cache = slots.empty_cache(self._lm, shapes.num_pages, shapes.page_size)
        self._metrics.pages = shapes.num_pages - shapes.num_shards
        self._slots = slots.idle_slots(shapes.num_slots, shapes.width)

    def rows(self) -> list[ActiveRequest]:
        """The rows in slots."""
        return [row for scheduler in self._schedulers for row in scheduler.rows]

    # Slots

    def fill_slots(self) -> bool:
        """Starts waiting requests as far as slots and pages suffice; False where nothing is left to do."""
        while any(scheduler.num_free_slots for scheduler in self._schedulers) and self._is_queued():
            request = self._put_back.popleft()
            to_read = request.known_ids[:-1]
            # Where its prompt lies already, else where most room is.
            schedulers = sorted(
                (scheduler for scheduler in self._schedulers if scheduler.num_free_slots),
                key=lambda scheduler: (scheduler.allocator.num_known(to_read), scheduler.num_free_slots),
                reverse=True,
            )
            started = next(filter(None, (scheduler.start(request) for scheduler in schedulers)), None)
            if started is None:
                self._put_back.appendleft(request)
                break
            self._metrics.prompt_tokens += len(to_read)
            self._metrics.shared_prompt_tokens += len(to_read) - started[1]
        return any(scheduler.rows for scheduler in self._schedulers)

    def _is_queued(self) -> bool:
        """Whether a request is waiting; looks one ahead."""
        if not self._put_back:
            for request in self._source:
                if request is None:
                    return False
                self._engine.check(request)
                if request.stop_texts and self._decode_text is None:
                    raise ValueError(f"Request {request.id} has stop texts, which need `decode_text`.")
                self._put_back.append(request)
                break
            else:
                self._is_exhausted = True
        return bool(self._put_back)

    # Prompts

    def read_prompts(self) -> None:
        """Reads prompt blocks that are not in the cache yet, up to `blocks_per_turn` on each data shard.

        And on, while most rows wait for their prompts: a step would cost the same for the few that do not.
        """
        start = time.perf_counter()
        num_calls, most_calls = 0, self._config.blocks_per_turn // self._config.prefill_blocks
        while any(scheduler.has_unread for scheduler in self._schedulers):
            if num_calls >= most_calls and not self._most_rows_wait():
                break
            batch = [
                scheduler.next_unread()
                for scheduler in self._schedulers
                for _ in range(self._config.prefill_blocks)
            ]
            self._cache = slots.read_blocks(self._lm, self._params, self._cache, self._blocks(batch))
            for block in filter(None, batch):
                block.is_read = True
            num_calls += 1
        if num_calls:
            jax.block_until_ready(self._cache)  # its time is not decoding's
            self._metrics.prefill_seconds += time.perf_counter() - start

    def _most_rows_wait(self) -> bool:
        rows = self.rows()
        return 2 * sum(row.is_ready for row in rows) < len(rows)

    def _blocks(self, batch: Sequence[Block | None]) -> slots.Blocks:
        blocks = slots.no_blocks(len(batch), self._shapes.page_size, self._shapes.width)
        for i, block in enumerate(batch):
            if block is not None:
                blocks.token_ids[i, : len(block.token_ids)] = block.token_ids
                blocks.first_positions[i] = block.first_position
                pages = block.pages
                blocks.page_table[i, : len(pages)] = pages
        return batching.place_rows(blocks, self._lm.rules)

    # Steps

    def decode(self) -> Iterator[tuple[Request, Completion]]:
        """One burst of the rows whose prompts have been read, and what ended with it."""
        num_steps = self._num_steps()
        rows = self._rows_with_pages(num_steps)
        if not rows:
            return
        is_queued, num_slots = self._is_queued(), self._shapes.num_slots
        # A look at the rows costs about a step's time where steps are short: wait for a sixteenth to end.
        # None queued at present: more may come of what ends.
        enough_done = num_slots if self._is_exhausted and not is_queued else max(1, num_slots // 16)
        start = time.perf_counter()
        # A copy: on CPU JAX may take an array as it is, and the devices of a mesh end one after the other.
        as_now = jax.tree.map(np.copy, self._slots)
        burst, self._cache = slots.decode_burst(
            self._lm,
            self._params,
            self._cache,
            batching.place_rows(as_now, self._lm.rules),
            self._key,
            np.int32(num_steps),
            np.int32(enough_done),
            max_steps=self._shapes.burst_steps,
        )
        burst = jax.device_get(burst)
        self._metrics.decode_seconds += time.perf_counter() - start
        self._metrics.add_steps(
            num_slots, int(burst.num_steps), int(burst.num_new.sum()), is_queued=is_queued
        )
        self._metrics.most_pages_used = max(
            self._metrics.most_pages_used,
            sum(scheduler.allocator.most_used for scheduler in self._schedulers),
        )
        slots.advance(self._slots, burst)
        ended: list[tuple[ShardScheduler, ActiveRequest, FinishReason]] = []
        for scheduler, row in rows:
            end = self._take_in(row, burst)
            if end is not None:
                ended.append((scheduler, row, end))
        for scheduler, row, _ in ended:
            self._leave(scheduler, row)
        for _, row, end in ended:
            yield row.request, self._completion(row, end)

    def _num_steps(self) -> int:
        rows = self.rows()
        num_steps = self._config.burst_steps
        if any(row.request.stop_texts for row in rows):
            num_steps = min(num_steps, _STEPS_WITH_STOP_TEXTS)
        return num_steps if all(row.is_ready for row in rows) else min(num_steps, _STEPS_BESIDE_PREFILL)

    def _rows_with_pages(self, num_steps: int) -> list[tuple[ShardScheduler, ActiveRequest]]:
        """The rows that can go on, each with pages for so many steps; in the order in which they started."""
        able, copies = [], slots.no_copies(self._shapes.num_slots)
        for scheduler in self._schedulers:
            for row in [row for row in scheduler.rows if row.is_ready]:
                pages_before = len(row.pages)
                while row in scheduler.rows and not scheduler.take_pages(row, num_steps):
                    self._start_again(scheduler, scheduler.rows[-1])
                if row not in scheduler.rows:  # driven out by those before it, or for want of pages by itself
                    continue
                able.append((scheduler, row))
                if not pages_before:
                    slots.enter(self._slots, row.slot, row.request, row.last_id, row.position)
                    if scheduler.page_to_copy(row):
                        copies.sources[row.slot] = scheduler.page_to_copy(row)
                        copies.targets[row.slot] = row.pages[0]
                if len(row.pages) > pages_before:
                    pages = scheduler.pages_of(row)
                    self._slots.page_table[row.slot, : len(pages)] = pages
        if copies.targets.any():
            placed = batching.place_rows(copies, self._lm.rules)
            self._cache = slots.copy_pages(self._lm, self._cache, placed)
        return able

    def _start_again(self, scheduler: ShardScheduler, row: ActiveRequest) -> None:
        """Takes a row's slot and pages away; it will start from its prompt."""
        self._leave(scheduler, row)
        self._put_back.appendleft(row.request)
        self._metrics.restarts += 1
        self._metrics.wasted_tokens += len(row.token_ids) - len(row.request.partial.token_ids)

    def _leave(self, scheduler: ShardScheduler, row: ActiveRequest) -> None:
        scheduler.leave(row)
        slots.leave(self._slots, row.slot)

    # Completions

    def _take_in(self, row: ActiveRequest, burst: slots.Burst) -> FinishReason | None:
        """Adds a burst's tokens to a row; why it ended, if it did."""
        num_new, num_before = int(burst.num_new[row.slot]), len(row.token_ids)
        if num_before == len(row.request.partial.token_ids) and num_new:
            self._metrics.seconds_to_first_token.append(time.perf_counter() - row.started)
        row.token_ids += burst.token_ids[row.slot, :num_new].tolist()
        row.log_probs.append(np.array(burst.log_probs[row.slot, :num_new]))
        row.sampler_log_probs.append(np.array(burst.sampler_log_probs[row.slot, :num_new]))
        is_stopped = bool(burst.is_stopped[row.slot])
        if row.request.stop_texts:
            length = self._length_at_stop_text(row, num_before, len(row.token_ids) - is_stopped)
            if length is not None:
                self._metrics.wasted_tokens += len(row.token_ids) - length
                del row.token_ids[length:]
                return "stop_text"
        if is_stopped:
            return "stop"
        return None if row.num_left > 0 else "length"

    def _length_at_stop_text(self, row: ActiveRequest, num_before: int, num_text: int) -> int | None:
        """Tokens up to the one that completes a stop text, if one of the last does."""
        decode_text, texts = self._decode_text, row.request.stop_texts
        assert decode_text is not None
        longest = max(len(text.encode()) for text in texts)  # a stop text that ends in a new token began here
        first = max(0, num_before - longest)
        while first and len(decode_text(row.token_ids[first:num_before])) < longest:
            first = max(0, 2 * first - num_before)  # tokens that are no text, such as skipped special ones

        def has_stop_text(length: int) -> bool:
            written = decode_text(row.token_ids[first:length])
            return any(text in written for text in texts)

        if num_text == num_before or not has_stop_text(num_text):
            return None
        return next(filter(has_stop_text, range(num_before + 1, num_text + 1)))

    def _completion(self, row: ActiveRequest, end: FinishReason) -> Completion:
        self._metrics.requests += 1
        self._metrics.new_tokens += len(row.token_ids) - len(row.request.partial.token_ids)
        self._metrics.finish_reasons[end] += 1
        num_tokens = len(row.token_ids)
        return Completion(
            token_ids=tuple(row.token_ids),
            log_probs=np.concatenate(row.log_probs)[:num_tokens],
            sampler_log_probs=np.concatenate(row.sampler_log_probs)[:num_tokens],
            finish_reason="length" if end == "length" else "stop",
            has_end=end == "stop",
            num_continued=len(row.request.partial.token_ids),
        )


def resident_between_bursts(programs: Sequence[Program], params: Params, copy_name: str) -> dict[str, Any]:
    """What an engine keeps on the chips while other programs run: its cache, and its copy of the parameters.

    Args:
        programs: of the engine, for `params`.
    """
    parts = programs[-1].parts
    copy = {copy_name: parts["parameters"]} if parts["parameters"] != params else {}
    return {"cache": parts["cache"], **copy}


def programs(
    name: str,
    lm: CausalLM,
    mesh: Mesh,
    params: Params,
    config: EngineConfig,
    *,
    max_tokens: int,
    params_name: str,
    resident: Mapping[str, Any] = types.MappingProxyType({}),
) -> list[Program]:
    """Reading prompts and decoding, for the planner.

    Args:
        params: shapes with shardings, in training layout; where decoding takes a copy of them, they are
            resident beside it under `params_name`.
        max_tokens: of a request, prompt and completion together.

    Raises:
        WrongUse: the cache cannot hold a single request of that length.
    """
    decoding_params = lm.decoding_shapes(params, mesh)
    if decoding_params != params:
        resident = {**resident, params_name: params}
    with jax.set_mesh(mesh):
        try:
            shapes = Engine(lm, config, max_tokens=max_tokens).shapes
        except ValueError as error:
            raise WrongUse(str(error)) from None
    return slots.programs(name, lm, mesh, decoding_params, shapes, context=max_tokens // 2, resident=resident)
