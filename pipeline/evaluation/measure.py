"""Measure every metric of every system, by corpus and by groups of utterances, with confidence intervals."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import layout
from pipeline.evaluation.calibration import Calibration
from pipeline.evaluation.scores import ScoreSet
from pipeline.evaluation.utterances import GROUPS, ClusterKind, Utterances, renumber
from pipeline.metrics import Definition, Trials, operating_points
from pipeline.metrics.bootstrap import ALL, EER_ONLY, Samples, bootstrap
from pipeline.metrics.intervals import Interval, interval_of, p_value_of
from pipeline.metrics.rates import decisions_of
from pipeline.metrics.summary import summarise_trials
from pipeline.metrics.timeline import NonSpeech

MEAN, POOLED = "mean", "pooled"
"""Stand for a corpus in measurements over all corpora: the mean over corpora, and all utterances pooled."""

CALIBRATED = "calibrated_"
"""Prefix of metrics of calibrated scores, which only corpora have; the rates are those at the chosen threshold."""

CALIBRATED_COSTS = ("act_dcf", "cllr", "cllr_cal")
CALIBRATED_RATES = ("miss", "false_alarm")

METRICS = (
    "eer",
    "eer_threshold",
    *ALL[1:],
    *(f"{CALIBRATED}{name}" for name in (*CALIBRATED_COSTS, *CALIBRATED_RATES)),
)
"""Names of all metrics, in the order of the report."""

UNAVERAGED = ("eer_threshold",)
"""Metrics that qualify the EER of one corpus: they are neither averaged over corpora nor logged to MLflow."""

AGAINST_ALL_BONAFIDE = ("attack", "artifact")
"""Groups of spoof utterances, each measured against all bona fide utterances of its corpus."""

GROUP_RESAMPLES = 200
"""Resamples of a group, of which there may be thousands: their standard error is known to 5 %."""

FALSE_DISCOVERIES = 0.05
"""Share of the marked groups that differ from their corpus by chance only (Benjamini and Hochberg, 1995)."""


@dataclass(frozen=True)
class Settings:
    """Definition of the EER, and parameters of the confidence intervals of the picture of embeddings, and of frames."""

    definition: Definition = "bonafide"
    num_bootstrap: int = 1000
    seed: int = 0
    clusters: ClusterKind = "auto"
    min_group: int = 30
    """A group of utterances with fewer of a class has no error rates, only counts."""
    layer: str = layout.HEAD_LAYER
    """Whose embeddings are shown."""
    perplexity: float = 30.0
    """Of t-SNE."""
    max_points: int = 5000
    """Utterances in the picture of embeddings, at most."""
    smoothing_s: float = 0.2
    """Each score of a frame is the mean over a centred window of this duration."""
    non_speech: NonSpeech = "excluded"
    """What regions of non-speech count as when frames are measured."""


@dataclass(frozen=True)
class Measurement:
    """The metrics of one system on one group of utterances."""

    system: str
    corpus: str
    group: str
    """`all`, or one of GROUPS."""
    key: str
    """`all`, or the attack, artifact, language …"""
    num_bonafide: int
    num_spoof: int
    metrics: dict[str, float | None]
    """Name → value; None for a metric that needs both classes if one is missing, or too small in a group."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """Name → 95 % interval, of the EER in groups and of every metric in corpora."""
    independent_eer: Interval | None = None
    """The interval of the EER as if no two utterances had a speaker or file in common."""
    clusters: Mapping[str, int] = field(default_factory=dict)
    """Kind of cluster (speaker, file, utterance) → how many there are."""
    num_clusters: int = 0
    """Clusters of the class that has fewer."""
    is_different: bool | None = None
    """Whether the EER of a group differs from that of its corpus; None if that was not tested."""
    samples: Samples = field(default_factory=dict, repr=False)
    """Name → [num_resamples] bootstrap values, of every metric in corpora; empty where they are those of another
    corpus."""


def measure(
    scores: ScoreSet,
    settings: Settings,
    calibration: Calibration | None = None,
    *,
    is_compared: bool = False,
) -> Iterator[Measurement]:
    """Measure one system: each corpus with its groups, then the mean over corpora, then all utterances.

    Args:
        scores: of the system.
        settings: of the evaluation.
        calibration: of the system, if it has one.
        is_compared: whether resamples must be those of other systems with the same utterances.
    """
    corpora: list[Measurement] = []
    measure_all = partial(
        _measure_all, scores.system, settings=settings, calibration=calibration, is_compared=is_compared
    )
    for corpus, utterances in scores.by_corpus.items():
        corpora.append(measure_all(corpus, utterances))
        yield corpora[-1]
        yield from _measure_groups(corpora[-1], utterances, settings)
    if len(corpora) == 1:
        for name in (MEAN, POOLED):
            yield replace(corpora[0], corpus=name, samples={})
        return
    yield _mean(corpora)
    yield measure_all(POOLED, scores.utterances)


def _measure_all(
    system: str,
    corpus: str,
    utterances: Utterances,
    *,
    settings: Settings,
    calibration: Calibration | None,
    is_compared: bool,
) -> Measurement:
    """Measure all utterances of a corpus, or of all corpora."""
    clusters = utterances.clusters(settings.clusters)
    codes = None if clusters.are_single and not is_compared else clusters.codes
    trials = utterances.trials(codes)
    measurement = Measurement(
        system, corpus, "all", "all", trials.num_bonafide, trials.num_spoof, {}, clusters=clusters.names
    )
    if not (measurement.num_bonafide and measurement.num_spoof):
        return replace(measurement, metrics=_one_class(trials))
    metrics: dict[str, float | None] = dict.fromkeys(METRICS)
    metrics |= summarise_trials(trials, operating_points(trials), settings.definition)
    resample = partial(bootstrap, num_resamples=settings.num_bootstrap, seed=bootstrap_seed(settings, corpus))
    samples = resample(trials, ALL)
    if calibration is not None:
        calibrated, calibrated_samples = _calibrated(trials, calibration, resample)
        metrics |= calibrated
        samples |= calibrated_samples
    num_clusters = count_clusters(trials)
    independent = samples
    if not clusters.are_single:
        independent = resample(trials._replace(clusters=None), EER_ONLY)
    num_trials = min(measurement.num_bonafide, measurement.num_spoof)
    return replace(
        measurement,
        metrics=metrics,
        intervals=_intervals(metrics, samples, num_clusters, num_trials),
        independent_eer=interval_of("eer", metrics["eer"] or 0.0, independent["eer"], num_trials, num_trials),
        num_clusters=num_clusters,
        samples=samples,
    )


def _calibrated(
    trials: Trials, calibration: Calibration, resample: Callable[[Trials, Sequence[str]], Samples]
) -> tuple[dict[str, float | None], Samples]:
    """Measure the costs of calibrated scores, and the error rates at the chosen threshold; and resample them."""
    llr = trials._replace(scores=calibration.llr(trials.scores))
    costs = summarise_trials(llr, operating_points(llr))
    metrics: dict[str, float | None] = {name: costs[name] for name in CALIBRATED_COSTS}
    samples = resample(llr, CALIBRATED_COSTS)
    if calibration.threshold is not None:
        decided = llr._replace(scores=llr.scores - calibration.threshold.llr)  # rates are those at 0
        rates = decisions_of(decided)
        metrics |= {"miss": rates.miss, "false_alarm": rates.false_alarm}
        samples |= resample(decided, CALIBRATED_RATES)
    return (
        {f"{CALIBRATED}{name}": value for name, value in metrics.items()},
        {f"{CALIBRATED}{name}": values for name, values in samples.items()},
    )


def bootstrap_seed(settings: Settings, corpus: str) -> list[int]:
    """The seed of a corpus: the resamples of two corpora are independent, those of two systems are the same."""
    return [settings.seed, zlib.crc32(corpus.encode())]


def count_clusters(trials: Trials) -> int:
    """Count the clusters of the class that has fewer."""
    if trials.clusters is None:
        return min(trials.num_bonafide, trials.num_spoof)
    classes = (trials.is_bonafide, ~trials.is_bonafide)
    return min(int(np.count_nonzero(np.bincount(trials.clusters[is_class]))) for is_class in classes)


def _intervals(
    metrics: Mapping[str, float | None], samples: Samples, num_clusters: int, num_trials: int
) -> dict[str, Interval]:
    intervals = {}
    for name, values in samples.items():
        value, kind = metrics[name], name.removeprefix(CALIBRATED)
        assert value is not None, f"{name} was resampled, so it is known"
        interval = interval_of(kind, value, values, num_clusters, num_trials)
        if interval is not None:
            intervals[name] = interval
    return intervals


def _one_class(trials: Trials) -> dict[str, float | None]:
    """One class alone has an error rate; all other metrics compare the two classes."""
    metrics: dict[str, float | None] = dict.fromkeys(METRICS)
    if trials.scores.size:
        name = "miss" if trials.num_bonafide else "false_alarm"
        is_error = trials.scores < 0 if trials.num_bonafide else trials.scores >= 0
        metrics[name] = float(is_error.mean())
    return metrics


def _measure_groups(corpus: Measurement, utterances: Utterances, settings: Settings) -> Iterator[Measurement]:
    """Measure the utterances of a corpus by each of their columns, and mark the groups that differ from the corpus."""
    clusters = utterances.clusters(settings.clusters)
    for group in GROUPS:
        rows_by_key = _rows_by_key(utterances, group)
        if len(rows_by_key) == 1:
            yield replace(corpus, group=group, key=next(iter(rows_by_key)), samples={})
            continue
        # A speaker is a cluster, so nothing is known beyond the speaker's own utterances.
        codes = None if group == "speaker" or clusters.are_single else clusters.codes
        measured = [
            _measure_rows(corpus, group, key, utterances.trials(codes), rows, settings)
            for key, rows in rows_by_key.items()
        ]
        if group == "speaker":  # thousands of speakers say only a few sentences
            measured = [each for each in measured if each.metrics["eer"] is not None]
        yield from _mark_different(corpus, measured)


def _rows_by_key(utterances: Utterances, group: str) -> dict[str, NDArray[np.int64]]:
    """Key → rows of a group; attacks and artifacts are those of spoof utterances."""
    column = utterances.columns[group]
    if group not in AGAINST_ALL_BONAFIDE:
        return column.rows_by_name()
    spoof = np.flatnonzero(~utterances.is_bonafide)
    return {key: spoof[rows] for key, rows in column.take(spoof).rows_by_name().items()}


def _measure_rows(
    corpus: Measurement, group: str, key: str, trials: Trials, rows: NDArray[np.int64], settings: Settings
) -> Measurement:
    """Measure some rows of a corpus, attacks and artifacts against all its bona fide utterances."""
    if group in AGAINST_ALL_BONAFIDE:
        is_chosen = trials.is_bonafide.copy()
        is_chosen[rows] = True
        trials = trials.select(is_chosen)
    else:
        trials = trials.select(rows)
    num_bonafide, num_spoof = trials.num_bonafide, trials.num_spoof
    measurement = Measurement(
        corpus.system, corpus.corpus, group, key, num_bonafide, num_spoof, dict.fromkeys(METRICS)
    )
    if not (num_bonafide and num_spoof):
        is_enough = trials.scores.size >= settings.min_group
        return replace(measurement, metrics=_one_class(trials)) if is_enough else measurement
    if min(num_bonafide, num_spoof) < settings.min_group:
        return measurement
    if trials.clusters is not None:
        codes, num_clusters = renumber(trials.clusters)
        trials = trials._replace(clusters=codes if num_clusters < codes.size else None)
    metrics = measurement.metrics | summarise_trials(trials, operating_points(trials), settings.definition)
    seed = bootstrap_seed(settings, corpus.corpus)
    num_resamples = min(settings.num_bootstrap, GROUP_RESAMPLES)
    samples = bootstrap(trials, EER_ONLY, num_resamples=num_resamples, seed=seed)
    num_clusters = count_clusters(trials)
    return replace(
        measurement,
        metrics=metrics,
        intervals=_intervals(metrics, samples, num_clusters, min(num_bonafide, num_spoof)),
        num_clusters=num_clusters,
        samples=samples,
    )


def _mark_different(corpus: Measurement, groups: Sequence[Measurement]) -> Iterator[Measurement]:
    """Mark the groups whose EER differs from that of the corpus, so that few of the marks are chance."""
    eer = corpus.metrics["eer"]
    p_values = np.array(
        [
            np.nan
            if eer is None or not each.samples or each.num_clusters < 2
            else p_value_of(eer, each.metrics["eer"] or 0.0, each.samples["eer"], each.num_clusters)
            for each in groups
        ]
    )
    is_different = false_discovery_control(p_values)
    for each, p_value, is_marked in zip(groups, p_values, is_different, strict=True):
        yield replace(each, is_different=None if np.isnan(p_value) else bool(is_marked), samples={})


def false_discovery_control(p_values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Select the tests that are significant together, at a share of FALSE_DISCOVERIES; nan is never significant."""
    order = np.argsort(p_values)  # nan comes last
    num_tests = int(np.count_nonzero(~np.isnan(p_values)))
    limits = FALSE_DISCOVERIES * np.arange(1, p_values.size + 1) / max(num_tests, 1)
    below = np.flatnonzero(p_values[order] <= limits)
    is_significant = np.zeros(p_values.size, bool)
    if below.size:
        is_significant[order[: below[-1] + 1]] = True
    return is_significant


def _mean(corpora: Sequence[Measurement]) -> Measurement:
    """Average each metric over the corpora that have it; the resamples of corpora are independent of each other."""
    metrics: dict[str, float | None] = dict.fromkeys(METRICS)
    for name in METRICS:
        known = [value for corpus in corpora if (value := corpus.metrics[name]) is not None]
        if known and name not in UNAVERAGED:
            metrics[name] = float(np.mean(known))
    measured = [corpus for corpus in corpora if corpus.samples]
    samples = {
        name: np.mean([corpus.samples[name] for corpus in measured], axis=0)
        for name in (measured[0].samples if measured else ())
        if all(corpus.samples or corpus.metrics[name] is None for corpus in corpora)
    }
    num_clusters = min((corpus.num_clusters for corpus in measured), default=0)
    num_trials = sum(min(corpus.num_bonafide, corpus.num_spoof) for corpus in measured)
    return Measurement(
        corpora[0].system,
        MEAN,
        "all",
        "all",
        sum(corpus.num_bonafide for corpus in corpora),
        sum(corpus.num_spoof for corpus in corpora),
        metrics,
        _intervals(metrics, samples, num_clusters, num_trials),
        num_clusters=num_clusters,
        samples=samples,
    )
