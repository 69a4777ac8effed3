"""Where each corpus and attack of the new utterances is, seen from the labels and groups of the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from pipeline.drift.distances import gaussian, mmd2
from pipeline.drift.parts import MIN_CLUSTERS, Sides
from pipeline.drift.permutations import p_value
from pipeline.drift.reference import Reference
from pipeline.drift.results import Group, Settings
from pipeline.drift.sample import Sample
from pipeline.drift.selection import thin

MIN_ROWS = 10
"""Smaller groups are left out."""

MAX_ROWS, MAX_CLASS_ROWS = 300, 1000
"""Utterances of a group, and of a label of the reference, that are compared."""


@dataclass(frozen=True)
class _Cloud:
    """Some utterances in the space."""

    sample: Sample
    coordinates: NDArray[np.float32]
    """[N, D]."""
    clusters: NDArray[np.int64]
    """[N] their clusters, or single utterances if all are of one cluster."""
    num_clusters: int
    within: float
    """Mean kernel of two utterances of different clusters."""


def compare_groups(
    reference: Reference, new: Sample, settings: Settings, report: Callable[[], None] = lambda: None
) -> list[Group]:
    """Compare each group of the new utterances with each group of the reference.

    The farthest from all comes first, and those that differ from their nearest group by no more than chance last.

    Args:
        reference: has a space.
        new: utterances with embeddings.
        settings: how to compare.
        report: called when a group is finished.
    """
    old = reference.sample
    known = {name: _cloud(reference, old.take(rows), MAX_ROWS) for name, rows in groups_of(old).items()}
    labels = {
        label: _cloud(reference, old.take(rows), MAX_CLASS_ROWS)
        for label in ("bonafide", "spoof")
        for rows in [np.flatnonzero(old.texts("label") == label)]
        if rows.size >= MIN_ROWS
    }
    groups = []
    for name, rows in groups_of(new).items():
        sample = new.take(rows)
        cloud = _cloud(reference, sample, MAX_ROWS)
        to_known = {other: _mmd2(reference, cloud, each) for other, each in known.items()}
        to_label = {label: _mmd2(reference, cloud, each) for label, each in labels.items()}
        if to_known:
            nearer = min(to_label, key=lambda label: to_label[label], default="")
            nearest = min(to_known, key=lambda other: to_known[other])
            groups.append(
                Group(
                    name,
                    str(sample.texts("label")[0]) if sample.has_labels else "",
                    rows.size,
                    cloud.num_clusters,
                    _root(to_label.get("bonafide")),
                    _root(to_label.get("spoof")),
                    _p_value(reference, sample, labels[nearer].sample, settings) if nearer else None,
                    nearest,
                    _root(to_known[nearest]),
                    _p_value(reference, sample, known[nearest].sample, settings),
                )
            )
        report()
    return sorted(
        groups,
        key=lambda group: ((group.p_value or 0.0) > settings.alarm, -group.distance, group.name),
    )


def groups_of(sample: Sample) -> dict[str, NDArray[np.int64]]:
    """The utterances of each corpus, label and attack that has enough of them, in alphabetical order."""
    names, codes = np.unique(sample.groups.astype(str), return_inverse=True)
    rows = {str(name): np.flatnonzero(codes == number) for number, name in enumerate(names)}
    return {name: each for name, each in rows.items() if each.size >= MIN_ROWS}


def _cloud(reference: Reference, sample: Sample, max_rows: int) -> _Cloud:
    chosen = thin(sample, max_rows)
    clusters = chosen.clusters(reference.clusters)
    num_clusters = len(clusters.names)
    codes = clusters.codes if num_clusters >= MIN_CLUSTERS else np.arange(len(chosen))
    coordinates = reference.project(chosen)
    kernel = gaussian(coordinates, coordinates, _bandwidth(reference))
    is_pair = codes[:, None] != codes
    return _Cloud(sample, coordinates, codes, num_clusters, float(kernel[is_pair].mean(dtype=np.float64)))


def _mmd2(reference: Reference, first: _Cloud, other: _Cloud) -> float:
    kernel = gaussian(first.coordinates, other.coordinates, _bandwidth(reference))
    return first.within + other.within - 2 * float(kernel.mean(dtype=np.float64))


@overload
def _root(square: float) -> float: ...


@overload
def _root(square: float | None) -> float | None: ...


def _root(square: float | None) -> float | None:
    """The MMD of an unbiased square, which may be negative by chance; None if there is none."""
    return None if square is None else math.sqrt(max(square, 0.0))


def _p_value(reference: Reference, new: Sample, old: Sample, settings: Settings) -> float | None:
    """The p value of the distance of two groups; None if one has a single speaker."""
    sides = Sides(old, new, reference.clusters, MAX_CLASS_ROWS)
    if min(sides.num_clusters) < MIN_CLUSTERS:
        return None
    coordinates = np.vstack([reference.project(sample) for sample in sides.samples])
    sides_CB = sides.arrangements(settings)
    return p_value(mmd2(coordinates, sides.codes, sides_CB, sides.partners, _bandwidth(reference)))


def _bandwidth(reference: Reference) -> float:
    assert reference.space is not None
    return reference.space.bandwidth
