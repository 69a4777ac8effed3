"""Buckets of similar length: how often each utterance is drawn, how it is cropped and how far it is padded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from pipeline.data.audio.waveform import MIN_SAMPLES, SAMPLE_RATE
from pipeline.data.corpora.domains import Domain, DomainDraws, DomainRule, balance_domains
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.loading.hash_random import hash_uniform
from pipeline.data.store.index import Index
from pipeline.errors import InputError
from pipeline.fields import Range, Seed, check_ranges

FRAME_SAMPLES = 320
"""Hop of the encoder, 20 ms; padded lengths are multiples of it."""

ROWS_PER_PASS = 200_000
"""Rows of the index that are processed at once, so that their temporary arrays stay in the processor's cache."""

GRID_POINTS = 512
"""Candidate lengths for the upper edges of the buckets."""

MIN_CROP_S = MIN_SAMPLES / SAMPLE_RATE
MAX_BATCH_S = 1e6

# Purposes of hashes: part of the key, so that different decisions are independent. Never reuse a number.
_REPEATS, _CROP_LENGTH = 1, 2


@dataclass(frozen=True)
class BatchConfig:
    """How utterances become training batches."""

    max_seconds: Annotated[float, Range(0, MAX_BATCH_S, above=True)] = 100.0
    """Seconds of audio in the batch of one rank, including padding."""
    num_buckets: Annotated[int, Range(1, GRID_POINTS)] = 20
    """Number of length buckets; all batches of a bucket have the same shape."""
    crop_min_s: Annotated[float, Range(MIN_CROP_S, MAX_BATCH_S)] = 10.0
    crop_max_s: Annotated[float, Range(MIN_CROP_S, MAX_BATCH_S, also=math.inf)] = 13.0
    """Longer utterances are cropped to a random window of crop_min_s to crop_max_s; inf disables cropping."""
    window_shards: Annotated[int, Range(1, 1_000_000)] = 32
    """Number of shards whose utterances are shuffled together."""
    weights: Annotated[dict[str, float], Range(0, 255)] = field(default_factory=dict)
    """Draws per epoch of each utterance of a `corpus`, `label` or `corpus/label`; matching weights multiply; default 1.

    2 draws every utterance twice per epoch; 0.25 draws a different quarter of the utterances in each epoch.
    """
    seed: Seed = 1234

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.crop_min_s > self.crop_max_s:
            raise InputError(
                f"--crop-min-s {self.crop_min_s:g} is longer than --crop-max-s {self.crop_max_s:g}; "
                "give a shorter minimum or a longer maximum"
            )
        if self.max_seconds < self.crop_max_s < math.inf:
            raise InputError(
                f"--max-seconds {self.max_seconds:g} is less than --crop-max-s {self.crop_max_s:g}; "
                "a batch has to hold the longest crop"
            )


@dataclass(frozen=True, eq=False)
class Buckets:
    """The fixed shape of the batches of each bucket k: `batch_size[k]` utterances padded to `padded_samples[k]`."""

    padded_samples: NDArray[np.int64]
    """[K] Upper edges, increasing multiples of `FRAME_SAMPLES`."""
    batch_size: NDArray[np.int64]
    """[K] Number of utterances."""
    draws: DomainDraws
    """How often the utterances of each domain of the index are drawn."""

    def __len__(self) -> int:
        return len(self.batch_size)

    def assign(self, num_samples: NDArray[np.int32]) -> NDArray[np.int16]:
        """Return the bucket of each length: K if it is too short for the encoder, K + 1 if it is too long."""
        frames = self.padded_samples // FRAME_SAMPLES
        table = np.searchsorted(frames, np.arange(frames[-1] + 2)).astype(np.int16)
        table[-1] = len(self) + 1
        bucket = table[np.minimum(_num_frames(num_samples), len(table) - 1)]
        bucket[num_samples < MIN_SAMPLES] = len(self)
        return bucket


@dataclass(frozen=True, slots=True, eq=False)
class DrawnRows:
    """Utterances that an epoch draws; each array is [M]."""

    rows: NDArray[np.int64]
    """Rows of the index."""
    repeat: NDArray[np.uint8]
    """0 for the first draw of an utterance in the epoch, 1 for the second, and so on."""
    num_samples: NDArray[np.int32]
    """Length after cropping."""


def weight_table(corpora: Sequence[str], config: BatchConfig) -> NDArray[np.float64]:
    """Compute the draws per epoch of an utterance of each corpus and label: [corpora, labels].

    Raises:
        InputError: a weight names neither one of the corpora nor a label.
    """
    rows = {corpus: [row] for row, corpus in enumerate(corpora)} | {"": range(len(corpora))}
    columns = {label: [column] for column, label in enumerate(LABELS)} | {"": range(len(LABELS))}
    table = np.ones((len(corpora), len(LABELS)))
    for name, weight in config.weights.items():
        corpus, label = ("", name) if name in LABELS else (name.partition("/")[0], name.partition("/")[2])
        if corpus not in rows or label not in columns:
            known = ", ".join((*corpora, *LABELS))
            raise InputError(
                f"--batch.weights: {name!r} is not a corpus, label or corpus/label; known: {known}"
            )
        table[np.ix_(rows[corpus], columns[label])] *= weight
    return table


def plan_draws(index: Index, config: BatchConfig, rule: DomainRule) -> DomainDraws:
    """Compute how often the utterances of each domain are drawn; it is the same for all epochs and ranks.

    Raises:
        InputError: a weight names neither one of the corpora nor a label.
    """
    weights = domain_weights(index.domains, index.corpora, config)
    seconds = np.zeros(len(index.domains))
    for _, _, rows in shard_slices(index):
        expected = expected_seconds(index.seconds[rows], config)
        seconds += np.bincount(index.domain[rows], expected, minlength=len(seconds))
    return balance_domains(index.domains, seconds / 3600, weights, rule)


def domain_weights(
    domains: Sequence[Domain], corpora: Sequence[str], config: BatchConfig
) -> NDArray[np.float64]:
    """Compute the draws per epoch that `config.weights` ask for an utterance of each domain: [domains].

    Raises:
        InputError: a weight names neither one of the corpora nor a label.
    """
    table = weight_table(corpora, config)
    numbers = {corpus: row for row, corpus in enumerate(corpora)}
    weights = [table[numbers[domain.corpus], LABELS.index(domain.label)] for domain in domains]
    return np.array(weights, np.float64)


def expected_seconds(seconds: NDArray[np.float32], config: BatchConfig) -> NDArray[np.float32]:
    """Return the mean length of each utterance after cropping; 0 if it fits into no batch."""
    shortest, longest = (limit / SAMPLE_RATE for limit in _crop_range(config))
    is_long = seconds > np.float32(min(longest, _longest_frames(config) * FRAME_SAMPLES / SAMPLE_RATE))
    mean_crop = 0.0 if math.isinf(longest) else (shortest + longest) / 2
    expected = np.where(is_long, np.float32(mean_crop), seconds)
    expected[seconds < np.float32(MIN_CROP_S)] = 0
    return expected


def count_draws(
    index: Index, rows: slice, weights: NDArray[np.float64], config: BatchConfig, epoch: int
) -> NDArray[np.uint8]:
    """Count the draws of each row of a slice in an epoch.

    Before epoch e, an utterance of weight w has been drawn floor(w·e + phase) times, with a random phase for each
    utterance. Over any range of epochs, the number of draws is therefore within one of its expectation.
    """
    if np.all(weights == 1):
        return np.ones(rows.stop - rows.start, np.uint8)
    weight = weights[index.domain[rows]]
    phase = hash_uniform(index.uid[rows], _REPEATS, config.seed)
    before = weight * epoch
    before += phase
    weight *= epoch + 1
    weight += phase
    return (np.floor(weight, out=weight) - np.floor(before, out=before)).astype(np.uint8)


def draw_rows(
    index: Index, rows: slice, repeat: int, num_draws: NDArray[np.uint8], config: BatchConfig, epoch: int
) -> DrawnRows:
    """Choose the rows of a slice that an epoch draws more than `repeat` times, in the order of the index.

    Args:
        index: has the rows.
        rows: the slice.
        repeat: 0 for the first draw of each row, and so on.
        num_draws: draws of each row of the slice, from `count_draws`.
        config: limits the lengths.
        epoch: crops differ between epochs.
    """
    uid, seconds = index.uid[rows], index.seconds[rows]
    is_drawn = num_draws > repeat
    chosen = np.arange(rows.start, rows.stop)
    if not is_drawn.all():
        drawn = np.flatnonzero(is_drawn)
        chosen, uid, seconds = chosen[drawn], uid[drawn], seconds[drawn]
    num_samples = np.rint(seconds * np.float32(SAMPLE_RATE)).astype(np.int32)
    shortest, longest = _crop_range(config)
    is_long = np.flatnonzero(num_samples > longest)
    fraction = hash_uniform(uid[is_long], _CROP_LENGTH, config.seed, epoch, repeat)
    num_samples[is_long] = shortest + (fraction * (longest - shortest + 1)).astype(np.int32)
    return DrawnRows(chosen, np.full(len(chosen), repeat, np.uint8), num_samples)


def plan_buckets(index: Index, config: BatchConfig, rule: DomainRule | None = None) -> Buckets:
    """Choose the bucket edges that minimise padding; they are the same for all epochs.

    Args:
        index: the utterances to train on.
        config: limits lengths and sizes; its weights count before the rule.
        rule: balances the domains of the index; None draws by the weights alone.

    Raises:
        InputError: a weight matches nothing, or no utterance is left to draw.
    """
    draws = plan_draws(index, config, rule or DomainRule())
    per_frame = _count_frames(index, config, draws.weights)
    if not per_frame.any():
        raise InputError("no utterances to train on: check the corpora, splits and weights")
    step = -(-len(per_frame) // GRID_POINTS)
    edges = np.minimum(np.arange(1, GRID_POINTS + 1) * step, len(per_frame) - 1)
    edges = np.unique(edges)
    count = np.add.reduceat(per_frame, np.concatenate([[0], edges[:-1] + 1]))
    edges, count = edges[count > 0], count[count > 0]
    num_buckets = min(config.num_buckets, len(edges))
    padded_samples = _cheapest_edges(edges, count, num_buckets) * FRAME_SAMPLES
    batch_size = np.maximum(1, int(config.max_seconds * SAMPLE_RATE) // padded_samples)
    return Buckets(padded_samples, batch_size, draws)


def draw_log_odds(index: Index, config: BatchConfig, buckets: Buckets) -> float:
    """Compute the natural log of the odds of bona fide in the loss of an average epoch.

    The loss is a mean over each batch, so a draw counts 1 / the size of its batch: that of its mean length after
    cropping. Utterances that fit into no batch do not count; those left over at the end of an epoch do.

    Raises:
        InputError: no utterance of a class is drawn.
    """
    shares = np.append(1 / buckets.batch_size, [0.0, 0.0])  # too short and too long
    amounts = np.zeros(len(LABELS))
    for _, _, rows in shard_slices(index):
        seconds = expected_seconds(index.seconds[rows], config)
        num_samples = np.rint(seconds * np.float32(SAMPLE_RATE)).astype(np.int32)
        amount = buckets.draws.weights[index.domain[rows]] * shares[buckets.assign(num_samples)]
        amounts += np.bincount(index.label[rows], amount, minlength=len(LABELS))
    if not amounts.all():
        missing = LABELS[int(amounts.argmin())]
        raise InputError(f"no {missing} utterance has a length that can be trained on; check the corpora")
    return math.log(amounts[LABELS.index("bonafide")] / amounts[LABELS.index("spoof")])


def shard_slices(index: Index) -> Iterator[tuple[int, int, slice]]:
    """Divide the index into slices of whole shards: first shard, end shard (exclusive), rows."""
    first_row = index.first_row
    begin = 0
    while begin < len(index.shards):
        end = int(np.searchsorted(first_row, first_row[begin] + ROWS_PER_PASS, side="right")) - 1
        end = min(max(end, begin + 1), len(index.shards))
        yield begin, end, slice(int(first_row[begin]), int(first_row[end]))
        begin = end


def _count_frames(index: Index, config: BatchConfig, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count the utterances of each length in frames that an epoch draws on average: [F]."""
    shortest, longest = _crop_range(config)
    limit = _longest_frames(config)
    total = np.zeros(limit + 2)
    for _, _, rows in shard_slices(index):
        num_samples = np.rint(index.seconds[rows] * np.float32(SAMPLE_RATE)).astype(np.int32)
        frames = np.minimum(_num_frames(num_samples), limit + 1)
        frames[num_samples < MIN_SAMPLES] = 0
        weight = None if np.all(weights == 1) else weights[index.domain[rows]]
        total += np.bincount(frames, weight, minlength=limit + 2)
    per_frame, num_long = total[:-1], total[-1]
    if longest < math.inf:
        crop_frames = np.arange(math.ceil(shortest / FRAME_SAMPLES), limit + 1)
        per_frame[crop_frames] += num_long / len(crop_frames)
    per_frame[0] = 0
    return per_frame


def _cheapest_edges(
    edges: NDArray[np.int64], count: NDArray[np.float64], num_buckets: int
) -> NDArray[np.int64]:
    """Choose the K upper edges that minimise Σ count · edge, by dynamic programming."""
    total = np.concatenate([[0.0], np.cumsum(count)])
    # cost[i, j]: samples of one bucket that holds lengths i … j, all padded to length j.
    cost = edges * (total[1:] - total[:-1, None])
    cost[np.tril_indices(len(edges), -1)] = np.inf
    best = cost[0]  # best[j]: the least cost of lengths 0 … j in the buckets so far
    splits = []
    for _ in range(num_buckets - 1):
        with_split = best[:-1, None] + cost[1:]
        splits.append(np.argmin(with_split, axis=0))
        best = np.concatenate([[np.inf], with_split.min(axis=0)[1:]])
    last = len(edges) - 1
    chosen = [last]
    for split in reversed(splits):
        last = int(split[last])
        chosen.append(last)
    return edges[chosen[::-1]]


def _crop_range(config: BatchConfig) -> tuple[int, float]:
    """Return the shortest and longest crop in samples."""
    longest = config.crop_max_s * SAMPLE_RATE
    return round(config.crop_min_s * SAMPLE_RATE), longest if math.isinf(longest) else round(longest)


def _longest_frames(config: BatchConfig) -> int:
    """Return the number of frames of the longest utterance that fits into a batch after cropping."""
    return math.ceil(min(_crop_range(config)[1], config.max_seconds * SAMPLE_RATE) / FRAME_SAMPLES)


def _num_frames(num_samples: NDArray[np.int32]) -> NDArray[np.int32]:
    return (num_samples + (FRAME_SAMPLES - 1)) // FRAME_SAMPLES
