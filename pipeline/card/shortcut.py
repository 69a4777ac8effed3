"""Label shortcuts: how well one trait of a file predicts its label, without listening to the speech.

Each trait is measured by an equal error rate (EER). An ideal classifier that sees only the trait decides by
P(value | bona fide) and P(value | spoof), as counted in these corpora. Its EER is 0.5 if the trait says nothing about
the label and 0 if the trait determines the label. The proportion of bona fide utterances has no influence. No other
classifier of the same trait does better, so a corpus with a low EER rewards a detector for not listening.

A trait with many values separates a small number of utterances even if it is unrelated to the label. Each EER is
therefore reported with the mean EER of the same utterances after their labels have been shuffled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.card.tally import Key, Tally
from pipeline.data.store.snapshot import Snapshot

PREDICTIVE_EER = 0.1
"""A trait with at most this EER causes a warning."""

NUM_SHUFFLES = 20

MAX_SHUFFLED = 10**9
"""NumPy's limit for `multivariate_hypergeometric`; more utterances are not shuffled."""


@dataclass(frozen=True, slots=True)
class Trait:
    """A simple property of a file that does not depend on how its speech was made."""

    title: str
    counts: str
    """The field of `Tally` that is counted by `columns`."""
    columns: tuple[str, ...]


SIGNAL_CHAIN = ("codec", "encoding", "sample_rate", "num_channels", "bit_depth", "decoder")

BANDWIDTH = Trait("bandwidth", "bandwidths", ("bandwidth",))
"""The only trait that is measured in the audio; utterances without a measurement are left out."""

TRAITS = (
    Trait("codec", "chain", ("codec",)),
    Trait("sample rate", "chain", ("sample_rate",)),
    BANDWIDTH,
    Trait("channels", "chain", ("num_channels",)),
    Trait("bit depth", "chain", ("bit_depth",)),
    Trait("bit rate", "bitrates", ("bitrate_bin",)),
    Trait("signal chain", "chain", SIGNAL_CHAIN),
    Trait("duration", "durations", ("duration_bin",)),
    Trait("language", "content", ("language",)),
)
"""The traits measured within every corpus; the signal chain combines all format columns."""

CORPUS = Trait("corpus", "content", ("corpus",))
"""The trait measured only for several corpora together."""


@dataclass(frozen=True, slots=True)
class Shortcut:
    """How well a trait predicts the labels of a group of corpora."""

    group: str
    """Name of the corpus, or of the group of corpora."""
    num_corpora: int
    trait: Trait
    values: Mapping[Key, tuple[int, int]]
    """(bona fide, spoof) utterances by the value of the trait."""
    eer: float
    chance: float
    """Mean EER after shuffling the labels."""

    @property
    def is_predictive(self) -> bool:
        """Whether the EER is low, and too low to be explained by chance."""
        return self.eer <= min(PREDICTIVE_EER, self.chance / 2)


def find_shortcuts(tally: Tally, snapshot: Snapshot) -> list[Shortcut]:
    """Measure every trait in every corpus that has both labels, and in all corpora of each role together."""
    shortcuts = []
    for trait in (*TRAITS, CORPUS):
        columns = tuple(dict.fromkeys((*trait.columns, "corpus", "label")))
        counts = getattr(tally, trait.counts).utterances(*columns)
        for group, corpora in corpus_groups(snapshot).items():
            if trait == CORPUS and len(corpora) == 1:
                continue
            values = _values(counts, len(trait.columns), set(corpora), columns)
            if trait == BANDWIDTH:
                values.pop((None,), None)
            bonafide, spoof = np.array(list(values.values()), np.int64).reshape(-1, 2).T
            if bonafide.any() and spoof.any():
                eer, chance = trait_eer(bonafide, spoof), chance_eer(bonafide, spoof)
                shortcuts.append(Shortcut(group, len(corpora), trait, values, eer, chance))
    return shortcuts


def corpus_groups(snapshot: Snapshot) -> dict[str, tuple[str, ...]]:
    """Map group names to corpora: each corpus alone, then all corpora of each role if there are several."""
    single = {name: (name,) for name in snapshot.corpora}
    corpora_by_role: dict[str, list[str]] = {}
    for corpus in snapshot.corpora.values():
        corpora_by_role.setdefault(corpus.role, []).append(corpus.name)
    return single | {
        role_group(role): tuple(names) for role, names in corpora_by_role.items() if len(names) > 1
    }


def role_group(role: str) -> str:
    """Name the group of all corpora of a role."""
    return f"all {role} corpora"


def trait_eer(bonafide: NDArray[np.int64], spoof: NDArray[np.int64]) -> float:
    """The EER of the best classifier that sees only one trait; it may randomise (ROC convex hull).

    Args:
        bonafide: [num_values] bona fide utterances with each value; the sum must be positive.
        spoof: [num_values] spoof utterances with each value; the sum must be positive.
    """
    bonafide_share, spoof_share = bonafide / bonafide.sum(), spoof / spoof.sum()
    posterior = bonafide_share / np.maximum(bonafide_share + spoof_share, np.finfo(float).tiny)
    most_bonafide_first = np.argsort(-posterior, kind="stable")
    miss = 1 - np.concatenate([[0.0], np.cumsum(bonafide_share[most_bonafide_first])])
    false_alarm = np.concatenate([[0.0], np.cumsum(spoof_share[most_bonafide_first])])
    return float(np.clip(np.interp(0.0, false_alarm - miss, miss), 0.0, 0.5))


def chance_eer(bonafide: NDArray[np.int64], spoof: NDArray[np.int64]) -> float:
    """The mean EER of `NUM_SHUFFLES` fixed shuffles of the labels; few utterances make it fall below 0.5."""
    both = bonafide + spoof
    if both.sum() >= MAX_SHUFFLED:
        return 0.5
    shuffled = np.random.default_rng(0).multivariate_hypergeometric(
        both, int(spoof.sum()), NUM_SHUFFLES, method="marginals"
    )
    return float(np.mean([trait_eer(both - row, row) for row in shuffled]))


def _values(
    counts: Mapping[Key, int], num_columns: int, corpora: set[str], columns: Sequence[str]
) -> dict[Key, tuple[int, int]]:
    """Sum (bona fide, spoof) utterances of some corpora by the first `num_columns` columns of a key."""
    corpus, label = columns.index("corpus"), columns.index("label")
    values: dict[Key, list[int]] = {}
    for key, count in counts.items():
        if key[corpus] in corpora:
            values.setdefault(key[:num_columns], [0, 0])[key[label] == "spoof"] += count
    return {key: (bonafide, spoof) for key, (bonafide, spoof) in values.items()}
