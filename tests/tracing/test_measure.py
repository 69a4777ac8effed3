"""Rates of known and unknown systems, their intervals, the confusion of systems, and the cascade."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from pipeline.tracing.measure import NONE, cascade_of, confusion_of, fpr95, intervals_of, measure
from pipeline.tracing.results import UNKNOWN, Traced


def draw(num: int = 400, num_systems: int = 4) -> tuple[Traced, np.ndarray, np.ndarray]:
    """Traced utterances, the known system of each (NONE of an unknown one), and speakers."""
    rng = np.random.default_rng(0)
    true = rng.integers(-1, num_systems, num)
    similarities = rng.normal(0, 0.3, (num, num_systems)).astype(np.float32)
    known = true != NONE
    similarities[np.flatnonzero(known), true[known]] += 0.5
    names = [f"A{each}" if each >= 0 else f"U{row % 2}" for row, each in enumerate(true)]
    llr = similarities.max(axis=1).astype(np.float64) * 8 - 3
    verdict = rng.choice(["bonafide", "spoof"], num, p=[0.2, 0.8])
    label = np.where(np.arange(num) % 5 == 0, "bonafide", "spoof")
    stated = [None if each == "bonafide" else name for each, name in zip(label, names, strict=True)]
    rows = pa.table({"system": pa.array(stated, pa.string()), "label": label, "verdict": verdict})
    true = np.where(label == "bonafide", NONE, true)
    return Traced(rows, similarities, similarities, llr, llr >= 0), true, rng.integers(0, 20, num)


def test_rates_equal_those_of_scikit_learn() -> None:
    traced, true, _ = draw()
    known, best = true != NONE, traced.similarities.max(axis=1).astype(np.float64)
    nearest = traced.nearest[known]
    rates = measure(true[known], nearest, nearest, best[known], best[~known])
    assert rates.accuracy == pytest.approx(np.mean(true[known] == nearest))
    assert rates.macro_f1 == pytest.approx(f1_score(true[known], nearest, average="macro"))
    assert rates.auroc == pytest.approx(roc_auc_score(known, best))
    assert (rates.num_known, rates.num_unknown) == (known.sum(), (~known).sum())
    # Systems that do not occur have no F1, but utterances that are taken for one count against the others.
    some = known & (true < 3)
    assert measure(true[some], traced.nearest[some], traced.nearest[some], best[some], best[:0]).macro_f1 == (
        pytest.approx(f1_score(true[some], traced.nearest[some], average="macro", labels=[0, 1, 2]))
    )


def test_fpr95_is_the_share_of_unknown_above_the_threshold_that_keeps_95_percent_of_known() -> None:
    rng = np.random.default_rng(2)
    known, unknown = rng.normal(1, 1, 200), rng.normal(0, 1, 300)
    thresholds = [each for each in known if np.mean(known >= each) >= 0.95]
    assert fpr95(known, unknown) == np.mean(unknown >= max(thresholds))
    assert fpr95(np.array([2.0]), np.array([1.0])) == 0.0


def test_nothing_is_measured_where_nothing_is_stated() -> None:
    empty = np.empty(0, np.int64)
    rates = measure(empty, empty, empty, np.empty(0), np.array([0.5]))
    assert rates[:7] == (None,) * 7


def test_intervals_hold_the_value_and_widen_with_fewer_speakers() -> None:
    traced, true, speakers = draw()
    known, best = true != NONE, traced.similarities.max(axis=1).astype(np.float64)
    nearest = traced.nearest[known]
    rates = measure(true[known], nearest, nearest, best[known], best[~known])
    found = intervals_of(true, traced, speakers, rates, seed=0)
    assert set(found) == {"accuracy", "macro_f1", "eer", "auroc"}
    for name, (low, high) in found.items():
        assert low < getattr(rates, name) < high
    few = intervals_of(true, traced, speakers % 3, rates, seed=0)
    for name, (low, high) in few.items():
        assert high - low > found[name][1] - found[name][0]
    assert found == intervals_of(true, traced, speakers, rates, seed=0)


def test_every_utterance_with_a_system_is_in_the_confusion() -> None:
    traced, true, _ = draw()
    confusion = confusion_of(["A0", "A1", "A2", "A3"], traced)
    assert list(confusion.systems) == ["A0", "A1", "A2", "A3", "U0", "U1"]
    assert confusion.verdicts[-1] == UNKNOWN
    stated = traced.rows["system"].is_valid().to_numpy()
    assert confusion.counts.sum() == stated.sum()
    is_right = (true == traced.nearest) & traced.is_known
    assert np.trace(confusion.counts[:4, :4]) == is_right.sum()
    assert confusion.counts[:, -1].sum() == (stated & ~traced.is_known).sum()


def test_every_labelled_utterance_has_one_place_in_the_cascade() -> None:
    traced, true, _ = draw()
    cascade = cascade_of(true, traced)
    assert cascade is not None
    assert sum(cascade) == len(true)
    label, verdict = (traced.rows[name].to_numpy() for name in ("label", "verdict"))
    assert cascade.num_bonafide_kept == np.sum((label == "bonafide") & (verdict == "bonafide"))
    is_right = (true == traced.nearest) & traced.is_known & (true != NONE)
    assert cascade.num_known_right == np.sum(is_right & (verdict == "spoof"))
    rows = traced.rows.set_column(2, "verdict", pa.nulls(len(true), pa.string()))
    assert (
        cascade_of(
            true,
            Traced(rows, *(getattr(traced, name) for name in ("similarities", "votes", "llr", "is_known"))),
        )
        is None
    )
