"""Reading ahead keeps the order of the items and bounds how many are in memory."""

from __future__ import annotations

import threading
import time

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
