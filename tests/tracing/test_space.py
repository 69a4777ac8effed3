"""The space of embeddings: whitening, and leaving out parts and systems without another look at the embeddings."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.tracing.leave_out import MAX_TRIED, NONE, choose, divide, leave_out
from pipeline.tracing.results import SpaceKind
from pipeline.tracing.space import Sums


def draw(
    num_systems: int = 5, num: int = 60, width: int = 6, distance: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """Components [N, width] of systems that are apart, with different variances, and the system of each [N]."""
    rng = np.random.default_rng(1)
    systems = np.repeat(np.arange(num_systems), num)
    means = rng.normal(0, distance, (num_systems, width))
    return means[systems] + rng.normal(size=(systems.size, width)) * np.geomspace(0.3, 3, width), systems


@pytest.mark.parametrize("kind", ["centred", "whitened"])
def test_a_space_without_a_part_and_a_system_is_that_of_the_other_utterances(kind: SpaceKind) -> None:
    components, systems = draw()
    parts = np.arange(systems.size) % 3
    space = Sums.of(components, systems, parts, max_groups=5).without(1).space(kind, 2)
    rest = (parts != 1) & (systems != 2)
    # The same utterances, numbered without the system, whose weights are alike because the systems are of one size.
    others = np.unique(systems[rest], return_inverse=True)[1]
    alone = Sums.of(components[rest], others, np.zeros_like(others), max_groups=1).space(kind)
    assert space.systems.tolist() == [0, 1, 3, 4]
    np.testing.assert_allclose(space.centroids, alone.centroids, atol=1e-5)
    np.testing.assert_allclose(space.apply(components), alone.apply(components), atol=1e-5)


def test_whitening_makes_all_directions_within_systems_alike_whatever_their_sizes() -> None:
    components, systems = draw()
    kept = (systems != 0) | (np.arange(systems.size) % 3 == 0)
    components, systems = components[kept], systems[kept]
    space = Sums.of(components, systems, np.zeros_like(systems), 1).space("whitened")
    assert space.projection is not None
    whitened = (components - space.mean) @ space.projection
    within = np.mean([np.cov(whitened[systems == each].T, bias=True) for each in range(5)], axis=0)
    np.testing.assert_allclose(within, np.eye(6), atol=0.1)  # the ridge makes variances smaller


def test_each_speaker_is_in_one_part_and_the_speakers_of_a_system_are_in_many() -> None:
    rng = np.random.default_rng(0)
    systems, speakers = rng.integers(0, 6, 600), rng.integers(0, 10, 600)
    parts = divide(systems, speakers)
    for speaker in range(10):
        assert np.unique(parts[speakers == speaker]).size == 1
    assert np.bincount(parts).min() > 0
    for system in range(6):
        assert np.unique(parts[systems == system]).size == 5


def test_utterances_of_a_system_with_a_single_speaker_are_divided_among_all_parts() -> None:
    systems, speakers = np.repeat([0, 1], 50), np.concatenate((np.zeros(50, int), 1 + np.arange(50) % 4))
    parts = divide(systems, speakers)
    assert np.bincount(parts[systems == 0]).tolist() == [10] * 5
    assert np.unique(parts[systems == 1]).size == 4


def test_a_speaker_that_is_left_out_cannot_tell_the_system() -> None:
    # Systems differ in nothing but their speakers, two of each.
    rng = np.random.default_rng(3)
    systems = np.repeat(np.arange(4), 60)
    speakers = systems * 2 + np.arange(240) % 2
    components = rng.normal(0, 8, (8, 6))[speakers] + rng.normal(size=(240, 6))
    found = leave_out(components, systems, divide(systems, speakers), "centred", 21)
    assert np.mean(found.nearest == systems) < 0.6
    assert np.mean(found.voted == systems) < 0.6
    same = leave_out(components, systems, np.arange(240) % 5, "centred", 21)
    assert np.mean(same.nearest == systems) > 0.9, "if speakers are on both sides, they give the system away"


def test_left_out_systems_are_farther_from_all_than_systems_that_are_there() -> None:
    components, systems = draw(num_systems=8, width=8)
    found = leave_out(components, systems, np.arange(systems.size) % 5, "whitened", 21)
    assert np.mean(found.nearest == systems) > 0.95
    assert np.isfinite(found.known).all() and np.isfinite(found.unknown).all()
    assert np.median(found.known) > np.median(found.unknown) + 0.1


def test_with_two_systems_none_can_be_left_out_and_one_without_a_rest_has_no_answer() -> None:
    components, systems = draw(num_systems=3)
    parts = np.where(systems == 2, 0, np.arange(systems.size) % 5)  # system 2 is in part 0 alone
    found = leave_out(components, systems, parts, "centred", 3)
    assert (found.nearest[systems == 2] == NONE).all() and np.isnan(found.known[systems == 2]).all()
    two = systems < 2
    assert np.isnan(leave_out(components[two], systems[two], parts[two], "centred", 3).unknown).all()


def test_of_a_large_gallery_the_same_number_of_each_system_is_tried() -> None:
    systems = np.repeat([0, 1, 2], [20_000, 9_000, 40])
    chosen = choose(systems, np.random.default_rng(0).integers(0, 2**63, systems.size).astype(np.uint64))
    first, second, third = np.bincount(systems[chosen])
    assert third == 40 and first == second and MAX_TRIED - 3 <= chosen.size <= MAX_TRIED
    small = np.repeat([0, 1], [7, 3])
    assert choose(small, np.arange(10, dtype=np.uint64)).tolist() == list(range(10))
