"""The plan of an epoch: a pure function that returns the utterances of any batch directly.

Shards are visited in random order, `window_shards` at a time. Within a window, utterances are shuffled and assigned to
buckets of similar length, in which the classes are interleaved in proportion. Batch j of a bucket is a slice of that
bucket's sequence, which continues across windows; it has utterances of both classes unless its part of the sequence has
fewer than one of a class for each batch.
The position of every batch follows from counts alone, so the number of batches is known before any audio is read, and
resuming replays nothing. Utterances that do not fill a batch at the end of a bucket move to the next longer bucket;
only those of the last bucket are left over, and they are reported.

The position within an epoch is one number, the first batch that no rank has taken. Any number of ranks can resume
there without repeating or skipping an utterance. At the end of an epoch, up to world − 1 batches are left over, since
every rank takes the same number of steps.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.loading.buckets import (
    BatchConfig,
    Buckets,
    DrawnRows,
    count_draws,
    draw_rows,
    plan_buckets,
    shard_slices,
)
from pipeline.data.loading.hash_random import hash64, hash_order, hash_uniform
from pipeline.data.store.index import Index

CACHED_WINDOWS = 4
"""Windows whose rows and batch order are kept in memory."""

RUN_BATCHES = 8
"""Consecutive batches from one bucket, so that the ranks have equal loads in a step."""

# Purposes of hashes: part of the key, so that different decisions are independent. Never reuse a number.
_SHARDS, _UTTERANCES, _RUNS, _CROP_START, _AUGMENT = 11, 12, 13, 14, 15

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class PlannedBatch:
    """The utterances of one batch; each array is [B]."""

    rows: NDArray[np.int64]
    """Rows of the index."""
    num_samples: NDArray[np.int64]
    """Length after cropping."""
    crop_start: NDArray[np.float64]
    """Start of the crop, as a fraction in [0, 1) of the possible starts."""
    augment_seed: NDArray[np.uint64]
    padded_samples: int
    """Length to which all utterances are padded; the same for every batch of a bucket."""


@dataclass(frozen=True, slots=True)
class EpochSummary:
    """Counts of the utterances of an epoch: available = used + leftover + too_short + too_long."""

    num_batches: int
    num_steps: int
    available: int
    """Draws that the weights ask for; an utterance with weight 2 counts twice."""
    used: int
    leftover: int
    """Draws that do not fill a batch, or are in one of the last batches, which are too few for all ranks."""
    too_short: int
    too_long: int
    audio_s: float
    """Audio that is used, in seconds after cropping."""
    padding: float
    """Fraction of the batches that is padding."""


class EpochPlan:
    """The batches of one epoch, numbered from 0; at step t, rank r takes batch first_batch + t · world + r.

    The same index, configuration and epoch give the same batches in any process. Besides the index, a plan keeps in
    memory the counts of each shard and the rows of a few windows.
    """

    def __init__(self, index: Index, config: BatchConfig, epoch: int = 0, buckets: Buckets | None = None):
        self.index = index
        self.config = config
        self.epoch = epoch
        self.buckets = buckets or plan_buckets(index, config)
        """The same for all epochs of an index; pass them on to the next plan to save a pass over the index."""
        self._weights = self.buckets.draws.weights
        self._draws: OrderedDict[int, tuple[DrawnRows, NDArray[np.int64]]] = OrderedDict()
        self._orders: OrderedDict[int, NDArray[np.int64]] = OrderedDict()
        self._count_visits()
        self._number_batches()

    @property
    def num_batches(self) -> int:
        """Batches of all ranks together."""
        return int(self._batches_before[-1])

    def num_steps(self, world: int, first_batch: int = 0) -> int:
        """Count the steps from `first_batch` to the end of the epoch, the same for each of `world` ranks."""
        return (self.num_batches - first_batch) // world

    def batch_numbers(self, rank: int, world: int, first_batch: int = 0) -> range:
        """Return the batches that a rank takes from `first_batch` to the end of the epoch, one per step."""
        assert 0 <= rank < world
        end = first_batch + self.num_steps(world, first_batch) * world
        return range(first_batch + rank, end, world)

    def __getitem__(self, number: int) -> PlannedBatch:
        """Return batch `number` of the epoch."""
        if not 0 <= number < self.num_batches:
            raise IndexError(f"batch {number} is not one of 0 … {self.num_batches - 1}")
        window = int(np.searchsorted(self._batches_before, number, side="right")) - 1
        bucket, position = self._batch_order(window)[number - self._batches_before[window]].tolist()
        size = int(self.buckets.batch_size[bucket])
        draws = self._members(bucket, position * size, (position + 1) * size)
        seed = (self.config.seed, self.epoch)
        keys = _draw_keys(self.index, draws)
        return PlannedBatch(
            rows=draws.rows,
            num_samples=draws.num_samples.astype(np.int64),
            crop_start=hash_uniform(keys, _CROP_START, *seed),
            augment_seed=hash64(keys, _AUGMENT, *seed),
            padded_samples=int(self.buckets.padded_samples[bucket]),
        )

    def summary(self, world: int = 1) -> EpochSummary:
        """Count the utterances that `world` ranks use and those that are left over."""
        num_steps = self.num_steps(world)
        last = len(self.buckets) - 1
        rest = self._members(last, int(self._batched[last]), int(self._available[last]))
        spare = [self[number] for number in range(num_steps * world, self.num_batches)]
        leftover = len(rest.rows) + sum(len(batch.rows) for batch in spare)
        unused = int(rest.num_samples.sum()) + sum(int(batch.num_samples.sum()) for batch in spare)
        padded = int(self._batched @ self.buckets.padded_samples)
        padded -= sum(len(batch.rows) * batch.padded_samples for batch in spare)
        audio = self._num_samples - unused
        fitting = int(self._assigned_before[-1].sum())
        return EpochSummary(
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
        """Count the utterances of each visit and bucket; a shard is visited once for each repeat drawn from it."""
        width = len(self.buckets) + 2
        shards, repeats, counts, self._num_samples = [], [], [], 0
        for begin, end, rows in shard_slices(self.index):
            num_draws = count_draws(self.index, rows, self._weights, self.config, self.epoch)
            for repeat in range(num_draws.max(initial=0)):
                draws = draw_rows(self.index, rows, repeat, num_draws, self.config, self.epoch)
                bucket = self.buckets.assign(draws.num_samples)
                cell = (self.index.shard[draws.rows] - begin) * width + bucket
                count = np.bincount(cell, minlength=(end - begin) * width).reshape(-1, width)
                self._num_samples += int(draws.num_samples[bucket < width - 2].sum(dtype=np.int64))
                visited = np.flatnonzero(count.any(axis=1))
                shards.append(begin + visited)
                repeats.append(np.full(len(visited), repeat))
                counts.append(count[visited])
        self._visits = np.stack([np.concatenate(shards), np.concatenate(repeats)], axis=1)
        count = np.concatenate(counts)
        self._counts, self._too_short, self._too_long = (
            count[:, :-2],
            int(count[:, -2].sum()),
            int(count[:, -1].sum()),
        )

    def _number_batches(self) -> None:
        """Order the visits, divide them into windows, and number the batches of each window."""
        shard, repeat = self._visits.astype(np.uint64).T
        order = hash_order(shard << np.uint64(8) | repeat, _SHARDS, self.config.seed, self.epoch)
        self._visits = self._visits[order]
        num_windows = max(1, -(-len(order) // self.config.window_shards))
        self._window_ends = np.arange(num_windows + 1) * len(order) // num_windows
        # [windows + 1, K] Utterances assigned to each bucket before each window.
        running = np.concatenate(
            [np.zeros((1, len(self.buckets)), np.int64), np.cumsum(self._counts[order], axis=0)]
        )
        self._assigned_before = running[self._window_ends]
        size = self.buckets.batch_size
        self._available = self._assigned_before[-1].copy()
        self._batched = np.zeros_like(self._available)
        rest = 0
        for bucket in range(len(self.buckets)):
            self._available[bucket] += rest
            self._batched[bucket] = self._available[bucket] // size[bucket] * size[bucket]
            rest = int(self._available[bucket] - self._batched[bucket])
        # [windows + 1, K] Batches of each bucket completed before each window; the last window also completes
        # those that hold moved utterances.
        self._bucket_batches_before = self._assigned_before // size
        self._bucket_batches_before[-1] = self._batched // size
        self._batches_before = self._bucket_batches_before.sum(axis=1)

    def _batch_order(self, window: int) -> NDArray[np.int64]:
        """Return the batches of a window in the order of the epoch: [batches, (bucket, position in the bucket)]."""
        return _cached(self._orders, window, self._compute_batch_order)

    def _compute_batch_order(self, window: int) -> NDArray[np.int64]:
        count = self._bucket_batches_before[window + 1] - self._bucket_batches_before[window]
        bucket = np.repeat(np.arange(len(count)), count)
        first = np.cumsum(count) - count - self._bucket_batches_before[window]
        position = np.arange(count.sum()) - np.repeat(first, count)
        run = bucket.astype(np.uint64) << np.uint64(40) | (position // RUN_BATCHES).astype(np.uint64)
        order = hash_order(run, _RUNS, self.config.seed, self.epoch)
        return np.stack([bucket, position], axis=1)[order]

    def _members(self, bucket: int, begin: int, end: int) -> DrawnRows:
        """Return members begin … end − 1 of a bucket: its own, then those left over from the shorter bucket."""
        pieces = []
        own = int(self._assigned_before[-1, bucket])
        window = int(np.searchsorted(self._assigned_before[:, bucket], begin, side="right")) - 1
        while begin < min(end, own):
            draws, first = self._window(window)
            stop = min(end, int(self._assigned_before[window + 1, bucket]))
            shift = int(first[bucket] - self._assigned_before[window, bucket])
            pieces.append(_select(draws, slice(begin + shift, stop + shift)))
            begin, window = stop, window + 1
        if begin < end:
            shift = int(self._batched[bucket - 1]) - own
            pieces.append(self._members(bucket - 1, begin + shift, end + shift))
        return _join(pieces)

    def _window(self, window: int) -> tuple[DrawnRows, NDArray[np.int64]]:
        """Return the shuffled draws of a window, by bucket with interleaved classes, and the start of each bucket."""
        return _cached(self._draws, window, self._draw_window)

    def _draw_window(self, window: int) -> tuple[DrawnRows, NDArray[np.int64]]:
        visits = self._visits[self._window_ends[window] : self._window_ends[window + 1]]
        pieces = []
        for shard, repeat in visits.tolist():
            rows = slice(int(self.index.first_row[shard]), int(self.index.first_row[shard + 1]))
            num_draws = count_draws(self.index, rows, self._weights, self.config, self.epoch)
            pieces.append(draw_rows(self.index, rows, repeat, num_draws, self.config, self.epoch))
        draws = _join(pieces)
        bucket = self.buckets.assign(draws.num_samples)
        shuffled = hash_order(_draw_keys(self.index, draws), _UTTERANCES, self.config.seed, self.epoch)
        order = shuffled[_interleaved(bucket[shuffled], self.index.label[draws.rows[shuffled]])]
        return _select(draws, order), np.searchsorted(bucket[order], np.arange(len(self.buckets) + 1))


def _interleaved(bucket: NDArray[np.int16], label: NDArray[np.int8]) -> NDArray[np.int64]:
    """Return the order that sorts by bucket and, in each bucket, spaces the utterances of each class evenly.

    Otherwise the utterances of a class keep their order. Of a class with n of the N utterances of a bucket, any
    ⌈N / n⌉ + 1 consecutive utterances contain one, also where the next window with the same proportion begins.
    """
    group = bucket.astype(np.int32) * len(LABELS) + label
    by_group = np.argsort(group, kind="stable")
    count = np.bincount(group)
    rank = np.empty(len(group), np.int64)
    rank[by_group] = np.arange(len(group)) - np.repeat(np.cumsum(count) - count, count)
    return np.lexsort([(rank + 0.5) / count[group], bucket])


def _draw_keys(index: Index, draws: DrawnRows) -> NDArray[np.uint64]:
    """Return a hash key for each draw, which differs between the repeats of an utterance."""
    return index.uid[draws.rows] ^ draws.repeat.astype(np.uint64)


def _select(draws: DrawnRows, chosen: slice | NDArray[np.int64]) -> DrawnRows:
    return DrawnRows(draws.rows[chosen], draws.repeat[chosen], draws.num_samples[chosen])


def _join(pieces: list[DrawnRows]) -> DrawnRows:
    if len(pieces) == 1:
        return pieces[0]
    empty = DrawnRows(np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0, np.int32))
    pieces = pieces or [empty]
    return DrawnRows(
        np.concatenate([piece.rows for piece in pieces]),
        np.concatenate([piece.repeat for piece in pieces]),
        np.concatenate([piece.num_samples for piece in pieces]),
    )


def _cached(cache: OrderedDict[int, T], key: int, compute: Callable[[int], T]) -> T:
    """Return `compute(key)`; the results of the most recently used keys are cached."""
    if key not in cache:
        cache[key] = compute(key)
        if len(cache) > CACHED_WINDOWS:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]
