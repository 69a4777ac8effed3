"""The EER of a single trait of a file, and its expectation by chance."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.card.shortcut import CORPUS, Shortcut, chance_eer, trait_eer


def counts(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_a_trait_that_determines_the_label_has_eer_0():
    assert trait_eer(counts(7, 0, 3), counts(0, 900, 0)) == 0.0


def test_a_trait_with_equal_distributions_has_eer_one_half():
    assert trait_eer(counts(5), counts(9000)) == 0.5
    assert trait_eer(counts(10, 30), counts(100, 300)) == pytest.approx(0.5)


def test_the_classifier_may_randomise_between_two_decisions():
    # Accepting the first value as bona fide misses 0.2 and falsely accepts 0.3; accepting nothing misses all. Choosing
    # the former with probability 1 / 1.1 makes both error rates equal.
    assert trait_eer(counts(80, 20), counts(30, 70)) == pytest.approx(0.3 / 1.1)


@pytest.mark.parametrize("seed", range(20))
def test_the_eer_depends_neither_on_class_sizes_nor_on_the_order_of_the_classes(seed):
    bonafide, spoof = np.random.default_rng(seed).integers(0, 40, (2, 12)) + 1
    rate = trait_eer(bonafide, spoof)
    assert trait_eer(17 * bonafide, 3 * spoof) == pytest.approx(rate)
    assert trait_eer(spoof, bonafide) == pytest.approx(rate)


@pytest.mark.parametrize("seed", range(20))
def test_splitting_values_never_raises_the_eer_and_no_decision_beats_it(seed):
    bonafide, spoof = np.random.default_rng(seed).integers(0, 40, (2, 12)) + 1
    rate = trait_eer(bonafide, spoof)
    merged = trait_eer(bonafide.reshape(6, 2).sum(1), spoof.reshape(6, 2).sum(1))
    assert rate <= merged + 1e-12
    # Half the overlap of the two distributions is the lowest possible mean of miss and false alarm.
    overlap = np.minimum(bonafide / bonafide.sum(), spoof / spoof.sum()).sum()
    assert rate >= overlap / 2 - 1e-12


def test_chance_eer_is_one_half_for_many_utterances_and_0_for_one_value_per_utterance():
    assert chance_eer(counts(50_000, 50_000), counts(70_000, 20_000)) == pytest.approx(0.5, abs=0.005)
    one_each = np.eye(2, dtype=np.int64)[np.arange(20) % 2]
    assert chance_eer(one_each[:, 0], one_each[:, 1]) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("eer", "chance", "is_predictive"),
    [(0.0, 0.49, True), (0.1, 0.5, True), (0.11, 0.5, False), (0.08, 0.1, False)],
)
def test_a_low_eer_is_predictive_unless_chance_explains_it(eer, chance, is_predictive):
    assert Shortcut("c", 1, CORPUS, {}, eer, chance).is_predictive == is_predictive
