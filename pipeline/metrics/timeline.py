"""Frame scores and labelled regions of utterances on one axis of time: how much of each frame is spoofed.

Times on the axis are integer nanoseconds. They add up exactly, so that splitting a region changes nothing. Utterances
follow each other on the axis, and all of them are handled at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, did_you_mean

RegionLabel = Literal["bonafide", "spoof", "non_speech"]
REGION_LABELS: tuple[RegionLabel, ...] = get_args(RegionLabel)

NonSpeech = Literal["excluded", "bonafide"]
NON_SPEECH: tuple[NonSpeech, ...] = get_args(NonSpeech)
"""What non-speech counts as: nothing, like time without a label, or bona fide speech. Published work does either."""

FRAME_S = 0.025
"""What the last frame of a front end covers beyond its start; so much of an utterance may follow the last hop."""

NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class FrameScores:
    """Scores of the frames of utterances, one utterance after the other.

    Frame t of an utterance stands for the time from t · hop_s to (t + 1) · hop_s; the last one, up to the end of the
    utterance.
    """

    utterances: Sequence[str]
    """[U] names, for messages."""
    durations_s: NDArray[np.float64]
    """[U]"""
    num_frames: NDArray[np.int64]
    """[U]"""
    scores: NDArray[np.float64]
    """[T] of all frames, where T is the sum of `num_frames`."""
    hop_s: float = 0.02

    @property
    def offsets(self) -> NDArray[np.int64]:
        """[U + 1] position of the first frame of each utterance in `scores`, and T."""
        return np.concatenate(([0], np.cumsum(self.num_frames, dtype=np.int64)))


@dataclass(frozen=True)
class Regions:
    """Labelled parts of utterances, in any order, which do not overlap; time outside of them has no label."""

    utterances: NDArray[np.int64]
    """[R] position of the utterance of each region in `FrameScores.utterances`."""
    starts_s: NDArray[np.float64]
    """[R]"""
    ends_s: NDArray[np.float64]
    """[R] an end up to one hop after the end of the utterance means the end of the utterance."""
    labels: NDArray[np.str_]
    """[R] of REGION_LABELS."""


class Intervals(NamedTuple):
    """Intervals of time in ascending order that do not overlap, in nanoseconds."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def duration_before(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """How much time of the intervals is before each time."""
        position = np.searchsorted(self.starts, times, side="right")
        durations = np.concatenate(([0], np.cumsum(self.ends - self.starts)))
        ends = np.concatenate(([0], self.ends))
        return durations[position] - np.maximum(ends[position] - times, 0)


@dataclass(frozen=True)
class Timeline:
    """Frames and spoofed regions on an axis of counted time, from which all time that does not count is cut out.

    So regions on both sides of such time adjoin, and if both are spoofed, they are one region.
    """

    non_speech: NonSpeech
    counted: Intervals
    """The time that counts, on the axis of all time."""
    utterance_starts_ns: NDArray[np.int64]
    """[U + 1] on the axis of all time; the last one is the end of that axis."""
    scores: NDArray[np.float64]
    """[F] of the frames that have counted time."""
    utterances: NDArray[np.int64]
    """[F] position of the utterance of each frame."""
    edges_ns: NDArray[np.int64]
    """[F + 1] start of each frame, and the end of the axis."""
    spoof: Intervals
    """The spoofed regions."""

    @cached_property
    def frame_ns(self) -> NDArray[np.int64]:
        """[F] how much time of each frame counts."""
        return np.diff(self.edges_ns)

    @cached_property
    def spoof_ns(self) -> NDArray[np.int64]:
        """[F] how much time of each frame is spoofed."""
        return np.diff(self.spoof.duration_before(self.edges_ns))

    @property
    def total_spoof_ns(self) -> int:
        """How much time is spoofed."""
        return int(self.spoof_ns.sum())

    @property
    def total_bonafide_ns(self) -> int:
        """How much time is bona fide."""
        return int(self.edges_ns[-1]) - self.total_spoof_ns

    def utterance_at(self, times_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The position of the utterance that each time of the axis of counted time belongs to."""
        starts = self.counted.duration_before(self.utterance_starts_ns)
        return np.searchsorted(starts, times_ns, side="right") - 1


def make_timeline(frames: FrameScores, regions: Regions, non_speech: NonSpeech) -> Timeline:
    """Put frames and regions on one axis.

    Args:
        frames: scores of at least one frame of each utterance.
        regions: labels of their time; an utterance may have none, and does not count then.
        non_speech: what regions of non-speech count as.

    Raises:
        InputError: frames do not fit the duration of their utterance, a score is not finite, regions overlap or exceed
            the utterance, a label is unknown, or nothing has a label.
    """
    if non_speech not in NON_SPEECH:
        raise InputError(
            f"unknown handling of non-speech {non_speech!r}{did_you_mean(non_speech, NON_SPEECH)}"
        )
    _check_frames(frames)
    utterance_starts = np.concatenate(([0], np.cumsum(_nanoseconds(frames.durations_s))))
    is_spoof, intervals = _place_regions(frames, regions, utterance_starts, non_speech)
    if not intervals.starts.size:
        raise InputError("no region has a label that counts; give regions of bona fide and spoofed speech")

    utterances = np.repeat(np.arange(len(frames.utterances)), frames.num_frames)
    number = np.arange(utterances.size) - frames.offsets[utterances]
    starts = utterance_starts[utterances] + _nanoseconds(number * frames.hop_s)
    edges = intervals.duration_before(np.append(starts, utterance_starts[-1]))
    has_time = edges[1:] > edges[:-1]

    spoof = Intervals(*(intervals.duration_before(edge[is_spoof]) for edge in intervals))
    region_utterances = np.searchsorted(utterance_starts, intervals.starts[is_spoof], side="right")
    return Timeline(
        non_speech=non_speech,
        counted=intervals,
        utterance_starts_ns=utterance_starts,
        scores=frames.scores[has_time],
        utterances=utterances[has_time],
        edges_ns=np.append(edges[:-1][has_time], edges[-1]),
        spoof=_joined(spoof, region_utterances),
    )


def smooth(frames: FrameScores, window_s: float) -> FrameScores:
    """Replace each score by the mean of the scores whose frames start at most half a window before or after it.

    At the ends of an utterance the window has fewer frames; scores of other utterances never enter it.

    Raises:
        InputError: the window is negative or not finite.
    """
    if not 0 <= window_s < np.inf:
        raise InputError(f"cannot smooth with a window of {window_s} s; use 0 or more seconds")
    reach = int(window_s / frames.hop_s / 2 + 1e-9)
    position, offsets = np.arange(frames.scores.size), frames.offsets
    first = np.maximum(position - reach, np.repeat(offsets[:-1], frames.num_frames))
    end = np.minimum(position + reach + 1, np.repeat(offsets[1:], frames.num_frames))
    # A sum for each window, not differences of running sums: those would round equal scores to different means.
    sums = reduce_slices(np.add, frames.scores.astype(np.float64), first, end)
    return replace(frames, scores=sums / (end - first))


def reduce_slices(
    ufunc: np.ufunc, values: NDArray[np.float64], first: NDArray[np.int64], end: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Reduce values[first[i]:end[i]] for each i; slices may overlap, and none is empty."""
    # Of reduceat's results, every other one is that of the values between two slices.
    padded = np.append(values, 0.0)
    reduced: NDArray[np.float64] = ufunc.reduceat(padded, np.column_stack((first, end)).ravel())[::2]
    return reduced


def _nanoseconds(seconds: NDArray[np.floating]) -> NDArray[np.int64]:
    return np.rint(np.asarray(seconds, np.float64) * NS_PER_S).astype(np.int64)


def _joined(intervals: Intervals, utterances: NDArray[np.int64]) -> Intervals:
    """Join intervals of one utterance that adjoin."""
    is_first = np.ones(utterances.size, np.bool_)
    is_first[1:] = (intervals.starts[1:] != intervals.ends[:-1]) | (utterances[1:] != utterances[:-1])
    return Intervals(intervals.starts[is_first], intervals.ends[np.roll(is_first, -1)])


def _place_regions(
    frames: FrameScores, regions: Regions, utterance_starts: NDArray[np.int64], non_speech: NonSpeech
) -> tuple[NDArray[np.bool_], Intervals]:
    """Check regions, and put those that count on the axis of all time; the first array is whether they are spoofed."""
    order = np.lexsort((regions.starts_s, regions.utterances))
    utterances, labels = regions.utterances[order], regions.labels[order]
    starts_s, ends_s = regions.starts_s[order], regions.ends_s[order]
    limit_s = frames.durations_s[utterances] + frames.hop_s

    def refuse(is_bad: NDArray[np.bool_], problem: Callable[[int], str]) -> None:
        if is_bad.any():
            i = int(np.argmax(is_bad))
            name = frames.utterances[int(utterances[i])]
            raise InputError(f"{name}: region {starts_s[i]:g} to {ends_s[i]:g} s {problem(i)}")

    refuse(
        ~np.isin(labels, REGION_LABELS),
        lambda i: f"has the unknown label {str(labels[i])!r}{did_you_mean(str(labels[i]), REGION_LABELS)}",
    )
    # Written so that a nan is refused.
    refuse(~(starts_s >= 0), lambda _: "starts before the utterance; times count from its start")
    refuse(~(ends_s > starts_s), lambda _: "does not end after it starts; every region needs a duration")
    refuse(
        ~(ends_s <= limit_s + 1e-9),
        lambda i: (
            f"ends after the utterance, which has {frames.durations_s[utterances[i]]:g} s; "
            "its labels or its audio are of another version"
        ),
    )
    durations = np.diff(utterance_starts)[utterances]
    starts, ends = (np.minimum(_nanoseconds(times), durations) for times in (starts_s, ends_s))
    overlaps = np.zeros(starts.size, np.bool_)
    overlaps[1:] = (utterances[1:] == utterances[:-1]) & (starts[1:] < ends[:-1])
    refuse(
        overlaps,
        lambda i: f"overlaps {starts_s[i - 1]:g} to {ends_s[i - 1]:g} s; each moment can have one label only",
    )
    counts = (labels != "non_speech") | (non_speech == "bonafide")
    kept = counts & (ends > starts)
    base = utterance_starts[utterances[kept]]
    return labels[kept] == "spoof", Intervals(base + starts[kept], base + ends[kept])


def _check_frames(frames: FrameScores) -> None:
    """Check that the frames of each utterance fit its duration, and that the scores are finite."""
    durations_s, num_frames = frames.durations_s, frames.num_frames
    assert len(frames.utterances) == durations_s.size == num_frames.size
    assert frames.scores.size == num_frames.sum()

    def refuse(is_bad: NDArray[np.bool_], problem: Callable[[int], str]) -> None:
        if is_bad.any():
            i = int(np.argmax(is_bad))
            raise InputError(f"{frames.utterances[i]}: {problem(i)}")

    if not 0 < frames.hop_s < np.inf:
        raise InputError(f"frames cannot be {frames.hop_s} s apart; the hop must be a positive number")
    refuse(
        ~((durations_s > 0) & np.isfinite(durations_s)),
        lambda i: f"has a duration of {durations_s[i]} s; expected a positive number",
    )
    refuse(num_frames < 1, lambda _: "has no frame scores; every utterance needs at least one")
    last_s = (num_frames - 1) * frames.hop_s
    fits = (last_s < durations_s) & (durations_s <= last_s + 2 * frames.hop_s + FRAME_S + 1e-9)
    refuse(
        ~fits,
        lambda i: (
            f"{num_frames[i]} frames every {frames.hop_s:g} s do not fit its {durations_s[i]:g} s; "
            "the hop, the duration or the frames are wrong"
        ),
    )
    is_bad = ~np.isfinite(frames.scores)
    if is_bad.any():
        frame = int(np.argmax(is_bad))
        i = int(np.searchsorted(frames.offsets, frame, side="right")) - 1
        time_s = (frame - frames.offsets[i]) * frames.hop_s
        raise InputError(
            f"{frames.utterances[i]}: the score at {time_s:g} s is {frames.scores[frame]}; "
            "every score must be a finite number"
        )
