"""Measurements: every metric of every system, by corpus, attack, artifact and language."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline import metrics
from pipeline.evaluation.scores import GROUPS, NOT_STATED, ScoreSet, split_by_label, warnings
from pipeline.metrics import Definition

MEAN, POOLED = "mean", "pooled"
"""Stand for a corpus where a measurement covers all of them: the mean of theirs, or all utterances at once."""


@dataclass(frozen=True)
class Measurement:
    """The metrics of one system on one group of utterances; None where a class is missing."""

    system: str
    corpus: str
    group: str
    """`all`, or one of GROUPS."""
    key: str
    """`all`, or the attack, artifact or language."""
    num_bonafide: int
    num_spoof: int
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class Settings:
    """How rates are read off the scores."""

    definition: Definition = "bonafide"
    num_bootstrap: int = 1000
    seed: int = 0


def measure(scores: ScoreSet, settings: Settings) -> Iterator[Measurement]:
    """All measurements of one system: each corpus with its breakdowns, then the mean and the pool of corpora."""
    wholes: list[Measurement] = []
    for corpus in scores.corpora:
        rows = scores.of(corpus)
        whole = _measurement(scores.system, corpus, rows, settings)
        wholes.append(whole)
        yield whole
        for group in GROUPS:
            yield from _breakdown(scores.system, corpus, group, rows, settings)
    yield _mean(wholes)
    yield _measurement(scores.system, POOLED, scores.rows, settings)


def _measurement(system: str, corpus: str, rows: pa.Table, settings: Settings) -> Measurement:
    bonafide, spoof = split_by_label(rows)
    values = _metrics(bonafide, spoof, settings)
    return Measurement(system, corpus, "all", "all", bonafide.size, spoof.size, values)


def _breakdown(
    system: str, corpus: str, group: str, rows: pa.Table, settings: Settings
) -> Iterator[Measurement]:
    """Each attack or artifact against all bona fide utterances of the corpus; each language on its own."""
    bonafide, _ = split_by_label(rows)
    keyed = rows if group == "language" else rows.filter(pc.equal(rows["label"], "spoof"))
    keys = pc.fill_null(keyed[group], NOT_STATED)
    for key in sorted(keys.unique().to_pylist()):
        own_bonafide, spoof = split_by_label(keyed.filter(pc.equal(keys, key)))
        against = own_bonafide if group == "language" else bonafide
        values = _metrics(against, spoof, settings)
        yield Measurement(system, corpus, group, key, against.size, spoof.size, values)


def _metrics(
    bonafide: NDArray[np.float32], spoof: NDArray[np.float32], settings: Settings
) -> dict[str, float | None]:
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
    # One class alone still has its own error rate; every comparison of the two is absent.
    absent: dict[str, float | None] = dict.fromkeys(METRICS)
    if bonafide.size:
        absent["miss"] = float(np.mean(bonafide < 0))
    if spoof.size:
        absent["false_alarm"] = float(np.mean(spoof >= 0))
    return absent


METRICS = tuple(metrics.summarise([1.0], [0.0], num_resamples=1))
"""Names of the metrics of a measurement."""


def _mean(wholes: Sequence[Measurement]) -> Measurement:
    """The mean over those corpora that have the metric; an interval of a mean is not a mean of intervals."""
    values: dict[str, float | None] = dict.fromkeys(METRICS)
    for name in METRICS:
        found = [value for whole in wholes if (value := whole.metrics[name]) is not None]
        if found and name not in ("eer_low", "eer_high", "eer_threshold"):
            values[name] = float(np.mean(found))
    num_bonafide = sum(whole.num_bonafide for whole in wholes)
    num_spoof = sum(whole.num_spoof for whole in wholes)
    return Measurement(wholes[0].system, MEAN, "all", "all", num_bonafide, num_spoof, values)


@dataclass(frozen=True)
class Results:
    """All that a report tells."""

    score_sets: Sequence[ScoreSet]
    measurements: Mapping[tuple[str, str, str, str], Measurement]
    """By system, corpus, group and key; in the order in which they were measured."""
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
        """Corpora, then the mean and the pool of them where there is more than one."""
        return [*self.corpora, MEAN, POOLED] if len(self.corpora) > 1 else self.corpora

    def by_system(self, corpus: str, group: str = "all", key: str = "all") -> list[Measurement | None]:
        """The same measurement of each system; None where a system did not score it."""
        return [self.measurements.get((system, corpus, group, key)) for system in self.systems]

    def keys(self, corpus: str, group: str) -> list[str]:
        """The attacks, artifacts or languages of a corpus."""
        found = (
            key
            for (_, its_corpus, its_group, key) in self.measurements
            if (its_corpus, its_group) == (corpus, group)
        )
        return sorted(set(found))


def evaluate(score_sets: Sequence[ScoreSet], settings: Settings) -> Results:
    """Measure every system and note what makes them hard to compare."""
    measured = [each for scores in score_sets for each in measure(scores, settings)]
    by_name = {(each.system, each.corpus, each.group, each.key): each for each in measured}
    return Results(score_sets, by_name, settings, warnings(score_sets))


def to_table(measurements: Iterable[Measurement]) -> pa.Table:
    """One row a value: system, corpus, group, key, metric, value (null where a class is missing), counts."""
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
    words = [(name, pa.string()) for name in ("system", "corpus", "group", "key", "metric")]
    counts = [("num_bonafide", pa.int64()), ("num_spoof", pa.int64())]
    return pa.Table.from_pylist(rows, pa.schema([*words, ("value", pa.float64()), *counts]))
