"""How well a label can be guessed without listening: from one trait of a file alone.

The measure is an equal error rate. Take all that a trait says about a label in this very collection, P(value |
bona fide) and P(value | spoof), and decide by it: the EER of that detector is 0.5 where the trait tells nothing
and 0 where it is the label. No detector that sees only this trait does better, so a corpus where it is low rewards
not listening. The share of bona fide utterances does not enter.

A trait with many values finds differences in few utterances even where there are none. So each rate stands beside
the mean of the same rate over the same utterances with their labels shuffled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.card.tally import Key, Tally
from pipeline.data.store.snapshot import Snapshot

ALMOST_A_LABEL = 0.1
"""An EER up to which a trait is warned of."""

NUM_SHUFFLES = 20
MAX_SHUFFLED = 10**9
"""NumPy shuffles fewer utterances than this."""


@dataclass(frozen=True, slots=True)
class Trait:
    """Something that is known of a file without listening to it."""

    title: str
    cells: str
    """The counts of a `Tally` that have it."""
    columns: tuple[str, ...]


SIGNAL_CHAIN = ("codec", "encoding", "sample_rate", "num_channels", "bit_depth", "decoder")

TRAITS = (
    Trait("codec", "chain", ("codec",)),
    Trait("sample rate", "chain", ("sample_rate",)),
    Trait("bandwidth", "chain", ("bandwidth",)),
    Trait("channels", "chain", ("num_channels",)),
    Trait("bit depth", "chain", ("bit_depth",)),
    Trait("bit rate", "bitrates", ("bitrate_class",)),
    Trait("signal chain", "chain", SIGNAL_CHAIN),
    Trait("duration", "durations", ("duration_class",)),
    Trait("language", "content", ("language",)),
)
"""What the card asks of every corpus; the signal chain combines what headers say of the format."""

CORPUS = Trait("corpus", "content", ("corpus",))
"""What the card asks of several corpora together."""


@dataclass(frozen=True, slots=True)
class Shortcut:
    """What a trait tells about the labels of some corpora."""

    group: str
    """A corpus, or the name of several."""
    num_corpora: int
    trait: Trait
    values: Mapping[Key, tuple[int, int]]
    """Number of bona fide and of spoof utterances by the value of the trait."""
    eer: float
    chance: float
    """Mean EER after shuffling the labels."""

    @property
    def is_almost_a_label(self) -> bool:
        """Whether it is low, and not by chance."""
        return self.eer <= min(ALMOST_A_LABEL, self.chance / 2)


def find_shortcuts(tally: Tally, snapshot: Snapshot) -> list[Shortcut]:
    """Every trait of every corpus that has both labels, and of all corpora of a role if they are several."""
    found = []
    for trait in (*TRAITS, CORPUS):
        columns = tuple(dict.fromkeys((*trait.columns, "corpus", "label")))
        counts = getattr(tally, trait.cells).utterances(*columns)
        for group, corpora in groups(snapshot).items():
            if trait == CORPUS and len(corpora) == 1:
                continue
            values = _values(counts, len(trait.columns), set(corpora), columns)
            bonafide, spoof = np.array(list(values.values()), np.int64).reshape(-1, 2).T
            if bonafide.any() and spoof.any():
                eer, chance = lone_eer(bonafide, spoof), chance_eer(bonafide, spoof)
                found.append(Shortcut(group, len(corpora), trait, values, eer, chance))
    return found


def groups(snapshot: Snapshot) -> dict[str, tuple[str, ...]]:
    """Corpora by what to call them: each one alone, then those of a role together."""
    alone = {name: (name,) for name in snapshot.corpora}
    by_role: dict[str, list[str]] = {}
    for corpus in snapshot.corpora.values():
        by_role.setdefault(corpus.role, []).append(corpus.name)
    return alone | {together(role): tuple(names) for role, names in by_role.items() if len(names) > 1}


def together(role: str) -> str:
    """What to call the corpora of a role."""
    return f"all {role} corpora"


def lone_eer(bonafide: NDArray[np.int64], spoof: NDArray[np.int64]) -> float:
    """EER of the best decision by one trait; between two values it may toss a coin (ROC convex hull).

    Args:
        bonafide: [num_values] bona fide utterances with each value; at least one in all.
        spoof: [num_values] the same for spoof.
    """
    bonafide_share, spoof_share = bonafide / bonafide.sum(), spoof / spoof.sum()
    likeness = bonafide_share / np.maximum(bonafide_share + spoof_share, np.finfo(float).tiny)
    most_bonafide_first = np.argsort(-likeness, kind="stable")
    miss = 1 - np.concatenate([[0.0], np.cumsum(bonafide_share[most_bonafide_first])])
    false_alarm = np.concatenate([[0.0], np.cumsum(spoof_share[most_bonafide_first])])
    return float(np.clip(np.interp(0.0, false_alarm - miss, miss), 0.0, 0.5))


def chance_eer(bonafide: NDArray[np.int64], spoof: NDArray[np.int64]) -> float:
    """Mean EER of `NUM_SHUFFLES` fixed shuffles of the labels: below 0.5 only because utterances are few."""
    both = bonafide + spoof
    if both.sum() >= MAX_SHUFFLED:
        return 0.5
    shuffled = np.random.default_rng(0).multivariate_hypergeometric(
        both, int(spoof.sum()), NUM_SHUFFLES, method="marginals"
    )
    return float(np.mean([lone_eer(both - row, row) for row in shuffled]))


def _values(
    counts: Mapping[Key, int], num_columns: int, corpora: set[str], columns: Sequence[str]
) -> dict[Key, tuple[int, int]]:
    """Bona fide and spoof utterances of some corpora by the first columns of a key."""
    corpus, label = columns.index("corpus"), columns.index("label")
    values: dict[Key, list[int]] = {}
    for key, count in counts.items():
        if key[corpus] in corpora:
            values.setdefault(key[:num_columns], [0, 0])[key[label] == "spoof"] += count
    return {key: (bonafide, spoof) for key, (bonafide, spoof) in values.items()}
