"""Read many files concurrently, in order, with a bounded number of them and of their bytes in memory."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_BYTES_AHEAD = 256 * 2**20
"""A sensible bound for audio files: 16 of eight minutes at 16 kHz, or one of any size."""

MAX_FILE_BYTES = 4 * 2**30
"""Bytes of the largest file that is read into memory as a whole; no wav file without RF64 can be larger."""


def read_ahead(
    read: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_threads: int,
    num_ahead: int,
    size: Callable[[Item], int] = lambda _: 0,
    max_bytes: int = MAX_BYTES_AHEAD,
) -> Generator[Result, None, None]:
    """Call `read` on each item in threads and yield the results in the order of the items.

    Args:
        read: reads one item; an exception is raised where its result would be yielded.
        items: consumed only as far as `num_ahead` and `max_bytes` require, and one item beyond.
        num_threads: how many calls run at once.
        num_ahead: how many items are being read, or wait in memory, while the consumer handles a result.
        size: the bytes of an item in memory.
        max_bytes: bound for the bytes of these items and of the one that the consumer handles. An item that is larger
            is read once it is the only one; a consumer that drops each result before it asks for the next then holds
            one in memory.
    """
    remaining = iter(items)
    upcoming: deque[Item] = deque()
    pending: deque[tuple[Future[Result], int]] = deque()
    num_bytes = 0  # of the pending items and of the one that the consumer handles

    with ThreadPoolExecutor(num_threads) as pool:

        def submit() -> None:
            nonlocal num_bytes
            while len(pending) < num_ahead:
                upcoming.extend(itertools.islice(remaining, 1 - len(upcoming)))
                if not upcoming or (num_bytes and num_bytes + size(upcoming[0]) > max_bytes):
                    return
                item = upcoming.popleft()
                pending.append((pool.submit(read, item), size(item)))
                num_bytes += size(item)

        submit()
        while pending:
            future, held = pending.popleft()
            result = future.result()
            submit()
            yield result
            del future, result  # before the next one is read
            num_bytes -= held
            submit()
