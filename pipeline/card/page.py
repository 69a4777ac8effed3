"""The card of a snapshot as one HTML page; the same snapshot gives the same bytes, wherever its store lies."""

from __future__ import annotations

from pipeline.card.duplicates import TITLE as DUPLICATES_TITLE
from pipeline.card.duplicates import Copies, duplicate_warnings, duplicates_section, read_copies
from pipeline.card.durations import durations_section
from pipeline.card.formatting import LABELS_SHOWN, hours_words, listed, percent_words
from pipeline.card.hours import hours_section
from pipeline.card.ledger import TITLE as LEDGER_TITLE
from pipeline.card.ledger import ledger_section, unbalanced, unexpected
from pipeline.card.licences import licences_section
from pipeline.card.recipe_section import recipe_section
from pipeline.card.rejects import find_examples, rejects_section
from pipeline.card.shortcut import Shortcut, find_shortcuts
from pipeline.card.signal import TITLE as SIGNAL_TITLE
from pipeline.card.signal import signal_section, telling_groups
from pipeline.card.tally import Tally, tally
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Block, Facts, Page, Section, Text
from pipeline.storage import Folder


def corpus_card(store: Folder, snapshot: Snapshot, recipe: Recipe | None = None) -> Page:
    """Read what a snapshot holds, and say it with charts; with a recipe also what that makes of it."""
    counts = tally(store, snapshot)
    shortcuts = find_shortcuts(counts, snapshot)
    copies = read_copies(store, snapshot)
    created = snapshot.created.replace("T", " ").replace("+00:00", " UTC")
    return Page(
        f"Corpus card of snapshot {snapshot.name}",
        f"{listed(snapshot.corpora, 6)}. Made {created}, digest {snapshot.digest}.",
        [
            _overview(snapshot, counts, _warnings(snapshot, shortcuts, copies)),
            *([recipe_section(counts, snapshot, recipe)] if recipe else []),
            hours_section(counts, snapshot),
            durations_section(counts, snapshot),
            signal_section(shortcuts, counts, snapshot),
            ledger_section(snapshot),
            rejects_section(snapshot, find_examples(store, snapshot)),
            duplicates_section(copies, snapshot),
            licences_section(snapshot),
        ],
    )


def _warnings(snapshot: Snapshot, shortcuts: list[Shortcut], copies: Copies) -> list[str]:
    """What a reader must not miss, and where more is said of it."""
    found = (
        ("Not all accounted for", [corpus.name for corpus in unbalanced(snapshot)], LEDGER_TITLE),
        ("Not the published hours", [corpus.name for corpus in unexpected(snapshot)], LEDGER_TITLE),
        ("Almost a label without listening", list(telling_groups(shortcuts)), SIGNAL_TITLE),
        ("The same audio occurs", list(duplicate_warnings(copies, snapshot)), DUPLICATES_TITLE),
    )
    return [f"{what}: {listed(names)}. See {title}." for what, names, title in found if names]


def _overview(snapshot: Snapshot, counts: Tally, warnings: list[str]) -> Section:
    corpora = snapshot.corpora.values()
    bonafide, spoof = (sum(corpus.hours.get(label, 0.0) for corpus in corpora) for label in LABELS_SHOWN)
    total = bonafide + spoof
    found, written = sum(corpus.found for corpus in corpora), sum(corpus.written for corpus in corpora)
    rejected = sum(sum(corpus.rejected.values()) for corpus in corpora)
    non_commercial, unknown = (
        sum(sum(corpus.hours.values()) for corpus in corpora if corpus.non_commercial is use)
        for use in (True, None)
    )
    labels: dict[str, set[str]] = {}
    for language, label in counts.content.hours("language", "label"):
        if language is not None:
            labels.setdefault(language, set()).add(label)
    num_lopsided = sum(len(each) == 1 for each in labels.values())
    facts = [
        ("hours", hours_words(total), f"{written:,} utterances"),
        ("bona fide", hours_words(bonafide), _share(bonafide, total)),
        ("spoof", hours_words(spoof), _share(spoof, total)),
        ("corpora", f"{len(snapshot.corpora)}", f"{sum(len(corpus.shards) for corpus in corpora):,} shards"),
        ("languages", f"{len(labels)}", f"{num_lopsided} with one label only"),
        ("rejected", f"{rejected:,}", f"{percent_words(rejected / (found or 1))} of {found:,} found"),
        ("non-commercial", hours_words(non_commercial), f"{hours_words(unknown)} on unknown terms"),
    ]
    blocks: list[Block] = [Facts(facts), *(Text(warning, "warning") for warning in warnings)]
    return Section("At a glance", blocks)


def _share(hours: float, total: float) -> str:
    return percent_words(hours / total) if total else ""
