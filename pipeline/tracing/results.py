"""The results of tracing utterances to the systems that made them, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.fields import Range, Seed
from pipeline.tracing.likelihood import LikelihoodMap

# N: new utterances, K: systems of the gallery.

SpaceKind = Literal["centred", "whitened"]
SPACES: Mapping[SpaceKind, str] = {
    "centred": "centred",
    "whitened": "whitened within systems",
}
"""How embeddings are transformed before their cosine is taken → its name in words."""

UNKNOWN = "unknown"
"""The verdict on an utterance that resembles no system of the gallery."""


@dataclass(frozen=True)
class Settings:
    """How to trace."""

    num_neighbours: Annotated[int, Range(1, 1000)] = 21
    """Nearest utterances of the gallery that vote."""
    seed: Seed = 0
    """Seed of the resamples for intervals, and of the trials that are drawn from the gallery."""


class SystemCount(NamedTuple):
    """One system of the gallery."""

    name: str
    num_utterances: int
    num_clusters: int
    """Speakers, or source files where no speaker is stated."""
    corpora: Sequence[str]
    """Corpora that have utterances of it, in alphabetical order."""
    is_alone: bool
    """Whether a corpus of its own has no other system: then the corpus may be traced instead of the system."""


class Rates(NamedTuple):
    """How well known systems are named and unknown ones recognised; None where it cannot be measured."""

    accuracy: float | None
    """Of the nearest system, over utterances of known systems."""
    macro_f1: float | None
    """Mean over the known systems that occur."""
    neighbour_accuracy: float | None
    """Of the vote of the nearest neighbours."""
    neighbour_macro_f1: float | None
    auroc: float | None
    """Probability that an utterance of a known system is nearer to a system than one of an unknown system."""
    eer: float | None
    """Of known against unknown systems."""
    fpr95: float | None
    """Share of the utterances of unknown systems that are taken for known where 95 % of those of known ones are."""
    num_known: int
    num_unknown: int


@dataclass(frozen=True)
class Candidate:
    """One way to compare embeddings, and how well it does."""

    layer: str
    """`head`, `spectrum`, the number of a hidden state, or several joined by +."""
    space: SpaceKind
    gallery: Rates
    """In the gallery: speakers left out for known systems, one system left out after the other for unknown ones."""
    new: Rates
    """On the new utterances; never used to choose."""
    confounding: float | None
    """How well this candidate recognises the corpus of bona fide speech, from 0 (chance) to 1; None if it cannot be
    measured."""

    @property
    def quality(self) -> float:
        """What the choice goes by: the mean of macro F1 and AUROC in the gallery, of those that could be measured."""
        measured = [value for value in (self.gallery.macro_f1, self.gallery.auroc) if value is not None]
        return float(np.mean(measured)) if measured else 0.0


@dataclass(frozen=True)
class Traced:
    """What is said of the new utterances."""

    rows: Any
    """pyarrow.Table with the columns of ROW_COLUMNS and `system`: the true system, null if it is not stated."""
    similarities: NDArray[np.float32]
    """[N, K] cosine of each utterance and each system of the gallery, −1 to 1."""
    votes: NDArray[np.float32]
    """[N, K] share of the nearest neighbours that are of each system."""
    llr: NDArray[np.float64] | None
    """[N] natural-log likelihood ratio of a known against an unknown system; None if it could not be calibrated."""
    is_known: NDArray[np.bool_]
    """[N] whether the utterance is taken for one of a known system; all are where that could not be calibrated."""

    @property
    def nearest(self) -> NDArray[np.int64]:
        """[N] the most similar system of each utterance."""
        return np.asarray(np.argmax(self.similarities, axis=1))


class Cascade(NamedTuple):
    """What happens to utterances that the detector judges first: only what it calls spoof is traced."""

    num_bonafide_kept: int
    """Bona fide utterances that the detector calls bona fide."""
    num_bonafide_traced: int
    """Bona fide utterances that it calls spoof, and that are taken for one of a known system."""
    num_bonafide_unknown: int
    """Bona fide utterances that it calls spoof, and that are called unknown."""
    num_spoof_missed: int
    """Spoof utterances that it calls bona fide."""
    num_known_right: int
    """Utterances of known systems that are traced to their system."""
    num_known_wrong: int
    """Utterances of known systems that are traced to another one."""
    num_known_rejected: int
    """Utterances of known systems that are called unknown."""
    num_unknown_rejected: int
    """Utterances of unknown systems that are called unknown."""
    num_unknown_accepted: int
    """Utterances of unknown systems that are traced to a known one."""


class TrialRates(NamedTuple):
    """The error rates of trials that ask whether two sets of utterances are from one system."""

    target: str
    """What the trials agree in: `system`, or with trials of STOPA `attack`, `acoustic_model` or `vocoder`."""
    group: str
    """Which trials: `all`, or with trials of STOPA also `known` and `unknown` attacks."""
    num_same: int
    num_different: int
    eer: float | None
    """None if all trials are the same, or all are different."""
    auroc: float | None
    cllr: float | None
    """Of the likelihood ratios; None without them."""


@dataclass(frozen=True)
class Verification:
    """Whether two sets of utterances come from one system."""

    source: str
    """The file or folder of the trials."""
    rows: Any
    """pyarrow.Table, one row per trial, in the order of the files."""
    rates: Sequence[TrialRates]
    num_missing: int
    """Trials without a score, because an utterance of theirs has no embedding."""
    num_overlapping: int
    """Trials with an utterance in both sets."""


class Confusion(NamedTuple):
    """How often utterances of each true system are given each verdict."""

    systems: Sequence[str]
    """[R] the true systems: known ones first, in the order of the gallery, then unknown ones by name."""
    verdicts: Sequence[str]
    """[V] systems of the gallery, and then UNKNOWN."""
    counts: NDArray[np.int64]
    """[R, V]"""


@dataclass(frozen=True)
class Results:
    """A gallery, new utterances, and how well they are traced to it."""

    settings: Settings
    gallery: Mapping[str, Any]
    """Identity of the scores that the gallery was taken from."""
    new: Mapping[str, Any]
    """Identity of the scores that the new utterances were taken from."""
    gallery_location: str
    new_location: str
    protocol: str
    """The protocol that names systems and roles; empty: the attacks of the manifests."""
    systems: Sequence[SystemCount]
    num_new: Mapping[str, int]
    """How many are of `known` systems, of `unknown` ones, `bonafide`, or of a system that is `not_stated`."""
    candidates: Sequence[Candidate]
    chosen: int
    """Position of the candidate that is used."""
    is_given: bool
    """Whether the candidate was given, instead of chosen in the gallery."""
    known_map: LikelihoodMap | None
    """Maps the similarity to the nearest system to the likelihood ratio of a known system."""
    known_problem: str
    """Why there is no such map; empty if there is."""
    known_scores: tuple[NDArray[np.float64], NDArray[np.float64]]
    """Similarity to the nearest system in the gallery: of systems that are in it, and of systems left out."""
    traced: Traced
    intervals: Mapping[str, tuple[float, float]]
    """Metric of the new utterances, a field of Rates → its 95 % interval; clusters are resampled."""
    confusion: Confusion
    cascade: Cascade | None
    """None if the detector has no threshold."""
    verification: Verification | None
    num_missing: int
    """Files of the protocol that have no embedding."""
    num_shared_clusters: int
    """Speakers or files of known new utterances that are in the gallery as well."""
    warnings: Sequence[str]

    @property
    def best(self) -> Candidate:
        """The candidate that is used."""
        return self.candidates[self.chosen]
