"""The picture of the embeddings of several systems, and what it cannot show: how pure their neighbourhoods are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.comparison import SIGNIFICANT
from pipeline.evaluation.embedded_points import EmbeddedSystem, Points, choose_points
from pipeline.evaluation.embeddings import Embeddings
from pipeline.evaluation.formatting import percent
from pipeline.evaluation.measure import GROUP_RESAMPLES, POOLED, Measurement, Settings
from pipeline.evaluation.projection import (
    MIN_POINTS,
    Components,
    along_components,
    single_thread,
    t_sne,
    usable_perplexity,
)
from pipeline.evaluation.scores import ScoreSet
from pipeline.metrics.intervals import Difference, Interval, difference_of, interval_of
from pipeline.metrics.neighbours import nearest_neighbours, purity_of, resample_purity, unit_vectors

EMBEDDINGS = "embeddings"
"""The group of measurements of embeddings; their key is the layer, and their corpus is POOLED."""

PURITIES = ("label", "corpus")
"""What neighbours may have in common; each purity has the metrics `label_purity`, `label_purity_chance` and
`label_purity_corrected`."""


@dataclass(frozen=True)
class Projection:
    """The embeddings of one system, of all points of a picture."""

    system: str
    scores: NDArray[np.float64]
    components: Components
    t_sne: NDArray[np.float64]
    """[N, 2] positions by t-SNE."""
    measurement: Measurement
    """Its metrics are those of PURITIES; None if all points have the same label, or the same corpus."""
    difference: Difference | None
    """How much purer neighbourhoods are by corpus than by label, both corrected for chance; None if it is unknown."""

    @property
    def tells_corpora(self) -> bool:
        """Whether embeddings tell the corpus better than the label, by more than chance."""
        return (
            self.difference is not None
            and self.difference.value > 0
            and self.difference.p_value < SIGNIFICANT
        )


@dataclass(frozen=True)
class Picture:
    """The embeddings of all systems that have them."""

    layer: str
    perplexity: float
    """Of t-SNE; less than asked for if there are few points."""
    points: Points
    projections: Sequence[Projection]
    """In the order of the systems; none if there are too few points."""
    notes: Sequence[str]
    """What is missing in the picture, one sentence each."""

    def concerns(self) -> Iterator[str]:
        """Name the systems whose embeddings tell corpora rather than labels."""
        for each in self.projections:
            if each.tells_corpora:
                label, corpus = (each.measurement.metrics[f"{name}_purity_corrected"] for name in PURITIES)
                yield (
                    f"{each.system}: its embeddings tell the corpus better than the label: corrected for chance, "
                    f"{percent(corpus)} % of the nearest neighbours are of the same corpus and {percent(label)} % of "
                    "the same label. Such a detector may rely on what differs between these corpora."
                )


def draw(
    score_sets: Sequence[ScoreSet], embeddings: Mapping[str, Embeddings], settings: Settings
) -> Picture | None:
    """Project the embeddings of utterances that all systems have; None if no system has embeddings.

    Args:
        score_sets: all systems of an evaluation.
        embeddings: system → its embeddings, for those that have them.
        settings: of the evaluation.
    """
    systems = [
        EmbeddedSystem(scores, embeddings[scores.system])
        for scores in score_sets
        if scores.system in embeddings
    ]
    if not systems:
        return None
    points = choose_points(systems, settings)
    notes = [
        *(
            f"{scores.system} has no embeddings of layer {settings.layer}, so it is not shown."
            for scores in score_sets
            if scores.system not in embeddings
        ),
        *points.notes,
    ]
    num_points = len(points)
    perplexity = usable_perplexity(settings.perplexity, num_points)
    if num_points < MIN_POINTS:
        notes.append(
            f"A picture needs {MIN_POINTS} labelled utterances with embeddings; there are {num_points}."
        )
        return Picture(settings.layer, perplexity, points, [], notes)
    if perplexity < settings.perplexity:
        notes.append(
            f"The perplexity is {perplexity:.4g} instead of {settings.perplexity:g}, because there are only "
            f"{num_points} utterances."
        )
    # The outer limit holds until all systems are projected; each thread also needs its own.
    with single_thread(), ThreadPoolExecutor() as pool:
        projections = list(pool.map(lambda system: _project(system, points, settings), systems))
    return Picture(settings.layer, perplexity, points, projections, notes)


@single_thread()
def _project(system: EmbeddedSystem, points: Points, settings: Settings) -> Projection:
    vectors_NE = unit_vectors(system.vectors_of(points))
    neighbours = nearest_neighbours(vectors_NE, points.clusters)
    measurement, difference = _measure(system.scores.system, points, neighbours, settings)
    components = along_components(vectors_NE)
    return Projection(
        system.scores.system,
        system.scores_of(points),
        components,
        t_sne(components.positions, usable_perplexity(settings.perplexity, len(points))),
        measurement,
        difference,
    )


def _measure(
    system: str, points: Points, neighbours: NDArray[np.int64], settings: Settings
) -> tuple[Measurement, Difference | None]:
    """Measure purities with intervals, and how much larger the purity by corpus is than that by label."""
    rng = np.random.default_rng(settings.seed)
    num_resamples = min(settings.num_bootstrap, GROUP_RESAMPLES)
    weights = rng.poisson(1, (num_resamples, points.num_clusters)).astype(np.float64)
    classes = {
        "label": points.is_bonafide.astype(np.int64),
        "corpus": points.columns["corpus"].codes.astype(np.int64),
    }
    metrics: dict[str, float | None] = {}
    intervals: dict[str, Interval] = {}
    corrected: dict[str, NDArray[np.float64]] = {}
    for name in PURITIES:
        metric, codes = f"{name}_purity", classes[name]
        metrics |= dict.fromkeys((metric, f"{metric}_chance", f"{metric}_corrected"))
        purity = purity_of(neighbours, codes, points.clusters)
        if purity is None or purity.corrected is None:
            continue
        metrics |= {
            metric: purity.value,
            f"{metric}_chance": purity.chance,
            f"{metric}_corrected": purity.corrected,
        }
        samples = resample_purity(neighbours, codes, points.clusters, weights)
        interval = interval_of(metric, purity.value, samples, points.num_clusters, len(points))
        if interval is not None:
            intervals[metric] = interval
        corrected[name] = (samples - purity.chance) / (1 - purity.chance)
    num_bonafide = int(np.count_nonzero(points.is_bonafide))
    measurement = Measurement(
        system,
        POOLED,
        EMBEDDINGS,
        settings.layer,
        num_bonafide,
        len(points) - num_bonafide,
        metrics,
        intervals,
        num_clusters=points.num_clusters,
    )
    label, corpus = (metrics[f"{name}_purity_corrected"] for name in PURITIES)
    if label is None or corpus is None:
        return measurement, None
    return measurement, difference_of(
        corpus - label, corrected["corpus"], corrected["label"], points.num_clusters
    )
