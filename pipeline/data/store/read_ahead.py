"""Read many files concurrently, in order, with a bounded number of them in memory."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    read: Callable[[Item], Result], items: Iterable[Item], *, num_threads: int, num_ahead: int
) -> Iterator[Result]:
    """Call `read` on each item in threads and yield the results in the order of the items.

    Args:
        read: reads one item; an exception is raised where its result would be yielded.
        items: consumed only as far as `num_ahead` requires.
        num_threads: how many calls run at once.
        num_ahead: how many items are being read, or wait in memory, while the consumer handles a result.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(num_threads) as pool:
        pending = deque(pool.submit(read, item) for item in itertools.islice(remaining, num_ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(read, item) for item in itertools.islice(remaining, 1))
            yield result
