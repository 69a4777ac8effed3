"""What the EER of a single trait of a file must be."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.card.shortcut import CORPUS, Shortcut, chance_eer, lone_eer


def counts(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_a_trait_that_is_the_label_has_no_errors():
    assert lone_eer(counts(7, 0, 3), counts(0, 900, 0)) == 0.0


def test_a_trait_that_everybody_has_tells_nothing():
    assert lone_eer(counts(5), counts(9000)) == 0.5
    assert lone_eer(counts(10, 30), counts(100, 300)) == pytest.approx(0.5)


def test_between_two_decisions_a_coin_is_tossed():
    # Taking the first value for bona fide misses 0.2 and falsely accepts 0.3; taking nothing misses all. Of the two,
    # 1 / 1.1 of the first makes both errors equally frequent.
    assert lone_eer(counts(80, 20), counts(30, 70)) == pytest.approx(0.3 / 1.1)


@pytest.mark.parametrize("seed", range(20))
def test_rate_depends_neither_on_class_sizes_nor_on_which_class_is_which(seed):
    bonafide, spoof = np.random.default_rng(seed).integers(0, 40, (2, 12)) + 1
    rate = lone_eer(bonafide, spoof)
    assert lone_eer(17 * bonafide, 3 * spoof) == pytest.approx(rate)
    assert lone_eer(spoof, bonafide) == pytest.approx(rate)


@pytest.mark.parametrize("seed", range(20))
def test_telling_values_apart_never_hurts_and_no_decision_beats_the_rate(seed):
    bonafide, spoof = np.random.default_rng(seed).integers(0, 40, (2, 12)) + 1
    rate = lone_eer(bonafide, spoof)
    merged = lone_eer(bonafide.reshape(6, 2).sum(1), spoof.reshape(6, 2).sum(1))
    assert rate <= merged + 1e-12
    # Half the overlap of two distributions is the least mean of miss and false alarm.
    overlap = np.minimum(bonafide / bonafide.sum(), spoof / spoof.sum()).sum()
    assert rate >= overlap / 2 - 1e-12


def test_chance_is_a_coin_for_many_utterances_and_nothing_for_as_many_values_as_utterances():
    assert chance_eer(counts(50_000, 50_000), counts(70_000, 20_000)) == pytest.approx(0.5, abs=0.005)
    one_each = np.eye(2, dtype=np.int64)[np.arange(20) % 2]
    assert chance_eer(one_each[:, 0], one_each[:, 1]) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("eer", "chance", "is_almost"),
    [(0.0, 0.49, True), (0.1, 0.5, True), (0.11, 0.5, False), (0.08, 0.1, False)],
)
def test_a_low_rate_is_warned_of_unless_chance_explains_it(eer, chance, is_almost):
    assert Shortcut("c", 1, CORPUS, {}, eer, chance).is_almost_a_label == is_almost
