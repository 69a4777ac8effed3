"""Measure every metric of every system, by corpus, attack, artifact and language."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import metrics
from pipeline.evaluation.scores import GROUPS, NOT_STATED, ScoreSet, split_by_label, warnings
from pipeline.metrics import ClassScores, Definition

MEAN, POOLED = "mean", "pooled"
"""Stand for a corpus in measurements over all corpora: the mean over corpora, and all utterances pooled."""

INTERVAL_METRICS = ("eer_low", "eer_high", "eer_threshold")
"""Metrics that qualify the EER of one corpus: they are neither averaged over corpora nor logged to MLflow."""


@dataclass(frozen=True)
class Measurement:
    """The metrics of one system on one group of utterances."""

    system: str
    corpus: str
    group: str
    """`all`, or one of GROUPS."""
    key: str
    """`all`, or the attack, artifact or language."""
    num_bonafide: int
    num_spoof: int
    metrics: Mapping[str, float | None]
    """Name → value; None for a metric that needs both classes if one is missing."""


@dataclass(frozen=True)
class Settings:
    """Definition of the EER, and parameters of its confidence interval."""

    definition: Definition = "bonafide"
    num_bootstrap: int = 1000
    seed: int = 0


def measure(scores: ScoreSet, settings: Settings) -> Iterator[Measurement]:
    """Measure one system: each corpus with its breakdowns, then the mean over corpora, then all utterances."""
    corpora: list[Measurement] = []
    for corpus in scores.corpora:
        rows = scores.rows_of(corpus)
        corpora.append(_measure(scores.system, corpus, "all", "all", split_by_label(rows), settings))
        yield corpora[-1]
        for group in GROUPS:
            yield from _breakdown(scores.system, corpus, group, rows, settings)
    yield _mean(corpora)
    yield _measure(scores.system, POOLED, "all", "all", split_by_label(scores.rows), settings)


def _breakdown(
    system: str, corpus: str, group: str, rows: pa.Table, settings: Settings
) -> Iterator[Measurement]:
    """Measure each attack and artifact against all bona fide utterances, each language against its own."""
    all_bonafide = split_by_label(rows).bonafide
    keyed = rows if group == "language" else rows.filter(pc.equal(rows["label"], "spoof"))
    keys = pc.fill_null(keyed[group], NOT_STATED)
    for key in sorted(keys.unique().to_pylist()):
        scores = split_by_label(keyed.filter(pc.equal(keys, key)))
        if group != "language":
            scores = scores._replace(bonafide=all_bonafide)
        yield _measure(system, corpus, group, key, scores, settings)


def _measure(
    system: str, corpus: str, group: str, key: str, scores: ClassScores, settings: Settings
) -> Measurement:
    values = _metrics(scores, settings)
    return Measurement(system, corpus, group, key, scores.bonafide.size, scores.spoof.size, values)


def _metrics(scores: ClassScores, settings: Settings) -> dict[str, float | None]:
    bonafide, spoof = scores
    if bonafide.size and spoof.size:
        return {
            **metrics.summarise(
                bonafide,
                spoof,
                settings.definition,
                num_resamples=settings.num_bootstrap,
                seed=settings.seed,
            )
        }
    # One class alone has an error rate; all other metrics compare the two classes.
    values: dict[str, float | None] = dict.fromkeys(METRICS)
    if bonafide.size:
        values["miss"] = float(np.mean(bonafide < 0))
    if spoof.size:
        values["false_alarm"] = float(np.mean(spoof >= 0))
    return values


METRICS = tuple(metrics.summarise([1.0], [0.0], num_resamples=1))
"""Names of all metrics, in the order of the report."""


def _mean(corpora: Sequence[Measurement]) -> Measurement:
    """Average each metric over the corpora that have it.

    INTERVAL_METRICS are None: the interval of a mean is not the mean of the intervals.
    """
    values: dict[str, float | None] = dict.fromkeys(METRICS)
    for name in METRICS:
        known = [value for corpus in corpora if (value := corpus.metrics[name]) is not None]
        if known and name not in INTERVAL_METRICS:
            values[name] = float(np.mean(known))
    num_bonafide = sum(corpus.num_bonafide for corpus in corpora)
    num_spoof = sum(corpus.num_spoof for corpus in corpora)
    return Measurement(corpora[0].system, MEAN, "all", "all", num_bonafide, num_spoof, values)


@dataclass(frozen=True)
class Results:
    """The measurements of all systems, and everything else that a report shows."""

    score_sets: Sequence[ScoreSet]
    measurements: Mapping[tuple[str, str, str, str], Measurement]
    """(system, corpus, group, key) → measurement, in the order of `measure`."""
    settings: Settings
    warnings: Sequence[str]

    @property
    def systems(self) -> list[str]:
        return [scores.system for scores in self.score_sets]

    @property
    def corpora(self) -> list[str]:
        return sorted({corpus for scores in self.score_sets for corpus in scores.corpora})

    @property
    def corpora_and_totals(self) -> list[str]:
        """The corpora; if there are several, also MEAN and POOLED."""
        return [*self.corpora, MEAN, POOLED] if len(self.corpora) > 1 else self.corpora

    def by_system(self, corpus: str, group: str = "all", key: str = "all") -> list[Measurement | None]:
        """Return one measurement per system; None for a system without scores for the group."""
        return [self.measurements.get((system, corpus, group, key)) for system in self.systems]

    def keys(self, corpus: str, group: str) -> list[str]:
        """List the attacks, artifacts or languages of a corpus, in alphabetical order."""
        return sorted(
            {each.key for each in self.measurements.values() if (each.corpus, each.group) == (corpus, group)}
        )


def evaluate(score_sets: Sequence[ScoreSet], settings: Settings) -> Results:
    """Measure every system, and collect warnings about their comparison."""
    measurements = {
        (each.system, each.corpus, each.group, each.key): each
        for scores in score_sets
        for each in measure(scores, settings)
    }
    return Results(score_sets, measurements, settings, warnings(score_sets))


def to_table(measurements: Iterable[Measurement]) -> pa.Table:
    """Put each value into a row; the value of an undefined metric is null."""
    rows = [
        {
            "system": each.system,
            "corpus": each.corpus,
            "group": each.group,
            "key": each.key,
            "metric": metric,
            "value": value,
            "num_bonafide": each.num_bonafide,
            "num_spoof": each.num_spoof,
        }
        for each in measurements
        for metric, value in each.metrics.items()
    ]
    names = [(name, pa.string()) for name in ("system", "corpus", "group", "key", "metric")]
    counts = [("num_bonafide", pa.int64()), ("num_spoof", pa.int64())]
    return pa.Table.from_pylist(rows, pa.schema([*names, ("value", pa.float64()), *counts]))
