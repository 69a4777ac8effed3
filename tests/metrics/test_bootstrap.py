"""The bootstrap of clusters: its agreement with resampling by hand, and what its intervals promise."""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.metrics import Trials, eer_of, sort_trials
from pipeline.metrics import bootstrap as module
from pipeline.metrics.bootstrap import ALL, EER_ONLY, bootstrap
from pipeline.metrics.intervals import difference_of, interval_of
from pipeline.metrics.paired import delong, permutation_p_value
from pipeline.metrics.summary import summarise

Floats = NDArray[np.float64]
Draw = Callable[[float], Floats]


def speakers_scores(
    seed: int, *, num_speakers: int = 20, per_speaker: int = 50, icc: float = 0.3, distance: float = 3.3
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Both classes of each speaker share an offset, which makes a share `icc` of the variance 1."""
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(num_speakers), per_speaker)
    offset = rng.normal(0, np.sqrt(icc), num_speakers)[speakers]
    bonafide, spoof = (
        mean + offset + rng.normal(0, np.sqrt(1 - icc), speakers.size) for mean in (distance, 0)
    )
    return bonafide, spoof, speakers


def trials_of(bonafide: Floats, spoof: Floats, clusters: NDArray[np.int64]) -> Trials:
    return sort_trials(bonafide, spoof, (clusters, clusters))


def resample_by_hand(trials: Trials, seed: int, num_resamples: int) -> dict[str, Floats]:
    """Repeat each trial as often as its cluster was drawn, and measure."""
    assert trials.clusters is not None
    rng = np.random.default_rng(seed)
    values: dict[str, list[float]] = {name: [] for name in ALL}
    for _ in range(num_resamples):
        times = rng.poisson(1, trials.clusters.max() + 1)[trials.clusters]
        scores, is_bonafide = np.repeat(trials.scores, times), np.repeat(trials.is_bonafide, times)
        summary = summarise(scores[is_bonafide], scores[~is_bonafide])
        for name in ALL:
            values[name].append(summary[name])
    return {name: np.array(value) for name, value in values.items()}


@pytest.mark.parametrize("is_clustered", [True, False])
def test_every_metric_has_the_distribution_of_resampling_by_hand(is_clustered):
    bonafide, spoof, speakers = speakers_scores(1, per_speaker=8, distance=2)
    trials = trials_of(bonafide, spoof, speakers)
    if not is_clustered:
        trials = trials._replace(clusters=np.arange(trials.scores.size))
    by_hand = resample_by_hand(trials, 0, 1000)
    samples = bootstrap(trials if is_clustered else trials._replace(clusters=None), num_resamples=4000)
    for name in ALL:
        spread = by_hand[name].std()
        assert samples[name].mean() == pytest.approx(by_hand[name].mean(), abs=0.15 * spread), name
        assert samples[name].std() == pytest.approx(spread, rel=0.1), name


def test_merging_thresholds_hardly_changes_a_metric(monkeypatch):
    bonafide, spoof, speakers = speakers_scores(2, num_speakers=40, per_speaker=100)
    trials = trials_of(bonafide, spoof, speakers)
    exact = bootstrap(trials, num_resamples=200)
    monkeypatch.setattr(module, "BLOCKS_PER_CLASS", 256)
    monkeypatch.setattr(module, "BLOCKS_AROUND_EER", 256)
    merged = bootstrap(trials, num_resamples=200)
    eer_alone = bootstrap(trials, EER_ONLY, num_resamples=200)
    for name in ALL:
        assert np.abs(merged[name] - exact[name]).max() < 0.2 * exact[name].std(), name
    assert np.abs(eer_alone["eer"] - exact["eer"]).max() < 0.2 * exact["eer"].std()


def test_resamples_depend_on_the_seed_alone():
    trials = trials_of(*speakers_scores(3))
    one, two, other = (bootstrap(trials, EER_ONLY, num_resamples=50, seed=seed)["eer"] for seed in (0, 0, 1))
    assert one.size == 50
    assert (one == two).all() and (one != other).any()


def test_a_class_in_one_cluster_is_never_missing_from_a_resample():
    trials = sort_trials([2.0, 3.0, 1.0], [0.0, 1.5, -1.0], ([0, 0, 0], [1, 2, 3]))
    samples = bootstrap(trials, num_resamples=300)
    assert all(np.isfinite(values).all() for values in samples.values())


def test_no_resamples_are_refused():
    with pytest.raises(InputError, match="use at least 1"):
        bootstrap(sort_trials([1.0], [0.0]), num_resamples=0)


def test_intervals_of_speakers_hold_the_true_eer_and_those_of_independent_utterances_do_not():
    true_eer = NormalDist().cdf(-3.3 / 2)
    num_held = {"speakers": 0, "independent": 0}
    for seed in range(200):
        bonafide, spoof, speakers = speakers_scores(seed)
        trials = trials_of(bonafide, spoof, speakers)
        eer = eer_of(trials).eer
        for name, num_clusters, clusters in (("speakers", 20, speakers), ("independent", 1000, None)):
            drawn = trials if clusters is not None else trials._replace(clusters=None)
            samples = bootstrap(drawn, EER_ONLY, num_resamples=400, seed=seed)["eer"]
            interval = interval_of("eer", eer, samples, num_clusters, 1000)
            assert interval is not None
            num_held[name] += interval.low <= true_eer <= interval.high
    assert num_held["speakers"] >= 0.9 * 200
    assert num_held["independent"] < 0.8 * 200


def equal_systems(seed: int) -> tuple[list[tuple[Floats, Floats]], NDArray[np.int64]]:
    """Two systems of equal skill on the same 40 speakers, each with errors of its own for each speaker."""
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(40), 25)

    def by_speaker() -> Floats:
        return rng.normal(0, 0.4, 40)[speakers]

    def noise() -> Floats:
        return rng.normal(0, 0.6, speakers.size)

    shared = [3 + by_speaker() + noise(), by_speaker() + noise()]
    return [
        (shared[0] + by_speaker() + noise(), shared[1] + by_speaker() + noise()) for _ in range(2)
    ], speakers


def test_equal_systems_are_told_apart_as_often_as_the_level_says():
    num_wrong = {"bootstrap": 0, "swapped": 0, "delong": 0}
    num_swapped = 100
    for seed in range(400):
        systems, speakers = equal_systems(seed)
        trials = [trials_of(*system, speakers) for system in systems]
        one, two = (bootstrap(each, EER_ONLY, num_resamples=200, seed=seed)["eer"] for each in trials)
        difference = difference_of(eer_of(trials[0]).eer - eer_of(trials[1]).eer, one, two, 40)
        assert difference is not None
        num_wrong["bootstrap"] += difference.p_value < 0.05
        num_wrong["delong"] += delong(systems[0], systems[1]).p_value < 0.05
        if seed < num_swapped:
            p_value = permutation_p_value(
                systems[0], systems[1], (speakers, speakers), num_permutations=100, seed=seed
            )
            num_wrong["swapped"] += p_value < 0.05
    assert 0.03 <= num_wrong["bootstrap"] / 400 <= 0.07
    assert num_wrong["swapped"] / num_swapped <= 0.1
    assert num_wrong["delong"] / 400 > 0.2  # utterances of a speaker are not independent


def test_a_better_system_is_recognised_by_every_test():
    bonafide, spoof, speakers = speakers_scores(4)
    rng = np.random.default_rng(0)
    worse = (bonafide - 1.5 + rng.normal(0, 0.5, bonafide.size), spoof + rng.normal(0, 0.5, spoof.size))
    trials = trials_of(bonafide, spoof, speakers), trials_of(*worse, speakers)
    samples = [bootstrap(each, num_resamples=300) for each in trials]
    difference = difference_of(
        eer_of(trials[0]).eer - eer_of(trials[1]).eer, samples[0]["eer"], samples[1]["eer"], 20
    )
    assert difference is not None
    assert difference.interval.high < 0 and difference.p_value < 0.01
    assert delong((bonafide, spoof), worse).p_value < 0.01
    p_value = permutation_p_value(
        (bonafide, spoof), worse, (speakers, speakers), num_permutations=300, seed=0
    )
    assert p_value < 0.01


def test_a_system_does_not_differ_from_itself_at_another_scale():
    bonafide, spoof, speakers = speakers_scores(5)
    stretched = (np.exp(bonafide), np.exp(spoof))
    trials = trials_of(bonafide, spoof, speakers), trials_of(*stretched, speakers)
    one, two = (bootstrap(each, EER_ONLY, num_resamples=100)["eer"] for each in trials)
    difference = difference_of(0.0, one, two, 20)
    assert difference is not None and difference.p_value == 1.0
    assert delong((bonafide, spoof), stretched).p_value == 1.0
    assert permutation_p_value((bonafide, spoof), stretched, (speakers, speakers), num_permutations=50) == 1.0


def test_delong_has_the_spread_of_the_bootstrap_for_independent_utterances():
    rng = np.random.default_rng(6)
    first = rng.normal(1.5, 1, 400), rng.normal(0, 1, 600)
    second = first[0] + rng.normal(0, 1, 400), first[1] + rng.normal(0, 1, 600)
    clusters = np.arange(400), 400 + np.arange(600)
    one, two = (
        bootstrap(sort_trials(*system, clusters), ("roc_auc", "cllr"), num_resamples=2000)["roc_auc"]
        for system in (first, second)
    )
    interval = delong(first, second).interval
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx((one - two).std(), rel=0.1)


def test_without_errors_the_interval_is_the_exact_bound_for_the_number_of_trials():
    bound = 0.025 ** (1 / 59)
    eer, auc = interval_of("eer", 0.0, np.zeros(9), 59, 59), interval_of("roc_auc", 1.0, np.ones(9), 59, 59)
    assert eer is not None and auc is not None
    assert (*eer, *auc) == pytest.approx((0, 1 - bound, bound, 1))


def test_one_cluster_has_no_interval_and_two_have_a_wide_one():
    samples = np.random.default_rng(0).normal(0.1, 0.01, 100)
    assert interval_of("eer", 0.1, samples, 1, 50) is None
    assert difference_of(0.1, samples, samples, 1) is None
    wide, narrow = (interval_of("eer", 0.1, samples, num_clusters, 50) for num_clusters in (2, 50))
    assert wide is not None and narrow is not None
    assert wide.low < 0.04 < 0.075 < narrow.low and narrow.high < 0.13 < 0.2 < wide.high
