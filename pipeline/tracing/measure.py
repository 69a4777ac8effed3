"""How well known systems are named, and unknown ones recognised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.metrics.bootstrap import bootstrap
from pipeline.metrics.eer import eer_of
from pipeline.metrics.intervals import interval_of
from pipeline.metrics.rates import roc_auc_of
from pipeline.metrics.trials import operating_points, sort_trials
from pipeline.tracing.results import UNKNOWN, Cascade, Confusion, Rates, Traced

# N: utterances, K: systems of the gallery.

KNOWN_SHARE = 0.95
"""Share of the utterances of known systems that are accepted where FPR95 is measured."""

NUM_RESAMPLES = 1000

NONE = -1
"""In place of a known system."""


def measure(
    true: NDArray[np.int64],
    nearest: NDArray[np.int64],
    voted: NDArray[np.int64],
    known: NDArray[np.float64],
    unknown: NDArray[np.float64],
) -> Rates:
    """Measure utterances of known and of unknown systems.

    Args:
        true: [N] the system of each utterance of a known system.
        nearest: [N] the most similar one.
        voted: [N] the one that most neighbours are of.
        known: similarity to the nearest system, of utterances of known systems.
        unknown: the same of utterances of unknown systems.
    """
    can_tell = bool(known.size and unknown.size)
    trials = sort_trials(known, unknown) if can_tell else None
    return Rates(
        accuracy=float(np.mean(nearest == true)) if true.size else None,
        macro_f1=macro_f1(true, nearest) if true.size else None,
        neighbour_accuracy=float(np.mean(voted == true)) if true.size else None,
        neighbour_macro_f1=macro_f1(true, voted) if true.size else None,
        auroc=None if trials is None else roc_auc_of(operating_points(trials)),
        eer=None if trials is None else eer_of(trials).eer,
        fpr95=fpr95(known, unknown) if can_tell else None,
        num_known=true.size,
        num_unknown=unknown.size,
    )


def macro_f1(true: NDArray[np.int64], said: NDArray[np.int64]) -> float:
    """The mean F1 of the systems that occur, each with the same weight."""
    size = int(max(true.max(), said.max())) + 1
    right = np.bincount(true[true == said], minlength=size)
    num_true, num_said = np.bincount(true, minlength=size), np.bincount(said, minlength=size)
    occurs = num_true > 0
    return float(np.mean(2 * right[occurs] / (num_true + num_said)[occurs]))


def fpr95(known: NDArray[np.float64], unknown: NDArray[np.float64]) -> float:
    """The share of unknown utterances that are accepted at the highest threshold that accepts 95 % of known ones."""
    num_accepted = int(np.ceil(KNOWN_SHARE * known.size))
    threshold = np.sort(known)[known.size - num_accepted]
    return float(np.mean(unknown >= threshold))


def intervals_of(
    true: NDArray[np.int64], traced: Traced, clusters: NDArray[np.int64], rates: Rates, seed: int
) -> dict[str, tuple[float, float]]:
    """The 95 % intervals of the rates of new utterances, from resamples of whole clusters.

    Args:
        true: [N] the known system of each utterance; NONE of an unknown one.
        traced: the utterances.
        clusters: [N] the cluster of each, such as its speaker.
        rates: of the utterances.
        seed: of the resamples.
    """
    found: dict[str, tuple[float, float]] = {}
    is_known, best = true != NONE, traced.similarities.max(axis=1).astype(np.float64)
    num_clusters = [np.unique(clusters[mask]).size for mask in (is_known, ~is_known)]
    if is_known.any():
        own, nearest = clusters[is_known], traced.nearest[is_known]
        samples = _resample(true[is_known], nearest, np.unique(own, return_inverse=True)[1], seed)
        for name, values in samples.items():
            value = getattr(rates, name)
            interval = interval_of(name, value, values, num_clusters[0], int(is_known.sum()))
            if interval:
                found[name] = (interval.low, interval.high)
    if is_known.any() and not is_known.all():
        codes = np.unique(clusters, return_inverse=True)[1]
        trials = sort_trials(best[is_known], best[~is_known], (codes[is_known], codes[~is_known]))
        resampled = bootstrap(trials, ("eer", "roc_auc"), num_resamples=NUM_RESAMPLES, seed=seed)
        num_trials = int(min(is_known.sum(), (~is_known).sum()))
        for name, metric in (("eer", "eer"), ("auroc", "roc_auc")):
            interval = interval_of(
                metric, getattr(rates, name), resampled[metric], min(num_clusters), num_trials
            )
            if interval:
                found[name] = (interval.low, interval.high)
    return found


def _resample(
    true: NDArray[np.int64], said: NDArray[np.int64], clusters: NDArray[np.int64], seed: int
) -> Mapping[str, NDArray[np.float64]]:
    """Accuracy and macro F1 in resamples of clusters, whose weights are Poisson distributed."""
    rng = np.random.default_rng(seed)
    num_clusters, size = int(clusters.max()) + 1, int(max(true.max(), said.max())) + 1

    def count(systems: NDArray[np.int64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        cells = clusters[kept] * size + systems[kept]
        return (
            np.bincount(cells, minlength=num_clusters * size).reshape(num_clusters, size).astype(np.float64)
        )

    everything, is_right = np.ones(true.size, bool), true == said
    weights = rng.poisson(1.0, (NUM_RESAMPLES, num_clusters)).astype(np.float64)
    weights = weights[weights.sum(axis=1) > 0]
    right, num_true, num_said = (
        weights @ count(*each) for each in ((true, is_right), (true, everything), (said, everything))
    )
    occurs = num_true > 0
    f1 = np.divide(2 * right, num_true + num_said, out=np.zeros_like(right), where=occurs)
    return {
        "accuracy": right.sum(axis=1) / num_true.sum(axis=1),
        "macro_f1": f1.sum(axis=1) / occurs.sum(axis=1),
    }


def confusion_of(names: Sequence[str], traced: Traced) -> Confusion:
    """Count the verdicts on the utterances of each true system.

    Args:
        names: [K] the systems of the gallery.
        traced: new utterances; those whose system is not stated are left out.
    """
    systems = traced.rows["system"].combine_chunks()
    is_stated = systems.is_valid().to_numpy(zero_copy_only=False)
    others = sorted(set(systems.drop_null().to_pylist()) - set(names))
    rows = [*names, *others]
    true = pc.index_in(systems.drop_null(), value_set=pa.array(rows, pa.string())).to_numpy().astype(np.int64)
    said = np.where(traced.is_known, traced.nearest, len(names))[is_stated]
    counts = np.zeros((len(rows), len(names) + 1), np.int64)
    np.add.at(counts, (true, said), 1)
    occurs = counts.sum(axis=1) > 0
    return Confusion(
        [row for row, kept in zip(rows, occurs, strict=True) if kept], [*names, UNKNOWN], counts[occurs]
    )


def cascade_of(true: NDArray[np.int64], traced: Traced) -> Cascade | None:
    """What becomes of utterances that the detector judges before they are traced; None without its verdicts.

    Args:
        true: [N] the known system of each utterance; NONE of all others.
        traced: the utterances; those without a verdict, label or, of spoofs, system are left out.
    """
    verdict, label = (traced.rows[name].fill_null("").to_numpy() for name in ("verdict", "label"))
    if not (verdict != "").any():
        return None
    has_system = traced.rows["system"].combine_chunks().is_valid().to_numpy(zero_copy_only=False)
    is_kept, is_traced = verdict == "bonafide", verdict == "spoof"
    is_bonafide, is_spoof = label == "bonafide", (label == "spoof") & has_system
    is_known, is_right = true != NONE, true == traced.nearest
    accepted = traced.is_known

    def count(*masks: NDArray[np.bool_]) -> int:
        return int(np.count_nonzero(np.logical_and.reduce(masks)))

    traced_known, traced_unknown = is_traced & is_spoof & is_known, is_traced & is_spoof & ~is_known
    return Cascade(
        num_bonafide_kept=count(is_bonafide, is_kept),
        num_bonafide_traced=count(is_bonafide, is_traced, accepted),
        num_bonafide_unknown=count(is_bonafide, is_traced, ~accepted),
        num_spoof_missed=count(is_spoof, is_kept),
        num_known_right=count(traced_known, accepted, is_right),
        num_known_wrong=count(traced_known, accepted, ~is_right),
        num_known_rejected=count(traced_known, ~accepted),
        num_unknown_rejected=count(traced_unknown, ~accepted),
        num_unknown_accepted=count(traced_unknown, accepted),
    )
