"""Which utterances make batch g of an epoch: a pure plan that answers for any g at once.

Shards are visited in a random order, `window_shards` at a time. Inside a window the utterances are shuffled
and dealt into buckets of like length; batch j of a bucket is a slice of that bucket's sequence, which runs on
across windows. Counts alone say where each batch lies, so the number of batches is known before any audio is
read, and nothing is replayed to resume. What does not fill a batch at the end of a bucket moves up to the next
longer one; only the last bucket leaves a rest, and it is reported.

How far training is in an epoch is one number, the first batch that nobody has taken: any number of ranks goes on
from there with nothing repeated and nothing skipped. At the end of an epoch up to world − 1 batches have no
partner on the other ranks and are left over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.data.loading.buckets import (
    BatchConfig,
    Buckets,
    DrawnRows,
    draw_rows,
    plan_buckets,
    slices,
    weight_table,
)
from pipeline.data.loading.hash_random import hash64, hash_order, hash_uniform
from pipeline.data.store.index import Index

WINDOWS_KEPT = 4

RUN_BATCHES = 8
"""Batches of one bucket in a row, so that ranks at the same step have equal loads."""

# Purposes of draws: each is part of a key, so that no two draws are alike.
_SHARDS, _UTTERANCES, _RUNS, _CROP_START, _AUGMENT = 11, 12, 13, 14, 15

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class PlannedBatch:
    """The members of one batch; each array is [B]."""

    rows: NDArray[np.int64]
    """Rows of the index."""
    num_samples: NDArray[np.int64]
    """Length after cropping."""
    crop_start: NDArray[np.float64]
    """Where a crop begins, as a fraction in [0, 1) of the places it can begin at."""
    augment_seed: NDArray[np.uint64]
    padded_samples: int
    """Length that all are padded to, the same for every batch of a bucket."""


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What an epoch draws: available = used + leftover + too_short + too_long."""

    num_batches: int
    num_steps: int
    available: int
    """Utterances the weights ask for; one with weight 2 counts twice."""
    used: int
    leftover: int
    """Those that fill no batch, or one of the last batches that not every rank gets."""
    too_short: int
    too_long: int
    audio_s: float
    """Audio that is used, after cropping."""
    padding: float
    """Share of the batches that is padding."""


class EpochPlan:
    """The batches of one epoch, numbered from 0; at step t rank r takes batch first_batch + t · world + r.

    Pure: the same index, configuration and epoch give the same batches in any process. It holds the counts of
    each visited shard and the rows of a few windows beside the index.
    """

    def __init__(self, index: Index, config: BatchConfig, epoch: int = 0, buckets: Buckets | None = None):
        self.index = index
        self.config = config
        self.epoch = epoch
        self.buckets = buckets or plan_buckets(index, config)
        """The same for all epochs of an index: hand them on to spare a pass over it."""
        self._weights = weight_table(index, config)
        self._first_row = np.searchsorted(index.shard, np.arange(len(index.shards) + 1))
        self._draws: OrderedDict[int, tuple[DrawnRows, NDArray[np.int64]]] = OrderedDict()
        self._orders: OrderedDict[int, NDArray[np.int64]] = OrderedDict()
        self._count_visits()
        self._lay_out_batches()

    @property
    def num_batches(self) -> int:
        """Batches of the epoch, for all ranks together."""
        return int(self._batches_before[-1])

    def num_steps(self, world: int, first_batch: int = 0) -> int:
        """Steps from a batch to the end of the epoch, the same for each of `world` ranks."""
        return (self.num_batches - first_batch) // world

    def batch_numbers(self, rank: int, world: int, first_batch: int = 0) -> range:
        """The batches that a rank takes from `first_batch` to the end of the epoch, one a step."""
        assert 0 <= rank < world
        end = first_batch + self.num_steps(world, first_batch) * world
        return range(first_batch + rank, end, world)

    def __getitem__(self, number: int) -> PlannedBatch:
        """Batch `number` of the epoch."""
        if not 0 <= number < self.num_batches:
            raise IndexError(f"batch {number} of {self.num_batches}")
        window = int(np.searchsorted(self._batches_before, number, side="right")) - 1
        bucket, place = self._order(window)[number - self._batches_before[window]].tolist()
        size = int(self.buckets.batch_size[bucket])
        draws = self._take(bucket, place * size, (place + 1) * size)
        key = (self.config.seed, self.epoch)
        word = _word(self.index, draws)
        return PlannedBatch(
            rows=draws.rows,
            num_samples=draws.num_samples.astype(np.int64),
            crop_start=hash_uniform(word, _CROP_START, *key),
            augment_seed=hash64(word, _AUGMENT, *key),
            padded_samples=int(self.buckets.padded_samples[bucket]),
        )

    def report(self, world: int = 1) -> EpochReport:
        """Count what `world` ranks use of the epoch and what is left of it."""
        num_steps = self.num_steps(world)
        last = len(self.buckets) - 1
        rest = self._take(last, int(self._in_batches[last]), int(self._in_reach[last]))
        spare = [self[number] for number in range(num_steps * world, self.num_batches)]
        leftover = len(rest.rows) + sum(len(batch.rows) for batch in spare)
        unused = int(rest.num_samples.sum()) + sum(int(batch.num_samples.sum()) for batch in spare)
        padded = int(self._in_batches @ self.buckets.padded_samples)
        padded -= sum(len(batch.rows) * batch.padded_samples for batch in spare)
        audio = self._num_samples - unused
        fitting = int(self._dealt[-1].sum())
        return EpochReport(
            num_batches=self.num_batches,
            num_steps=num_steps,
            available=fitting + self._too_short + self._too_long,
            used=fitting - leftover,
            leftover=leftover,
            too_short=self._too_short,
            too_long=self._too_long,
            audio_s=audio / SAMPLE_RATE,
            padding=1 - audio / padded if padded else 0.0,
        )

    def _count_visits(self) -> None:
        """Count per visit and bucket. A shard is visited once for each copy that is drawn from it."""
        width = len(self.buckets) + 2
        num_copies = int(np.ceil(self._weights.max()))
        shards, copies, counts, self._num_samples = [], [], [], 0
        for begin, end, rows in slices(self.index):
            for copy in range(num_copies):
                draws = draw_rows(self.index, rows, copy, self._weights, self.config, self.epoch)
                bucket = self.buckets.find(draws.num_samples)
                cell = (self.index.shard[draws.rows] - begin) * width + bucket
                count = np.bincount(cell, minlength=(end - begin) * width).reshape(-1, width)
                self._num_samples += int(draws.num_samples[bucket < width - 2].sum(dtype=np.int64))
                visited = np.flatnonzero(count.any(axis=1))
                shards.append(begin + visited)
                copies.append(np.full(len(visited), copy))
                counts.append(count[visited])
        self._visits = np.stack([np.concatenate(shards), np.concatenate(copies)], axis=1)
        count = np.concatenate(counts)
        self._counts, self._too_short, self._too_long = (
            count[:, :-2],
            int(count[:, -2].sum()),
            int(count[:, -1].sum()),
        )

    def _lay_out_batches(self) -> None:
        """Order the visits, cut them into windows, and number the batches of each."""
        word = self._visits[:, 0].astype(np.uint64) << np.uint64(8) | self._visits[:, 1].astype(np.uint64)
        order = hash_order(word, _SHARDS, self.config.seed, self.epoch)
        self._visits = self._visits[order]
        num_windows = max(1, -(-len(order) // self.config.window_shards))
        self._window_ends = np.arange(num_windows + 1) * len(order) // num_windows
        # Utterances of each bucket that are dealt before each window.
        running = np.concatenate(
            [np.zeros((1, len(self.buckets)), np.int64), np.cumsum(self._counts[order], axis=0)]
        )
        self._dealt = running[self._window_ends]
        size = self.buckets.batch_size
        self._in_reach = self._dealt[-1].copy()
        self._in_batches = np.zeros_like(self._in_reach)
        rest = 0
        for bucket in range(len(self.buckets)):
            self._in_reach[bucket] += rest
            self._in_batches[bucket] = self._in_reach[bucket] // size[bucket] * size[bucket]
            rest = int(self._in_reach[bucket] - self._in_batches[bucket])
        # Batches of each bucket that are complete before each window; what moved up belongs to the last.
        self._complete = self._dealt // size
        self._complete[-1] = self._in_batches // size
        self._batches_before = self._complete.sum(axis=1)

    def _order(self, window: int) -> NDArray[np.int64]:
        """[batches of the window, 2] Bucket and place in the bucket, in the order of the epoch."""
        return _cached(self._orders, window, self._make_order)

    def _make_order(self, window: int) -> NDArray[np.int64]:
        number = self._complete[window + 1] - self._complete[window]
        bucket = np.repeat(np.arange(len(number)), number)
        place = np.arange(number.sum()) - np.repeat(
            np.cumsum(number) - number - self._complete[window], number
        )
        run = bucket.astype(np.uint64) << np.uint64(40) | (place // RUN_BATCHES).astype(np.uint64)
        order = hash_order(run, _RUNS, self.config.seed, self.epoch)
        return np.stack([bucket, place], axis=1)[order]

    def _take(self, bucket: int, begin: int, end: int) -> DrawnRows:
        """Members `begin` … `end` of a bucket's sequence: its own, then what the shorter bucket left."""
        pieces = []
        own = int(self._dealt[-1, bucket])
        window = int(np.searchsorted(self._dealt[:, bucket], begin, side="right")) - 1
        while begin < min(end, own):
            draws, first = self._window(window)
            stop = min(end, int(self._dealt[window + 1, bucket]))
            shift = int(first[bucket] - self._dealt[window, bucket])
            pieces.append(_pick(draws, slice(begin + shift, stop + shift)))
            begin, window = stop, window + 1
        if begin < end:
            shift = int(self._in_batches[bucket - 1]) - own
            pieces.append(self._take(bucket - 1, begin + shift, end + shift))
        return _join(pieces)

    def _window(self, window: int) -> tuple[DrawnRows, NDArray[np.int64]]:
        """The shuffled draws of a window, sorted by bucket, and where each bucket begins."""
        return _cached(self._draws, window, self._draw_window)

    def _draw_window(self, window: int) -> tuple[DrawnRows, NDArray[np.int64]]:
        visits = self._visits[self._window_ends[window] : self._window_ends[window + 1]]
        pieces = []
        for shard, copy in visits.tolist():
            rows = slice(int(self._first_row[shard]), int(self._first_row[shard + 1]))
            pieces.append(draw_rows(self.index, rows, copy, self._weights, self.config, self.epoch))
        draws = _join(pieces)
        bucket = self.buckets.find(draws.num_samples)
        shuffled = hash_order(_word(self.index, draws), _UTTERANCES, self.config.seed, self.epoch)
        dealt = shuffled[np.argsort(bucket[shuffled], kind="stable")]
        return _pick(draws, dealt), np.searchsorted(bucket[dealt], np.arange(len(self.buckets) + 1))


def _word(index: Index, draws: DrawnRows) -> NDArray[np.uint64]:
    """A word for each draw that tells the copies of an utterance apart."""
    return index.uid[draws.rows] ^ draws.copy.astype(np.uint64)


def _pick(draws: DrawnRows, chosen: slice | NDArray[np.int64]) -> DrawnRows:
    return DrawnRows(draws.rows[chosen], draws.copy[chosen], draws.num_samples[chosen])


def _join(pieces: list[DrawnRows]) -> DrawnRows:
    if len(pieces) == 1:
        return pieces[0]
    empty = DrawnRows(np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0, np.int32))
    pieces = pieces or [empty]
    return DrawnRows(
        np.concatenate([piece.rows for piece in pieces]),
        np.concatenate([piece.copy for piece in pieces]),
        np.concatenate([piece.num_samples for piece in pieces]),
    )


def _cached(cache: OrderedDict[int, T], key: int, make: Callable[[int], T]) -> T:
    """What `make` gives for a key; the keys used last are kept."""
    if key not in cache:
        cache[key] = make(key)
        if len(cache) > WINDOWS_KEPT:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]
