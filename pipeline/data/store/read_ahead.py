"""Read many files concurrently, in order, with a bounded number of them in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    read: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_threads: int,
    num_ahead: int,
    size: Callable[[Item], int] | None = None,
    max_bytes: int = 2**63,
) -> Iterator[Result]:
    """Call `read` on each item in threads and yield the results in the order of the items.

    Args:
        read: reads one item; an exception is raised where its result would be yielded.
        items: consumed only as far as `num_ahead` requires.
        num_threads: how many calls run at once.
        num_ahead: how many items are being read, or wait in memory, while the consumer handles a result.
        size: size of an item in bytes; None if sizes do not matter.
        max_bytes: most bytes in memory at once; a larger item is read alone.
    """
    remaining = iter(items)
    pending: deque[tuple[Future[Result], int]] = deque()
    upcoming: Item | None = next(remaining, None)
    num_bytes = 0
    with ThreadPoolExecutor(num_threads) as pool:
        while pending or upcoming is not None:
            while upcoming is not None and len(pending) < num_ahead:
                item_bytes = size(upcoming) if size else 0
                if pending and num_bytes + item_bytes > max_bytes:
                    break
                pending.append((pool.submit(read, upcoming), item_bytes))
                num_bytes += item_bytes
                upcoming = next(remaining, None)
            result, item_bytes = pending[0][0].result(), pending[0][1]
            pending.popleft()
            yield result
            num_bytes -= item_bytes
