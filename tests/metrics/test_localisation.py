"""Metrics of where speech is spoofed agree with loops over milliseconds, and depend on time alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.metrics import equal_error_rate
from pipeline.metrics.eer import eer_at
from pipeline.metrics.localisation import (
    RESAMPLES_AT_ONCE,
    boundary_distances,
    detect,
    range_eer,
    region_precision,
    resample_range_eer,
    runs_below,
    segment_eer,
    spoof_time,
)
from pipeline.metrics.timeline import NON_SPEECH, FrameScores, NonSpeech, Regions, make_timeline, smooth
from pipeline.metrics.trials import weighted_operating_points

HOP_S = 0.02


def make_regions(*utterances: list[tuple[float, float, str]]) -> Regions:
    """The regions of each utterance, in turn."""
    rows = [(number, *region) for number, regions in enumerate(utterances) for region in regions]
    numbers, starts, ends, labels = zip(*rows, strict=True)
    return Regions(np.array(numbers), np.array(starts), np.array(ends), np.array(labels))


def make_frames(*scores: Sequence[float]) -> FrameScores:
    """Frames of half a second, of utterances that end with their last frame."""
    return FrameScores(
        utterances=[f"utterance-{number}" for number in range(len(scores))],
        durations_s=np.array([len(each) * 0.5 for each in scores]),
        num_frames=np.array([len(each) for each in scores]),
        scores=np.concatenate(scores),
        hop_s=0.5,
    )


def simulate(seed: int, num_utterances: int = 30, decimals: int = 9) -> tuple[FrameScores, Regions]:
    """Utterances of about 3 s with noisy frame scores, in which spoof, non-speech and gaps have random edges."""
    rng = np.random.default_rng(seed)
    durations_s = np.round(rng.uniform(1, 5, num_utterances), decimals)
    num_frames = ((durations_s - 0.025) / HOP_S).astype(np.int64) + 1
    utterances, scores = [], []
    for duration_s, frames in zip(durations_s, num_frames, strict=True):
        edges = np.concatenate(([0], np.sort(rng.uniform(0, duration_s, 6).round(decimals)), [duration_s]))
        labels = rng.choice(["bonafide", "spoof", "non_speech", "gap"], 7, p=[0.4, 0.4, 0.1, 0.1])
        rows = zip(edges[:-1], edges[1:], labels, strict=True)
        utterances.append(
            [(start, end, label) for start, end, label in rows if label != "gap" and end > start]
        )
        middles = (np.arange(frames) + 0.5) * HOP_S
        is_spoof = labels[np.searchsorted(edges, middles) - 1] == "spoof"
        scores.append(rng.normal(np.where(is_spoof, -1, 1), 1.5))
    names = [f"utterance-{number}" for number in range(num_utterances)]
    return FrameScores(names, durations_s, num_frames, np.concatenate(scores), HOP_S), make_regions(
        *utterances
    )


class Milliseconds(NamedTuple):
    """Every millisecond that counts."""

    utterances: NDArray[np.int64]
    times_s: NDArray[np.float64]
    scores: NDArray[np.float64]
    is_spoof: NDArray[np.bool_]


def by_milliseconds(frames: FrameScores, regions: Regions, non_speech: NonSpeech) -> Milliseconds:
    """Look up frame and region of every millisecond, at its middle."""
    parts = []
    for number, duration_s in enumerate(frames.durations_s):
        times_s = np.arange(0.0005, duration_s, 0.001)
        labels = np.full(times_s.size, "gap", "<U10")
        for row in np.flatnonzero(regions.utterances == number):
            is_inside = (regions.starts_s[row] <= times_s) & (times_s < regions.ends_s[row])
            labels[is_inside] = regions.labels[row]
        own = frames.scores[frames.offsets[number] : frames.offsets[number + 1]]
        scores = own[np.minimum((times_s / frames.hop_s).astype(np.int64), own.size - 1)]
        counts = np.isin(labels, ["bonafide", "spoof"] + ["non_speech"] * (non_speech == "bonafide"))
        parts.append(
            (
                np.full(times_s.size, number)[counts],
                times_s[counts],
                scores[counts],
                labels[counts] == "spoof",
            )
        )
    return Milliseconds(*map(np.concatenate, zip(*parts, strict=True)))


@pytest.mark.parametrize("non_speech", ["excluded", "bonafide"])
@pytest.mark.parametrize("seed", range(2))
def test_rates_by_duration_equal_those_of_every_millisecond(seed, non_speech):
    frames, regions = simulate(seed)
    timeline = make_timeline(frames, regions, non_speech)
    _, _, scores, is_spoof = by_milliseconds(frames, regions, non_speech)

    measured = range_eer(timeline)
    # Within 0.05 points, because regions begin and end within milliseconds.
    assert measured.eer == pytest.approx(equal_error_rate(scores[~is_spoof], scores[is_spoof]).eer, abs=5e-4)
    assert 0.1 < measured.eer < 0.4
    assert measured.spoof_s == pytest.approx(is_spoof.sum() / 1000, abs=0.2)
    assert measured.non_speech == non_speech

    below = scores < 0.3
    rates = spoof_time(timeline, 0.3)
    assert rates.accuracy == pytest.approx((below == is_spoof).mean(), abs=2e-3)
    assert rates.precision == pytest.approx(is_spoof[below].mean(), abs=2e-3)
    assert rates.recall == pytest.approx(below[is_spoof].mean(), abs=2e-3)
    assert rates.f1 == pytest.approx(2 / (1 / rates.precision + 1 / rates.recall))


@pytest.mark.parametrize("non_speech", ["excluded", "bonafide"])
def test_the_range_eer_is_exact_where_regions_begin_and_end_with_milliseconds(non_speech):
    frames, regions = simulate(7, decimals=3)
    _, _, scores, is_spoof = by_milliseconds(frames, regions, non_speech)
    measured = range_eer(make_timeline(frames, regions, non_speech))
    assert measured[:2] == pytest.approx(equal_error_rate(scores[~is_spoof], scores[is_spoof]), abs=1e-12)


@pytest.mark.parametrize("resolution_s", [0.01, 0.02, 0.05, 0.16, 0.64])
def test_a_segment_is_spoofed_if_a_part_is_and_scores_its_lowest_frame(resolution_s):
    frames, regions = simulate(3, decimals=3)
    samples = by_milliseconds(frames, regions, "excluded")
    number = samples.utterances * 10_000 + (samples.times_s / resolution_s).astype(np.int64)
    lowest, is_spoof = [], []
    for segment in np.unique(number):
        lowest.append(samples.scores[number == segment].min())
        is_spoof.append(samples.is_spoof[number == segment].any())
    bonafide, spoof = np.array(lowest)[~np.array(is_spoof)], np.array(lowest)[is_spoof]
    measured = segment_eer(make_timeline(frames, regions, "excluded"), resolution_s)
    assert measured[:2] == equal_error_rate(bonafide, spoof)
    assert (measured.num_bonafide, measured.num_spoof) == (bonafide.size, spoof.size)


def test_splitting_a_region_changes_nothing():
    frames, regions = simulate(4)
    rng = np.random.default_rng(0)
    middles_s = rng.uniform(regions.starts_s, regions.ends_s)
    split = Regions(
        np.tile(regions.utterances, 2),
        np.concatenate((middles_s, regions.starts_s)),
        np.concatenate((regions.ends_s, middles_s)),
        np.tile(regions.labels, 2),
    )
    whole, parts = (make_timeline(frames, each, "excluded") for each in (regions, split))
    assert range_eer(whole) == range_eer(parts)
    assert segment_eer(whole, 0.16) == segment_eer(parts, 0.16)
    assert spoof_time(whole) == spoof_time(parts)
    assert region_precision(whole) == region_precision(parts)
    np.testing.assert_array_equal(boundary_distances(whole)[0], boundary_distances(parts)[0])


def test_order_of_utterances_and_regions_does_not_matter():
    frames, regions = simulate(5)
    backwards = Regions(
        len(frames.utterances) - 1 - regions.utterances, regions.starts_s, regions.ends_s, regions.labels
    )
    parts = np.split(frames.scores, frames.offsets[1:-1])[::-1]
    reversed_frames = replace(
        frames,
        utterances=frames.utterances[::-1],
        durations_s=frames.durations_s[::-1],
        num_frames=frames.num_frames[::-1],
        scores=np.concatenate(parts),
    )
    timelines = [
        make_timeline(frames, regions, "excluded"),
        make_timeline(reversed_frames, backwards, "excluded"),
    ]
    for metric in (range_eer, spoof_time, region_precision, lambda timeline: segment_eer(timeline, 0.1)):
        assert metric(timelines[0]) == pytest.approx(metric(timelines[1]))


def test_excluded_non_speech_is_time_without_a_label():
    frames, regions = simulate(6)
    is_speech = regions.labels != "non_speech"
    speech = Regions(*(values[is_speech] for values in vars(regions).values()))
    excluded, counted, absent = (
        range_eer(make_timeline(frames, each, non_speech))
        for each, non_speech in zip((regions, regions, speech), NON_SPEECH + NON_SPEECH[1:], strict=True)
    )
    assert excluded[:4] == absent[:4]
    assert counted.bonafide_s > excluded.bonafide_s and counted.spoof_s == excluded.spoof_s


def test_the_last_frame_lasts_until_the_end_of_the_utterance():
    frames = replace(make_frames([1.0, 1.0, -1.0], [1.0]), durations_s=np.array([2.0, 0.5]))
    regions = make_regions([(0, 1, "bonafide"), (1, 2.3, "spoof")], [(0, 0.5, "bonafide")])
    assert range_eer(make_timeline(frames, regions, "excluded"))[:4] == (0.0, -1.0, 1.5, 1.0)


def test_the_score_of_a_detected_region_is_its_mean_by_duration():
    frames = replace(make_frames([-1.0, -4.0, 1.0]), durations_s=np.array([2.0]))
    regions = make_regions([(0.25, 1, "spoof"), (1, 2, "bonafide")])
    found = detect(make_timeline(frames, regions, "excluded"))
    assert found.scores.tolist() == [-3.0]
    assert (found.regions.starts.tolist(), found.regions.ends.tolist()) == ([0], [750_000_000])


def test_resamples_of_the_range_eer_are_those_of_weighted_utterances():
    frames, regions = simulate(5)
    timeline = make_timeline(frames, regions, "excluded")
    clusters = np.arange(30) // 3
    samples = resample_range_eer(timeline, clusters, num_resamples=20, seed=3)
    weights = np.random.default_rng(3).poisson(1, (10, RESAMPLES_AT_ONCE))[clusters][timeline.utterances]
    for sample, each in zip(samples, weights.T, strict=False):
        bonafide_ns = (timeline.frame_ns - timeline.spoof_ns) * each
        points = weighted_operating_points(timeline.scores, bonafide_ns, timeline.spoof_ns * each)
        assert sample == pytest.approx(eer_at(points).eer, abs=2e-3)
    assert np.array_equal(samples, resample_range_eer(timeline, clusters, num_resamples=20, seed=3))
    assert samples.std() > 0.005


def test_runs_divide_each_utterance_where_scores_cross_the_threshold():
    runs = runs_below(make_frames([-1, -2, 0, 1], [0.5], [-3]), threshold=0.0)
    assert runs.utterances.tolist() == [0, 0, 1, 2]
    assert runs.starts_s.tolist() == [0, 1, 0, 0]
    assert runs.ends_s.tolist() == [1, 2, 0.5, 0.5]
    assert runs.is_below.tolist() == [True, False, False, True]


def test_perfect_regions_are_found_without_errors():
    frames = make_frames([2, 2, -1, -1, 2], [-3, -3], [1, 1])
    regions = make_regions(
        [(0, 1, "bonafide"), (1, 2, "spoof"), (2, 2.5, "bonafide")], [(0, 1, "spoof")], [(0, 1, "bonafide")]
    )
    timeline = make_timeline(frames, regions, "excluded")
    assert region_precision(timeline)[:4] == (1.0, 2, 2, 2)
    assert spoof_time(timeline)[:4] == (1.0, 1.0, 1.0, 1.0)
    distances = boundary_distances(timeline)
    assert distances.distances_s.tolist() == [0.0, 0.0] and distances.num_detected == 2


def test_false_regions_cost_precision_if_their_score_is_lower():
    regions = make_regions([(0, 1, "spoof"), (1, 3, "bonafide")], [(0, 1, "spoof"), (1, 3, "bonafide")])
    found, missed = [-2, -2, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]
    surer, less_sure = [1, 1, 1, 1, -3, -3], [1, 1, 1, 1, -1, -1]
    rates = [
        region_precision(make_timeline(make_frames(found, other), regions, "excluded"))
        for other in (missed, less_sure, surer)
    ]
    assert [each.average_precision for each in rates] == [0.5, 0.5, 0.25]
    assert [each.num_detected for each in rates] == [1, 2, 2]


def test_half_of_a_region_is_enough_to_find_it_and_time_that_does_not_count_joins_regions():
    half = make_frames([-1, 1, 1, 1])
    regions = make_regions([(0.0, 1.0, "spoof"), (1.0, 2.0, "bonafide")])
    assert region_precision(make_timeline(half, regions, "excluded")).num_found == 1
    assert region_precision(make_timeline(half, regions, "excluded"), min_iou=0.51).num_found == 0
    with pytest.raises(InputError, match=r"invalid intersection over union 0\.4"):
        region_precision(make_timeline(half, regions, "excluded"), min_iou=0.4)
    split = make_frames([-1, 1, -2, 1, 1, 1])
    regions = make_regions(
        [(0.0, 0.5, "spoof"), (0.5, 1.0, "non_speech"), (1.0, 1.5, "spoof"), (1.5, 3, "bonafide")]
    )
    assert region_precision(make_timeline(split, regions, "excluded"))[:4] == (1.0, 1, 1, 1)
    assert region_precision(make_timeline(split, regions, "bonafide"))[:4] == (1.0, 2, 2, 2)


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_agrees_with_a_greedy_loop(seed):
    frames, regions = simulate(seed, 60)
    timeline = make_timeline(smooth(frames, 0.3), regions, "bonafide")
    truth, found = timeline.spoof, detect(timeline, 0.0)
    taken: set[int] = set()
    hits, precisions = 0, []
    for rank, row in enumerate(np.argsort(found.scores), 1):
        start, end = found.regions.starts[row], found.regions.ends[row]
        shared = np.minimum(end, truth.ends) - np.maximum(start, truth.starts)
        iou = shared / (np.maximum(end, truth.ends) - np.minimum(start, truth.starts))
        best = int(np.argmax(iou))
        if iou[best] >= 0.5 and best not in taken:
            taken.add(best)
            hits += 1
            precisions.append(hits / rank)
    measured = region_precision(timeline)
    assert measured.num_found == hits > 10
    assert measured.average_precision == pytest.approx(sum(precisions) / truth.starts.size)


def test_boundaries_are_compared_within_their_utterance():
    frames = make_frames([1, -1, -1, -1], [1, 1, 1, -1], [-1, -1, -1], [-1, 1, 1])
    regions = make_regions(
        [(0, 1.25, "bonafide"), (1.25, 2, "spoof")],
        [(0, 0.7, "bonafide"), (0.7, 2, "spoof")],
        [(0, 0.4, "spoof"), (0.4, 1.5, "bonafide")],
        [(0, 1.5, "bonafide")],
    )
    distances = boundary_distances(make_timeline(frames, regions, "excluded"))
    assert distances.distances_s.tolist() == pytest.approx([0.75, 0.8, np.inf])
    assert distances.num_detected == 3
    assert distances.share_within(0.75) == pytest.approx(1 / 3)


def test_smoothing_is_a_centred_mean_within_an_utterance():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=size) for size in (1, 3, 40)]
    frames = make_frames(*(part.tolist() for part in parts))
    smoothed = np.split(smooth(frames, 2.0).scores, frames.offsets[1:-1])
    for part, values in zip(parts, smoothed, strict=True):
        expected = [part[max(t - 2, 0) : t + 3].mean() for t in range(part.size)]
        np.testing.assert_allclose(values, expected)


def test_smoothing_keeps_equal_scores_equal_and_a_short_window_changes_nothing():
    scores = np.concatenate((np.full(50, np.float32(0.1)), np.full(30, np.float32(1e6)))).astype(np.float64)
    frames = make_frames(scores[:50].tolist(), scores[50:].tolist())
    np.testing.assert_array_equal(smooth(frames, 7.3).scores, scores)
    noisy, _ = simulate(0)
    np.testing.assert_array_equal(smooth(noisy, 0.03).scores, noisy.scores)


GOOD = [(0.0, 1.0, "bonafide"), (1.0, 2.0, "spoof")]


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([(0.0, 1.0, "bonafide"), (1.0, 2.0, "fake")], "region 1 to 2 s has the unknown label 'fake'"),
        ([(0.0, 1.2, "bonafide"), (1.0, 2.0, "spoof")], "region 1 to 2 s overlaps 0 to 1.2 s"),
        ([(0.0, 1.0, "bonafide"), (0.0, 1.0, "bonafide")], "region 0 to 1 s overlaps 0 to 1 s"),
        (
            [(0.0, 1.0, "bonafide"), (1.0, 2.6, "spoof")],
            "region 1 to 2.6 s ends after the utterance, which has 2 s",
        ),
        ([(-0.1, 1.0, "bonafide")], "region -0.1 to 1 s starts before the utterance"),
        ([(1.0, 1.0, "bonafide")], "region 1 to 1 s does not end after it starts"),
        ([(1.0, np.nan, "bonafide")], "region 1 to nan s does not end after it starts"),
    ],
)
def test_regions_that_do_not_fit_are_refused_with_utterance_and_times(regions, message):
    with pytest.raises(InputError, match=f"^utterance-1: {message}"):
        make_timeline(make_frames([1] * 4, [1] * 4), make_regions(GOOD, regions), "excluded")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hop_s": 0.25}, "utterance-0: 4 frames every 0.25 s do not fit its 2 s"),
        ({"durations_s": np.array([2.0, 1.5])}, "utterance-1: 4 frames every 0.5 s do not fit its 1.5 s"),
        ({"durations_s": np.array([2.0, 0.0])}, "utterance-1: has a duration of 0.0 s"),
        ({"num_frames": np.array([8, 0])}, "utterance-1: has no frame scores"),
        ({"hop_s": 0.0}, "frames cannot be 0.0 s apart"),
        ({"scores": np.array([1, 1, 1, 1, 1, 1, np.nan, 1])}, "utterance-1: the score at 1 s is nan"),
    ],
)
def test_frames_that_do_not_fit_are_refused_with_their_utterance(changes, message):
    frames = replace(make_frames([1] * 4, [1] * 4), **changes)
    with pytest.raises(InputError, match=f"^{message}"):
        make_timeline(frames, make_regions(GOOD), "excluded")


def test_time_of_both_classes_is_needed():
    frames = make_frames([1, 1], [1, 1])
    with pytest.raises(InputError, match="no time is spoofed"):
        range_eer(make_timeline(frames, make_regions([(0, 1, "bonafide")]), "excluded"))
    with pytest.raises(InputError, match="no time is bona fide"):
        range_eer(make_timeline(frames, make_regions([(0, 1, "spoof")]), "excluded"))
    with pytest.raises(InputError, match="no region has a label that counts"):
        make_timeline(frames, make_regions([(0, 1, "non_speech")]), "excluded")
    with pytest.raises(InputError, match="unknown handling of non-speech 'none'"):
        make_timeline(frames, make_regions([(0, 1, "spoof")]), "none")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="segments cannot have 0 s"):
        segment_eer(make_timeline(frames, make_regions([(0, 1, "spoof")]), "bonafide"), 0)
