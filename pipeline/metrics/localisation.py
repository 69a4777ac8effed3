"""Metrics of where speech is spoofed: error rates by duration, by segment and by region.

    timeline = make_timeline(frames, regions, non_speech="excluded")
    range_eer(timeline).eer

Spoofed is what scores below a threshold. Frames of another resolution change an error rate by segment even if the
decisions are equally good, so error rates by duration are the ones to compare (Zhang et al., arXiv 2305.17739).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.metrics.bootstrap import eer_of_columns
from pipeline.metrics.eer import eer_at, equal_error_rate
from pipeline.metrics.timeline import NS_PER_S, FrameScores, Intervals, NonSpeech, Timeline, reduce_slices
from pipeline.metrics.trials import tie_ends, weighted_operating_points

RESAMPLED_THRESHOLDS = 1024
"""Thresholds at which the EER of a resample is read off."""
RESAMPLED_REACH = 0.2
"""Most of them are where miss and false alarm of the timeline differ by at most so much."""
RESAMPLES_AT_ONCE = 50


class RangeEqualErrorRate(NamedTuple):
    """The rate at which as much of the bona fide time is rejected as of the spoofed time is accepted."""

    eer: float
    threshold: float
    """Frames that score above it are accepted."""
    bonafide_s: float
    """How much time is bona fide."""
    spoof_s: float
    non_speech: NonSpeech
    """What non-speech counts as."""


class SegmentEqualErrorRate(NamedTuple):
    """The equal error rate of segments as trials."""

    eer: float
    threshold: float
    resolution_s: float
    """Duration of a segment."""
    num_bonafide: int
    num_spoof: int
    non_speech: NonSpeech


class SpoofTime(NamedTuple):
    """Rates by duration at a fixed threshold; spoofed is the positive class. A ratio with denominator 0 is 0."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    non_speech: NonSpeech


class RegionPrecision(NamedTuple):
    """How well spoofed regions are found as regions."""

    average_precision: float
    num_found: int
    """Spoofed regions that a detected region matches."""
    num_spoof: int
    num_detected: int
    non_speech: NonSpeech


class BoundaryDistances(NamedTuple):
    """How far each true boundary is from the nearest detected one of its utterance."""

    distances_s: NDArray[np.float64]
    """[num_boundaries] infinite if the utterance has no detected boundary."""
    num_detected: int
    """Detected boundaries; many of them are near everything."""
    non_speech: NonSpeech

    def share_within(self, tolerance_s: float) -> float:
        """Share of the true boundaries that have a detected one within a tolerance.

        Raises:
            InputError: there are no true boundaries.
        """
        if not self.distances_s.size:
            raise InputError("no utterance has a boundary between bona fide and spoofed speech")
        return float(np.mean(self.distances_s <= tolerance_s))


class Detections(NamedTuple):
    """Regions that are detected as spoofed."""

    regions: Intervals
    scores: NDArray[np.float64]
    """Mean score of each region by duration."""


class Runs(NamedTuple):
    """The frames of utterances as regions, one after the other, without gaps."""

    utterances: NDArray[np.int64]
    """[R] position of the utterance of each region."""
    starts_s: NDArray[np.float64]
    """[R]"""
    ends_s: NDArray[np.float64]
    is_below: NDArray[np.bool_]
    """[R] whether the scores of the frames are below the threshold, or not."""


def runs_below(frames: FrameScores, threshold: float) -> Runs:
    """Divide each utterance where its scores cross a threshold."""
    is_below = frames.scores < threshold
    is_first = np.ones(is_below.size, np.bool_)
    is_first[1:] = is_below[1:] != is_below[:-1]
    is_first[frames.offsets[:-1]] = True
    first = np.flatnonzero(is_first)
    utterances = np.searchsorted(frames.offsets, first, side="right") - 1
    starts_s = np.asarray((first - frames.offsets[utterances]) * frames.hop_s, np.float64)
    is_last = np.append(utterances[1:] != utterances[:-1], True)
    ends_s = np.where(is_last, frames.durations_s[utterances], np.roll(starts_s, -1))
    return Runs(utterances, starts_s, ends_s, is_below[first])


def range_eer(timeline: Timeline) -> RangeEqualErrorRate:
    """The range-based EER: misses and false alarms are durations, exact at the edges of regions.

    Of two equally good thresholds, or between two of them, it is read off as by the definition `bonafide` of the EER.

    Raises:
        InputError: no time is bona fide, or none is spoofed.
    """
    _check_classes(timeline)
    points = weighted_operating_points(
        timeline.scores, timeline.frame_ns - timeline.spoof_ns, timeline.spoof_ns
    )
    eer, threshold = eer_at(points)
    seconds = (timeline.total_bonafide_ns / NS_PER_S, timeline.total_spoof_ns / NS_PER_S)
    return RangeEqualErrorRate(eer, threshold, *seconds, timeline.non_speech)


def resample_range_eer(
    timeline: Timeline,
    clusters: NDArray[np.int64],
    *,
    num_resamples: int = 1000,
    seed: int | Sequence[int] = 0,
) -> NDArray[np.float64]:
    """The range-based EER of resamples of whole clusters of utterances, [num_resamples].

    A cluster has a Poisson distributed weight of mean 1. The EER of a resample is read off at RESAMPLED_THRESHOLDS
    thresholds around that of the timeline.

    Args:
        timeline: with bona fide and spoofed time.
        clusters: [U] number of the cluster of each utterance, from 0.
        num_resamples: number of resamples.
        seed: seed of the weights.
    """
    from scipy.sparse import csr_array

    _check_classes(timeline)
    order = np.argsort(timeline.scores, kind="stable")
    ends = tie_ends(timeline.scores[order])
    times = [each[order] for each in (timeline.frame_ns - timeline.spoof_ns, timeline.spoof_ns)]
    rejected_b, rejected_s = (np.cumsum(each)[ends - 1] / each.sum() for each in times)
    difference = rejected_b - (1 - rejected_s)  # miss - false alarm, which ascends
    near = np.searchsorted(difference, np.linspace(-RESAMPLED_REACH, RESAMPLED_REACH, RESAMPLED_THRESHOLDS))
    far = np.searchsorted(difference, np.linspace(-1, 1, RESAMPLED_THRESHOLDS // 4))
    ends = ends[np.unique(np.minimum(np.concatenate((near, far, [ends.size - 1])), ends.size - 1))]
    blocks = np.searchsorted(ends, np.arange(order.size), side="right")
    of_frames = clusters[timeline.utterances[order]]
    shape = (ends.size, int(clusters.max()) + 1)
    tables = [csr_array((each / NS_PER_S, (blocks, of_frames)), shape=shape) for each in times]

    rng = np.random.default_rng(seed)
    samples: list[NDArray[np.float64]] = []
    while sum(map(len, samples)) < num_resamples:
        weights = rng.poisson(1, (shape[1], RESAMPLES_AT_ONCE)).astype(np.float64)
        bonafide, spoof = (np.cumsum(table @ weights, axis=0) for table in tables)
        # A resample without any time of a class has no error rates; another one is drawn instead.
        kept = (bonafide[-1] > 0) & (spoof[-1] > 0)
        miss, rejected = (each[:, kept] / each[-1, kept] for each in (bonafide, spoof))
        samples.append(eer_of_columns(miss, 1 - rejected))
    return np.concatenate(samples)[:num_resamples]


def segment_eer(timeline: Timeline, resolution_s: float) -> SegmentEqualErrorRate:
    """The EER of segments of equal duration, counted from the start of each utterance.

    A segment is spoofed if any of its time is, and its score is the lowest one of the frames that share counted time
    with it. A segment without counted time is left out. Segments may be shorter than frames.

    Raises:
        InputError: the resolution is not positive, or no segment is bona fide, or none is spoofed.
    """
    resolution_ns = round(resolution_s * NS_PER_S) if 0 < resolution_s < np.inf else 0
    if resolution_ns < 1:
        raise InputError(f"segments cannot have {resolution_s} s; give a positive duration")
    durations = np.diff(timeline.utterance_starts_ns)
    num_segments = -(-durations // resolution_ns)
    number = np.arange(num_segments.sum()) - np.repeat(np.cumsum(num_segments) - num_segments, num_segments)
    starts = np.repeat(timeline.utterance_starts_ns[:-1], num_segments) + number * resolution_ns
    edges = timeline.counted.duration_before(np.append(starts, timeline.utterance_starts_ns[-1]))
    edges = edges[np.append(True, edges[1:] > edges[:-1])]
    is_spoof = np.diff(timeline.spoof.duration_before(edges)) > 0
    first = np.searchsorted(timeline.edges_ns, edges[:-1], side="right") - 1
    end = np.searchsorted(timeline.edges_ns, edges[1:], side="left")
    scores = reduce_slices(np.minimum, timeline.scores, first, end)
    eer, threshold = equal_error_rate(scores[~is_spoof], scores[is_spoof])
    num_spoof = int(np.count_nonzero(is_spoof))
    return SegmentEqualErrorRate(
        eer, threshold, resolution_s, is_spoof.size - num_spoof, num_spoof, timeline.non_speech
    )


def spoof_time(timeline: Timeline, threshold: float = 0.0) -> SpoofTime:
    """Rates by duration when frames that score below the threshold are classified as spoofed."""
    is_below = timeline.scores < threshold
    total, spoof = int(timeline.edges_ns[-1]), timeline.total_spoof_ns
    detected = int(timeline.frame_ns[is_below].sum())
    hits = int(timeline.spoof_ns[is_below].sum())
    return SpoofTime(
        accuracy=(total - detected - spoof + 2 * hits) / total,
        precision=hits / detected if detected else 0.0,
        recall=hits / spoof if spoof else 0.0,
        f1=2 * hits / (detected + spoof) if detected + spoof else 0.0,
        non_speech=timeline.non_speech,
    )


def detect(timeline: Timeline, threshold: float = 0.0) -> Detections:
    """Find the runs of frames that score below a threshold, on the axis of counted time."""
    is_below = timeline.scores < threshold
    changes = np.diff(is_below) | (np.diff(timeline.utterances) != 0)
    first = np.concatenate(([0], np.flatnonzero(changes) + 1))
    edges = np.append(timeline.edges_ns[first], timeline.edges_ns[-1])
    sums = np.add.reduceat(timeline.scores * timeline.frame_ns, first)
    is_run = is_below[first]
    return Detections(Intervals(edges[:-1][is_run], edges[1:][is_run]), sums[is_run] / np.diff(edges)[is_run])


def region_precision(timeline: Timeline, threshold: float = 0.0, min_iou: float = 0.5) -> RegionPrecision:
    """Average precision of detected regions: runs of frames below the threshold, lowest mean score first.

    A detected region is right if the time that it shares with a spoofed region is at least `min_iou` of the time that
    either of them has. From 0.5 on, no region can match two others. Precision is averaged over the spoofed regions,
    without interpolation; those that are not found have precision 0.

    Raises:
        InputError: no time is spoofed, or the intersection over union is below 0.5.
    """
    spoof, (detected, scores) = timeline.spoof, detect(timeline, threshold)
    if not spoof.starts.size:
        raise InputError("no time is spoofed; regions can only be found where there are some")
    if not 0.5 <= min_iou <= 1:
        raise InputError(f"invalid intersection over union {min_iou}; it must be from 0.5 to 1")
    order = np.argsort(scores, kind="stable")
    is_hit = _is_match(detected, spoof, min_iou)[order]
    num_found = int(np.count_nonzero(is_hit))
    average = 0.0
    if order.size:
        ends = tie_ends(scores[order])
        hits = np.cumsum(is_hit)[ends - 1]
        average = float(np.diff(hits, prepend=0) @ (hits / ends)) / spoof.starts.size
    return RegionPrecision(average, num_found, spoof.starts.size, order.size, timeline.non_speech)


def boundary_distances(timeline: Timeline, threshold: float = 0.0) -> BoundaryDistances:
    """Measure how far true boundaries between bona fide and spoofed time are from detected ones.

    Starts and ends of utterances are no boundaries. Distances are in time that counts.
    """
    true, detected = (
        _boundaries(timeline, regions) for regions in (timeline.spoof, detect(timeline, threshold).regions)
    )
    distances = np.full(true.size, np.inf)
    if detected.size:
        utterances, detected_utterances = timeline.utterance_at(true), timeline.utterance_at(detected)
        after = np.searchsorted(detected, true)
        for neighbour in (after - 1, after):
            nearest = np.clip(neighbour, 0, detected.size - 1)
            distance = np.abs(detected[nearest] - true) / NS_PER_S
            distance[detected_utterances[nearest] != utterances] = np.inf
            distances = np.minimum(distances, distance)
    return BoundaryDistances(distances, detected.size, timeline.non_speech)


def _boundaries(timeline: Timeline, regions: Intervals) -> NDArray[np.int64]:
    """Starts and ends of regions, without those of utterances."""
    of_utterances = timeline.counted.duration_before(timeline.utterance_starts_ns)
    return np.setdiff1d(np.concatenate((regions.starts, regions.ends)), of_utterances)


def _is_match(detected: Intervals, spoof: Intervals, min_iou: float) -> NDArray[np.bool_]:
    """Whether each detected region matches a spoofed one."""
    first = np.searchsorted(spoof.ends, detected.starts, side="right")
    num = np.searchsorted(spoof.starts, detected.ends, side="left") - first
    one = np.repeat(np.arange(num.size), num)
    other = np.arange(one.size) - np.repeat(np.cumsum(num) - num, num) + first[one]
    shared = np.minimum(detected.ends[one], spoof.ends[other]) - np.maximum(
        detected.starts[one], spoof.starts[other]
    )
    either = (detected.ends - detected.starts)[one] + (spoof.ends - spoof.starts)[other] - shared
    is_match = shared >= min_iou * either
    return np.bincount(one[is_match], minlength=num.size) > 0


def _check_classes(timeline: Timeline) -> None:
    for total_ns, name in (
        (timeline.total_bonafide_ns, "bona fide"),
        (timeline.total_spoof_ns, "spoofed"),
    ):
        if not total_ns:
            raise InputError(f"no time is {name}; an error rate by duration needs bona fide and spoofed time")
