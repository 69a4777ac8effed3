"""The results of an evaluation: measurements of all systems, their comparisons, and what makes them unfair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from pipeline.evaluation.calibration import Calibration
from pipeline.evaluation.comparison import Comparison, compare
from pipeline.evaluation.concerns import concerns
from pipeline.evaluation.embeddings import Embeddings
from pipeline.evaluation.measure import MEAN, POOLED, Measurement, Settings, measure
from pipeline.evaluation.over_time import OverTime, measure_over_time
from pipeline.evaluation.picture import Picture, draw
from pipeline.evaluation.scores import ScoreSet


@dataclass(frozen=True)
class Results:
    """The measurements of all systems, and everything else that a report shows."""

    score_sets: Sequence[ScoreSet]
    measurements: Mapping[tuple[str, str, str, str], Measurement]
    """(system, corpus, group, key) → measurement, in the order of `measure`; then those of embeddings and of frames."""
    comparisons: Sequence[Comparison]
    calibrations: Mapping[str, Calibration]
    """System → its calibration, for those that have one."""
    settings: Settings
    warnings: Sequence[str]
    picture: Picture | None = None
    """Of the embeddings; None if no system has any."""
    over_time: OverTime | None = None
    """What frames show; None if no system has scores of frames."""

    @property
    def systems(self) -> list[str]:
        return [scores.system for scores in self.score_sets]

    @cached_property
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
        """List the attacks, artifacts, languages … of a corpus, in the order of the measurements."""
        found = (each for each in self.measurements.values() if (each.corpus, each.group) == (corpus, group))
        return list(dict.fromkeys(each.key for each in found))


def evaluate(
    score_sets: Sequence[ScoreSet],
    settings: Settings,
    calibrations: Mapping[str, Calibration] | None = None,
    embeddings: Mapping[str, Embeddings] | None = None,
) -> Results:
    """Measure every system, compare them, and collect warnings.

    Args:
        score_sets: the systems, with different names.
        settings: of the evaluation.
        calibrations: system → its calibration, for those that have one.
        embeddings: system → its embeddings of the layer of the settings, for those that have them.

    Raises:
        InputError: scores of frames are damaged, or do not fit the regions.
    """
    known = calibrations or {}
    measurements = {
        (each.system, each.corpus, each.group, each.key): each
        for scores in score_sets
        for each in measure(scores, settings, known.get(scores.system), is_compared=len(score_sets) > 1)
    }
    comparisons = compare(score_sets, measurements, settings)
    warnings = concerns(score_sets, measurements, known)
    picture = draw(score_sets, embeddings or {}, settings)
    if picture is not None:
        warnings += picture.concerns()
        measurements |= {
            (each.system, each.corpus, each.group, each.key): each
            for projection in picture.projections
            for each in [projection.measurement]
        }
    over_time = measure_over_time(score_sets, known, settings)
    if over_time is not None:
        warnings += over_time.warnings
        measurements |= {
            (each.system, each.corpus, each.group, each.key): each for each in over_time.measurements
        }
    return Results(score_sets, measurements, comparisons, known, settings, warnings, picture, over_time)


def to_table(measurements: Iterable[Measurement]) -> pa.Table:
    """Put each value into a row; the value of an undefined metric and the ends of an unknown interval are null."""
    rows = [
        {
            "system": each.system,
            "corpus": each.corpus,
            "group": each.group,
            "key": each.key,
            "metric": metric,
            "value": value,
            "low": each.intervals[metric].low if metric in each.intervals else None,
            "high": each.intervals[metric].high if metric in each.intervals else None,
            "num_bonafide": each.num_bonafide,
            "num_spoof": each.num_spoof,
            "num_clusters": each.num_clusters,
        }
        for each in measurements
        for metric, value in each.metrics.items()
    ]
    texts = [(name, pa.string()) for name in ("system", "corpus", "group", "key", "metric")]
    numbers = [(name, pa.float64()) for name in ("value", "low", "high")]
    counts = [(name, pa.int64()) for name in ("num_bonafide", "num_spoof", "num_clusters")]
    return pa.Table.from_pylist(rows, pa.schema([*texts, *numbers, *counts]))
