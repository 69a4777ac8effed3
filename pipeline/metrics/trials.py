"""Scores of both classes, sorted once, and the error counts at every threshold.

A higher score means more bona fide. Every function checks that both classes have scores and that all are finite.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import InputError


class ClassScores(NamedTuple):
    """Scores by class."""

    bonafide: NDArray[np.float64]
    spoof: NDArray[np.float64]


class Trials(NamedTuple):
    """The scores of both classes in ascending order; of equal scores, those of bona fide come first.

    A selection of trials in the same order needs no sort of its own.
    """

    scores: NDArray[np.float64]
    """[N]"""
    is_bonafide: NDArray[np.bool_]
    """[N]"""
    clusters: NDArray[np.int64] | None = None
    """[N] number of the cluster of each trial, such as its speaker; None: every trial is independent of the others."""

    @property
    def num_bonafide(self) -> int:
        return int(np.count_nonzero(self.is_bonafide))

    @property
    def num_spoof(self) -> int:
        return self.scores.size - self.num_bonafide

    @property
    def by_class(self) -> ClassScores:
        """The scores of each class, in ascending order."""
        return ClassScores(self.scores[self.is_bonafide], self.scores[~self.is_bonafide])

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Trials:
        """Select some trials by a mask [N], or by their positions in ascending order."""
        clusters = None if self.clusters is None else self.clusters[rows]
        return Trials(self.scores[rows], self.is_bonafide[rows], clusters)

    def rejected_at(self, threshold: float) -> tuple[int, int]:
        """Count the bona fide and the spoof trials with a score below a threshold."""
        num_below = int(np.searchsorted(self.scores, threshold))
        num_bonafide = int(np.count_nonzero(self.is_bonafide[:num_below]))
        return num_bonafide, num_below - num_bonafide


def sort_trials(
    bonafide: ArrayLike, spoof: ArrayLike, clusters: tuple[ArrayLike, ArrayLike] | None = None
) -> Trials:
    """Sort the scores of two classes.

    Args:
        bonafide: scores of bona fide utterances, in any order.
        spoof: scores of spoof utterances.
        clusters: the numbers of the clusters of both, from 0; a cluster may have trials of both classes.

    Raises:
        InputError: a class has no scores, or a score is nan or infinite.
    """
    b, s = check_scores(bonafide, "bona fide"), check_scores(spoof, "spoof")
    scores = np.concatenate((b, s))
    order = np.argsort(scores, kind="stable")
    joined = None if clusters is None else np.concatenate([np.asarray(c, np.int64) for c in clusters])[order]
    return Trials(scores[order], order < b.size, joined)


class OperatingPoints(NamedTuple):
    """Error counts at each threshold, from accepting everything (first) to rejecting everything (last).

    At point i, scores at or below thresholds[i] are rejected; thresholds[0] is minus infinity. All arrays are
    [num_points]; thresholds are float64, counts int64. With weights, such as durations, a count is a sum of weights.
    """

    thresholds: NDArray[np.float64]
    misses: NDArray[np.int64]
    false_alarms: NDArray[np.int64]

    @property
    def num_bonafide(self) -> int:
        return int(self.misses[-1])

    @property
    def num_spoof(self) -> int:
        return int(self.false_alarms[0])

    def thinned(self, max_points: int) -> OperatingPoints:
        """Keep at most so many points, evenly chosen, with both ends."""
        if self.thresholds.size <= max_points:
            return self
        kept = np.linspace(0, self.thresholds.size - 1, max_points).astype(np.int64)
        return OperatingPoints(self.thresholds[kept], self.misses[kept], self.false_alarms[kept])

    @property
    def miss(self) -> NDArray[np.float64]:
        """Fraction of bona fide utterances rejected at each point."""
        return self.misses / self.num_bonafide

    @property
    def false_alarm(self) -> NDArray[np.float64]:
        """Fraction of spoof utterances accepted at each point."""
        return self.false_alarms / self.num_spoof


def operating_points(trials: Trials, *, group_ties: bool = True) -> OperatingPoints:
    """Count the errors at every threshold; by default equal scores share one."""
    if group_ties:
        # Equal scores share one threshold. Cutting between them would let the sort decide the EER.
        ends = tie_ends(trials.scores)
        rejected_b = np.cumsum(trials.is_bonafide, dtype=np.int64)[ends - 1]
    else:
        ends = np.arange(1, trials.scores.size + 1)
        rejected_b = np.cumsum(trials.is_bonafide, dtype=np.int64)
    return _points(trials.scores[ends - 1], rejected_b, ends - rejected_b)


def weighted_operating_points(
    scores: NDArray[np.float64], weights_b: NDArray[np.int64], weights_s: NDArray[np.int64]
) -> OperatingPoints:
    """Add up the errors at every threshold if each score has a weight in both classes; equal scores share one.

    Integers add up exactly, so the points do not depend on the order of the scores, nor on whether a weight is split.

    Args:
        scores: [N] finite, in any order, at least one.
        weights_b: [N] how much bona fide speech has this score, 0 or more.
        weights_s: [N] how much spoofed speech has it; a score without any weight is a threshold all the same.
    """
    order = np.argsort(scores, kind="stable")
    ends = tie_ends(scores[order])
    rejected_b, rejected_s = (np.cumsum(weights[order])[ends - 1] for weights in (weights_b, weights_s))
    return _points(scores[order[ends - 1]], rejected_b, rejected_s)


def _points(
    thresholds: NDArray[np.float64], rejected_b: NDArray[np.int64], rejected_s: NDArray[np.int64]
) -> OperatingPoints:
    """The point that accepts everything, and then those whose thresholds reject so much of each class."""
    return OperatingPoints(
        thresholds=np.concatenate(([-np.inf], thresholds)),
        misses=np.concatenate(([0], rejected_b)),
        false_alarms=rejected_s[-1] - np.concatenate(([0], rejected_s)),
    )


def tie_ends(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The position after the last of each group of equal scores, of scores in ascending order."""
    return np.append(np.flatnonzero(scores[1:] != scores[:-1]) + 1, scores.size)


def check_scores(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return the scores of a class as an array [N].

    Raises:
        InputError: there are none, or one is nan or infinite.
    """
    scores = np.asarray(values, dtype=np.float64).reshape(-1)
    if scores.size == 0:
        raise InputError(f"no {name} scores; metrics need scores of both classes")
    is_bad = ~np.isfinite(scores)
    if is_bad.any():
        first = int(np.argmax(is_bad))
        raise InputError(
            f"{int(is_bad.sum())} of {scores.size} {name} scores are not finite, "
            f"the first is {scores[first]} at position {first}; every score must be a finite number"
        )
    return scores
