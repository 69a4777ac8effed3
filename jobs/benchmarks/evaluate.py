"""Compares metrics of trials and of frames with a bare sort, and the bootstrap with one that sorts every resample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from jobs.benchmarks.table import Measured, peak_mib, print_now, timed
from pipeline.fields import Count, Range
from pipeline.metrics import Trials, eer_of, equal_error_rate, sort_trials
from pipeline.metrics.bootstrap import ALL, EER_ONLY, bootstrap
from pipeline.metrics.localisation import range_eer
from pipeline.metrics.timeline import FrameScores, Regions, make_timeline

NUM_SORTED = 20
"""Resamples that are sorted one by one; the time of more is in proportion."""

FRAMES_PER_UTTERANCE = 250
"""Frames of an utterance of 5 s."""


@dataclass(frozen=True)
class EvaluateBenchmark:
    """Settings of `bonafide benchmark evaluate`; scores are random."""

    num_eer: Annotated[int, Range(10, 1_000_000_000)] = 10_000_000
    """Trials of a single EER."""
    num_trials: Annotated[int, Range(10, 1_000_000_000)] = 1_000_000
    """Trials of each of two systems that are resampled."""
    num_clusters: Annotated[int, Range(2, 1_000_000_000)] = 1_000_000
    """Clusters of the trials; with as many as trials, every utterance is one, which takes longest."""
    num_resamples: Count = 1000
    num_frames: Annotated[int, Range(FRAMES_PER_UTTERANCE, 1_000_000_000)] = 2_500_000
    """Frames whose EER by duration is measured, in utterances of 5 s with five regions each."""


def measure(config: EvaluateBenchmark) -> Iterator[Measured]:
    """Measure one EER, then one by duration, then the resamples of two systems on the same trials."""
    print_now(f"the EER of {config.num_eer:,} trials")
    with get_context("spawn").Pool(1) as pool:  # so that the peak of memory is that of the EER
        sort_s, eer_s, mib = pool.apply(measure_eer, (config.num_eer,))
    yield Measured(f"sort of {config.num_eer:,} scores", f"{sort_s:.2f} s")
    yield Measured(
        "EER", f"{eer_s:.2f} s", f"{eer_s / sort_s:.1f} × the sort, {mib:,.0f} MiB above the arrays"
    )

    print_now(f"the EER by duration of {config.num_frames:,} frames")
    frames, regions = make_frames(config.num_frames // FRAMES_PER_UTTERANCE)
    sort_s = timed(lambda: np.argsort(frames.scores, kind="stable"))
    range_s = timed(lambda: range_eer(make_timeline(frames, regions, "excluded")))
    yield Measured(
        f"EER by duration of {frames.scores.size:,} frames",
        f"{range_s:.2f} s",
        f"{range_s / sort_s:.1f} × a sort of their scores",
    )

    systems = [make_trials(config, seed) for seed in (1, 2)]
    print_now(f"{NUM_SORTED} resamples that are sorted one by one")
    sorted_s = timed(lambda: sort_resamples(systems[0])) / NUM_SORTED * 2 * config.num_resamples
    yield Measured("sorting every resample, EER alone", f"{sorted_s:.0f} s", f"from {NUM_SORTED} resamples")
    for title, names in (("EER", EER_ONLY), ("all metrics", ALL)):
        print_now(f"{config.num_resamples:,} resamples of two systems: {title}")
        resamples_s = timed(partial(_resample, systems, names, config.num_resamples))
        yield Measured(
            f"bootstrap of two systems, {title}",
            f"{resamples_s:.1f} s",
            f"{sorted_s / resamples_s:.0f} × as fast",
        )


def measure_eer(num_trials: int) -> tuple[float, float, float]:
    """Time a sort and an EER, and measure the memory of the EER above its arrays, MiB."""
    rng = np.random.default_rng(0)
    num_bonafide = num_trials * 2 // 5
    bonafide, spoof = rng.normal(2, 1, num_bonafide), rng.normal(0, 1, num_trials - num_bonafide)
    before = peak_mib()
    eer_s = timed(lambda: equal_error_rate(bonafide, spoof))
    mib = peak_mib() - before
    scores = np.concatenate((bonafide, spoof))
    return timed(lambda: np.argsort(scores, kind="stable")), eer_s, mib


def make_frames(num_utterances: int) -> tuple[FrameScores, Regions]:
    """Make the frames and regions of utterances of 5 s in which two parts are spoofed."""
    rng = np.random.default_rng(0)
    edges_s = np.hstack(
        (
            np.zeros((num_utterances, 1)),
            np.sort(rng.uniform(0.1, 4.9, (num_utterances, 4))),
            np.full((num_utterances, 1), 5.0),
        )
    )
    frames = FrameScores(
        utterances=[str(number) for number in range(num_utterances)],
        durations_s=np.full(num_utterances, 5.0),
        num_frames=np.full(num_utterances, FRAMES_PER_UTTERANCE),
        scores=rng.normal(0, 1, num_utterances * FRAMES_PER_UTTERANCE),
    )
    regions = Regions(
        utterances=np.repeat(np.arange(num_utterances), 5),
        starts_s=edges_s[:, :-1].ravel(),
        ends_s=edges_s[:, 1:].ravel(),
        labels=np.tile(["bonafide", "spoof", "bonafide", "spoof", "bonafide"], num_utterances),
    )
    return frames, regions


def make_trials(config: EvaluateBenchmark, seed: int) -> Trials:
    """Make the trials of a system; the utterances of a cluster share an offset."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    num_bonafide = config.num_trials * 2 // 5
    numbers = np.arange(config.num_trials)
    clusters = (
        numbers
        if config.num_clusters >= numbers.size
        else shared.integers(0, config.num_clusters, numbers.size)
    )
    offset = shared.normal(0, 0.5, int(clusters.max()) + 1)[clusters]
    scores = np.where(numbers < num_bonafide, 2.0, -1.0) + offset + own.normal(0, 1, numbers.size)
    return sort_trials(
        scores[:num_bonafide], scores[num_bonafide:], (clusters[:num_bonafide], clusters[num_bonafide:])
    )


def sort_resamples(trials: Trials) -> None:
    """Compute the EER of resamples by repeating trials and sorting them again."""
    assert trials.clusters is not None
    rng = np.random.default_rng(0)
    clusters: NDArray[np.int64] = trials.clusters
    for _ in range(NUM_SORTED):
        times = rng.poisson(1, int(clusters.max()) + 1)[clusters]
        scores, is_bonafide = np.repeat(trials.scores, times), np.repeat(trials.is_bonafide, times)
        order = rng.permutation(scores.size)  # the scores of a resample do not come sorted
        scores, is_bonafide = scores[order], is_bonafide[order]
        eer_of(sort_trials(scores[is_bonafide], scores[~is_bonafide]))


def _resample(systems: Sequence[Trials], names: Sequence[str], num_resamples: int) -> None:
    for trials in systems:
        bootstrap(trials, names, num_resamples=num_resamples)
