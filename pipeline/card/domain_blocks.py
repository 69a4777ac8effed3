"""The part of a recipe's section about domains: what each has, and what an epoch draws of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.card.formatting import (
    LABEL_ORDER,
    LABEL_TITLES,
    format_hour_columns,
    format_hours,
    format_percent,
)
from pipeline.card.tally import CROP, DOMAINS, Tally
from pipeline.data.corpora.domains import (
    Domain,
    DomainDraws,
    DomainRule,
    balance_domains,
    domain_of,
    effective_number,
)
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Block, Cell, Facts, Table, Text, Value

MAX_DOMAINS = 15
"""Domains of each label that the table lists; the others are summed."""

DIVISIONS = {
    "attack": "bona fide speech by corpus, spoofed speech by corpus and attack, or artifact where no attack is known",
    "corpus": "by corpus and label",
    "language": "by corpus, language and label",
}
"""What each division into domains means."""


@dataclass(frozen=True)
class TrainingDomains:
    """The domains of the training utterances of a recipe, and how often those are drawn."""

    draws: DomainDraws
    mean_weights: Mapping[tuple[str, str | None, str | None], float]
    """Draws per epoch of the average utterance of a corpus, split and artifact, by hours."""


def training_domains(tally: Tally, snapshot: Snapshot, recipe: Recipe) -> TrainingDomains:
    """Apply the rule of a recipe to its training utterances."""
    hours: dict[Domain, float] = defaultdict(float)
    members: dict[tuple[str, str | None, str | None], dict[Domain, float]] = defaultdict(dict)
    for (corpus, label, artifact, attack, language, split), amount in tally.domains.hours(*DOMAINS).items():
        is_used = recipe.covers(corpus, snapshot.corpora[corpus].role)
        if is_used and recipe.use(corpus, split) == "train":
            if artifact in recipe.bonafide_artifacts:
                domain = domain_of(recipe.domains.by, corpus, "bonafide", None, None, language)
            else:
                domain = domain_of(recipe.domains.by, corpus, label, artifact, attack, language)
            hours[domain] += amount
            part = members[corpus, split, artifact]
            part[domain] = part.get(domain, 0.0) + amount
    domains = tuple(sorted(hours))
    weights = np.array([utterance_weight(recipe, each.corpus, each.label) for each in domains], np.float64)
    amounts = np.array([hours[domain] for domain in domains], np.float64)
    draws = balance_domains(domains, amounts, weights, recipe.domains)
    drawn = dict(zip(domains, draws.weights.tolist(), strict=True))
    return TrainingDomains(draws, {key: _mean_weight(part, drawn) for key, part in members.items()})


def _mean_weight(part: Mapping[Domain, float], weights: Mapping[Domain, float]) -> float:
    total = math.fsum(part.values())
    used = [weights[domain] for domain in part]
    if min(used) == max(used) or not total:
        return used[0]
    return math.fsum(hours * weights[domain] for domain, hours in part.items()) / total


def utterance_weight(recipe: Recipe, corpus: str, label: str) -> float:
    """How often the weights of a recipe draw an utterance per epoch: the product of all that match it."""
    return math.prod(recipe.weights.get(name, 1.0) for name in (corpus, label, f"{corpus}/{label}"))


def domain_blocks(draws: DomainDraws) -> list[Block]:
    """Show the rule, the effective number of domains before and after it, and the largest domains."""
    missed = [] if draws.missed_ratio is None else [Text(f"{draws.explain_missed_ratio()}.", "warning")]
    return [Text(_explanation(draws.rule)), *missed, _facts(draws), _table(draws)]


def _explanation(rule: DomainRule) -> str:
    limits = []
    if rule.cap_hours is not None:
        limits.append(f"at most {rule.cap_hours:g} h of a domain, before bona fide speech is scaled")
    if rule.bonafide_ratio is not None:
        limits.append(f"{rule.bonafide_ratio:g} h of bona fide speech for each hour of spoofed speech")
    if rule.max_repeats is not None:
        limits.append(f"at most {rule.max_repeats} draws of an utterance")
    drawn = f"An epoch draws {'; '.join(limits)}." if limits else "The recipe balances no domains."
    return (
        f"Domains: {DIVISIONS[rule.by]}. {drawn} The effective number of domains is that of equally large domains that "
        "would be as diverse: exp(−Σ w ln w) of their shares w. The hours of domains are those after long utterances "
        f"are cropped to {CROP.crop_min_s:g} to {CROP.crop_max_s:g} s."
    )


def _facts(draws: DomainDraws) -> Facts:
    facts = []
    for label in LABEL_ORDER:
        hours, drawn = (_amounts(draws, amounts, label) for amounts in (draws.hours, draws.drawn_hours))
        title = f"effective number of {LABEL_TITLES[label]} domains"
        value = f"{effective_number(hours.values()):.1f} → {effective_number(drawn.values()):.1f}"
        facts.append((title, value, f"of {len(hours)}, by hours → as drawn"))
        total = math.fsum(drawn.values())
        facts.append((f"{LABEL_TITLES[label]} drawn per epoch", format_hours(total), "after cropping"))
    return Facts(facts)


def _amounts(draws: DomainDraws, amounts: Iterable[float], label: str) -> dict[str, float]:
    """Hours by the name of each domain of a label."""
    pairs = zip(draws.domains, amounts, strict=True)
    return {domain.name: float(amount) for domain, amount in pairs if domain.label == label}


def _table(draws: DomainDraws) -> Table:
    """List the largest domains of each label, then the sum of its others."""
    rows: list[list[Value]] = []
    for label in LABEL_ORDER:
        hours, drawn = (_amounts(draws, amounts, label) for amounts in (draws.hours, draws.drawn_hours))
        total = math.fsum(drawn.values()) or 1.0
        names = sorted(hours, key=lambda name: (-hours[name], name))
        groups = [(name, [name]) for name in names[:MAX_DOMAINS]]
        if others := names[MAX_DOMAINS:]:
            groups.append((f"{len(others)} others", others))
        for title, members in groups:
            before, after = (math.fsum(amounts[name] for name in members) for amounts in (hours, drawn))
            repeats = Cell(f"{after / before:.3g}") if before else None
            share = Cell(format_percent(after / total), share=after / total)
            rows.append([title, LABEL_TITLES[label], before, after, repeats, share])
    titles = ["domain", "label", "h", "h per epoch", "draws of an utterance", "share of the label"]
    return Table(titles, format_hour_columns(rows, 2, 3), "Largest domains, after cropping")
