"""What a recipe makes of a snapshot: what trains, validates or is used for nothing, under which labels, how often."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.card.bars import LABEL_SERIES, Series, hours_chart, shares_chart
from pipeline.card.formatting import (
    LABELS_SHOWN,
    NOT_STATED,
    TITLES,
    by_role,
    hours_words,
    listed,
    percent_words,
    with_hours,
)
from pipeline.card.tally import Tally
from pipeline.data.corpora.manifest import load_manifests
from pipeline.data.corpora.recipe import EXCLUDED, USES, Leakage, Recipe, Use, find_leakage
from pipeline.data.corpora.utterance import ARTIFACTS, SPLITS
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Block, Cell, Facts, Section, Table, Text, Value

USED: dict[Use, str] = {"train": "trains", "validation": "validates", "excluded": "used for nothing"}

USE_SERIES: Series = [(use, USED[use], colour) for colour, use in enumerate(USES, start=1)]

_SPLITS = (*SPLITS, NOT_STATED)


@dataclass(frozen=True, slots=True)
class Part:
    """Hours that a recipe treats alike."""

    corpus: str
    split: str | None
    artifact: str | None
    use: Use
    label: str
    """As the recipe counts it."""
    hours: float
    weight: float
    """DrawnRows per epoch of each utterance that trains."""


def recipe_parts(tally: Tally, snapshot: Snapshot, recipe: Recipe) -> list[Part]:
    """Everything of the corpora that the recipe speaks of."""
    keys = ("corpus", "split", "artifact", "label")
    parts = []
    for (corpus, split, artifact, label), hours in tally.content.hours(*keys).items():
        if recipe.covers(corpus, snapshot.corpora[corpus].role):
            counted = "bonafide" if artifact in recipe.bonafide_artifacts else label
            weight = weight_of(recipe, corpus, counted)
            parts.append(Part(corpus, split, artifact, recipe.use(corpus, split), counted, hours, weight))
    return parts


def weight_of(recipe: Recipe, corpus: str, label: str) -> float:
    """DrawnRows per epoch of an utterance: the product of all weights that name it."""
    return math.prod(recipe.weights.get(name, 1.0) for name in (corpus, label, f"{corpus}/{label}"))


def recipe_section(tally: Tally, snapshot: Snapshot, recipe: Recipe) -> Section:
    """The label policy, the uses and the mixing weights of a recipe, and the hours that come of them."""
    parts = recipe_parts(tally, snapshot, recipe)
    training = [part for part in parts if part.use == "train"]
    by_use = _sums((USED[part.use], part.label, part.hours) for part in parts)
    by_artifact = _sums((_artifact(part), part.label, part.hours) for part in training)
    uses = _sums((part.corpus, part.use, part.hours) for part in parts)
    drawn = _sums((part.corpus, part.label, part.weight * part.hours) for part in training)
    blocks: list[Block] = [
        _facts(parts, snapshot, recipe),
        *(Text(warning, "warning") for warning in recipe_warnings(parts, snapshot, recipe)),
        *(Text(words) for words in _policy(parts, recipe)),
        hours_chart("Hours by use", by_use, LABEL_SERIES, order=list(USED.values())),
        hours_chart("What trains, by artifact", by_artifact, LABEL_SERIES),
        shares_chart("Uses within each corpus", uses, USE_SERIES),
        hours_chart("Drawn per epoch, by corpus", drawn, LABEL_SERIES),
        _uses_table(parts, snapshot),
        _training_table(training, snapshot, recipe),
        _artifact_table(parts, recipe),
    ]
    return Section(f"Recipe {recipe.name}", blocks)


def recipe_warnings(parts: Sequence[Part], snapshot: Snapshot, recipe: Recipe) -> list[str]:
    """Why a training by this recipe would be refused, or would not be what the recipe says."""
    warnings = []
    for use, purpose in (("train", "train on"), ("validation", "validate with")):
        labels = {part.label for part in parts if part.use == use}
        lacking = [TITLES[label] for label in LABELS_SHOWN if label not in labels]
        if lacking:
            warnings.append(f"There is no {' and no '.join(lacking)} speech here to {purpose}.")
    absent = [name for name in recipe.corpora if name not in snapshot.corpora]
    if absent:
        warnings.append(f"The recipe names {len(absent)} corpora that are not here: {listed(absent)}.")
    needed = [
        f"{name}/{split}"
        for name, corpus in snapshot.corpora.items()
        for split in (reason.removeprefix(EXCLUDED) for reason in corpus.excluded)
        if recipe.covers(name, corpus.role) and recipe.use(name, split) != "excluded"
    ]
    if needed:
        warnings.append(
            f"The recipe uses what the ingest left out: {listed(needed)}. Ingest without --recipe."
        )
    sources = _leakage(parts, recipe).sources
    if sources:
        warnings.append(f"Genuine speech of one origin both trains and validates: {listed(sources)}.")
    return warnings


def _leakage(parts: Iterable[Part], recipe: Recipe) -> Leakage:
    return find_leakage(recipe, {(part.corpus, part.split) for part in parts}, load_manifests())


def _policy(parts: Iterable[Part], recipe: Recipe) -> list[str]:
    """The label policy in a sentence, and what else the hours below are to be read with."""
    families = ", ".join(recipe.bonafide_artifacts)
    labels = (
        f"Counts as bona fide: bona fide speech, and spoofs of the families {families}. All other artifacts are spoof."
        if families
        else "Every family of artifacts counts as spoof."
    )
    unknown = _leakage(parts, recipe).unknown
    return [
        f"{labels} Labels below are as the recipe counts them; everywhere else they are those of the corpora. What is "
        "drawn per epoch is the hours that train times their weights, before long utterances are cropped.",
        *([f"Of unknown origin, so nothing can be said of leakage: {listed(unknown)}."] if unknown else []),
    ]


def _facts(parts: Sequence[Part], snapshot: Snapshot, recipe: Recipe) -> Facts:
    facts = []
    for use, title in USED.items():
        chosen = [(part.label, part.hours) for part in parts if part.use == use]
        facts.append((title, *_hours_and_spoofs(chosen)))
    drawn = [(part.label, part.weight * part.hours) for part in parts if part.use == "train"]
    facts.append(("drawn per epoch", *_hours_and_spoofs(drawn)))
    here = {part.corpus for part in parts}
    of_all = f"{len(here)} of {len(recipe.corpora)}" if recipe.corpora else f"{len(here)}"
    facts.append(("corpora", of_all, f"{len(snapshot.corpora) - len(here)} others here"))
    return Facts(facts)


def _hours_and_spoofs(amounts: Sequence[tuple[str, float]]) -> tuple[str, str]:
    total = sum(hours for _, hours in amounts)
    spoof = sum(hours for label, hours in amounts if label == "spoof")
    return hours_words(total), f"{percent_words(spoof / total)} spoof" if total else ""


def _uses_table(parts: Sequence[Part], snapshot: Snapshot) -> Table:
    """Which splits of a corpus are for what."""
    hours = _sums((part.corpus, part.use, part.hours) for part in parts)
    rows: list[list[Value]] = []
    for corpus in _corpora(parts, snapshot):
        splits = {
            use: {part.split or NOT_STATED for part in parts if (part.corpus, part.use) == (corpus, use)}
            for use in USES
        }
        names = (", ".join(split for split in _SPLITS if split in splits[use]) for use in USES)
        rows.append([corpus, *names, *(hours.get((corpus, use)) for use in USES)])
    titles = [f"split that {USED[use]}" for use in USES if use != "excluded"] + ["split for nothing"]
    return Table(
        ["corpus", *titles, "trains h", "validates h", "for nothing h"],
        with_hours(rows, 4, 5, 6),
        "What each split is for",
    )


def _training_table(training: Sequence[Part], snapshot: Snapshot, recipe: Recipe) -> Table:
    """Hours that train, their weights, and what comes of the two."""
    hours = _sums((part.corpus, part.label, part.hours) for part in training)
    drawn = _sums((part.corpus, part.label, part.weight * part.hours) for part in training)
    total = sum(drawn.values()) or 1.0
    rows: list[list[Value]] = []
    for corpus in _corpora(training, snapshot):
        row: list[Value] = [corpus]
        for label in LABELS_SHOWN:
            is_there = (corpus, label) in hours
            weight = Cell(f"{weight_of(recipe, corpus, label):g}") if is_there else None
            row += [hours.get((corpus, label)), weight, drawn.get((corpus, label))]
        share = sum(drawn.get((corpus, label), 0.0) for label in LABELS_SHOWN) / total
        rows.append([*row, Cell(percent_words(share), share=share)])
    sums = [
        [sum(amounts.get((corpus, label), 0.0) for corpus in snapshot.corpora) for amounts in (hours, drawn)]
        for label in LABELS_SHOWN
    ]
    both = [value for written, per_epoch in sums for value in (written, None, per_epoch)]
    rows.append(["all", *both, None])
    titles = [f"{title} {word}" for title in TITLES.values() for word in ("h", "×", "h per epoch")]
    columns = ["corpus", *titles, "share of an epoch"]
    return Table(columns, with_hours(rows, 1, 3, 4, 6), "What trains", num_totals=1)


def _artifact_table(parts: Sequence[Part], recipe: Recipe) -> Table:
    hours = _sums((_artifact(part), part.use, part.hours) for part in parts)
    rows: list[list[Value]] = []
    for name in (TITLES["bonafide"], *ARTIFACTS, NOT_STATED):
        each = [hours.get((name, use)) for use in USES]
        if any(each):
            is_bonafide = name == TITLES["bonafide"] or name in recipe.bonafide_artifacts
            rows.append([name, TITLES["bonafide" if is_bonafide else "spoof"], *each])
    titles = ["artifact", "counts as", "trains h", "validates h", "for nothing h"]
    return Table(titles, with_hours(rows, 2, 3, 4), "What each family of artifacts counts as")


def _artifact(part: Part) -> str:
    """The family, or the title of bona fide speech, which has none."""
    return part.artifact or (TITLES["bonafide"] if part.label == "bonafide" else NOT_STATED)


def _corpora(parts: Iterable[Part], snapshot: Snapshot) -> list[str]:
    """Those of the parts, in the order of the card."""
    found = {part.corpus for part in parts}
    return [each.name for corpora in by_role(snapshot).values() for each in corpora if each.name in found]


def _sums(items: Iterable[tuple[str, str, float]]) -> dict[tuple[str, str], float]:
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for row, series, hours in items:
        sums[row, series] += hours
    return dict(sums)
