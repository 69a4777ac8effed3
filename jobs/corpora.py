"""Show every manifest; with --root, what is found on disk; with --store, what was ingested.

bonafide corpora
bonafide corpora --root DATA --corpora asvspoof2019_la,in_the_wild
bonafide corpora --store STORE --html card.html
bonafide corpora --store STORE --recipe leakage_free --html card.html
bonafide corpora --store STORE --export-protocol train.csv
"""

from __future__ import annotations

import posixpath
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.config import Names, Pairs, run
from pipeline.data.corpora.corpus import Problem, read_corpus
from pipeline.data.corpora.manifest import ExpectedHours, Manifest, choose_manifests
from pipeline.errors import InputError
from pipeline.storage import Folder

if TYPE_CHECKING:
    from pipeline.data.store.snapshot import Snapshot

SHOWN_LANGUAGES = 4


@dataclass(frozen=True)
class CorporaConfig:
    """Which manifests to show."""

    corpora: Names = Names()
    """Corpora to show; all by default."""
    root: str | None = None
    """Folder or s3:// URI that holds one folder per corpus: show what is found there."""
    roots: Pairs = Pairs()
    """Corpora that lie elsewhere: name=PATH."""
    store: str | None = None
    """Folder or s3:// URI of shards and snapshots; say with --html or --export-protocol what to make of it."""
    snapshot: str = "latest"
    """Snapshot of the store, by its name."""
    html: str | None = None
    """File to write the card to: hours, signal chains by label, rejects, licences."""
    recipe: str = ""
    """Name or TOML file of a recipe: the card also shows what trains and validates by it, and as which label."""
    export_protocol: str | None = None
    """File to write the utterances to, in the twelve columns of an AntiDeepfake protocol CSV."""


def main(config: CorporaConfig) -> None:
    """Print one table, or write what was asked for of a store."""
    if config.store or config.html or config.recipe or config.export_protocol:
        read_store(config)
        return
    manifests = choose_manifests(config.corpora)
    strangers = sorted(set(config.roots.names) - set(manifests))
    if strangers:
        raise InputError(f"--roots names {', '.join(strangers)}, which is no corpus shown here")
    if config.root is None and not config.roots:
        print_table(
            ["corpus", "role", "licence", "languages", "hours bona fide", "hours spoof", "folder"],
            describe(manifests.values()),
        )
        return
    for manifest in manifests.values():
        elsewhere = config.roots.get(manifest.name)
        if elsewhere:
            place = Folder(elsewhere)
        elif config.root is not None:
            place = Folder(config.root).folder(manifest.folder)
        else:
            continue
        for line in inspect(manifest, place):
            print(line, flush=True)


def read_store(config: CorporaConfig) -> None:
    """Write the card or the protocol of a snapshot, of all its corpora or of those that were asked for.

    Raises:
        InputError: no store or no file to write to; the store lacks the snapshot or one of the corpora.
    """
    from pipeline.data.store.snapshot import choose_corpora, load_snapshot

    if not config.store or not (config.html or config.export_protocol):
        raise InputError("give --store STORE, and --html FILE for a card or --export-protocol FILE for a CSV")
    if config.recipe and not config.html:
        raise InputError("--recipe is for a card: give --html FILE")
    store = Folder(config.store)
    snapshot = choose_corpora(load_snapshot(store, config.snapshot), config.corpora)
    if config.html:
        write_card(config.html, store, snapshot, config.recipe)
    if config.export_protocol:
        export_protocol(config.export_protocol, store, snapshot)


def write_card(file: str, store: Folder, snapshot: Snapshot, recipe: str) -> None:
    """Write the card of a snapshot, under a recipe if one is named."""
    from pipeline.card.page import corpus_card
    from pipeline.data.corpora.recipe import load_recipe

    folder, name = _place(file)
    card = corpus_card(store, snapshot, load_recipe(recipe) if recipe else None)
    folder.commit(name, card.to_html().encode())
    print(f"card of snapshot {snapshot.name}: {file}")


def export_protocol(file: str, store: Folder, snapshot: Snapshot) -> None:
    """Write an AntiDeepfake protocol CSV; paths are those that the manifests expect below a data root."""
    from pipeline.data.corpora.protocol_csv import write_protocol

    folder, name = _place(file)
    folders = {manifest.name: manifest.folder for manifest in choose_manifests(()).values()}
    with folder.staged(name) as staged:
        written = write_protocol(staged, store, snapshot, folders)
    print(f"{written.num_rows} utterances of snapshot {snapshot.name}: {file}")
    for corpus, count in written.segments.items():
        print(f"  left out: {count} segments of {corpus}, which the format has no columns for")


def _place(file: str) -> tuple[Folder, str]:
    folder, name = posixpath.split(file)
    if not name:
        raise InputError(f"{file}: give the name of a file")
    return Folder(folder or "."), name


def describe(manifests: Iterable[Manifest]) -> list[list[str]]:
    """One row per manifest."""
    return [
        [
            manifest.name,
            manifest.role,
            manifest.licence + (" (non-commercial)" if manifest.non_commercial else ""),
            _languages(manifest.languages),
            *_hours(manifest.expected_hours),
            manifest.folder,
        ]
        for manifest in manifests
    ]


def inspect(manifest: Manifest, root: Folder) -> list[str]:
    """What is found of a corpus: utterances by label and split, problems by reason."""
    if not root.exists():
        return [f"{manifest.name}: no folder {root.uri}"]
    labels: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    problems: dict[str, list[str]] = {}
    for found in read_corpus(manifest, root):
        if isinstance(found, Problem):
            problems.setdefault(found.reason, []).append(f"{found.path}: {found.detail}")
        else:
            labels[found.label] += 1
            splits[found.split or "no split"] += 1
    lines = [f"{manifest.name}: {_counts(labels) or 'nothing'} ({_counts(splits) or root.uri})"]
    for reason, examples in sorted(problems.items()):
        lines.append(f"  {len(examples)} {reason}, the first: {examples[0]}")
    return lines


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items()))


def _languages(languages: Sequence[str]) -> str:
    if len(languages) <= SHOWN_LANGUAGES:
        return " ".join(languages) or "unknown"
    return f"{' '.join(languages[:SHOWN_LANGUAGES])} … {len(languages)} in all"


def _hours(hours: ExpectedHours) -> tuple[str, str]:
    if hours.bonafide is None and hours.spoof is None:
        return ("unknown", "unknown") if hours.total is None else (f"{hours.total:.1f} in all", "")
    return f"{hours.bonafide or 0.0:.1f}", f"{hours.spoof or 0.0:.1f}"


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns that line up."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(run(main))
