"""Compare the utterances of one label, or all, with those of a reference."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.drift import distances
from pipeline.drift.permutations import arrangements, p_value, smallest_p_value
from pipeline.drift.reference import Reference
from pipeline.drift.results import EMBEDDING, MEASURES, SUBJECTS, Distance, Part, Settings
from pipeline.drift.sample import Sample
from pipeline.drift.selection import drop_clusters, limit_sizes, match_sizes, partners_of
from pipeline.evaluation.clusters import Clusters
from pipeline.evaluation.utterances import ClusterKind

MIN_ROWS = 20
"""With fewer utterances of a side, nothing is compared."""

MIN_CLUSTERS = 2
"""With fewer speakers or files of a side, nothing can be permuted."""


class Sides:
    """Utterances of both sides that can be exchanged: clusters of like sizes, each of one side.

    A speaker or file of both sides is a cluster of each, and these two are partners.
    """

    def __init__(self, reference: Sample, new: Sample, kind: ClusterKind, max_rows: int) -> None:
        masks = match_sizes(reference, reference.clusters(kind), new, new.clusters(kind))
        pair = [side.take(mask) for side, mask in zip((reference, new), masks, strict=True)]
        pair = [drop_clusters(side, side.clusters(kind), max_rows) for side in pair]
        self.samples = limit_sizes(pair, [side.clusters(kind) for side in pair], max_rows)
        self.clusters: list[Clusters] = [side.clusters(kind) for side in self.samples]

    @property
    def num_rows(self) -> tuple[int, int]:
        """Utterances of the reference, and new ones."""
        return len(self.samples[0]), len(self.samples[1])

    @property
    def num_clusters(self) -> tuple[int, int]:
        """Clusters of the reference, and new ones."""
        return len(self.clusters[0].names), len(self.clusters[1].names)

    @property
    def codes(self) -> NDArray[np.int64]:
        """[N] the cluster of each utterance; those of the reference come first."""
        return np.concatenate((self.clusters[0].codes, self.num_clusters[0] + self.clusters[1].codes))

    @property
    def is_reference(self) -> NDArray[np.bool_]:
        """[C] whether a cluster is of the reference."""
        return np.arange(sum(self.num_clusters)) < self.num_clusters[0]

    @property
    def partners(self) -> NDArray[np.int64]:
        """[C] the cluster of the same speaker or file on the other side; −1 without one."""
        old, new = partners_of(*self.clusters)
        return np.concatenate((np.where(old < 0, -1, old + self.num_clusters[0]), new))

    def arrangements(self, settings: Settings) -> NDArray[np.float32]:
        """Which clusters are of the reference in the data and in each permutation."""
        return arrangements(self.is_reference, self.partners, settings.num_permutations, settings.seed)

    def problem(self) -> str:
        """Why nothing can be compared; empty if it can."""
        limits = {
            "utterances": (self.num_rows, MIN_ROWS),
            "speakers or source files": (self.num_clusters, MIN_CLUSTERS),
        }
        for things, ((num_old, num_new), least) in limits.items():
            if min(num_old, num_new) < least:
                return (
                    f"not enough {things}: {num_old} of the reference and {num_new} new ones can be compared, and at "
                    f"least {least} of each are needed"
                )
        return ""


def compare_part(reference: Reference, old: Sample, new: Sample, label: str, settings: Settings) -> Part:
    """Compare utterances of a reference with new ones of the same label.

    Args:
        reference: what they are compared with, for its space.
        old: the utterances of the reference.
        new: the new utterances.
        label: their label; empty for all.
        settings: how to compare.
    """
    available = (len(old), len(new))
    if not all(available):
        missing = "the reference has none" if new else "there are no new ones"
        return Part(label, available, f"not enough utterances: {missing}")
    sides = Sides(old, new, reference.clusters, settings.max_compared)
    problem = sides.problem()
    if problem:
        return Part(label, available, problem, sides.num_rows)
    sides_CB = sides.arrangements(settings)
    found: list[Distance] = []
    omitted: list[str] = []
    by_component: NDArray[np.float64] = np.empty(0)
    if reference.space is not None:
        coordinates_ND = np.vstack([reference.project(sample) for sample in sides.samples])
        shares_NB = distances.signed_shares(sides.codes, sides_CB)
        wasserstein, by_component = distances.mean_wasserstein(coordinates_ND, shares_NB)
        sliced = distances.sliced_wasserstein(coordinates_ND, shares_NB, settings.seed)
        mmd2 = distances.mmd2(
            coordinates_ND, sides.codes, sides_CB, sides.partners, reference.space.bandwidth
        )
        found += [
            _distance(EMBEDDING, "mmd2", mmd2),
            _distance(EMBEDDING, "w1", wasserstein),
            _distance(EMBEDDING, "sliced_w1", sliced),
        ]
        equal = _equal_clusters(sides)
        num_least = reference.space.num_components + 1
        num_equal = np.bincount(equal[sides.codes] * (1 + sides.is_reference[sides.codes]), minlength=3)[1:]
        if min(num_equal) < num_least:
            omitted.append(
                f"{MEASURES['frechet']}: not enough utterances, at least {num_least} of each side are needed"
            )
        else:
            found.append(_distance(EMBEDDING, "frechet", _frechet(coordinates_ND, sides, equal, settings)))
    values = {}
    for subject in SUBJECTS:
        if subject != EMBEDDING:
            numbers = [sample.numbers(subject) for sample in sides.samples]
            values[subject] = tuple(each[np.isfinite(each)] for each in numbers)
            if min(each.size for each in values[subject]) < MIN_ROWS:
                omitted.append(f"{SUBJECTS[subject]}: known for too few utterances")
            else:
                found += _of_number(subject, np.concatenate(numbers), sides, sides_CB)
    return Part(
        label,
        available,
        "",
        sides.num_rows,
        (sides.clusters[0].kinds, sides.clusters[1].kinds),
        found,
        omitted,
        by_component.tolist(),
        {subject: (old_values, new_values) for subject, (old_values, new_values) in values.items()},
        smallest_p_value(sides.is_reference, sides.partners, settings.num_permutations),
    )


def _distance(subject: str, measure: str, statistics: distances.Statistics) -> Distance:
    chance = float(statistics[1:].mean())
    return Distance(subject, measure, float(statistics[0]), chance, p_value(statistics))


def _of_number(
    subject: str, numbers: NDArray[np.float64], sides: Sides, sides_CB: NDArray[np.float32]
) -> Iterator[Distance]:
    """Distances of a number, in standard deviations of the reference; utterances without it are left out."""
    is_known = np.isfinite(numbers)
    spread = float(np.std(numbers[: sides.num_rows[0]][is_known[: sides.num_rows[0]]]))
    shares_NB = distances.signed_shares(sides.codes[is_known], sides_CB)
    both = distances.one_dimensional(numbers[is_known] / (spread or 1.0), shares_NB)
    yield _distance(subject, "ks", both.kolmogorov_smirnov)
    yield _distance(subject, "w1", both.wasserstein)


def _equal_clusters(sides: Sides) -> NDArray[np.bool_]:
    """Choose as many clusters of the larger side as the other one has, by hash; partners are chosen first."""
    first = np.full(sum(sides.num_clusters), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(first, sides.codes, np.concatenate([sample.hashes for sample in sides.samples]))
    is_chosen = np.zeros(first.size, bool)
    for is_own in (sides.is_reference, ~sides.is_reference):
        own = np.flatnonzero(is_own)
        is_chosen[own[np.lexsort((first[own], sides.partners[own] < 0))[: min(sides.num_clusters)]]] = True
    return is_chosen


def _frechet(
    coordinates_ND: NDArray[np.float32], sides: Sides, is_chosen: NDArray[np.bool_], settings: Settings
) -> distances.Statistics:
    """The Fréchet distance of equally many clusters of both sides, which is biased otherwise."""
    mask = is_chosen[sides.codes]
    number = np.cumsum(is_chosen) - 1
    partners = sides.partners[is_chosen]
    sides_CB = arrangements(
        sides.is_reference[is_chosen],
        np.where(partners < 0, -1, number[partners]),
        settings.num_permutations,
        settings.seed,
    )
    return distances.frechet(coordinates_ND[mask], number[sides.codes[mask]], sides_CB)
