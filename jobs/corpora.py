"""Show the corpora that have a manifest, their files on disk, or the contents of a store.

bonafide corpora
bonafide corpora --corpora asvspoof5,in_the_wild
bonafide corpora --root DATA --corpora asvspoof2019_la,in_the_wild
bonafide corpora --store STORE --html card.html
bonafide corpora --store STORE --recipe leakage_free --html card.html
bonafide corpora --store STORE --export-protocol train.csv
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.config import run
from pipeline.data.corpora.corpus import read_corpus
from pipeline.data.corpora.manifest import ExpectedHours, Manifest, choose_manifests
from pipeline.data.corpora.recipe import RecipeName
from pipeline.data.corpora.utterance import Problem, Utterance
from pipeline.errors import InputError, UnavailableError
from pipeline.fields import Location, NamedLocations, Names, OutputFile, Pairs
from pipeline.progress import counted
from pipeline.storage import Folder

if TYPE_CHECKING:
    from pipeline.data.store.snapshot import Snapshot

MAX_LANGUAGES = 4
"""The table lists no more languages than this for a corpus."""


@dataclass(frozen=True)
class CorporaConfig:
    """What to show: manifests, files below a data root, or a store."""

    corpora: Names = Names()
    """Corpora to show; default: all. Without --root and --store, every named corpus is described in full."""
    root: Location = ""
    """Folder or s3:// URI with one folder per corpus: count the utterances and problems found there."""
    roots: NamedLocations = Pairs()
    """Corpora that are stored outside --root: name=PATH."""
    store: Location = ""
    """Folder or s3:// URI of a store; needs --html or --export-protocol."""
    snapshot: str = "latest"
    """Name of the snapshot in the store."""
    html: OutputFile = ""
    """Write the corpus card to this file: hours, signal chains by label, rejects, licences."""
    recipe: RecipeName = ""
    """Name or TOML file of a recipe: the card also shows which utterances train and validate, and their labels."""
    export_protocol: OutputFile = ""
    """Write the utterances to this file as an AntiDeepfake protocol CSV of twelve columns."""

    def __post_init__(self) -> None:
        is_about_store = self.store or self.html or self.recipe or self.export_protocol
        if is_about_store and not (self.store and (self.html or self.export_protocol)):
            raise InputError(
                "give --store STORE, and --html FILE for a card or --export-protocol FILE for a CSV"
            )
        if self.store and (self.root or self.roots):
            raise InputError("--store shows a store, --root and --roots show files; give one of the two")
        if self.snapshot != "latest" and not self.store:
            raise InputError("--snapshot is in a store: give --store STORE")
        if self.recipe and not self.html:
            raise InputError("--recipe only affects the card; add --html FILE")
        if self.html and self.html == self.export_protocol:
            raise InputError(f"--html and --export-protocol are both {self.html}; name two files")


def main(config: CorporaConfig) -> None:
    """Print manifests or the files found on disk, or write a file about a store."""
    if config.store:
        write_files(config)
        return
    manifests = choose_manifests(config.corpora)
    unknown = sorted(set(config.roots.names) - set(manifests))
    if unknown:
        raise InputError(f"--roots names {', '.join(unknown)}; add it to --corpora, or correct the name")
    if config.root or config.roots:
        print_found(config, manifests.values())
    elif config.corpora:
        print("\n\n".join("\n".join(describe(manifest)) for manifest in manifests.values()))
    else:
        print_table(
            ["corpus", "role", "licence", "languages", "hours bona fide", "hours spoof", "folder"],
            map(table_row, manifests.values()),
        )


def write_files(config: CorporaConfig) -> None:
    """Write the card or the protocol of a snapshot, for all of its corpora or the named ones.

    Raises:
        InputError: the store lacks the snapshot or a corpus.
    """
    from pipeline.data.store.snapshot import choose_corpora, load_snapshot, only_named

    store = Folder(config.store)
    snapshot = only_named(load_snapshot(store, config.snapshot), config.corpora)
    utterances = choose_corpora(snapshot, config.corpora) if config.export_protocol else None
    if config.html:
        write_card(config.html, store, snapshot, config.recipe)
    if utterances:
        export_protocol(config.export_protocol, store, utterances)


def write_card(file: str, store: Folder, snapshot: Snapshot, recipe: str) -> None:
    """Write the corpus card of a snapshot, with a section about the recipe if there is one."""
    from pipeline.card.page import corpus_card
    from pipeline.data.corpora.recipe import load_recipe

    folder, name = Folder.of_file(file)
    card = corpus_card(store, snapshot, load_recipe(recipe) if recipe else None)
    folder.commit(name, card.to_html().encode())
    print(f"card of snapshot {snapshot.name}: {file}")


def export_protocol(file: str, store: Folder, snapshot: Snapshot) -> None:
    """Write an AntiDeepfake protocol CSV, with paths below a data root as the manifests expect them."""
    from pipeline.data.store.export import write_protocol

    folder, name = Folder.of_file(file)
    folders = {manifest.name: manifest.folder for manifest in choose_manifests(()).values()}
    with folder.staged(name) as staged:
        counts = write_protocol(staged, store, snapshot, folders)
    print(f"{counted(counts.num_rows, 'utterance')} of snapshot {snapshot.name}: {file}")
    for corpus, num_segments in counts.segments.items():
        print(
            f"  omitted: {counted(num_segments, 'segment')} of {corpus}; the format has no columns for segments"
        )
    for corpus, num_files in counts.line_ends.items():
        print(
            f"  omitted: {counted(num_files, 'file')} of {corpus}; no cell of the format can contain a line end"
        )


def table_row(manifest: Manifest) -> list[str]:
    """One row of the table of manifests."""
    return [
        manifest.name,
        manifest.role,
        _licence(manifest),
        _short_languages(manifest.languages),
        *_hours(manifest.expected_hours),
        manifest.folder,
    ]


def describe(manifest: Manifest) -> list[str]:
    """Return the lines of a block about one corpus."""
    bonafide, spoof = _hours(manifest.expected_hours)
    hours = f"{bonafide} bona fide, {spoof} spoof" if spoof else bonafide
    fields = {
        "role": manifest.role,
        "licence": _licence(manifest),
        "homepage": manifest.homepage,
        "revision": manifest.revision,
        "languages": " ".join(manifest.languages) or "unknown",
        "sources": ", ".join(manifest.sources) or "unknown",
        "hours": "unknown" if bonafide == "unknown" else hours,
        "folder": manifest.folder,
    }
    if manifest.chunks:
        choices = ", ".join(f"{seconds:g}" for seconds in manifest.chunks.choices)
        fields["chunks"] = f"{manifest.chunks.seconds:g} s by default; published results use {choices} s"
    return [manifest.name, *(f"  {name:<9}  {value}" for name, value in fields.items() if value)]


def print_found(config: CorporaConfig, manifests: Iterable[Manifest]) -> None:
    """Print the utterances and problems of each corpus that has a folder by --root or --roots.

    Raises:
        InputError: the only corpus cannot be read, for example because its table is broken.
        SystemExit: a corpus cannot be read, and the others have been printed.
    """
    folders = [
        (manifest, Folder(own_root) if own_root else Folder(config.root).folder(manifest.folder))
        for manifest in manifests
        if (own_root := config.roots.get(manifest.name)) or config.root
    ]
    num_present = num_failed = 0
    for manifest, folder in folders:
        try:
            is_present = folder.exists()
            num_present += is_present
            lines = (
                summarise(manifest, folder) if is_present else [f"{manifest.name}: no folder {folder.uri}"]
            )
        except UnavailableError:  # the server of all corpora
            raise
        except InputError as error:
            if len(folders) == 1:
                raise
            num_failed += 1
            lines = [f"{manifest.name}: {str(error).removeprefix(f'{manifest.name}: ')}"]
        for line in lines:
            print(line, flush=True)
    if num_failed:
        print(f"bonafide corpora: {num_failed} of {num_present} corpora cannot be read", file=sys.stderr)
        raise SystemExit(2 if num_present == 1 else 1)


def summarise(manifest: Manifest, root: Folder) -> list[str]:
    """Read a corpus and return lines with its utterances by label and split, and its problems by reason and label."""
    labels: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    lost: dict[str, Counter[str]] = {}
    first: dict[str, str] = {}
    found: list[dict[str, str]] = []
    for item in read_corpus(manifest, root):
        if manifest.regions:
            found.append(_joined_columns(item))
        if isinstance(item, Problem):
            problems[item.reason] += 1
            first.setdefault(item.reason, f"{item.path}: {item.detail}")
            if item.label:
                lost.setdefault(item.reason, Counter())[item.label] += 1
        else:
            labels[item.label] += 1
            splits[item.split or "no split"] += 1
    lines = [f"{manifest.name}: {_counts(labels) or 'no utterances'} ({_counts(splits) or root.uri})"]
    for reason, count in sorted(problems.items()):
        known = f" ({_counts(lost[reason])})" if reason in lost else ""
        lines.append(f"  {count} {reason}{known}, first: {first[reason]}")
    if manifest.regions:
        lines += [f"  {line}" for line in describe_regions(manifest, root, found)]
    return lines


def describe_regions(manifest: Manifest, root: Folder, found: list[dict[str, str]]) -> list[str]:
    """Read the regions of a corpus and return lines about them; durations are not known here, and not compared."""
    import pyarrow as pa

    from pipeline.data.store.catalog import CATALOG
    from pipeline.data.store.regions import collect_regions

    _, regions = collect_regions(manifest, root, pa.Table.from_pylist(found, CATALOG))
    return regions.describe()


def _joined_columns(item: Utterance | Problem) -> dict[str, str]:
    """The columns of a catalog to which regions are joined."""
    if isinstance(item, Problem):
        return {"path": item.path, "problem": item.reason}
    return {"uid": item.uid, "path": item.path, "label": item.label}


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items()))


def _licence(manifest: Manifest) -> str:
    return manifest.licence + (" (non-commercial)" if manifest.non_commercial else "")


def _short_languages(languages: Sequence[str]) -> str:
    if len(languages) <= MAX_LANGUAGES:
        return " ".join(languages) or "unknown"
    return f"{' '.join(languages[:MAX_LANGUAGES])} … {len(languages)} in total"


def _hours(hours: ExpectedHours) -> tuple[str, str]:
    """Hours of bona fide and of spoofed speech; the second is empty if only the total is known."""
    if hours.bonafide is None and hours.spoof is None:
        return ("unknown", "unknown") if hours.total is None else (f"{hours.total:.1f} in total", "")
    return f"{hours.bonafide or 0.0:.1f}", f"{hours.spoof or 0.0:.1f}"


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(run(main))
