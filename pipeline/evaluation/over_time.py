"""Measure where in its utterances each system finds spoofed speech, and choose utterances to show over time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.evaluation.calibration import Calibration, FrameThreshold
from pipeline.evaluation.columns import NOT_STATED
from pipeline.evaluation.frames import (
    Framed,
    has_frames,
    load_frames,
    load_regions,
    regions_of,
    timeline_of,
)
from pipeline.evaluation.measure import Measurement, Settings, bootstrap_seed
from pipeline.evaluation.scores import ScoreSet
from pipeline.evaluation.utterances import Utterances, renumber
from pipeline.metrics.intervals import Interval, interval_of
from pipeline.metrics.localisation import (
    boundary_distances,
    range_eer,
    region_precision,
    resample_range_eer,
    segment_eer,
    spoof_time,
)
from pipeline.metrics.timeline import NonSpeech, Timeline, smooth
from pipeline.storage import Folder

GROUP = "frames"
"""Group of the measurements over time; their key is `key_of` the handling of non-speech."""

RESOLUTIONS_MS = (20, 40, 80, 160, 320, 640)
"""Durations of the segments of `segment_eer`."""
TOLERANCE_MS = 200
MIN_IOU = 0.5

SHARES = (
    "range_eer",
    *(f"segment_eer_{resolution}ms" for resolution in RESOLUTIONS_MS),
    *(f"time_{name}" for name in ("accuracy", "precision", "recall", "f1")),
    "region_precision",
    f"boundaries_within_{TOLERANCE_MS}ms",
)
"""Metrics that are rates; those of time, regions and boundaries are at the threshold of the system."""
METRICS = (
    *SHARES,
    "detected_per_boundary",
    "range_eer_threshold",
    "threshold",
    "bonafide_seconds",
    "spoof_seconds",
)
"""Names of all metrics over time, in the order of the files."""

NUM_SHOWN = 3
"""Utterances of each kind that are shown."""


@dataclass(frozen=True)
class Shown:
    """An utterance to show over time."""

    corpus: str
    id: str
    label: str
    attack: str | None
    score: float
    seconds: float
    scored_seconds: float
    """How much of it was scored, from its beginning."""
    frames: NDArray[np.float64]
    """Smoothed scores."""
    regions: Sequence[tuple[float, float, str]]
    """(start, end, label); none if they are not known."""


class Threshold(NamedTuple):
    """The score below which a frame counts as spoofed."""

    score: float
    origin: str
    """How it was chosen, in words."""


@dataclass(frozen=True)
class OverTime:
    """What a report shows of frames."""

    thresholds: Mapping[str, Threshold]
    """System with frames → its threshold."""
    measurements: Sequence[Measurement]
    """Of each system and corpus whose utterances have frames and regions."""
    num_cut: int
    """Utterances with regions of which a system scored the beginning only."""
    system: str
    """Whose utterances are shown."""
    shown: Mapping[str, Sequence[Shown]]
    """What they have in common → utterances."""
    warnings: Sequence[str]
    """Why thresholds may not suit these frames."""


def key_of(non_speech: NonSpeech) -> str:
    """The key of measurements over time."""
    return f"non_speech_{non_speech}"


def threshold_of(calibration: Calibration | None) -> Threshold:
    """The threshold of frames: the one that was calibrated on frames, else the one of utterances, else 0."""
    if calibration is not None and calibration.frame_threshold is not None:
        return Threshold(calibration.frame_threshold.score, "calibrated on frames")
    score = None if calibration is None else calibration.score_threshold
    return Threshold(0.0, "not calibrated") if score is None else Threshold(score, "calibrated on utterances")


def _concern(system: str, chosen: FrameThreshold | None, settings: Settings) -> str | None:
    """Say that the threshold of a system was chosen for frames that were measured otherwise."""
    measured = (settings.smoothing_s, settings.non_speech)
    if chosen is None or (chosen.smoothing_s, chosen.non_speech) == measured:
        return None
    return (
        f"the threshold of frames of {system} was calibrated on frames {chosen.in_words()}; evaluate with "
        f"--smoothing {chosen.smoothing_s:g} --non-speech {chosen.non_speech}, or calibrate again"
    )


def measure_over_time(
    score_sets: Sequence[ScoreSet],
    calibrations: Mapping[str, Calibration],
    settings: Settings,
) -> OverTime | None:
    """Measure the frames of every system that has some, and choose utterances of the last of these systems.

    Args:
        score_sets: the systems.
        calibrations: system → its calibration, for those that have one.
        settings: of the evaluation.

    Returns:
        None if no system has scores of frames.

    Raises:
        InputError: frames are missing, or they do not fit the regions.
    """
    framed = [scores for scores in score_sets if has_frames(scores.identity)]
    if not framed:
        return None
    thresholds = {scores.system: threshold_of(calibrations.get(scores.system)) for scores in framed}
    measurements: list[Measurement] = []
    num_cut = 0
    for scores in framed:
        folder = Folder(scores.location)
        regions = load_regions(folder)
        known = regions["uid"].unique()
        for corpus, utterances in scores.by_corpus.items():
            uids = utterances.uids.filter(pc.is_in(utterances.uids, value_set=known))
            if len(uids):
                frames = load_frames(folder, uids)
                num_cut += frames.num_cut
                threshold = thresholds[scores.system].score
                measurements.append(
                    _measure(scores, corpus, utterances, frames, regions, threshold, settings)
                )
    shown = _choose(framed[-1], settings.smoothing_s)
    concerns = [
        _concern(system, calibration.frame_threshold, settings)
        for system, calibration in calibrations.items()
        if system in thresholds
    ]
    return OverTime(
        thresholds, measurements, num_cut, framed[-1].system, shown, [each for each in concerns if each]
    )


def _measure(
    scores: ScoreSet,
    corpus: str,
    utterances: Utterances,
    framed: Framed,
    table: pa.Table,
    threshold: float,
    settings: Settings,
) -> Measurement:
    """Measure the utterances of a corpus that have regions; a metric that needs a missing class is None."""
    rows = pc.index_in(framed.rows["key"], value_set=utterances.uids).to_numpy()
    num_bonafide = int(np.count_nonzero(utterances.is_bonafide[rows]))
    metrics: dict[str, float | None] = dict.fromkeys(METRICS)
    metrics["threshold"] = threshold
    intervals: dict[str, Interval] = {}
    num_clusters = 0
    where = f"{scores.location}: {corpus}"
    timeline = timeline_of(framed, table, settings.smoothing_s, settings.non_speech, where)
    if timeline is not None:
        metrics |= metrics_of(timeline, threshold)
        eer = metrics["range_eer"]
        if eer is not None:
            clusters, _ = renumber(utterances.clusters(settings.clusters).codes[rows])
            num_clusters, num_frames = _count(timeline, clusters)
            samples = resample_range_eer(
                timeline,
                clusters,
                num_resamples=settings.num_bootstrap,
                seed=bootstrap_seed(settings, corpus),
            )
            # Frames of a cluster are not independent; without any error, clusters are what the bound rests on.
            num_trials = num_clusters if eer in (0, 1) else num_frames
            interval = interval_of("eer", eer, samples, num_clusters, num_trials)
            if interval is not None:
                intervals["range_eer"] = interval
    return Measurement(
        scores.system,
        corpus,
        GROUP,
        key_of(settings.non_speech),
        num_bonafide,
        rows.size - num_bonafide,
        metrics,
        intervals,
        num_clusters=num_clusters,
    )


def metrics_of(timeline: Timeline, threshold: float) -> dict[str, float | None]:
    """Compute METRICS of a timeline, except those that need a class of which there is none."""
    metrics: dict[str, float | None] = {
        "bonafide_seconds": timeline.total_bonafide_ns / 1e9,
        "spoof_seconds": timeline.total_spoof_ns / 1e9,
    }
    if not timeline.total_spoof_ns:
        return metrics
    decided = spoof_time(timeline, threshold)
    metrics |= {f"time_{name}": getattr(decided, name) for name in ("accuracy", "precision", "recall", "f1")}
    metrics["region_precision"] = region_precision(timeline, threshold, MIN_IOU).average_precision
    boundaries = boundary_distances(timeline, threshold)
    if boundaries.distances_s.size:
        metrics[f"boundaries_within_{TOLERANCE_MS}ms"] = boundaries.share_within(TOLERANCE_MS / 1000)
        metrics["detected_per_boundary"] = boundaries.num_detected / boundaries.distances_s.size
    if not timeline.total_bonafide_ns:
        return metrics
    eer = range_eer(timeline)
    metrics |= {"range_eer": eer.eer, "range_eer_threshold": eer.threshold}
    for resolution in RESOLUTIONS_MS:
        try:
            metrics[f"segment_eer_{resolution}ms"] = segment_eer(timeline, resolution / 1000).eer
        except InputError:  # every segment of this duration has spoofed time
            metrics[f"segment_eer_{resolution}ms"] = None
    return metrics


def _count(timeline: Timeline, clusters: NDArray[np.int64]) -> tuple[int, int]:
    """Count the clusters, and the frames, that have time of the class of which fewer have some."""
    of_frames = clusters[timeline.utterances]
    has_time = (timeline.frame_ns > timeline.spoof_ns, timeline.spoof_ns > 0)
    num_clusters, num_frames = zip(
        *((np.unique(of_frames[each]).size, np.count_nonzero(each)) for each in has_time), strict=True
    )
    return min(num_clusters), int(min(num_frames))


def _choose(scores: ScoreSet, smoothing_s: float) -> dict[str, list[Shown]]:
    """Choose the utterances of each class with the highest and the lowest scores, and load their frames."""
    utterances = scores.utterances
    spoof, bonafide = np.flatnonzero(~utterances.is_bonafide), np.flatnonzero(utterances.is_bonafide)
    chosen = {
        "Spoofed utterances with the highest scores, the likeliest to be missed": spoof[::-1],
        "Bona fide utterances with the lowest scores, the likeliest false alarms": bonafide,
        "Spoofed utterances with the lowest scores": spoof[: max(0, spoof.size - NUM_SHOWN)],
        "Bona fide utterances with the highest scores": bonafide[::-1][: max(0, bonafide.size - NUM_SHOWN)],
    }
    rows = {kind: order[:NUM_SHOWN] for kind, order in chosen.items() if order.size}
    chosen_rows = np.concatenate(list(rows.values()))
    uids = utterances.uids.take(pa.array(chosen_rows))
    labels = np.where(utterances.is_bonafide[chosen_rows], "bonafide", "spoof").tolist()
    shown = iter(_load_shown(Folder(scores.location), uids, labels, smoothing_s))
    return {kind: list(itertools.islice(shown, each.size)) for kind, each in rows.items()}


def _load_shown(folder: Folder, uids: pa.Array, labels: Sequence[str], smoothing_s: float) -> list[Shown]:
    """Load the frames and regions of utterances, in their order."""
    framed = load_frames(folder, uids)
    regions = regions_of(framed, load_regions(folder))
    scores = smooth(framed.scores, smoothing_s)
    frames = np.split(scores.scores, scores.offsets[1:-1])
    rows = framed.rows.to_pylist()
    shown = []
    for position, label in zip(
        pc.index_in(uids, value_set=framed.rows["key"].combine_chunks()), labels, strict=True
    ):
        number = position.as_py()
        row = rows[number]
        own = np.flatnonzero(regions.utterances == number)
        parts = zip(regions.starts_s[own], regions.ends_s[own], regions.labels[own], strict=True)
        shown.append(
            Shown(
                row["corpus"] or NOT_STATED,
                row["id"] or row["key"],
                label,
                row["attack"],
                row["score"],
                row["seconds"],
                float(scores.durations_s[number]),
                frames[number],
                [(float(start), float(end), str(label)) for start, end, label in parts],
            )
        )
    return shown
