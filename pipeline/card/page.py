"""The corpus card as one HTML page; equal snapshots give equal bytes, wherever the store is."""

from __future__ import annotations

from pipeline.card.augmentation_section import augmentation_section
from pipeline.card.completeness import TITLE as COMPLETENESS_TITLE
from pipeline.card.completeness import (
    completeness_section,
    corpora_with_unexpected_hours,
    incomplete_corpora,
)
from pipeline.card.duplicates import TITLE as DUPLICATES_TITLE
from pipeline.card.duplicates import DuplicateGroups, duplicate_warnings, duplicates_section, read_duplicates
from pipeline.card.durations import durations_section
from pipeline.card.formatting import LABEL_ORDER, format_hours, format_list, format_percent
from pipeline.card.hours import hours_section
from pipeline.card.licences import licences_section
from pipeline.card.recipe_section import recipe_section
from pipeline.card.regions import TITLE as REGIONS_TITLE
from pipeline.card.regions import corpora_without_regions, regions_section
from pipeline.card.rejects import TITLE as REJECTS_TITLE
from pipeline.card.rejects import find_examples, rejects_section
from pipeline.card.shortcut import Shortcut, find_shortcuts
from pipeline.card.shortcut_section import TITLE as SHORTCUTS_TITLE
from pipeline.card.shortcut_section import predictive_by_group, shortcut_section
from pipeline.card.tally import Tally, tally_snapshot
from pipeline.data.corpora.manifest import AUGMENTATION, UTTERANCE_ROLES
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.store.losses import MAX_LOSS, loss_warning
from pipeline.data.store.snapshot import Snapshot, only_roles
from pipeline.report import Block, Facts, Page, Section, Text
from pipeline.storage import Folder


def corpus_card(
    store: Folder, snapshot: Snapshot, recipe: Recipe | None = None, max_loss: float = MAX_LOSS
) -> Page:
    """Summarise a snapshot as a page of charts and tables.

    Args:
        store: The store that the snapshot belongs to.
        snapshot: The snapshot; its indexes, catalogs and tables of rejects are read.
        recipe: Adds a section about the hours, labels and weights under this recipe.
        max_loss: Largest share that a class may lose without a warning; see `severe_losses`.
    """
    utterances, recordings = only_roles(snapshot, UTTERANCE_ROLES), only_roles(snapshot, [AUGMENTATION])
    sections: list[Section] = []
    if utterances.corpora:
        sections += _utterance_sections(store, utterances, recipe, max_loss)
    if recordings.corpora:
        sections.append(augmentation_section(tally_snapshot(store, recordings), recordings))
        if any(corpus.rejected for corpus in recordings.corpora.values()):
            rejects = rejects_section(recordings, find_examples(store, recordings), max_loss)
            sections.append(Section(f"{REJECTS_TITLE} among these recordings", rejects.blocks))
    created = snapshot.created.replace("T", " ").replace("+00:00", " UTC")
    return Page(
        f"Corpus card of snapshot {snapshot.name}",
        f"{format_list(snapshot.corpora, 6)}. Created {created}, digest {snapshot.digest}.",
        sections,
    )


def _utterance_sections(
    store: Folder, snapshot: Snapshot, recipe: Recipe | None, max_loss: float
) -> list[Section]:
    """Summarise the corpora of utterances; there is at least one."""
    tally = tally_snapshot(store, snapshot)
    shortcuts = find_shortcuts(tally, snapshot)
    duplicates = read_duplicates(store, snapshot)
    return [
        _overview(snapshot, tally, _warnings(snapshot, shortcuts, duplicates, max_loss)),
        *([recipe_section(tally, snapshot, recipe)] if recipe else []),
        hours_section(tally, snapshot),
        durations_section(tally, snapshot),
        shortcut_section(shortcuts, tally, snapshot),
        completeness_section(snapshot),
        rejects_section(snapshot, find_examples(store, snapshot), max_loss),
        *regions_section(snapshot),
        duplicates_section(duplicates, snapshot),
        licences_section(snapshot),
    ]


def _warnings(
    snapshot: Snapshot, shortcuts: list[Shortcut], duplicates: DuplicateGroups, max_loss: float
) -> list[str]:
    """List the problems found by other sections, each with the title of its section."""
    incomplete = [corpus.name for corpus in incomplete_corpora(snapshot)]
    unexpected = [corpus.name for corpus in corpora_with_unexpected_hours(snapshot)]
    lost = (loss_warning(corpus.name, corpus.losses, max_loss) for corpus in snapshot.corpora.values())
    problems = (
        ("Utterances not accounted for", incomplete, COMPLETENESS_TITLE),
        ("Hours differ from the published hours", unexpected, COMPLETENESS_TITLE),
        ("Labels predictable without listening", list(predictive_by_group(shortcuts)), SHORTCUTS_TITLE),
        ("No utterance with labelled regions", corpora_without_regions(snapshot), REGIONS_TITLE),
        ("Duplicated recordings", list(duplicate_warnings(duplicates, snapshot)), DUPLICATES_TITLE),
    )
    return [
        *(f"{warning}. See {REJECTS_TITLE}." for warning in lost if warning),
        *(f"{problem}: {format_list(names)}. See {title}." for problem, names, title in problems if names),
    ]


def _overview(snapshot: Snapshot, tally: Tally, warnings: list[str]) -> Section:
    corpora = snapshot.corpora.values()
    bonafide, spoof = (sum(corpus.hours.get(label, 0.0) for corpus in corpora) for label in LABEL_ORDER)
    total = bonafide + spoof
    found, written = sum(corpus.found for corpus in corpora), sum(corpus.written for corpus in corpora)
    rejected = sum(sum(corpus.rejected.values()) for corpus in corpora)
    non_commercial, unknown = (
        sum(sum(corpus.hours.values()) for corpus in corpora if corpus.non_commercial is use)
        for use in (True, None)
    )
    labels: dict[str, set[str]] = {}
    for language, label in tally.content.hours("language", "label"):
        if language is not None:
            labels.setdefault(language, set()).add(label)
    num_single_label = sum(len(language_labels) == 1 for language_labels in labels.values())
    facts = [
        ("hours", format_hours(total), f"{written:,} utterances"),
        ("bona fide", format_hours(bonafide), _share(bonafide, total)),
        ("spoof", format_hours(spoof), _share(spoof, total)),
        ("corpora", f"{len(snapshot.corpora)}", f"{sum(len(corpus.shards) for corpus in corpora):,} shards"),
        ("languages", f"{len(labels)}", f"{num_single_label} with one label only"),
        ("rejected", f"{rejected:,}", f"{format_percent(rejected / (found or 1))} of {found:,} found"),
        ("non-commercial", format_hours(non_commercial), f"{format_hours(unknown)} of unknown licence"),
    ]
    blocks: list[Block] = [Facts(facts), *(Text(warning, "warning") for warning in warnings)]
    return Section("Overview", blocks)


def _share(hours: float, total: float) -> str:
    return format_percent(hours / total) if total else ""
