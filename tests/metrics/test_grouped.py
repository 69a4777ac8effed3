"""Error rates by corpus and attack."""

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.metrics import Group, GroupedScores, equal_error_rate, group_scores
from pipeline.metrics.eer import eer_against


def grouped(**scores: list[float]) -> GroupedScores:
    """Group scores by names such as `mls` and `mls__bark`."""
    return GroupedScores(
        {Group(*name.split("__")): np.sort(np.array(each, np.float64)) for name, each in scores.items()}
    )


def test_the_means_are_those_computed_by_hand() -> None:
    rates = grouped(
        a=[1.0, 2.0, 3.0, 4.0],
        a__easy=[0.0, 0.5],
        a__hard=[2.5, 5.0],
        b=[7.0, 8.0],
        b__easy=[6.0],
        only_spoof__tts=[2.5],
        only_bonafide=[9.0],
    ).error_rates
    assert rates.corpora == {"a": 1 / 2, "b": 0.0}
    assert rates.attacks == {
        Group("a", "easy"): 0.0,
        Group("a", "hard"): 1 / 2,
        Group("b", "easy"): 0.0,
        # Against 1 2 3 4 7 8 9: two of seven are rejected with the spoof score, and the EER is the mean of 2/7 and 0.
        Group("only_spoof", "tts"): 1 / 7,
    }
    # Rejecting up to 2.5 misses 2 of 7 and accepts 2 of 6.
    assert rates.by_selection == pytest.approx(
        {"pooled": (2 / 7 + 2 / 6) / 2, "corpora": 1 / 4, "attacks": (1 / 2 + 1 / 7) / 4}
    )


def test_without_a_corpus_of_both_classes_there_is_no_mean_of_corpora() -> None:
    rates = grouped(a=[1.0], b__tts=[0.0]).error_rates
    assert rates.by_selection == {"pooled": 0.0, "attacks": 0.0}
    assert rates.of("corpora") is None


def test_a_missing_class_or_a_nan_is_an_error() -> None:
    for scores in (grouped(a=[1.0]), grouped(a=[1.0, np.nan], a__x=[0.0]), grouped(a=[1.0], a__x=[-np.inf])):
        with pytest.raises(InputError):
            _ = scores.error_rates


def test_scores_in_any_order_are_sorted_into_their_groups() -> None:
    groups = [Group("a"), Group("a", "x"), Group("b", "y")]
    scores = group_scores(groups, np.array([2, 0, 2, 0]), np.array([3.0, 9.0, 1.0, 5.0]))
    assert {group: each.tolist() for group, each in scores.by_group.items()} == {
        Group("a"): [5.0, 9.0],
        Group("b", "y"): [1.0, 3.0],
    }


def test_the_eer_against_shared_bonafide_scores_equals_the_definition_with_and_without_ties() -> None:
    rng = np.random.default_rng(0)
    for num_values in rng.integers(1, 30, 3000):
        bonafide, spoof = (
            np.sort(rng.integers(0, num_values, size) * 1.0) for size in rng.integers(1, 12, 2)
        )
        bonafide += rng.integers(0, 4)
        assert eer_against(bonafide, spoof) == equal_error_rate(bonafide, spoof).eer, (bonafide, spoof)
    for size in rng.integers(1, 400, 50):
        bonafide, spoof = np.sort(rng.normal(1, 1, 3000)), np.sort(rng.normal(0, 1, size))
        assert eer_against(bonafide, spoof) == equal_error_rate(bonafide, spoof).eer
