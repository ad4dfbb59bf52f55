"""The rows of one data shard: which request is in which slot, and which cache pages it has.

A row's pages are the blocks of its prompt, which it may share, then pages of its own. A prompt that ends
within a page shares that page too: the row starts from a copy of it.
"""

import collections
import dataclasses
import time

import numpy as np

from promptcot_jax.sampling.block_allocator import Block, BlockAllocator
from promptcot_jax.sampling.completions import Request


@dataclasses.dataclass(eq=False)
class Row:
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
        self.rows: list[Row] = []  # in the order of their starts
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

    def start(self, request: Request) -> tuple[Row, int] | None:
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
        row = Row(request, self._free_slots.pop(), blocks, num_full_blocks, time.perf_counter())
        row.token_ids.extend(request.begun.token_ids)
        row.log_probs.append(request.begun.log_probs)
        row.sampler_log_probs.append(request.begun.sampler_log_probs)
        self.rows.append(row)
        self._num_growing += 1
        return row, sum(len(block.token_ids) for block in new_blocks)

    def leave(self, row: Row) -> None:
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

    def take_pages(self, row: Row, num_steps: int) -> bool:
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

    def page_to_copy(self, row: Row) -> int:
        """The page that a row's first own page begins as a copy of; 0: it begins empty."""
        return row.blocks[-1].page if len(row.blocks) > row.num_full_blocks else 0

    def pages_of(self, row: Row) -> list[int]:
        """A row's pages in the order of its tokens."""
        return [block.page for block in row.blocks[: row.num_full_blocks]] + row.pages

    def _lacks_page(self, row: Row, num_steps: int) -> bool:
        last_position = row.position + min(num_steps, row.num_left) - 1
        return row.num_full_blocks + len(row.pages) <= last_position // self.allocator.page_size
