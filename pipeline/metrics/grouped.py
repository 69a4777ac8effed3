"""Scores by corpus and attack, and the equal error rates of the pool, of each corpus and of each attack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.eer import eer_against
from pipeline.metrics.trials import ClassScores

Selection = Literal["pooled", "corpora", "attacks", "frames"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
"""Which error rate of many utterances is meant.

pooled: the EER of all scores together.
corpora: the mean of the EERs of the corpora that have both classes.
attacks: the mean of the EERs of all attacks of all corpora. The scores of an attack are compared with those of the bona
fide speech of its corpus; if it has none, with those of all bona fide speech.
frames: the EER of all frames that have a label of their own, of utterances that are spoofed in part.
"""

SELECTION_LABELS: Mapping[Selection, str] = {
    "pooled": "pooled",
    "corpora": "mean of corpora",
    "attacks": "mean of attacks",
    "frames": "labelled frames",
}
METRIC_NAMES: Mapping[Selection, str] = {
    "pooled": "eer",
    "corpora": "mean_eer/corpora",
    "attacks": "mean_eer/attacks",
    "frames": "frame_eer",
}
"""Names in MLflow and metrics.jsonl, after `validation/`, `validation/ema/` or `validation/best/`."""


class Group(NamedTuple):
    """The corpus and the attack of an utterance."""

    corpus: str
    attack: str = ""
    """Empty for bona fide speech."""


@dataclass(frozen=True)
class ErrorRates:
    """Equal error rates, as fractions."""

    pooled: float
    corpora: Mapping[str, float]
    """Corpora with utterances of both classes only."""
    attacks: Mapping[Group, float]
    frames: float | None = None
    """None without labelled frames of both classes."""

    def of(self, selection: Selection) -> float | None:
        """The error rate of a selection; None if no corpus has both classes, or no frames have labels of both."""
        if selection == "pooled":
            return self.pooled
        if selection == "frames":
            return self.frames
        rates = self.corpora if selection == "corpora" else self.attacks
        return float(np.mean(list(rates.values()))) if rates else None

    @property
    def by_selection(self) -> dict[Selection, float]:
        """The error rates of all selections that have one."""
        return {selection: rate for selection in SELECTIONS if (rate := self.of(selection)) is not None}


def describe_rates(rates: Mapping[Selection, float]) -> str:
    """Put error rates into words: `2.10% pooled, 3.00% mean of corpora, 4.20% mean of attacks`."""
    return ", ".join(f"{rate:.2%} {SELECTION_LABELS[selection]}" for selection, rate in rates.items())


@dataclass(frozen=True)
class GroupedScores:
    """The scores of utterances by their group; all arrays are in ascending order."""

    by_group: Mapping[Group, NDArray[np.float64]]

    @cached_property
    def by_corpus(self) -> dict[str, ClassScores]:
        """The scores of each corpus, in the order of their names."""
        bonafide: dict[str, list[NDArray[np.float64]]] = {}
        spoof: dict[str, list[NDArray[np.float64]]] = {}
        for group, scores in self.by_group.items():
            (spoof if group.attack else bonafide).setdefault(group.corpus, []).append(scores)
        return {
            corpus: ClassScores(_merge(bonafide.get(corpus, ())), _merge(spoof.get(corpus, ())))
            for corpus in sorted(bonafide.keys() | spoof.keys())
        }

    @cached_property
    def all(self) -> ClassScores:
        """The scores of all corpora together."""
        parts = self.by_corpus.values()
        return ClassScores(_merge([part.bonafide for part in parts]), _merge([part.spoof for part in parts]))

    @cached_property
    def error_rates(self) -> ErrorRates:
        """The error rates.

        Raises:
            InputError: a class has no scores, or a score is nan or infinite.
        """
        pooled = eer_against(*self.all)
        corpora = {
            corpus: eer_against(*scores)
            for corpus, scores in self.by_corpus.items()
            if scores.bonafide.size and scores.spoof.size
        }
        attacks = {}
        for group, scores in sorted(self.by_group.items()):
            bonafide = self.by_corpus[group.corpus].bonafide
            if group.attack:
                attacks[group] = eer_against(bonafide if bonafide.size else self.all.bonafide, scores)
        return ErrorRates(pooled, corpora, attacks)


def group_scores(
    groups: Sequence[Group], numbers: NDArray[np.integer], scores: NDArray[np.float64]
) -> GroupedScores:
    """Sort scores into groups.

    Args:
        groups: different groups; those without scores are left out.
        numbers: [N] the position in `groups` of each score.
        scores: [N] in any order.
    """
    order = np.lexsort((scores, numbers))
    present, starts = np.unique(numbers[order], return_index=True)
    parts = np.split(scores[order], starts[1:])
    return GroupedScores({groups[number]: part for number, part in zip(present.tolist(), parts, strict=True)})


def _merge(parts: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.sort(np.concatenate([np.empty(0), *parts]), kind="stable")
