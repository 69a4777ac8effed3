"""Metrics of scores: arrays in, numbers out; a higher score means more bona fide.

    from pipeline.metrics import equal_error_rate

    equal_error_rate(bonafide, spoof).eer

Scores are in natural-log units: logit of bona fide minus logit of spoof. Rates are fractions in [0, 1]. A metric takes
the scores of bona fide and of spoof utterances as two arrays, in any order, and raises InputError if one of them is
empty or contains a nan or an infinity. A function whose name ends in `_of` takes scores that are already sorted.

Error rates and costs are here, and need NumPy alone. Modules of their own, which need SciPy: `summary` has every metric
at once, `calibration` log-likelihood ratios and thresholds, `bootstrap` and `intervals` confidence intervals, `paired`
tests of two systems. Partial spoofs, with NumPy alone: `timeline` puts frame scores and labelled regions on one axis of
time, `localisation` measures where speech is spoofed.
"""

from pipeline.metrics.eer import DEFINITIONS, Definition, EqualErrorRate, eer_at, eer_of, equal_error_rate
from pipeline.metrics.grouped import SELECTIONS, ErrorRates, Group, GroupedScores, Selection, group_scores
from pipeline.metrics.rates import (
    ASVSPOOF5,
    Costs,
    Decisions,
    act_dcf,
    cllr,
    decisions,
    det_curve,
    min_dcf,
    roc_auc,
)
from pipeline.metrics.trials import (
    ClassScores,
    OperatingPoints,
    Trials,
    operating_points,
    sort_trials,
    weighted_operating_points,
)

__all__ = [
    "ASVSPOOF5",
    "DEFINITIONS",
    "SELECTIONS",
    "ClassScores",
    "Costs",
    "Decisions",
    "Definition",
    "EqualErrorRate",
    "ErrorRates",
    "Group",
    "GroupedScores",
    "OperatingPoints",
    "Selection",
    "Trials",
    "act_dcf",
    "cllr",
    "decisions",
    "det_curve",
    "eer_at",
    "eer_of",
    "equal_error_rate",
    "group_scores",
    "min_dcf",
    "operating_points",
    "roc_auc",
    "sort_trials",
    "weighted_operating_points",
]
