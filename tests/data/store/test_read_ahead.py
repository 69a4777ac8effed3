"""Reading ahead keeps the order of the items and bounds how many are in memory."""

from __future__ import annotations

import threading
import time
import weakref

import pytest

from pipeline.data.store.read_ahead import read_ahead


def test_results_have_the_order_of_the_items():
    def read(item: int) -> int:
        time.sleep(0.01 * (item % 3 == 0))  # later items finish first
        return item

    assert list(read_ahead(read, range(20), num_threads=4, num_ahead=8)) == list(range(20))


def test_no_more_items_are_read_than_asked_for():
    started: list[int] = []
    lock = threading.Lock()

    def read(item: int) -> int:
        with lock:
            started.append(item)
        return item

    for num_results, _ in enumerate(read_ahead(read, range(50), num_threads=4, num_ahead=6), 1):
        time.sleep(0.002)  # time enough to read too many
        assert len(started) <= num_results + 6
    assert sorted(started) == list(range(50))


def test_items_are_read_at_once():
    barrier = threading.Barrier(3, timeout=120)  # breaks unless three reads wait for each other
    assert len(list(read_ahead(lambda _: barrier.wait(), range(6), num_threads=3, num_ahead=3))) == 6


def test_an_error_is_raised_in_place_of_its_result():
    def read(item: int) -> int:
        if item == 2:
            raise FileNotFoundError(str(item))
        return item

    results = read_ahead(read, range(5), num_threads=2, num_ahead=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(FileNotFoundError, match="2"):
        next(results)


def test_the_bytes_in_memory_are_bounded():
    sizes = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    largest = 0
    held: dict[int, int] = {}
    lock = threading.Lock()

    def read(item: int) -> int:
        nonlocal largest
        with lock:
            held[item] = sizes[item]
            largest = max(largest, sum(held.values()))
        return item

    results = read_ahead(
        read, range(len(sizes)), num_threads=4, num_ahead=4, size=sizes.__getitem__, max_bytes=8
    )
    for item in results:
        time.sleep(0.002)  # time enough to read too much
        with lock:
            del held[item]
    assert largest == 9, "the item of 9 is read, and read alone"


def test_three_items_are_read_at_once_if_the_bytes_of_three_fit():
    barrier = threading.Barrier(3, timeout=120)
    results = read_ahead(
        lambda _: barrier.wait(), range(6), num_threads=6, num_ahead=6, size=lambda _: 4, max_bytes=12
    )
    assert len(list(results)) == 6


def test_a_result_that_the_consumer_drops_is_freed_before_the_next_is_read():
    class Content:
        pass

    alive: list[weakref.ref[Content]] = []

    def read(_item: int) -> Content:
        assert not any(content() for content in alive)
        content = Content()
        alive.append(weakref.ref(content))
        return content

    results = read_ahead(read, range(5), num_threads=2, num_ahead=2, size=lambda _: 10, max_bytes=5)
    num_results = 0
    while (content := next(results, None)) is not None:
        num_results += 1
        del content
    assert num_results == 5
