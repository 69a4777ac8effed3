import math

import numpy as np
import pytest

from pipeline.drift.permutations import arrangements, holm, p_value, smallest_p_value


def test_a_permutation_keeps_the_number_of_clusters_of_each_side():
    sides = arrangements(3, 7, 50, seed=0)
    assert sides.shape == (10, 51)
    assert sides[:, 0].tolist() == [1] * 3 + [0] * 7
    assert set(sides.sum(axis=0)) == {3}
    assert len({tuple(column) for column in sides.T}) > 30


def test_permutations_depend_on_the_seed_alone():
    assert np.array_equal(arrangements(3, 7, 50, 1), arrangements(3, 7, 50, 1))
    assert not np.array_equal(arrangements(3, 7, 50, 1), arrangements(3, 7, 50, 2))


def test_p_counts_the_data_and_equal_permutations():
    assert p_value(np.array([2.0, 1.0, 2.0, 0.0])) == 2 / 4
    assert p_value(np.array([3.0, 1.0, 2.0, 0.0])) == 1 / 4
    assert p_value(np.zeros(10)) == 1


def test_few_clusters_cannot_give_a_small_p():
    assert smallest_p_value(2, 3, 999) == 1 / math.comb(5, 2)
    assert smallest_p_value(50, 50, 999) == 1 / 1000


def test_p_values_are_adjusted_by_the_method_of_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2]) == [0.2]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
