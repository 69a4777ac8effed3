"""Bootstrap of whole clusters: the values that every metric takes when speakers or files are resampled.

Utterances of one speaker resemble each other, so resampling single utterances makes intervals too narrow. Here a
cluster is drawn with all its utterances, of both classes at once. Its weight in a resample is Poisson distributed with
mean 1, which for rates within each class is a draw with replacement whose size varies a little.

Scores are sorted once. All trials between two neighbouring thresholds of a few thousand form a block, so a resample
needs only the weight of each class in each block: for many resamples at once, a product of a sparse matrix (blocks ×
clusters) with the weights (clusters × resamples).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.metrics.isotonic import cllr_of_posteriors, isotonic_posteriors
from pipeline.metrics.rates import ASVSPOOF5, Costs, llr_losses
from pipeline.metrics.trials import Trials, tie_ends

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Samples = dict[str, NDArray[np.float64]]
"""Name of a metric → its value in each resample, [num_resamples]."""

EER_ONLY = ("eer",)
ALL = (
    "eer",
    "min_dcf",
    "act_dcf",
    "cllr",
    "cllr_min",
    "cllr_cal",
    "roc_auc",
    "accuracy",
    "precision",
    "recall",
    "f1",
    "miss",
    "false_alarm",
)
"""Metrics that can be resampled."""

BLOCKS_PER_CLASS = 8192
"""Above this many trials of a class, neighbouring thresholds are merged: a block has 1/8192 of the class."""

BLOCKS_AROUND_EER = 512
"""Further thresholds where resamples have their EER, so that merging moves it by a 25th of its standard error."""

EER_REACH = 10.0
"""How far from the EER, in standard errors of miss − false alarm, a resample may have its EER."""

SMALL_TABLE = 2**20
"""Up to so many entries, the table of blocks and clusters is dense."""

CHUNK_WEIGHTS = 2**24
"""Weights (clusters × resamples) that are held at once."""

POISSON_TABLE = np.searchsorted(
    np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)]), (np.arange(2**16) + 0.5) / 2**16
).astype(np.float32)
"""Poisson numbers of mean 1 for 16 random bits; rounding changes the mean by less than 1e-5."""


def bootstrap(
    trials: Trials,
    names: Sequence[str] = ALL,
    *,
    num_resamples: int = 1000,
    seed: int | Sequence[int] = 0,
    costs: Costs = ASVSPOOF5,
) -> Samples:
    """Compute metrics of resamples.

    With the same clusters, classes and seed, resample i has the same weights whatever the scores are; so the values of
    two systems on the same trials can be subtracted.

    Args:
        trials: with clusters, or without if every trial is independent; then each class keeps its own weights.
        names: which of ALL.
        num_resamples: number of resamples.
        seed: seed of the weights.
        costs: of minDCF and actDCF.

    Raises:
        InputError: the number of resamples is not positive.
    """
    if num_resamples < 1:
        raise InputError(f"cannot bootstrap with {num_resamples} resamples; use at least 1")
    blocks = _Blocks.of(trials, names, costs)
    rng = np.random.default_rng(seed)
    draw = _draw_independent if trials.clusters is None else _draw_clusters
    parts: list[Samples] = []
    num_drawn = 0
    for counts in draw(blocks, trials, rng):
        # A resample without any trial of a class has no error rates; another one is drawn instead.
        kept = counts.select(
            np.flatnonzero((counts.bonafide.sum(axis=0) > 0) & (counts.spoof.sum(axis=0) > 0))
        )
        parts.append(_metrics(blocks, kept, names, costs))
        num_drawn += kept.bonafide.shape[1]
        if num_drawn >= num_resamples:
            break
    return {name: np.concatenate([part[name] for part in parts])[:num_resamples] for name in names}


class _Counts(NamedTuple):
    """Weights of some resamples."""

    bonafide: NDArray[np.float64]
    """[num_blocks, num_resamples] total weight of the bona fide trials of each block."""
    spoof: NDArray[np.float64]
    losses: NDArray[np.float64]
    """[2, num_resamples] weighted sum of the losses of bona fide and spoof trials, in bits."""

    def select(self, columns: NDArray[np.int64]) -> _Counts:
        if columns.size == self.bonafide.shape[1]:
            return self
        return _Counts(*(array[:, columns] for array in self))


class _Blocks(NamedTuple):
    """Consecutive trials that share a threshold in all resamples."""

    ends: NDArray[np.int64]
    """[num_blocks] position after the last trial of each block."""
    losses: NDArray[np.float64]
    """[N] loss of each trial in bits; empty if it is not needed."""
    at_zero: int
    """Number of blocks with scores below 0."""
    at_bayes: int
    """Number of blocks with scores below the Bayes threshold."""

    @classmethod
    def of(cls, trials: Trials, names: Sequence[str], costs: Costs) -> _Blocks:
        fixed = np.searchsorted(trials.scores, (0.0, costs.bayes_threshold))
        ends = _block_ends(trials, fixed, needs_tails=tuple(names) != EER_ONLY)
        needs_losses = "cllr" in names or "cllr_cal" in names
        at_zero, at_bayes = (int(np.searchsorted(ends, position, side="right")) for position in fixed)
        return cls(ends, llr_losses(trials) if needs_losses else np.empty(0), at_zero, at_bayes)

    @property
    def starts(self) -> NDArray[np.int64]:
        return np.concatenate(([0], self.ends[:-1]))


def _block_ends(trials: Trials, fixed: NDArray[np.int64], *, needs_tails: bool) -> NDArray[np.int64]:
    """Choose the ends of blocks: every distinct score if there are few, else some around the EER and in the tails."""
    ends = tie_ends(trials.scores)
    rejected_b = np.cumsum(trials.is_bonafide)[ends - 1]
    num_b, num_s = trials.num_bonafide, trials.num_spoof
    if needs_tails and ends.size <= 2 * BLOCKS_PER_CLASS:
        return ends
    difference = rejected_b / num_b - (num_s - (ends - rejected_b)) / num_s
    eer = int(np.searchsorted(difference, 0))
    reach = EER_REACH * _standard_error(trials, int(ends[min(eer, ends.size - 1)])) + 2 / min(num_b, num_s)
    first, last = np.searchsorted(difference, (-reach, reach))
    chosen = [_evenly(int(first), int(last), ends.size, BLOCKS_AROUND_EER), np.array([ends.size - 1])]
    if needs_tails:
        for rejected, num in ((rejected_b, num_b), (ends - rejected_b, num_s)):
            chosen.append(np.searchsorted(rejected, np.linspace(0, num, BLOCKS_PER_CLASS)))
        chosen.append(np.searchsorted(ends, fixed))
    kept = np.unique(ends[np.unique(np.clip(np.concatenate(chosen), 0, ends.size - 1))])
    return np.union1d(kept, fixed[fixed > 0]) if needs_tails else kept


def _evenly(first: int, last: int, size: int, num: int) -> NDArray[np.int64]:
    first, last = max(first - 1, 0), min(last + 1, size - 1)
    return np.unique(np.linspace(first, last, min(num, last - first + 1)).astype(np.int64))


def _standard_error(trials: Trials, end: int) -> float:
    """Standard error of miss − false alarm when the first `end` trials are rejected, clusters being independent."""
    is_rejected = np.arange(trials.scores.size) < end
    is_b, num_b, num_s = trials.is_bonafide, trials.num_bonafide, trials.num_spoof
    miss = np.count_nonzero(is_rejected & is_b) / num_b
    false_alarm = np.count_nonzero(~is_rejected & ~is_b) / num_s
    if trials.clusters is None:
        return math.sqrt(miss * (1 - miss) / num_b + false_alarm * (1 - false_alarm) / num_s)
    deviations = np.where(is_b, (is_rejected - miss) / num_b, (false_alarm - ~is_rejected) / num_s)
    return float(np.sqrt(np.sum(np.bincount(trials.clusters, weights=deviations) ** 2)))


def _draw_clusters(blocks: _Blocks, trials: Trials, rng: np.random.Generator) -> Iterator[_Counts]:
    """Draw the weights of clusters, and add them up in each block."""
    assert trials.clusters is not None
    num_clusters = int(trials.clusters.max()) + 1
    matrices, losses = [], []
    for is_class in (trials.is_bonafide, ~trials.is_bonafide):
        ends = np.cumsum(is_class, dtype=np.int64)[blocks.ends - 1]
        clusters = trials.clusters[is_class]
        matrices.append(_count_by_block(ends, clusters, num_clusters))
        if blocks.losses.size:
            losses.append(np.bincount(clusters, weights=blocks.losses[is_class], minlength=num_clusters))
    class_losses = np.array(losses).reshape(len(losses), num_clusters)
    num_columns = min(100, max(8, CHUNK_WEIGHTS // num_clusters))
    while True:
        weights = _poisson_of_one((num_clusters, num_columns), rng)
        bonafide, spoof = ((matrix @ weights).astype(np.float64) for matrix in matrices)
        yield _Counts(bonafide, spoof, (class_losses @ weights).astype(np.float64))


def _count_by_block(
    ends: NDArray[np.int64], clusters: NDArray[np.int64], num_clusters: int
) -> NDArray[np.float32] | csr_array:
    """Count the trials of each cluster in each block, [num_blocks, num_clusters].

    Args:
        ends: [num_blocks] position after the last trial of each block.
        clusters: [N] of each trial.
        num_clusters: their number.
    """
    from scipy.sparse import csr_array

    shape = (ends.size, num_clusters)
    if shape[0] * shape[1] <= max(clusters.size, SMALL_TABLE):
        block = np.repeat(np.arange(ends.size) * num_clusters, np.diff(ends, prepend=0))
        counts = np.bincount(block + clusters, minlength=shape[0] * shape[1])
        return counts.reshape(shape).astype(np.float32)
    positions = np.concatenate(([0], ends))
    matrix = csr_array(
        (np.ones(clusters.size, np.float32), clusters.astype(np.int32), positions), shape=shape
    )
    matrix.sum_duplicates()
    return matrix


def _draw_independent(blocks: _Blocks, trials: Trials, rng: np.random.Generator) -> Iterator[_Counts]:
    """Draw the weight of each block, which for independent trials is Poisson distributed as well.

    The loss of a block's trials is a sum over as many random trials of the block; its first two moments are used.
    """
    num_columns = 100
    sizes = [
        np.add.reduceat(is_class, blocks.starts, dtype=np.int64)
        for is_class in (trials.is_bonafide, ~trials.is_bonafide)
    ]
    while True:
        counts = [_poisson(size, num_columns, rng) for size in sizes]
        losses = [
            _sum_of_losses(blocks, is_class, size, count, rng)
            for is_class, size, count in zip(
                (trials.is_bonafide, ~trials.is_bonafide), sizes, counts, strict=True
            )
            if blocks.losses.size
        ]
        yield _Counts(counts[0], counts[1], np.array(losses).reshape(len(losses), num_columns))


def _poisson(mean: NDArray[np.int64], num_columns: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw Poisson numbers [num_means, num_columns]; large ones from the normal distribution, which is faster."""
    numbers = np.zeros((mean.size, num_columns))
    is_one, is_large = mean == 1, mean >= 16
    is_small = (mean > 1) & ~is_large
    numbers[is_one] = _poisson_of_one((int(np.count_nonzero(is_one)), num_columns), rng)
    numbers[is_small] = rng.poisson(mean[is_small, None], (np.count_nonzero(is_small), num_columns))
    large = mean[is_large, None]
    numbers[is_large] = np.maximum(large + np.sqrt(large) * rng.standard_normal((large.size, num_columns)), 0)
    return numbers


def _poisson_of_one(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw Poisson numbers of mean 1."""
    bits = np.frombuffer(rng.bytes(2 * shape[0] * shape[1]), np.uint16)
    return POISSON_TABLE[bits].reshape(shape)


def _sum_of_losses(
    blocks: _Blocks,
    is_class: NDArray[np.bool_],
    size: NDArray[np.int64],
    count: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Draw the sum of losses of a class in each resample, given how many of its trials each block has."""
    losses = np.where(is_class, blocks.losses, 0.0)
    mean = np.add.reduceat(losses, blocks.starts) / np.maximum(size, 1)
    square = np.add.reduceat(losses**2, blocks.starts) / np.maximum(size, 1)
    variance = np.maximum(square - mean**2, 0)
    return mean @ count + np.sqrt(variance @ count) * rng.standard_normal(count.shape[1])


def _metrics(blocks: _Blocks, counts: _Counts, names: Sequence[str], costs: Costs) -> Samples:
    """Compute metrics from the weights in each block, for all resamples at once."""
    samples: Samples = {}
    num_b, num_s = counts.bonafide.sum(axis=0), counts.spoof.sum(axis=0)
    miss = np.cumsum(counts.bonafide, axis=0)
    miss /= num_b
    false_alarm = np.cumsum(counts.spoof, axis=0)
    false_alarm /= -num_s
    false_alarm += 1
    if "eer" in names:
        samples["eer"] = eer_of_columns(miss, false_alarm)
    if tuple(names) == EER_ONLY:
        return samples
    if "min_dcf" in names:
        cost = costs.weight_miss * miss + costs.weight_false_alarm * false_alarm
        # The point before the first block accepts everything.
        samples["min_dcf"] = np.minimum(cost.min(axis=0), costs.weight_false_alarm) / costs.scale
    if "roc_auc" in names:
        rejected_before = 1 - false_alarm - counts.spoof / num_s / 2
        samples["roc_auc"] = np.einsum("kr,kr->r", counts.bonafide, rejected_before) / num_b
    miss_bayes, false_alarm_bayes = _rates_at(miss, false_alarm, blocks.at_bayes)
    samples["act_dcf"] = (
        costs.weight_miss * miss_bayes + costs.weight_false_alarm * false_alarm_bayes
    ) / costs.scale
    samples |= _decisions(*_rates_at(miss, false_alarm, blocks.at_zero), num_b, num_s)
    if blocks.losses.size:
        samples["cllr"] = (counts.losses[0] / num_b + counts.losses[1] / num_s) / 2
    if "cllr_min" in names or "cllr_cal" in names:
        weights = zip(_rows(counts.bonafide / num_b), _rows(counts.spoof / num_s), strict=True)
        samples["cllr_min"] = np.array([_cllr_min(b, s) for b, s in weights])
    if "cllr_cal" in names:
        samples["cllr_cal"] = samples["cllr"] - samples["cllr_min"]
    return {name: samples[name] for name in names}


def eer_of_columns(miss: NDArray[np.float64], false_alarm: NDArray[np.float64]) -> NDArray[np.float64]:
    """The EER of each column of rates [num_points, num_resamples]: their mean where they differ least."""
    at = np.argmin(np.abs(miss - false_alarm), axis=0)
    columns = np.arange(miss.shape[1])
    rates: NDArray[np.float64] = (miss[at, columns] + false_alarm[at, columns]) / 2
    return rates


def _rates_at(
    miss: NDArray[np.float64], false_alarm: NDArray[np.float64], num_blocks: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Miss and false alarm rates when the first blocks are rejected."""
    if num_blocks == 0:
        return np.zeros(miss.shape[1]), np.ones(miss.shape[1])
    return miss[num_blocks - 1], false_alarm[num_blocks - 1]


def _decisions(
    miss: NDArray[np.float64],
    false_alarm: NDArray[np.float64],
    num_b: NDArray[np.float64],
    num_s: NDArray[np.float64],
) -> Samples:
    hits, false_alarms = (1 - miss) * num_b, false_alarm * num_s
    accepted = hits + false_alarms
    return {
        "accuracy": (hits + num_s - false_alarms) / (num_b + num_s),
        "precision": np.divide(hits, accepted, out=np.zeros_like(hits), where=hits > 0),
        "recall": 1 - miss,
        "f1": 2 * hits / (num_b + accepted),
        "miss": miss,
        "false_alarm": false_alarm,
    }


def _cllr_min(weight_b: NDArray[np.float64], weight_s: NDArray[np.float64]) -> float:
    return cllr_of_posteriors(weight_b, weight_s, isotonic_posteriors(weight_b, weight_s))


def _rows(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exchange rows and columns, so that what was a column is contiguous in memory."""
    return np.ascontiguousarray(columns.T)
