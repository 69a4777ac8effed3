"""Compare systems on the utterances that all of them scored, and say which differences are more than chance."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.evaluation.measure import MEAN, POOLED, Measurement, Settings, bootstrap_seed, count_clusters
from pipeline.evaluation.scores import ScoreSet
from pipeline.evaluation.utterances import Utterances
from pipeline.metrics import ClassScores, operating_points
from pipeline.metrics.bootstrap import ALL, Samples, bootstrap
from pipeline.metrics.intervals import Difference, difference_of
from pipeline.metrics.paired import delong, permutation_p_value
from pipeline.metrics.summary import summarise_trials

SIGNIFICANT = 0.05
"""A difference with a smaller p value is said to be one."""


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same utterances of a corpus; a difference is that of the first minus that of the second."""

    corpus: str
    first: str
    second: str
    num_bonafide: int
    num_spoof: int
    num_clusters: int
    differences: Mapping[str, Difference]
    """Metric → difference, by a paired bootstrap of clusters; empty if there is only one cluster."""
    auc: Difference | None
    """Difference of the area under the ROC curve by DeLong's test, which takes utterances for independent."""
    permutation_p_value: float | None
    """That the EERs are equal, by swapping the systems in randomly chosen clusters."""
    is_same_protocol: bool
    """Whether window, precision and decoder are the same, so that a difference is one of the detectors."""

    @property
    def is_significant(self) -> bool:
        """Whether the EERs differ by more than chance."""
        return "eer" in self.differences and self.differences["eer"].p_value < SIGNIFICANT

    def in_words(self) -> str:
        """Say which system is better, or that these utterances cannot tell."""
        if not self.differences:
            return "cannot tell apart: all utterances are of one cluster"
        if not self.is_significant:
            return "cannot tell apart"
        better = self.first if self.differences["eer"].value < 0 else self.second
        return (
            f"{better} is better"
            if self.is_same_protocol
            else f"{better} has the lower EER, by another protocol"
        )


class _Measured(NamedTuple):
    """A system on the shared utterances of a corpus."""

    metrics: Mapping[str, float | None]
    samples: Samples


class _Shared(NamedTuple):
    """The systems that scored a corpus, on the utterances that all of them scored."""

    corpus: str
    num_bonafide: int
    num_spoof: int
    num_clusters: int
    systems: Mapping[str, _Measured]
    aligned: Mapping[str, NDArray[np.float64]]
    """System → [N] scores, in the order of uids; empty for the mean over corpora."""
    is_bonafide: NDArray[np.bool_]
    clusters: NDArray[np.int64]

    def scores_of(self, system: str) -> ClassScores:
        """The scores of a system by class, in the order of uids."""
        scores = self.aligned[system]
        return ClassScores(scores[self.is_bonafide], scores[~self.is_bonafide])


def compare(
    score_sets: Sequence[ScoreSet],
    measurements: Mapping[tuple[str, str, str, str], Measurement],
    settings: Settings,
) -> list[Comparison]:
    """Compare every pair of systems on every corpus, on the mean over corpora, and on all utterances."""
    if len(score_sets) < 2:
        return []
    shared: list[_Shared] = []
    for corpus in sorted({corpus for scores in score_sets for corpus in scores.corpora}):
        sets = {
            scores.system: scores.by_corpus[corpus] for scores in score_sets if corpus in scores.by_corpus
        }
        shared += _share(corpus, sets, measurements, settings)
    if len(shared) > 1:
        shared += _mean([each for each in shared if len(each.systems) == len(score_sets)])
        pooled = {scores.system: scores.utterances for scores in score_sets}
        shared += _share(POOLED, pooled, measurements, settings)
    by_name = {scores.system: scores for scores in score_sets}
    return [
        _compare(each, by_name[first], by_name[second], settings)
        for each in shared
        for first, second in itertools.combinations(each.systems, 2)
    ]


def _share(
    corpus: str,
    sets: Mapping[str, Utterances],
    measurements: Mapping[tuple[str, str, str, str], Measurement],
    settings: Settings,
) -> Iterator[_Shared]:
    """Measure the systems on the utterances that all of them scored; nothing if there is no second system or class."""
    if len(sets) < 2:
        return
    kept = _intersect(list(sets.values()))
    first = kept[0]
    num_bonafide = int(np.count_nonzero(first.is_bonafide))
    if not 0 < num_bonafide < len(first):
        return
    systems, aligned = {}, {}
    for system, all_of_it, utterances in zip(sets, sets.values(), kept, strict=True):
        measured = measurements[system, corpus, "all", "all"]
        if measured.samples and len(utterances) == len(all_of_it):
            systems[system] = _Measured(measured.metrics, measured.samples)
        else:
            systems[system] = _measure(corpus, utterances, settings)
        aligned[system] = utterances.scores[_by_uid(utterances)]
    order = _by_uid(first)
    clusters = first.clusters(settings.clusters).codes
    num_clusters = count_clusters(first.trials(clusters))
    yield _Shared(
        corpus,
        num_bonafide,
        len(first) - num_bonafide,
        num_clusters,
        systems,
        aligned,
        first.is_bonafide[order],
        clusters[order],
    )


def _intersect(sets: Sequence[Utterances]) -> list[Utterances]:
    """Select the utterances that are in all sets."""
    kept = []
    for number, utterances in enumerate(sets):
        is_shared = np.ones(len(utterances), bool)
        for other in (*sets[:number], *sets[number + 1 :]):
            is_shared &= pc.is_in(utterances.uids, value_set=other.uids).to_numpy(zero_copy_only=False)
        kept.append(utterances if is_shared.all() else utterances.take(np.flatnonzero(is_shared)))
    return kept


def _by_uid(utterances: Utterances) -> NDArray[np.int64]:
    order: NDArray[np.int64] = pc.sort_indices(utterances.uids).to_numpy().astype(np.int64)
    return order


def _measure(corpus: str, utterances: Utterances, settings: Settings) -> _Measured:
    trials = utterances.trials(utterances.clusters(settings.clusters).codes)
    metrics = summarise_trials(trials, operating_points(trials), settings.definition)
    seed = bootstrap_seed(settings, corpus)
    return _Measured(metrics, bootstrap(trials, ALL, num_resamples=settings.num_bootstrap, seed=seed))


def _mean(corpora: Sequence[_Shared]) -> Iterator[_Shared]:
    """Average the corpora that all systems scored."""
    if len(corpora) < 2:
        return
    systems = {}
    for system in corpora[0].systems:
        parts = [corpus.systems[system] for corpus in corpora]
        metrics = {name: float(np.mean([part.metrics[name] for part in parts])) for name in ALL}
        samples = {name: np.mean([part.samples[name] for part in parts], axis=0) for name in ALL}
        systems[system] = _Measured(metrics, samples)
    yield _Shared(
        MEAN,
        sum(corpus.num_bonafide for corpus in corpora),
        sum(corpus.num_spoof for corpus in corpora),
        min(corpus.num_clusters for corpus in corpora),
        systems,
        {},
        np.empty(0, bool),
        np.empty(0, np.int64),
    )


def _compare(shared: _Shared, first: ScoreSet, second: ScoreSet, settings: Settings) -> Comparison:
    one, two = shared.systems[first.system], shared.systems[second.system]
    differences = {}
    for name in ALL:
        values = one.metrics[name], two.metrics[name]
        assert values[0] is not None and values[1] is not None, f"{shared.corpus} has both classes"
        difference = difference_of(
            values[0] - values[1], one.samples[name], two.samples[name], shared.num_clusters
        )
        if difference is not None:
            differences[name] = difference
    auc, p_value = None, None
    if shared.aligned:
        scores = shared.scores_of(first.system), shared.scores_of(second.system)
        auc = delong(*scores)
        p_value = permutation_p_value(
            *scores,
            (shared.clusters[shared.is_bonafide], shared.clusters[~shared.is_bonafide]),
            num_permutations=settings.num_bootstrap,
            seed=settings.seed,
        )
    return Comparison(
        shared.corpus,
        first.system,
        second.system,
        shared.num_bonafide,
        shared.num_spoof,
        shared.num_clusters,
        differences,
        auc,
        p_value,
        is_same_protocol=not first.differs_in(second),
    )
