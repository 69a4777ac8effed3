"""Each distance, in the data and in permutations, against a second implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from scipy.stats import ks_2samp, wasserstein_distance

from pipeline.drift import distances
from pipeline.drift.permutations import arrangements

Array = NDArray[Any]
NUM, NUM_COMPONENTS = 60, 4


def two_sides(num_clusters: int, is_rounded: bool = False) -> tuple[Array, Array, Array]:
    """Coordinates of both sides, clusters of like sizes, and arrangements."""
    rng = np.random.default_rng(num_clusters)
    coordinates = rng.normal(size=(2 * NUM, NUM_COMPONENTS)).astype(np.float32)
    coordinates[NUM:] += 0.3
    if is_rounded:
        coordinates = coordinates.round()
    own = np.arange(NUM) % num_clusters
    return (
        coordinates,
        np.concatenate((own, own + num_clusters)),
        arrangements(np.arange(2 * num_clusters) < num_clusters, np.full(2 * num_clusters, -1), 10, 0),
    )


def sides_of(values: Array, clusters: Array, sides: Array, column: int) -> tuple[Array, Array]:
    is_reference = sides[clusters, column] == 1
    return values[is_reference], values[~is_reference]


@pytest.mark.parametrize("num_clusters", [NUM, 6])
@pytest.mark.parametrize("is_rounded", [False, True])
def test_distances_of_a_number_are_those_of_scipy(num_clusters: int, is_rounded: bool):
    coordinates, clusters, sides = two_sides(num_clusters, is_rounded)
    both = distances.one_dimensional(coordinates[:, 1], distances.signed_shares(clusters, sides))
    for column in range(sides.shape[1]):
        old, new = sides_of(coordinates[:, 1], clusters, sides, column)
        assert both.wasserstein[column] == pytest.approx(wasserstein_distance(old, new), abs=1e-5)
        assert both.kolmogorov_smirnov[column] == pytest.approx(
            ks_2samp(old, new, method="asymp").statistic, abs=1e-5
        )


def test_equal_numbers_have_no_distance():
    _, clusters, sides = two_sides(6)
    both = distances.one_dimensional(np.full(2 * NUM, 3.0), distances.signed_shares(clusters, sides))
    assert not both.wasserstein.any() and not both.kolmogorov_smirnov.any()


def test_the_mean_distance_is_that_over_components():
    coordinates, clusters, sides = two_sides(NUM)
    shares = distances.signed_shares(clusters, sides)
    mean, by_component = distances.mean_wasserstein(coordinates, shares)
    expected = [
        distances.one_dimensional(coordinates[:, i], shares).wasserstein for i in range(NUM_COMPONENTS)
    ]
    assert mean == pytest.approx(np.mean(expected, axis=0))
    assert by_component == pytest.approx(np.array(expected)[:, 0])


def test_the_sliced_distance_does_not_depend_on_a_rotation():
    rng = np.random.default_rng(1)
    coordinates, clusters, sides = two_sides(NUM)
    rotation = np.linalg.qr(rng.normal(size=(NUM_COMPONENTS, NUM_COMPONENTS)))[0].astype(np.float32)
    shares = distances.signed_shares(clusters, sides)
    one = distances.sliced_wasserstein(coordinates, shares, 0)[0]
    other = distances.sliced_wasserstein(coordinates @ rotation, shares, 0)[0]
    assert one == pytest.approx(other, rel=0.1)


@pytest.mark.parametrize("num_clusters", [NUM, 6])
@pytest.mark.parametrize("num_shared", [0, 3])
def test_mmd_is_the_unbiased_mean_over_pairs_of_different_speakers(num_clusters: int, num_shared: int):
    coordinates, clusters, _ = two_sides(num_clusters)
    partners = np.full(2 * num_clusters, -1)
    partners[:num_shared] = np.arange(num_shared) + num_clusters
    partners[num_clusters : num_clusters + num_shared] = np.arange(num_shared)
    sides = arrangements(np.arange(2 * num_clusters) < num_clusters, partners, 10, 0)
    speakers = np.where(clusters < num_clusters + num_shared, clusters % num_clusters, clusters)
    squares = ((coordinates[:, None].astype(float) - coordinates) ** 2).sum(axis=2)
    kernel = np.exp(-squares / (2 * 1.5**2))
    are_different = speakers[:, None] != speakers
    mmd2 = distances.mmd2(coordinates, clusters, sides, partners, bandwidth=1.5)
    for column in range(sides.shape[1]):
        is_old = sides[clusters, column] == 1
        parts = [
            kernel[np.outer(first, other) & are_different].mean()
            for first, other in ((is_old, is_old), (~is_old, ~is_old), (is_old, ~is_old))
        ]
        assert mmd2[column] == pytest.approx(parts[0] + parts[1] - 2 * parts[2], abs=1e-5)


@pytest.mark.parametrize("num_clusters", [NUM, 6])
def test_the_frechet_distance_is_that_of_two_normal_distributions(num_clusters: int):
    coordinates, clusters, sides = two_sides(num_clusters)
    frechet = distances.frechet(coordinates, clusters, sides)
    for column in range(sides.shape[1]):
        old, new = sides_of(coordinates.astype(float), clusters, sides, column)
        covariances = np.cov(old.T), np.cov(new.T)
        root = sqrtm(covariances[0])
        expected = np.sum((old.mean(axis=0) - new.mean(axis=0)) ** 2)
        expected += np.trace(sum(covariances) - 2 * sqrtm(root @ covariances[1] @ root).real)
        assert frechet[column] == pytest.approx(expected, abs=1e-4)
