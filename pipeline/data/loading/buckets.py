"""Batches of like length: how often an utterance is drawn, how much of it is used, how far it is padded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.data.audio.waveform import MIN_SAMPLES, SAMPLE_RATE
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.loading.hash_random import hash_uniform
from pipeline.data.store.index import Index
from pipeline.errors import InputError

FRAME_SAMPLES = 320
"""One step of the encoder, 20 ms; padded lengths are multiples of it."""

ROWS_AT_ONCE = 4_000_000
"""Rows that a pass over the index holds temporary arrays for: about 150 MB."""

GRID_POINTS = 512
"""Lengths that are tried as the upper edge of a bucket."""

# Purposes of draws: each is part of a key, so that no two draws are alike.
_COPIES, _CROP_LENGTH = 1, 2


@dataclass(frozen=True)
class BatchConfig:
    """How utterances become training batches."""

    max_seconds: float = 100.0
    """Audio of a batch on one rank, with its padding."""
    num_buckets: int = 20
    """Groups of like length; fewer if there are fewer lengths."""
    crop_min_s: float = 10.0
    crop_max_s: float = 13.0
    """Longer utterances are cut to a random window of crop_min_s to crop_max_s; inf (`.inf` as a flag) cuts none."""
    window_shards: int = 32
    """Shards that are shuffled together."""
    weights: dict[str, float] = field(default_factory=dict)
    """DrawnRows per epoch from a `corpus`, a `label` or a `corpus/label`; factors multiply, 1 if not named.

    2 draws every utterance twice; 0.25 draws each once in four epochs, another quarter every time.
    """
    seed: int = 1234

    def __post_init__(self) -> None:
        if self.num_buckets < 1 or self.window_shards < 1:
            raise InputError("num_buckets and window_shards must be at least 1")
        if not 0 < self.crop_min_s <= self.crop_max_s:
            raise InputError(f"crop_min_s {self.crop_min_s} and crop_max_s {self.crop_max_s} are no range")
        if not 0 < self.max_seconds < math.inf:
            raise InputError(f"max_seconds must be a positive number, not {self.max_seconds}")
        if self.max_seconds < self.crop_max_s < math.inf:
            raise InputError(f"max_seconds {self.max_seconds} does not hold one crop of {self.crop_max_s} s")
        for name, weight in self.weights.items():
            if not 0 <= weight < 256:
                raise InputError(f"weight of {name} must be between 0 and 255, not {weight}")


@dataclass(frozen=True, eq=False)
class Buckets:
    """The fixed shapes of batches: `batch_size[k]` utterances, each padded to `padded_samples[k]`."""

    padded_samples: NDArray[np.int64]
    """[K] Upper edges, increasing multiples of `FRAME_SAMPLES`."""
    batch_size: NDArray[np.int64]
    """[K]"""

    def __len__(self) -> int:
        return len(self.batch_size)

    def find(self, num_samples: NDArray[np.int32]) -> NDArray[np.int16]:
        """The bucket of each length; K where it is too short for the encoder, K + 1 where it is too long."""
        frames = self.padded_samples // FRAME_SAMPLES
        table = np.searchsorted(frames, np.arange(frames[-1] + 2)).astype(np.int16)
        table[-1] = len(self) + 1
        bucket = table[np.minimum(_num_frames(num_samples), len(table) - 1)]
        bucket[num_samples < MIN_SAMPLES] = len(self)
        return bucket


@dataclass(frozen=True, slots=True, eq=False)
class DrawnRows:
    """Utterances as an epoch uses them; each array is [M]."""

    rows: NDArray[np.int64]
    copy: NDArray[np.uint8]
    """0 for the first draw of an utterance in the epoch, 1 for the second …"""
    num_samples: NDArray[np.int32]
    """Length after cropping."""


def weight_table(index: Index, config: BatchConfig) -> NDArray[np.float64]:
    """[corpora, labels] DrawnRows per utterance and epoch.

    Raises:
        InputError: a weight names neither a corpus of the index nor a label.
    """
    rows = {corpus: [row] for row, corpus in enumerate(index.corpora)} | {"": range(len(index.corpora))}
    columns = {label: [column] for column, label in enumerate(LABELS)} | {"": range(len(LABELS))}
    table = np.ones((len(index.corpora), len(LABELS)))
    for name, weight in config.weights.items():
        corpus, label = ("", name) if name in LABELS else (name.partition("/")[0], name.partition("/")[2])
        if corpus not in rows or label not in columns:
            known = ", ".join((*index.corpora, *LABELS))
            raise InputError(f"weights: {name} is no corpus, label or corpus/label; there are {known}")
        table[np.ix_(rows[corpus], columns[label])] *= weight
    return table


def draw_rows(
    index: Index, rows: slice, copy: int, weights: NDArray[np.float64], config: BatchConfig, epoch: int
) -> DrawnRows:
    """The draws number `copy` of an epoch among the rows of a slice, in their order.

    Before epoch e an utterance of weight w was drawn floor(w·e + phase) times, with a phase of its own: over any
    run of epochs its share is right to within one draw.
    """
    uid, seconds = index.uid[rows], index.seconds[rows]
    chosen = np.arange(rows.start, rows.stop)
    if np.any(weights != 1):
        weight = weights[index.corpus[rows], index.label[rows]]
        phase = hash_uniform(uid, _COPIES, config.seed)
        is_drawn = np.floor(weight * (epoch + 1) + phase) - np.floor(weight * epoch + phase) > copy
        chosen, uid, seconds = chosen[is_drawn], uid[is_drawn], seconds[is_drawn]
    num_samples = np.rint(seconds * np.float32(SAMPLE_RATE)).astype(np.int32)
    shortest, longest = _crop_range(config)
    is_long = np.flatnonzero(num_samples > longest)
    part = hash_uniform(uid[is_long], _CROP_LENGTH, config.seed, epoch, copy)
    num_samples[is_long] = shortest + (part * (longest - shortest + 1)).astype(np.int32)
    return DrawnRows(chosen, np.full(len(chosen), copy, np.uint8), num_samples)


def plan_buckets(index: Index, config: BatchConfig) -> Buckets:
    """Choose the edges that pad least, for all epochs alike.

    Raises:
        InputError: a weight names nothing, or nothing is left to draw.
    """
    per_frame = _count_frames(index, config)
    if not per_frame.any():
        raise InputError("no utterance to train on: check the corpora, the splits and the weights")
    step = -(-len(per_frame) // GRID_POINTS)
    edges = np.minimum(np.arange(1, GRID_POINTS + 1) * step, len(per_frame) - 1)
    edges = np.unique(edges)
    count = np.add.reduceat(per_frame, np.concatenate([[0], edges[:-1] + 1]))
    edges, count = edges[count > 0], count[count > 0]
    num_buckets = min(config.num_buckets, len(edges))
    padded_samples = _cheapest_edges(edges, count, num_buckets) * FRAME_SAMPLES
    batch_size = np.maximum(1, int(config.max_seconds * SAMPLE_RATE) // padded_samples)
    return Buckets(padded_samples, batch_size)


def slices(index: Index) -> Iterator[tuple[int, int, slice]]:
    """Pass over the index in whole shards: first shard, end shard, their rows."""
    first_row = np.searchsorted(index.shard, np.arange(len(index.shards) + 1))
    begin = 0
    while begin < len(index.shards):
        end = int(np.searchsorted(first_row, first_row[begin] + ROWS_AT_ONCE, side="right")) - 1
        end = min(max(end, begin + 1), len(index.shards))
        yield begin, end, slice(int(first_row[begin]), int(first_row[end]))
        begin = end


def _count_frames(index: Index, config: BatchConfig) -> NDArray[np.float64]:
    """[F] How many utterances of f frames an epoch draws on average."""
    weights = weight_table(index, config)
    shortest, longest = _crop_range(config)
    limit = math.ceil(min(longest, config.max_seconds * SAMPLE_RATE) / FRAME_SAMPLES)
    total = np.zeros(limit + 2)
    for _, _, rows in slices(index):
        num_samples = np.rint(index.seconds[rows] * np.float32(SAMPLE_RATE)).astype(np.int32)
        frames = np.minimum(_num_frames(num_samples), limit + 1)
        frames[num_samples < MIN_SAMPLES] = 0
        weight = None if np.all(weights == 1) else weights[index.corpus[rows], index.label[rows]]
        total += np.bincount(frames, weight, minlength=limit + 2)
    per_frame, num_long = total[:-1], total[-1]
    if longest < math.inf:
        possible = np.arange(math.ceil(shortest / FRAME_SAMPLES), limit + 1)
        per_frame[possible] += num_long / len(possible)
    per_frame[0] = 0
    return per_frame


def _cheapest_edges(
    edges: NDArray[np.int64], count: NDArray[np.float64], num_buckets: int
) -> NDArray[np.int64]:
    """[K] Upper edges of the groups of neighbours with the least Σ count · edge, by dynamic programming."""
    before = np.concatenate([[0.0], np.cumsum(count)])
    # cost[i, j]: one bucket that holds the lengths i … j and pads them to length j.
    cost = edges * (before[1:] - before[:-1, None])
    cost[np.tril_indices(len(edges), -1)] = np.inf
    best = cost[0]
    splits = []
    for _ in range(num_buckets - 1):
        through = best[:-1, None] + cost[1:]
        splits.append(np.argmin(through, axis=0))
        best = np.concatenate([[np.inf], through.min(axis=0)[1:]])
    last = len(edges) - 1
    chosen = [last]
    for split in reversed(splits):
        last = int(split[last])
        chosen.append(last)
    return edges[chosen[::-1]]


def _crop_range(config: BatchConfig) -> tuple[int, float]:
    """Samples of the shortest and the longest crop."""
    longest = config.crop_max_s * SAMPLE_RATE
    return round(config.crop_min_s * SAMPLE_RATE), longest if math.isinf(longest) else round(longest)


def _num_frames(num_samples: NDArray[np.int32]) -> NDArray[np.int32]:
    return (num_samples + (FRAME_SAMPLES - 1)) // FRAME_SAMPLES
