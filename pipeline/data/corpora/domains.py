"""Domains: the groups of utterances that training can balance, and into which validation can divide its errors.

A domain of bona fide speech is a corpus, and one of spoofed speech a corpus and an attack, unless a recipe says
otherwise. All utterances of a domain have one corpus and one label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

By = Literal["attack", "corpus", "language"]
"""What divides the utterances of a corpus and label into domains; `corpus` divides them no further."""

DOMAIN_COLUMNS = ("corpus", "label", "artifact", "attack", "language")
"""The columns of an utterance that decide its domain."""


@dataclass(frozen=True, order=True, slots=True)
class Domain:
    """A group of utterances with the same corpus and label."""

    corpus: str
    label: str
    """One of `LABELS`."""
    name: str
    """Unique in an index: `mls`, `asvspoof2019_la/A07`, `fleurs_r/restoration` (attack unknown); `mls:pl` for a
    language."""


@dataclass(frozen=True)
class DomainRule:
    """What a recipe says about domains; its default leaves the draws of every utterance as they are."""

    by: By = "attack"


def domain_of(
    by: By, corpus: str, label: str, artifact: str | None, attack: str | None, language: str | None
) -> Domain:
    """Return the domain of an utterance.

    An unknown attack falls back to the artifact family, so that unrelated systems never share a domain because
    nothing is known about them; a language that is unknown is one domain of its corpus and label.
    """
    name = f"{corpus}:{language}" if by == "language" and language else corpus
    if label == "spoof":
        name += f"/{attack or artifact or label}" if by == "attack" else f"/{label}"
    return Domain(corpus, label, name)


def number_domains(table: pa.Table, by: By) -> tuple[tuple[Domain, ...], NDArray[np.int32]]:
    """Return the domains of a table with `DOMAIN_COLUMNS`, sorted, and the position of each row's domain among them."""
    keys = np.zeros(len(table), np.int64)
    for name in DOMAIN_COLUMNS:
        column = table[name].combine_chunks().dictionary_encode(null_encoding="encode")
        keys = keys * max(1, len(column.dictionary)) + column.indices.to_numpy(zero_copy_only=False)
    _, first, position = np.unique(keys, return_index=True, return_inverse=True)
    distinct = [domain_of(by, **row) for row in table.select(DOMAIN_COLUMNS).take(first).to_pylist()]
    domains = tuple(sorted(set(distinct)))
    numbers = {domain: number for number, domain in enumerate(domains)}
    return domains, np.array([numbers[domain] for domain in distinct], np.int32)[position]
