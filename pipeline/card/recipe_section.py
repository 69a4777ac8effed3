"""The section about a recipe: hours for training, validation and neither, with their labels and weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.card.bars import LABEL_SERIES, Series, hours_chart, shares_chart
from pipeline.card.domain_blocks import domain_blocks, training_domains
from pipeline.card.formatting import (
    LABEL_ORDER,
    LABEL_TITLES,
    NOT_STATED,
    corpora_by_role,
    format_hour_columns,
    format_hours,
    format_list,
    format_percent,
)
from pipeline.card.tally import Tally
from pipeline.data.corpora.manifest import load_manifests
from pipeline.data.corpora.recipe import EXCLUDED, USES, Leakage, Recipe, Use, find_leakage
from pipeline.data.corpora.utterance import ARTIFACTS, SPLITS
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Block, Cell, Facts, Section, Table, Text, Value

USE_TITLES: dict[Use, str] = {"train": "training", "validation": "validation", "excluded": "unused"}

USE_SERIES: Series = [(use, USE_TITLES[use], colour) for colour, use in enumerate(USES, start=1)]

_SPLITS = (*SPLITS, NOT_STATED)


@dataclass(frozen=True, slots=True)
class RecipePart:
    """Hours of one corpus, split and artifact, which a recipe uses alike."""

    corpus: str
    split: str | None
    artifact: str | None
    use: Use
    label: str
    """The label under the recipe."""
    hours: float
    weight: float
    """How often an utterance is drawn per epoch, on average; 0 unless it trains."""


def recipe_parts(tally: Tally, snapshot: Snapshot, recipe: Recipe) -> list[RecipePart]:
    """Split the hours of the corpora in a recipe by corpus, split, artifact and label."""
    keys = ("corpus", "split", "artifact", "label")
    weights = training_domains(tally, snapshot, recipe).mean_weights
    parts = []
    for (corpus, split, artifact, label), hours in tally.content.hours(*keys).items():
        if recipe.covers(corpus, snapshot.corpora[corpus].role):
            recipe_label = "bonafide" if artifact in recipe.bonafide_artifacts else label
            use = recipe.use(corpus, split)
            weight = weights.get((corpus, split, artifact), 0.0)
            parts.append(RecipePart(corpus, split, artifact, use, recipe_label, hours, weight))
    return parts


def recipe_section(tally: Tally, snapshot: Snapshot, recipe: Recipe) -> Section:
    """Show the label policy, the uses, the weights and the domains of a recipe, and the resulting hours."""
    parts = recipe_parts(tally, snapshot, recipe)
    training = [part for part in parts if part.use == "train"]
    by_use = _sums((USE_TITLES[part.use], part.label, part.hours) for part in parts)
    by_artifact = _sums((_artifact(part), part.label, part.hours) for part in training)
    uses = _sums((part.corpus, part.use, part.hours) for part in parts)
    drawn = _sums((part.corpus, part.label, part.weight * part.hours) for part in training)
    blocks: list[Block] = [
        _facts(parts, snapshot, recipe),
        *(Text(warning, "warning") for warning in recipe_warnings(parts, snapshot, recipe)),
        *(Text(paragraph) for paragraph in _explanations(parts, recipe)),
        hours_chart("Hours by use", by_use, LABEL_SERIES, order=list(USE_TITLES.values())),
        hours_chart("Training hours by artifact", by_artifact, LABEL_SERIES),
        shares_chart("Uses within each corpus", uses, USE_SERIES),
        hours_chart("Hours drawn per epoch, by corpus", drawn, LABEL_SERIES),
        _uses_table(parts, snapshot),
        _training_table(training, snapshot),
        _artifact_table(parts, recipe),
        *domain_blocks(training_domains(tally, snapshot, recipe).draws),
    ]
    return Section(f"Recipe {recipe.name}", blocks)


def recipe_warnings(parts: Sequence[RecipePart], snapshot: Snapshot, recipe: Recipe) -> list[str]:
    """List the reasons why training with this recipe would fail, leak or differ from the recipe."""
    warnings = []
    for use, purpose in (("train", "training"), ("validation", "validation")):
        labels = {part.label for part in parts if part.use == use}
        missing = [LABEL_TITLES[label] for label in LABEL_ORDER if label not in labels]
        if missing:
            warnings.append(f"No {' or '.join(missing)} utterances for {purpose}.")
    absent = [name for name in recipe.corpora if name not in snapshot.corpora]
    if absent:
        warnings.append(f"Corpora of the recipe that the snapshot lacks: {format_list(absent)}.")
    needed = [
        f"{name}/{split}"
        for name, corpus in snapshot.corpora.items()
        for split in (reason.removeprefix(EXCLUDED) for reason in corpus.excluded)
        if recipe.covers(name, corpus.role) and recipe.use(name, split) != "excluded"
    ]
    if needed:
        warnings.append(
            f"Splits that the recipe uses but the ingest excluded: {format_list(needed)}. Ingest without --recipe."
        )
    sources = _leakage(parts, recipe).sources
    if sources:
        warnings.append(
            f"Bona fide speech of the same source is in training and validation: {format_list(sources)}."
        )
    return warnings


def _leakage(parts: Iterable[RecipePart], recipe: Recipe) -> Leakage:
    return find_leakage(recipe, {(part.corpus, part.split) for part in parts}, load_manifests())


def _explanations(parts: Iterable[RecipePart], recipe: Recipe) -> list[str]:
    """Explain the label policy, the hours drawn per epoch, and which corpora cannot be checked for leakage."""
    families = ", ".join(recipe.bonafide_artifacts)
    labels = (
        f"Artifact families that count as bona fide: {families}; all other families count as spoof."
        if families
        else "All artifact families count as spoof."
    )
    unknown = _leakage(parts, recipe).unknown
    return [
        f"{labels} This section uses the labels of the recipe; all other sections use those of the corpora. Hours "
        "drawn per epoch are training hours times their weights, before long utterances are cropped.",
        *(
            [f"Not checked for leakage, because the source is unknown: {format_list(unknown)}."]
            if unknown
            else []
        ),
    ]


def _facts(parts: Sequence[RecipePart], snapshot: Snapshot, recipe: Recipe) -> Facts:
    facts = []
    for use, title in USE_TITLES.items():
        hours = [(part.label, part.hours) for part in parts if part.use == use]
        facts.append((title, *_hours_and_spoof_share(hours)))
    drawn = [(part.label, part.weight * part.hours) for part in parts if part.use == "train"]
    facts.append(("drawn per epoch", *_hours_and_spoof_share(drawn)))
    num_used = len({part.corpus for part in parts})
    corpora = f"{num_used} of {len(recipe.corpora)}" if recipe.corpora else f"{num_used}"
    facts.append(("corpora", corpora, f"{len(snapshot.corpora) - num_used} others in the snapshot"))
    return Facts(facts)


def _hours_and_spoof_share(amounts: Sequence[tuple[str, float]]) -> tuple[str, str]:
    total = sum(hours for _, hours in amounts)
    spoof = sum(hours for label, hours in amounts if label == "spoof")
    return format_hours(total), f"{format_percent(spoof / total)} spoof" if total else ""


def _uses_table(parts: Sequence[RecipePart], snapshot: Snapshot) -> Table:
    """List the splits and hours of each corpus by use."""
    hours = _sums((part.corpus, part.use, part.hours) for part in parts)
    rows: list[list[Value]] = []
    for corpus in _corpora(parts, snapshot):
        splits = {
            use: {part.split or NOT_STATED for part in parts if (part.corpus, part.use) == (corpus, use)}
            for use in USES
        }
        names = (", ".join(split for split in _SPLITS if split in splits[use]) for use in USES)
        rows.append([corpus, *names, *(hours.get((corpus, use)) for use in USES)])
    titles = [f"{USE_TITLES[use]} {unit}" for unit in ("splits", "h") for use in USES]
    return Table(["corpus", *titles], format_hour_columns(rows, 4, 5, 6), "Use of each split")


def _training_table(training: Sequence[RecipePart], snapshot: Snapshot) -> Table:
    """List training hours, weights and hours drawn per epoch by corpus and label."""
    hours = _sums((part.corpus, part.label, part.hours) for part in training)
    drawn = _sums((part.corpus, part.label, part.weight * part.hours) for part in training)
    total = sum(drawn.values()) or 1.0
    rows: list[list[Value]] = []
    for corpus in _corpora(training, snapshot):
        row: list[Value] = [corpus]
        for label in LABEL_ORDER:
            part = (corpus, label)
            weight = Cell(f"{drawn[part] / hours[part]:.3g}") if hours.get(part) else None
            row += [hours.get((corpus, label)), weight, drawn.get((corpus, label))]
        share = sum(drawn.get((corpus, label), 0.0) for label in LABEL_ORDER) / total
        rows.append([*row, Cell(format_percent(share), share=share)])
    sums = [
        [sum(amounts.get((corpus, label), 0.0) for corpus in snapshot.corpora) for amounts in (hours, drawn)]
        for label in LABEL_ORDER
    ]
    totals = [value for written, per_epoch in sums for value in (written, None, per_epoch)]
    rows.append(["all", *totals, None])
    titles = [f"{label} {unit}" for label in LABEL_TITLES.values() for unit in ("h", "weight", "h per epoch")]
    columns = ["corpus", *titles, "share of an epoch"]
    return Table(columns, format_hour_columns(rows, 1, 3, 4, 6), "Training hours and weights", num_totals=1)


def _artifact_table(parts: Sequence[RecipePart], recipe: Recipe) -> Table:
    hours = _sums((_artifact(part), part.use, part.hours) for part in parts)
    rows: list[list[Value]] = []
    for name in (LABEL_TITLES["bonafide"], *ARTIFACTS, NOT_STATED):
        by_use = [hours.get((name, use)) for use in USES]
        if any(by_use):
            is_bonafide = name == LABEL_TITLES["bonafide"] or name in recipe.bonafide_artifacts
            rows.append([name, LABEL_TITLES["bonafide" if is_bonafide else "spoof"], *by_use])
    titles = ["artifact", "label", *(f"{USE_TITLES[use]} h" for use in USES)]
    return Table(titles, format_hour_columns(rows, 2, 3, 4), "Label of each artifact family")


def _artifact(part: RecipePart) -> str:
    """The artifact family, or "bona fide" for utterances without one."""
    return part.artifact or (LABEL_TITLES["bonafide"] if part.label == "bonafide" else NOT_STATED)


def _corpora(parts: Iterable[RecipePart], snapshot: Snapshot) -> list[str]:
    """List the corpora of the parts in the order of the card."""
    used = {part.corpus for part in parts}
    return [
        corpus.name
        for corpora in corpora_by_role(snapshot).values()
        for corpus in corpora
        if corpus.name in used
    ]


def _sums(items: Iterable[tuple[str, str, float]]) -> dict[tuple[str, str], float]:
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for row, series, hours in items:
        sums[row, series] += hours
    return dict(sums)
