"""Every metric of two arrays of scores, from one sort."""

from __future__ import annotations

from numpy.typing import ArrayLike

from pipeline.metrics.eer import Definition, eer_of
from pipeline.metrics.isotonic import cllr_min_of
from pipeline.metrics.rates import act_dcf_of, cllr_of, decisions_of, min_dcf_of, roc_auc_of
from pipeline.metrics.trials import OperatingPoints, Trials, operating_points, sort_trials


def summarise(bonafide: ArrayLike, spoof: ArrayLike, definition: Definition = "bonafide") -> dict[str, float]:
    """Compute every metric by name; decisions are at P(bona fide) >= 0.5, that is a score of 0."""
    trials = sort_trials(bonafide, spoof)
    return summarise_trials(trials, operating_points(trials), definition)


def summarise_trials(
    trials: Trials, points: OperatingPoints, definition: Definition = "bonafide"
) -> dict[str, float]:
    """Compute every metric of sorted trials and their operating points."""
    eer = eer_of(trials, definition, points)
    cllr, cllr_min = cllr_of(trials), cllr_min_of(points)
    return {
        "eer": eer.eer,
        "eer_threshold": eer.threshold,
        "min_dcf": min_dcf_of(points),
        "act_dcf": act_dcf_of(trials),
        "cllr": cllr,
        "cllr_min": cllr_min,
        "cllr_cal": cllr - cllr_min,
        "roc_auc": roc_auc_of(points),
        **decisions_of(trials)._asdict(),
    }
