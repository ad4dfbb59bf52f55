"""Slots and cache pages of one data shard: who enters, grows, leaves, and which prompt blocks are shared.

A prompt is cut into blocks of a page. A block is known by the block before it and its tokens, so whatever
requests have in common from their start (all of it, a few-shot header, a system message) is read once and
lies in memory once. A block stays after its last user has gone until its page is needed; the longest unused
goes first. A request has the whole blocks of its prompt, which it may share, then pages of its own. A prompt
that ends within a page shares that page too: the request starts from a copy of it.

All of this lives on the host and never touches an array.
"""

import collections
import dataclasses
import time
from collections.abc import Iterator, Sequence

import numpy as np

from promptcot_jax.sampling.completions import Request


@dataclasses.dataclass(eq=False)
class Block:
    """One page of prompt tokens and how many requests build on it."""

    parent: "Block | None"
    token_ids: tuple[int, ...]  # fewer than a page: what a prompt leaves of its last page
    first_position: int
    page: int
    users: int = 0
    is_read: bool = False

    @property
    def pages(self) -> list[int]:
        """Its page and those of the blocks before it, in the order of their tokens."""
        pages, block = [], self
        while block is not None:
            pages.append(block.page)
            block = block.parent
        return pages[::-1]


class BlockAllocator:
    """The pages 1 .. num_pages - 1 of one cache (page 0 belongs to no request)."""

    def __init__(self, num_pages: int, page_size: int):
        self.page_size = page_size
        self.num_pages = num_pages
        self.most_used = 0
        self._free = list(range(num_pages - 1, 0, -1))
        self._blocks: dict[tuple[Block | None, tuple[int, ...]], Block] = {}
        self._unused: collections.OrderedDict[Block, None] = collections.OrderedDict()  # longest unused first

    @property
    def num_available(self) -> int:
        """Pages that can be had now, free ones and those of unused blocks."""
        return len(self._free) + len(self._unused)

    def take_page(self) -> int | None:
        """A page for one request alone; None where there is none left."""
        if not self._free:
            if not self._unused:
                return None
            # Whoever uses a block uses its parents and lets go of it before them: a block is never put aside
            # before those that build on it.
            block, _ = self._unused.popitem(last=False)
            del self._blocks[block.parent, block.token_ids]
            self._free.append(block.page)
        page = self._free.pop()
        self._count_used()
        return page

    def give_back(self, pages: Sequence[int]) -> None:
        """Returns pages that one request had alone."""
        self._free.extend(pages)

    def num_known(self, token_ids: Sequence[int]) -> int:
        """How many blocks of a prompt are there already."""
        return sum(1 for _ in self._known_blocks(token_ids))

    def num_to_take(self, token_ids: Sequence[int]) -> int:
        """How many of the available pages `use_blocks` would take: none for blocks that others use now."""
        num_in_use = sum(block.users > 0 for block in self._known_blocks(token_ids))
        return -(-len(token_ids) // self.page_size) - num_in_use

    def use_blocks(self, token_ids: Sequence[int]) -> tuple[list[Block], list[Block]] | None:
        """The blocks of a prompt, in order, and those among them that are new and still to be read.

        None, and nothing taken or forgotten, where the pages do not suffice.
        """
        if self.num_to_take(token_ids) > self.num_available:
            return None
        blocks, new = [], []
        parent = None
        for start in range(0, len(token_ids), self.page_size):
            piece = tuple(token_ids[start : start + self.page_size])
            block = self._blocks.get((parent, piece))
            if block is None:
                page = self.take_page()
                assert page is not None
                block = Block(parent, piece, start, page)
                self._blocks[parent, piece] = block
                new.append(block)
            self._unused.pop(block, None)
            self._count_used()
            block.users += 1
            blocks.append(block)
            parent = block
        return blocks, new

    def release_blocks(self, blocks: Sequence[Block]) -> None:
        """One user fewer for each; the last of a prompt first, so that it is also given up first.

        A block that nobody uses and that was never read is forgotten at once.
        """
        for block in reversed(blocks):
            block.users -= 1
            if block.users:
                continue
            if block.is_read:
                self._unused[block] = None
            else:
                del self._blocks[block.parent, block.token_ids]
                self._free.append(block.page)

    def _known_blocks(self, token_ids: Sequence[int]) -> Iterator[Block]:
        parent = None
        for start in range(0, len(token_ids), self.page_size):
            parent = self._blocks.get((parent, tuple(token_ids[start : start + self.page_size])))
            if parent is None:
                return
            yield parent

    def _count_used(self) -> None:
        self.most_used = max(self.most_used, self.num_pages - 1 - self.num_available)


@dataclasses.dataclass(eq=False)
class ActiveRequest:
    """A request in a slot."""

    request: Request
    slot: int  # among the slots of all schedulers
    blocks: list[Block]
    num_full_blocks: int  # of its prompt; what comes after them is in pages of its own
    started: float  # seconds of `time.perf_counter`
    may_grow: bool = True  # whether it may need more pages than it has
    pages: list[int] = dataclasses.field(default_factory=list)  # its own
    token_ids: list[int] = dataclasses.field(default_factory=list)
    log_probs: list[np.ndarray] = dataclasses.field(default_factory=list)  # by bursts
    sampler_log_probs: list[np.ndarray] = dataclasses.field(default_factory=list)

    @property
    def last_id(self) -> int:
        """The token to read next."""
        return self.token_ids[-1] if self.token_ids else self.request.prompt_ids[-1]

    @property
    def position(self) -> int:
        """Of the token to read next."""
        return len(self.request.prompt_ids) - 1 + len(self.token_ids)

    @property
    def num_left(self) -> int:
        """Tokens it may still choose."""
        return self.request.sampling.max_new_tokens - len(self.token_ids)

    @property
    def is_ready(self) -> bool:
        """Whether its prompt has been read, of which the last block comes last."""
        return not self.blocks or self.blocks[-1].is_read


class ShardScheduler:
    """Slots and pages of one data shard; rows of different schedulers share nothing but the weights."""

    def __init__(self, slots: range, num_pages: int, page_size: int):
        self.allocator = BlockAllocator(num_pages, page_size)
        self.rows: list[ActiveRequest] = []  # in the order of their starts
        self._num_growing = 0  # rows that may grow
        self._free_slots = list(reversed(slots))
        self._unread: collections.deque[Block] = collections.deque()

    @property
    def num_free_slots(self) -> int:
        return len(self._free_slots)

    @property
    def has_unread(self) -> bool:
        """Whether blocks wait to be read."""
        return any(block.users for block in self._unread)

    def start(self, request: Request) -> tuple[ActiveRequest, int] | None:
        """Puts a request into a free slot, with how many tokens of it are to be read; None: no pages for it.

        A page more is asked for than the prompt takes, and one for each row under way that may take one yet,
        lest rows drive each other out at once.
        """
        to_read = request.known_ids[:-1]  # the last token is read by the first decode step
        num_wanted = self.allocator.num_to_take(to_read) + 1 + self._num_growing
        if self.rows and self.allocator.num_available < num_wanted:
            return None
        taken = self.allocator.use_blocks(to_read)
        if taken is None:
            return None
        blocks, new_blocks = taken
        self._unread.extend(new_blocks)
        num_full_blocks = len(to_read) // self.allocator.page_size
        row = ActiveRequest(request, self._free_slots.pop(), blocks, num_full_blocks, time.perf_counter())
        row.token_ids.extend(request.partial.token_ids)
        row.log_probs.append(request.partial.log_probs)
        row.sampler_log_probs.append(request.partial.sampler_log_probs)
        self.rows.append(row)
        self._num_growing += 1
        return row, sum(len(block.token_ids) for block in new_blocks)

    def leave(self, row: ActiveRequest) -> None:
        """Frees a row's slot and pages."""
        self.rows.remove(row)
        self._num_growing -= row.may_grow
        self._free_slots.append(row.slot)
        self.allocator.give_back(row.pages)
        self.allocator.release_blocks(row.blocks)

    def next_unread(self) -> Block | None:
        """The next block to read, parents before children."""
        while self._unread:
            block = self._unread.popleft()
            if block.users:  # else its requests have gone, and its page with them
                return block
        return None

    def take_pages(self, row: ActiveRequest, num_steps: int) -> bool:
        """Gives a row the pages for so many steps; False where there are too few, which it keeps."""
        while self._lacks_page(row, num_steps):
            page = self.allocator.take_page()
            if page is None:
                return False
            row.pages.append(page)
        if row.may_grow and not self._lacks_page(row, row.num_left):
            row.may_grow = False
            self._num_growing -= 1
        return True

    def page_to_copy(self, row: ActiveRequest) -> int:
        """The page that a row's first own page begins as a copy of; 0: it begins empty."""
        return row.blocks[-1].page if len(row.blocks) > row.num_full_blocks else 0

    def pages_of(self, row: ActiveRequest) -> list[int]:
        """A row's pages in the order of its tokens."""
        return [block.page for block in row.blocks[: row.num_full_blocks]] + row.pages

    def _lacks_page(self, row: ActiveRequest, num_steps: int) -> bool:
        last_position = row.position + min(num_steps, row.num_left) - 1
        return row.num_full_blocks + len(row.pages) <= last_position // self.allocator.page_size
