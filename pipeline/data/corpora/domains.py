"""Domains: the groups of utterances that a training can balance, and into which a validation can divide its errors.

A domain of bona fide speech is a corpus, and one of spoofed speech a corpus and an attack, unless a recipe says
otherwise. All utterances of a domain have one corpus and one label.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data.corpora.toml import TomlTable

By = Literal["attack", "corpus", "language"]
"""What divides the utterances of a corpus and label into domains; `corpus` divides them no further."""

MAX_REPEATS = 4
"""Bound on the draws of an utterance per epoch in a recipe that balances domains and does not set another."""

DRAWS_LIMIT = 255
"""The largest bound that a recipe can set."""

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
    """What the domains are."""
    cap_hours: float | None = None
    """At most so many hours of a domain are drawn per epoch, before bona fide speech is scaled; None: no cap."""
    bonafide_ratio: float | None = None
    """Hours of bona fide speech drawn per epoch, divided by those of spoofed speech; None: as the other rules have
    it."""
    max_repeats: int | None = None
    """At most so many draws of an utterance per epoch; None: no bound."""


def read_domain_rule(table: TomlTable | None) -> DomainRule:
    """Read the table `domains` of a recipe; without it, nothing is balanced.

    Raises:
        InputError: a key is unknown or its value is out of range.
    """
    if table is None:
        return DomainRule()
    rule = DomainRule(
        by=_division(table),
        cap_hours=_positive(table, "cap_hours"),
        bonafide_ratio=_positive(table, "bonafide_ratio"),
        max_repeats=_max_repeats(table),
    )
    table.finish()
    return rule


def _division(table: TomlTable) -> By:
    name = table.choice("by", get_args(By)) if "by" in table.values else DomainRule.by
    return next(by for by in get_args(By) if by == name)


def _positive(table: TomlTable, key: str) -> float | None:
    if key not in table.values:
        return None
    value = table.number(key)
    if not 0 < value < math.inf:
        raise table.error(key, f"must be a number above 0, not {value:g}")
    return value


def _max_repeats(table: TomlTable) -> int:
    value = table.pop("max_repeats") if "max_repeats" in table.values else MAX_REPEATS
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= DRAWS_LIMIT:
        raise table.error("max_repeats", f"must be a whole number from 1 to {DRAWS_LIMIT}, not {value!r}")
    return value


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


@dataclass(frozen=True, eq=False)
class DomainDraws:
    """How often the utterances of each domain are drawn per epoch, on average."""

    domains: tuple[Domain, ...]
    hours: NDArray[np.float64]
    """[domains] Speech after cropping, each utterance once."""
    weights: NDArray[np.float64]
    """[domains] Draws of an utterance per epoch."""
    rule: DomainRule

    @property
    def drawn_hours(self) -> NDArray[np.float64]:
        """[domains] Hours drawn per epoch."""
        return self.hours * self.weights

    @property
    def missed_ratio(self) -> float | None:
        """The ratio of bona fide to spoofed hours if it is less than the rule asks for, because of `max_repeats`."""
        bonafide, spoof = (
            label_hours(self.domains, self.drawn_hours, each) for each in ("bonafide", "spoof")
        )
        ratio = bonafide / spoof if spoof else math.inf
        wanted = self.rule.bonafide_ratio or 0.0
        return ratio if ratio < wanted * (1 - 1e-6) else None

    def describe(self) -> str:
        """Describe the domains and what an epoch draws of them, in one line."""
        bonafide, spoof = (
            label_hours(self.domains, self.drawn_hours, each) for each in ("bonafide", "spoof")
        )
        line = (
            f"domains: {len(self.domains)}; effective number {effective_number(self.hours):.1f} by hours, "
            f"{effective_number(self.drawn_hours):.1f} as drawn; "
            f"{bonafide:.1f} h bona fide and {spoof:.1f} h spoof per epoch"
        )
        return line if self.missed_ratio is None else f"{line}; {self.explain_missed_ratio()}"

    def explain_missed_ratio(self) -> str:
        """Say which ratio of bona fide speech is reached instead of that of the rule."""
        return (
            f"bonafide_ratio {self.rule.bonafide_ratio:g} cannot be reached with max_repeats "
            f"{self.rule.max_repeats}: it is {self.missed_ratio:.3g}"
        )


def balance_domains(
    domains: tuple[Domain, ...], hours: NDArray[np.float64], weights: NDArray[np.float64], rule: DomainRule
) -> DomainDraws:
    """Apply the rule of a recipe to its domains.

    The result is the same on every machine: sums are rounded correctly, or added in the order of the domains.

    Args:
        domains: all domains.
        hours: [domains] speech after cropping, each utterance once.
        weights: [domains] draws of an utterance per epoch that the recipe's weights ask for.
        rule: caps each domain, then scales bona fide speech as far as no utterance is drawn too often.
    """
    most = math.inf if rule.max_repeats is None else float(rule.max_repeats)
    drawn = weights.copy()
    if rule.cap_hours is not None:
        drawn *= np.minimum(1.0, rule.cap_hours / np.maximum(weights * hours, rule.cap_hours))
    capped = np.minimum(drawn, most)
    if rule.bonafide_ratio is not None:
        is_bonafide = np.array([domain.label == "bonafide" for domain in domains], bool)
        target = rule.bonafide_ratio * math.fsum((capped * hours)[~is_bonafide])
        if target:  # else there is no spoofed speech, which is refused elsewhere
            capped[is_bonafide] = _scale(drawn[is_bonafide], hours[is_bonafide], most, target)
    return DomainDraws(domains, hours, capped, rule)


def _scale(
    weights: NDArray[np.float64], hours: NDArray[np.float64], most: float, target: float
) -> NDArray[np.float64]:
    """Multiply weights by the number with which Σ min(most, weight) · hours is the target, or as near as it can be."""
    order = np.argsort(-weights, kind="stable")  # those that reach the bound first
    order = order[weights[order] * hours[order] > 0]
    bounded = most * hours[order] if math.isfinite(most) else np.zeros(len(order))
    before = np.cumsum(bounded) - bounded  # hours of those that have reached the bound when the next one does
    rest = np.cumsum((weights * hours)[order][::-1])[::-1]
    for position, number in enumerate(order):
        scale = (target - before[position]) / rest[position]
        if weights[number] * scale <= most:
            return cast("NDArray[np.float64]", np.minimum(weights * scale, most))
    return np.where(weights > 0, most, 0.0) if len(order) else weights


def label_hours(domains: Iterable[Domain], hours: Iterable[float], label: str) -> float:
    """Sum the hours of the domains of a label."""
    return math.fsum(amount for domain, amount in zip(domains, hours, strict=True) if domain.label == label)


def effective_number(hours: Iterable[float]) -> float:
    """How many equally large domains are as diverse: exp(−Σ w ln w) of their shares w; 0 without any hours."""
    amounts = [amount for amount in hours if amount > 0]
    total = math.fsum(amounts)
    return (
        math.exp(-math.fsum(amount / total * math.log(amount / total) for amount in amounts))
        if amounts
        else 0.0
    )
