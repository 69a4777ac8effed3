"""What every augmentation has: a name, a probability, the labels that it may change, and one call.

An augmentation takes a waveform and a random generator and returns a new waveform of the same length. All randomness
comes from the generator, so the same seed gives the same samples in any process.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from pipeline.data.audio.waveform import Waveform
from pipeline.data.loading.augment.recordings import Recordings, Source
from pipeline.fields import Share

Library = Mapping[Source, Recordings]
"""The recordings that augmentations draw from."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """Has a name, which comes first in its table."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Step(abc.ABC):
    """One entry of `[[augment]]`: an augmentation, a choice of them, or a chain."""

    keeps_time: ClassVar[bool] = True
    """Whether every sound stays where it is, so that labels of parts of the waveform remain true."""

    probability: Share = 1.0
    """Share of the utterances that it changes."""
    labels: tuple[Literal["spoof", "bonafide"], ...] = ("spoof", "bonafide")
    """Labels of the utterances that it may change, after the recipe; by default both."""

    def apply(self, waveform: Waveform, label: str, rng: np.random.Generator, library: Library) -> Waveform:
        """Return the waveform changed, or as it is: by chance, or because of its label."""
        is_drawn = rng.random() < self.probability
        return self.change(waveform, label, rng, library) if is_drawn and label in self.labels else waveform

    @abc.abstractmethod
    def change(self, waveform: Waveform, label: str, rng: np.random.Generator, library: Library) -> Waveform:
        """Return the changed waveform; the input is not modified."""


@dataclass(frozen=True, kw_only=True)
class Augmentation(Step, Named):
    """A change that needs nothing but the waveform."""

    artifact: ClassVar[str] = ""
    """The artifact family whose traces it leaves; empty for none."""
    label_preserving: ClassVar[bool] = False
    """Whether bona fide speech with such traces counts as bona fide; codecs have it as a setting."""

    def change(self, waveform: Waveform, label: str, rng: np.random.Generator, library: Library) -> Waveform:  # noqa: ARG002
        """Return the changed waveform."""
        return self(waveform, rng)

    @abc.abstractmethod
    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the changed waveform, of the same length; the input is not modified."""


@dataclass(frozen=True, kw_only=True)
class RecordedAugmentation(Step, Named):
    """A change that needs recordings."""

    from_: tuple[str, ...]
    """Corpora of the store with the role augmentation, which a TOML file names: from = "musan"."""

    kind: ClassVar[str]
    """One of `utterance.KINDS`."""

    @property
    def source(self) -> Source:
        """Where its recordings come from."""
        return self.from_, self.kind

    def change(self, waveform: Waveform, label: str, rng: np.random.Generator, library: Library) -> Waveform:  # noqa: ARG002
        """Return the changed waveform."""
        return self.mix(waveform, rng, library[self.source])

    @abc.abstractmethod
    def mix(self, waveform: Waveform, rng: np.random.Generator, recordings: Recordings) -> Waveform:
        """Return the waveform changed by one or several of the recordings; the input is not modified."""


def ratio(level_db: float) -> np.float32:
    """Return the ratio of amplitudes of a difference of levels."""
    return np.float32(10 ** (level_db / 20))


def level(waveform: Waveform) -> float:
    """Return the root of the energy, at least 1e-12, so that silence can be divided by it.

    `np.linalg.norm` would use BLAS, which starts threads in every loader worker, and the last bit would depend on their
    number.
    """
    return max(math.sqrt(np.square(waveform).sum()), 1e-12)


def fit_length(waveform: Waveform, num_samples: int) -> Waveform:
    """Cut the end or pad it with zeros, because resamplers and block codecs round the length."""
    fitted = np.zeros(num_samples, dtype=np.float32)
    num_kept = min(num_samples, len(waveform))
    fitted[:num_kept] = waveform[:num_kept]
    return fitted
