"""Which cache pages are whose: prompt blocks that requests share, and pages of one request alone.

A prompt is cut into blocks of a page. A block is known by the block before it and its tokens, so whatever
requests have in common from their start (all of it, a few-shot header, a system turn) is read once and lies
in memory once. A block stays after its last user has gone until its page is needed; the longest unused goes
first. All of this lives on the host and never touches an array.
"""

import collections
import dataclasses
from collections.abc import Iterator, Sequence


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
    """The pages 1 .. num_pages - 1 of one cache (page 0 is nobody's)."""

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
