"""Purity of neighbourhoods: by hand, by law, and against a slow search."""

import numpy as np
import pytest

from pipeline.metrics import neighbours as module
from pipeline.metrics.intervals import difference_of
from pipeline.metrics.neighbours import NONE, Purity, nearest_neighbours, purity_of, resample_purity


def embeddings(num: int, width: int = 8, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (num, width)).astype(np.float32)


def alone(num: int):
    """Every embedding is a cluster of its own."""
    return np.arange(num)


def purity(vectors, classes, clusters, num_neighbours: int = 15) -> Purity:
    measured = purity_of(nearest_neighbours(vectors, clusters, num_neighbours), np.asarray(classes), clusters)
    assert measured is not None
    return measured


def test_classes_that_lie_apart_are_pure():
    classes = np.repeat([0, 1, 2], 40)
    vectors = embeddings(120) * 0.05
    vectors[np.arange(120), classes] += 1
    measured = purity(vectors, classes, alone(120))
    assert measured.value == measured.corrected == 1
    assert measured.chance == pytest.approx(39 / 119)


def test_embeddings_that_know_nothing_are_as_pure_as_chance():
    classes = np.random.default_rng(1).choice(3, 2000, p=(0.6, 0.3, 0.1))
    measured = purity(embeddings(2000), classes, np.random.default_rng(2).integers(0, 100, 2000))
    assert measured.chance == pytest.approx(0.46, abs=0.02)
    assert measured.value == pytest.approx(measured.chance, abs=0.01)
    assert measured.corrected == pytest.approx(0, abs=0.02)


def test_neighbours_are_the_nearest_of_other_clusters():
    vectors, clusters = embeddings(300), np.random.default_rng(3).integers(0, 20, 300)
    found = nearest_neighbours(vectors, clusters, 7)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row in range(300):
        similarity = np.where(clusters == clusters[row], -2, units @ units[row])
        assert set(found[row]) == set(np.argsort(-similarity)[:7])


def test_speakers_do_not_count_as_neighbours_of_themselves():
    """Speakers are far apart and each has one class, so with neighbours of the same speaker all would be pure."""
    speakers = np.repeat(np.arange(60), 10)
    classes = speakers % 2
    vectors = embeddings(600, 64) * 0.1 + embeddings(60, 64, seed=1)[speakers]
    assert purity(vectors, classes, alone(600), 9).value == 1
    honest = purity(vectors, classes, speakers, 9)
    assert honest.value < 0.65
    assert honest.chance == pytest.approx(290 / 590)


def test_chance_is_what_shuffled_classes_give():
    rng = np.random.default_rng(4)
    clusters = rng.integers(0, 12, 200)
    classes = (clusters + rng.integers(0, 3, 200)) % 4
    neighbours = np.array(
        [rng.choice(np.flatnonzero(clusters != clusters[row]), 100, replace=False) for row in range(200)]
    )
    measured = purity_of(neighbours, classes, clusters)
    assert measured is not None and measured.value == pytest.approx(measured.chance, abs=0.01)


def test_the_length_of_embeddings_and_the_numbers_of_classes_and_clusters_do_not_matter():
    vectors, clusters = embeddings(100), np.random.default_rng(5).integers(0, 30, 100)
    classes = np.random.default_rng(6).integers(0, 2, 100)
    lengths = np.random.default_rng(7).uniform(0.1, 10, (100, 1)).astype(np.float32)
    first = purity(vectors, classes, clusters)
    second = purity(vectors * lengths, 5 - classes, 1000 - 3 * clusters)
    assert first.value == pytest.approx(second.value) and first.chance == second.chance


def test_blocks_of_any_size_give_the_same_neighbours(monkeypatch: pytest.MonkeyPatch):
    vectors, clusters = embeddings(100), np.arange(100) // 2
    expected = np.sort(nearest_neighbours(vectors, clusters), axis=1)
    monkeypatch.setattr(module, "BLOCK_ENTRIES", 700)
    assert np.array_equal(np.sort(nearest_neighbours(vectors, clusters), axis=1), expected)


def test_where_other_clusters_have_too_few_embeddings_only_those_count():
    vectors, clusters = embeddings(5), np.array([0, 0, 0, 0, 1])
    found = nearest_neighbours(vectors, clusters, 3)
    assert [sorted(row) for row in found[:4].tolist()] == [[NONE, NONE, 4]] * 4
    assert NONE not in found[4]
    classes = np.array([0, 1, 0, 1, 0])
    measured = purity_of(found, classes, clusters)
    assert measured is not None
    assert measured.value == (2 + sum(classes[found[4]] == 0)) / 7
    assert measured.chance == pytest.approx((2 + 3 * 2 / 4) / 7)


def test_a_single_cluster_has_no_neighbours_and_a_single_class_no_correction():
    one_cluster = np.zeros(20, int)
    assert purity_of(nearest_neighbours(embeddings(20), one_cluster), np.arange(20) % 2, one_cluster) is None
    everything = purity(embeddings(20), np.zeros(20, int), alone(20))
    assert (everything.value, everything.chance, everything.corrected) == (1, 1, None)


def test_silent_embeddings_of_length_zero_have_neighbours_as_well():
    vectors = embeddings(30)
    vectors[:5] = 0
    assert NONE not in nearest_neighbours(vectors, alone(30))


def test_resamples_weigh_both_clusters_of_a_pair():
    vectors, clusters = embeddings(40), np.arange(40) % 8
    classes = np.random.default_rng(8).integers(0, 2, 40)
    found = nearest_neighbours(vectors, clusters, 3)
    weights = np.random.default_rng(9).poisson(1, (50, 8)).astype(float)
    value = purity(vectors, classes, clusters, 3).value
    expected = [
        value
        + sum(
            (row[clusters[i]] + row[clusters[j]]) * ((classes[i] == classes[j]) - value)
            for i in range(40)
            for j in found[i]
        )
        / 120
        for row in weights
    ]
    assert resample_purity(found, classes, clusters, weights) == pytest.approx(np.clip(expected, 0, 1))
    assert resample_purity(found, classes, clusters, np.ones((1, 8))) == pytest.approx(value)


def test_neighbourhoods_of_equally_clear_kinds_are_rarely_said_to_differ():
    """The difference of the purities of two kinds that are equally clear is significant in few of 60 trials."""
    num_wrong = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        clusters, kinds = rng.integers(0, 40, 240), rng.integers(0, 2, (2, 240))
        vectors = rng.normal(0, 1, (240, 8)) + 0.5 * rng.normal(0, 1, (40, 8))[clusters]
        vectors[:, :2] += 2 * kinds.T - 1
        found = nearest_neighbours(vectors.astype(np.float32), clusters)
        weights = rng.poisson(1, (200, 40)).astype(float)
        first, second = (purity_of(found, each, clusters) for each in kinds)
        of_first, of_second = (resample_purity(found, each, clusters, weights) for each in kinds)
        assert first is not None and second is not None
        difference = difference_of(first.value - second.value, of_first, of_second, num_clusters=40)
        assert difference is not None
        num_wrong += difference.p_value < 0.05
    assert num_wrong <= 6
