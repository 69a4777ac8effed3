import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.drift.permutations import arrangements, holm, p_value, smallest_p_value


def strangers(num_reference: int, num_new: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Clusters of which none is of both sides."""
    number = num_reference + num_new
    return np.arange(number) < num_reference, np.full(number, -1)


def test_a_permutation_keeps_the_number_of_clusters_of_each_side():
    sides = arrangements(*strangers(3, 7), 50, seed=0)
    assert sides.shape == (10, 51)
    assert sides[:, 0].tolist() == [1] * 3 + [0] * 7
    assert set(sides.sum(axis=0)) == {3}
    assert len({tuple(column) for column in sides.T}) > 30


def test_two_clusters_of_one_speaker_are_always_on_different_sides():
    is_reference, partners = strangers(4, 5)
    partners[[0, 1, 7, 4]] = [7, 4, 0, 1]
    sides = arrangements(is_reference, partners, 200, seed=0)
    assert np.array_equal(sides[0], 1 - sides[7]) and np.array_equal(sides[1], 1 - sides[4])
    assert set(sides.sum(axis=0)) == {4}
    assert 60 < sides[0, 1:].sum() < 140 and 60 < sides[1, 1:].sum() < 140
    assert len({tuple(column) for column in sides[[2, 3, 5, 6, 8]].T}) == math.comb(5, 2)


def test_permutations_depend_on_the_seed_alone():
    one, same, other = (arrangements(*strangers(3, 7), 50, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_p_counts_the_data_and_equal_permutations():
    assert p_value(np.array([2.0, 1.0, 2.0, 0.0])) == 2 / 4
    assert p_value(np.array([3.0, 1.0, 2.0, 0.0])) == 1 / 4
    assert p_value(np.zeros(10)) == 1


def test_few_clusters_cannot_give_a_small_p():
    assert smallest_p_value(*strangers(2, 3), 999) == 1 / math.comb(5, 2)
    assert smallest_p_value(*strangers(2, 2), 999) == 2 / math.comb(4, 2)
    assert smallest_p_value(*strangers(50, 50), 999) == 1 / 1000
    pairs = np.array([True] * 4 + [False] * 4), np.roll(np.arange(8), 4)
    assert smallest_p_value(*pairs, 999) == 2 / 2**4


def test_p_values_are_adjusted_by_the_method_of_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2]) == [0.2]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
