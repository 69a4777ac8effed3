"""The results of a comparison with a reference, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.drift.reference import Reference
from pipeline.drift.sample import GroupCount, Sample
from pipeline.fields import Range, Seed

EMBEDDING = "embedding"

SUBJECTS = {EMBEDDING: "embedding", "score": "score", "seconds": "duration", "level_dbfs": "level"}
"""What is compared → its name in words."""

RECORDING = ("seconds", "level_dbfs")
"""Subjects that say how something was recorded and cut."""

MEASURES = {
    "mmd2": "MMD²",
    "w1": "Wasserstein",
    "sliced_w1": "sliced Wasserstein",
    "frechet": "Fréchet",
    "ks": "Kolmogorov–Smirnov",
}
"""Name of a distance → its name in words."""


@dataclass(frozen=True)
class Settings:
    """How to compare, and when to raise the alarm."""

    alarm: Annotated[float, Range(0.0001, 0.5)] = 0.01
    """Raise the alarm if p is below this; p is that of the primary test, adjusted for the number of labels."""
    min_effect: Annotated[float, Range(0, 10)] = 0.02
    """And if the effect is at least this: how far the average component of the embedding has moved beyond chance, in
    standard deviations of the reference; without embeddings, the Kolmogorov–Smirnov distance beyond chance."""
    num_permutations: Annotated[int, Range(19, 100_000)] = 999
    """Permutations for p."""
    max_compared: Annotated[int, Range(50, 10_000)] = 2000
    """Utterances of each side and label that are compared."""
    seed: Seed = 0
    """Seed of the permutations and of the random directions."""


class Distance(NamedTuple):
    """One distance between the reference and the new utterances."""

    subject: str
    """Key of SUBJECTS."""
    measure: str
    """Key of MEASURES."""
    value: float
    """In standard deviations of the reference for Wasserstein distances, in their squares for Fréchet."""
    chance: float
    """Its mean over permutations: what it is without any drift."""
    p_value: float

    @property
    def excess(self) -> float:
        """What is beyond chance."""
        return self.value - self.chance


@dataclass(frozen=True)
class Part:
    """The comparison of the utterances of one label, or of all."""

    label: str
    """bonafide, spoof, or empty for all utterances."""
    num_available: tuple[int, int]
    """Utterances of the reference, and new ones."""
    problem: str = ""
    """Why nothing is compared; empty if something is."""
    num_compared: tuple[int, int] = (0, 0)
    clusters: tuple[Mapping[str, int], Mapping[str, int]] = field(default_factory=lambda: ({}, {}))
    """Kind of cluster → how many there are, of the reference and of the new utterances."""
    distances: Sequence[Distance] = ()
    omitted: Sequence[str] = ()
    """Distances that could not be computed, and why, in words."""
    by_component: Sequence[float] = ()
    """Wasserstein distance of each component of the space."""
    values: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)
    """Subject other than the embedding → values of the reference, and new ones; known ones only."""
    smallest_p_value: float = 1.0
    """Below this, p cannot be, because there are so few clusters."""

    @property
    def name(self) -> str:
        """The label in words."""
        return {"bonafide": "bona fide", "spoof": "spoof"}.get(self.label, "all utterances")

    def find(self, subject: str, measure: str) -> Distance | None:
        """The distance of a subject; None if it was not computed."""
        found = (each for each in self.distances if (each.subject, each.measure) == (subject, measure))
        return next(found, None)


@dataclass(frozen=True)
class Group:
    """Where the new utterances of one corpus, label and attack are, seen from the reference."""

    name: str
    label: str
    num_utterances: int
    num_clusters: int
    to_bonafide: float | None
    """MMD to the bona fide utterances of the reference; None if it has none with a label."""
    to_spoof: float | None
    class_p_value: float | None
    """Of the hypothesis that it has the distribution of the nearer label; None with a single speaker or no label."""
    nearest: str
    """The nearest group of the reference."""
    distance: float
    """MMD to it."""
    p_value: float | None
    """Of the hypothesis that it has the distribution of the nearest group; None with a single speaker."""


@dataclass(frozen=True)
class Test:
    """What decides: the primary distance of each part, adjusted for their number."""

    subject: str
    measure: str
    p_values: Mapping[str, float]
    """Label → adjusted p."""
    effects: Mapping[str, float]
    """Label → what `Settings.min_effect` is compared with."""
    alarms: Sequence[str]
    """Labels that raise the alarm."""

    @property
    def p_value(self) -> float:
        """The lowest adjusted p."""
        return min(self.p_values.values())

    @property
    def effect(self) -> float:
        """The largest effect."""
        return max(self.effects.values())


@dataclass(frozen=True)
class Results:
    """A comparison."""

    reference: Reference
    new: Sample
    new_counts: Sequence[GroupCount]
    """New utterances with a score."""
    settings: Settings
    parts: Sequence[Part]
    test: Test
    recording_changes: Sequence[tuple[Part, Distance]]
    """Duration and level, where they have changed by more than chance."""
    groups: Sequence[Group]
    """The farthest from everything known first, those that differ by no more than chance last."""
    warnings: Sequence[str]

    @property
    def are_labelled(self) -> bool:
        """Whether bona fide and spoof are compared separately."""
        return all(part.label for part in self.parts)

    @property
    def is_alarm(self) -> bool:
        """Whether the alarm is raised."""
        return bool(self.test.alarms)
