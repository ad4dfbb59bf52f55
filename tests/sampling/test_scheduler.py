"""Cache pages against a naive allocator: nothing twice, nothing lost, the longest unused given up first."""

import dataclasses

import numpy as np
import pytest

from promptcot_jax.sampling import scheduler as scheduler_lib
from promptcot_jax.sampling import token_choice
from promptcot_jax.sampling.completions import Request

PAGE = 4


@dataclasses.dataclass
class NaiveBlock:
    page: int
    users: int = 0
    is_read: bool = False
    unused_since: int = 0


class NaiveBook:
    """What a `BlockAllocator` should say, found by looking at everything; all its tokens name a block."""

    def __init__(self, num_pages: int):
        self.free = set(range(1, num_pages))
        self.blocks: dict[tuple[int, ...], NaiveBlock] = {}
        self.most_used, self.num_pages, self.clock = 0, num_pages, 0

    def prefixes(self, prompt):
        return [prompt[: min(start + PAGE, len(prompt))] for start in range(0, len(prompt), PAGE)]

    def built_on(self, prefix):
        """The blocks behind a block: none behind one that a prompt's end left unfinished."""
        return [p for p in self.blocks if p[: len(prefix)] == prefix != p and len(prefix) % PAGE == 0]

    def unused(self):
        return {prefix: block for prefix, block in self.blocks.items() if not block.users}

    @property
    def num_available(self):
        return len(self.free) + len(self.unused())

    def take(self, page):
        if not self.free:
            longest = min(self.unused(), key=lambda prefix: self.blocks[prefix].unused_since)
            assert not self.built_on(longest)
            self.free.add(self.blocks.pop(longest).page)
        self.free.remove(page)  # a KeyError here: the page was not to be had
        self.note()

    def use(self, prompt, blocks, new):
        known = [prefix in self.blocks for prefix in self.prefixes(prompt)]
        assert known == sorted(known, reverse=True)
        assert [block not in new for block in blocks] == known
        for prefix, block, is_known in zip(self.prefixes(prompt), blocks, known, strict=True):
            if is_known:
                assert self.blocks[prefix].page == block.page
                self.blocks[prefix].users += 1
                self.note()
            else:
                self.take(block.page)
                self.blocks[prefix] = NaiveBlock(block.page, users=1)

    def release(self, prompt):
        for prefix in reversed(self.prefixes(prompt)):
            block = self.blocks[prefix]
            block.users -= 1
            self.clock += 1
            block.unused_since = self.clock
            if not block.users and not block.is_read:
                self.free.add(self.blocks.pop(prefix).page)

    def note(self):
        self.most_used = max(self.most_used, self.num_pages - 1 - self.num_available)


def random_prompt(rng):
    """Few different tokens and lengths, so that prompts share much and end within pages and at their ends."""
    return tuple(rng.integers(0, 2, rng.integers(0, 15)).tolist())


@pytest.mark.parametrize(("num_pages", "seed"), [(9, 0), (30, 1)])
def test_the_book_agrees_with_a_naive_one(num_pages, seed):
    rng = np.random.default_rng(seed)
    allocator, naive = scheduler_lib.BlockAllocator(num_pages, PAGE), NaiveBook(num_pages)
    in_use: list[tuple[tuple[int, ...], list[scheduler_lib.Block]]] = []
    own: list[int] = []
    seen = dict.fromkeys(["use", "refused", "release", "read", "take", "none left", "give back"], 0)
    for _ in range(2000):
        kind = rng.choice(["use", "use", "release", "read", "take", "give back"])
        if kind == "use":
            prompt = random_prompt(rng)
            prefixes = naive.prefixes(prompt)
            num_known = next((i for i, p in enumerate(prefixes) if p not in naive.blocks), len(prefixes))
            num_shared = sum(naive.blocks[p].users > 0 for p in prefixes if p in naive.blocks)
            assert allocator.num_known(prompt) == num_known
            assert allocator.num_to_take(prompt) == len(prefixes) - num_shared
            fits = len(prefixes) - num_shared <= naive.num_available
            taken = allocator.use_blocks(prompt)
            assert (taken is not None) == fits
            if taken is None:
                kind = "refused"
            else:
                blocks, new = taken
                naive.use(prompt, blocks, new)
                assert sum((block.token_ids for block in blocks), ()) == prompt
                assert [block.first_position for block in blocks] == list(range(0, len(prompt), PAGE))
                assert all(b.pages == [c.page for c in blocks[: i + 1]] for i, b in enumerate(blocks))
                in_use.append((prompt, blocks))
        elif kind == "release" and in_use:
            prompt, blocks = in_use.pop(rng.integers(len(in_use)))
            allocator.release_blocks(blocks)
            naive.release(prompt)
        elif kind == "read" and in_use:
            prompt, blocks = in_use[rng.integers(len(in_use))]
            for prefix, block in list(zip(naive.prefixes(prompt), blocks, strict=True))[: rng.integers(1, 5)]:
                block.is_read = naive.blocks[prefix].is_read = True
        elif kind == "take":
            num_available = naive.num_available
            page = allocator.take_page()
            assert (page is None) == (num_available == 0)
            if page is None:
                kind = "none left"
            else:
                naive.take(page)
                own.append(page)
        elif kind == "give back" and own:
            given = [own.pop(rng.integers(len(own))) for _ in range(rng.integers(1, len(own) + 1))]
            allocator.give_back(given)
            naive.free |= set(given)
        seen[kind] += 1
        owned = [*own, *(block.page for block in naive.blocks.values()), *naive.free]
        assert sorted(owned) == list(range(1, num_pages))  # each once, and page 0 never
        assert (allocator.num_available, allocator.most_used) == (naive.num_available, naive.most_used)
    assert min(seen.values()) > 20


def test_a_prompt_of_thousands_of_blocks_is_no_harder_than_a_short_one():
    allocator = scheduler_lib.BlockAllocator(5001, 2)
    taken = allocator.use_blocks([1] * 10_000)
    assert taken is not None
    assert len(taken[0][-1].pages) == 5000


def request(number, prompt, budget):
    return Request(id=number, prompt_ids=prompt, sampling=token_choice.SamplingConfig(max_new_tokens=budget))


@pytest.mark.parametrize(("num_pages", "num_tokens"), [(5, 2), (15, 2), (10 * 5, 100)])
def test_rows_of_a_shard_never_meet_on_a_page_that_one_of_them_writes(num_pages, num_tokens):
    """Ten slots and pages for one longest request, for three, and for all at a time, with little to share.

    The longest request has 16 tokens, which take 4 pages, and one for the end of its prompt.
    """
    rng = np.random.default_rng(num_pages)
    scheduler = scheduler_lib.ShardScheduler(range(10, 20), num_pages + 1, PAGE)
    is_roomy = num_pages == 50
    num_refused = num_driven_out = num_read = 0
    for number in range(400):
        for _ in range(min(scheduler.num_free_slots, rng.integers(5))):
            prompt = tuple(rng.integers(0, num_tokens, rng.integers(1, 9)).tolist())
            num_known = min(scheduler.allocator.num_known(prompt[:-1]) * PAGE, len(prompt) - 1)
            started = scheduler.start(request(number, prompt, int(rng.integers(1, 9))))
            if started is None:
                assert scheduler.rows  # a scheduler without rows takes any request
                assert not is_roomy
                num_refused += 1
                break
            else:
                row, num_to_read = started
                assert num_to_read == len(prompt) - 1 - num_known
                assert (row.position, row.last_id) == (len(prompt) - 1, prompt[-1])
                # A page for each row that will need one: rows do not drive each other out at once.
                growing = [
                    r for r in scheduler.rows if len(scheduler.pages_of(r)) * PAGE < r.position + r.num_left
                ]
                assert len(scheduler.rows) == 1 or scheduler.allocator.num_available >= len(growing)
        for _ in range(rng.integers(8)):
            block = scheduler.next_unread()
            if block is None:
                assert not scheduler.has_unread
                break
            assert block.users
            assert not block.is_read
            assert block.parent is None or block.parent.is_read
            block.is_read = True
            num_read += 1
        for row in list(scheduler.rows):
            assert row.is_ready == all(block.is_read for block in row.blocks)
            if not row.is_ready or row not in scheduler.rows:
                continue
            num_steps = int(rng.integers(1, 3))
            while row in scheduler.rows and not scheduler.take_pages(row, num_steps):
                assert not is_roomy
                assert len(scheduler.rows) > 1  # alone, a row always has pages enough
                scheduler.leave(scheduler.rows[-1])
                num_driven_out += 1
            if row not in scheduler.rows:
                continue
            row.token_ids += [0] * min(num_steps, row.num_left)
            assert len(scheduler.pages_of(row)) * PAGE >= row.position  # room for all that has been read
            is_unfinished = (len(row.request.prompt_ids) - 1) % PAGE
            assert scheduler.page_to_copy(row) == (row.blocks[-1].page if is_unfinished else 0)
            if not row.num_left or rng.random() < 0.1:
                scheduler.leave(row)
        taken = [row.slot for row in scheduler.rows]
        assert len(set(taken)) == len(taken) == 10 - scheduler.num_free_slots
        assert set(taken) <= set(range(10, 20))
        own = [page for row in scheduler.rows for page in row.pages]
        shared = {block.page for row in scheduler.rows for block in row.blocks}
        assert len(set(own)) == len(own)
        assert not shared & set(own)
        assert 0 not in shared | set(own)
        assert scheduler.allocator.num_available == num_pages - len(own) - len(shared)
    assert num_read > 200
    assert is_roomy or (num_refused > 10 and num_driven_out > 0)
