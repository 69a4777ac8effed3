"""The exact list of shards that readers trust, as one JSON file.

Snapshots are numbered, and a number is never reused: if two ingests finish at the same time, the second one adds its
corpora to the snapshot of the first. Corpora that an ingest does not name stay unchanged.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from pipeline import tables
from pipeline.data.corpora.manifest import AUGMENTATION, UTTERANCE_ROLES
from pipeline.data.store import layout
from pipeline.data.store.duplicates import find_duplicates
from pipeline.data.store.losses import ClassCounts, count_classes
from pipeline.data.store.regions import REGIONS, RegionSummary, read_regions
from pipeline.data.store.shard_tables import ShardSummary, read_indexes
from pipeline.errors import InputError
from pipeline.storage import Folder

FORMAT = 1
HOURS_TOLERANCE = 0.01
"""Relative difference between written and published hours below which there is no warning."""


@dataclass(frozen=True, slots=True)
class CorpusSnapshot:
    """One corpus of a snapshot; found = written + rejected + excluded, in utterances."""

    name: str
    role: str
    licence: str
    non_commercial: bool | None
    manifest: str
    """Digest of the manifest that the corpus was read with."""
    catalog: str
    """Path of the catalog in the store."""
    found: int
    rejected: dict[str, int]
    """Number of utterances by reason, from the catalog and the shards."""
    excluded: dict[str, int]
    """Number of utterances that the recipe excluded, by reason."""
    expected_hours: dict[str, float]
    """Published hours by label; empty if unknown."""
    shards: tuple[ShardSummary, ...] = ()
    not_audio: dict[str, int] = field(default_factory=dict)
    """Files that were left out by rule, by kind."""
    losses: tuple[ClassCounts, ...] = ()
    """Utterances by class; empty in snapshots that an earlier version committed. See `with_losses`."""
    regions: RegionSummary | None = None
    """Labelled parts of utterances; None if the manifest names no files of them."""

    @property
    def written(self) -> int:
        """Utterances in the shards."""
        return sum(shard.num_utterances for shard in self.shards)

    @property
    def hours(self) -> dict[str, float]:
        """Written hours by label."""
        seconds: Counter[str] = Counter()  # adds floats as well as counts
        for shard in self.shards:
            seconds.update(shard.seconds)
        return {label: total / 3600 for label, total in sorted(seconds.items())}

    @property
    def unexpected_hours(self) -> dict[str, tuple[float, float]]:
        """Written and published hours by label or `total`, where they differ; none for a corpus with exclusions."""
        if self.excluded:
            return {}
        written = self.hours | {"total": sum(self.hours.values())}
        return {
            label: (written.get(label, 0.0), expected)
            for label, expected in self.expected_hours.items()
            if abs(written.get(label, 0.0) - expected) > HOURS_TOLERANCE * expected
        }


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All corpora of a store at one moment."""

    number: int
    created: str
    """UTC, ISO 8601."""
    corpora: dict[str, CorpusSnapshot]
    run_id: str | None = field(default=None)
    """MLflow run of the ingest that committed the snapshot."""
    duplicates: str | None = None
    """Path of the table of exact duplicates in the store; None if there are none."""

    @property
    def name(self) -> str:
        """The number as `--snapshot` takes it, with six digits."""
        return f"{self.number:06d}"

    @property
    def digest(self) -> str:
        """16 hex digits that depend only on shards and counts, not on when or where they were built.

        Catalog names are excluded because they depend on file modification times. The counts by class and of files
        that are not audio are excluded because earlier versions did not record them. Of regions, the content counts.
        """
        corpora = {name: asdict(replace(corpus, catalog="")) for name, corpus in self.corpora.items()}
        for corpus in corpora.values():
            del corpus["losses"], corpus["not_audio"]
            regions = corpus.pop("regions")
            if regions:
                corpus["regions"] = regions["digest"]
        text = json.dumps(corpora, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_snapshot(store: Folder, name: str = "latest") -> Snapshot:
    """Read a snapshot by its name, or the latest.

    Raises:
        InputError: the store has no snapshot, or none of this name.
    """
    names = layout.snapshots(store)
    if not names:
        raise InputError(f"{store.uri}: no snapshot; build one with `bonafide ingest --store {store.uri}`")
    if name == "latest":
        name = names[-1]
    elif name not in names:
        raise InputError(f"{store.uri}: no snapshot {name!r}; available: {', '.join(names)}")
    return _read(store, name)


def latest_snapshot(store: Folder) -> Snapshot | None:
    """The snapshot with the highest number, or None in a store without one."""
    names = layout.snapshots(store)
    return _read(store, names[-1]) if names else None


def with_losses(store: Folder, corpus: CorpusSnapshot, before: Snapshot | None) -> CorpusSnapshot:
    """The entry of a corpus, completed with its counts by class.

    Args:
        store: holds the catalog and the rejects of the corpus.
        corpus: an entry whose shards have been built.
        before: the latest snapshot, whose counts are taken over if nothing has changed; None to count.

    Raises:
        AssertionError: the counts by class do not add up to those of the corpus.
    """
    known = before.corpora.get(corpus.name) if before else None
    if known and known.losses and (known.catalog, known.shards) == (corpus.catalog, corpus.shards):
        return replace(corpus, losses=known.losses)
    tally = count_classes(store, corpus.name, corpus.catalog, corpus.shards)
    labels = [counts for counts in tally.classes if counts.dimension == "label"]
    assert (
        sum(counts.found for counts in labels) + tally.num_uncounted,
        sum(counts.written for counts in labels),
        sum(counts.lost for counts in labels) + tally.num_uncounted,
        sum(counts.excluded for counts in labels),
    ) == (corpus.found, corpus.written, sum(corpus.rejected.values()), sum(corpus.excluded.values())), (
        f"{corpus.name}: the counts by class {labels} and {tally.num_uncounted} not counted do not add up to "
        f"{corpus.found} found, {corpus.written} written, {corpus.rejected} rejected, {corpus.excluded} excluded"
    )
    return replace(corpus, losses=tally.classes)


def commit_snapshot(store: Folder, corpora: Iterable[CorpusSnapshot], run_id: str | None = None) -> Snapshot:
    """Replace some corpora of the latest snapshot and commit the result; returns the latest if nothing changed.

    Args:
        store: holds the shards of the corpora.
        corpora: the corpora that were ingested.
        run_id: MLflow run of the ingest.
    """
    corpora = list(corpora)
    while True:
        latest = latest_snapshot(store)
        merged = dict(latest.corpora if latest else {}) | {corpus.name: corpus for corpus in corpora}
        snapshot = Snapshot(
            number=latest.number + 1 if latest else 1,
            created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            corpora=dict(sorted(merged.items())),
            run_id=run_id,
        )
        if latest is not None and latest.corpora == snapshot.corpora:
            return latest
        snapshot = replace(snapshot, duplicates=_write_duplicates(store, snapshot))
        if store.create(layout.snapshot_name(snapshot.name), _to_json(snapshot)):
            return snapshot


def _write_duplicates(store: Folder, snapshot: Snapshot) -> str | None:
    """Write the table of exact duplicates of utterances, if there are any; returns its path in the store."""
    utterances = only_roles(snapshot, UTTERANCE_ROLES)
    duplicates = find_duplicates(store, snapshot_shards(utterances))
    if not len(duplicates):
        return None
    data = tables.to_parquet(duplicates)
    name = layout.duplicates_name(hashlib.sha256(data).hexdigest()[:16])
    store.commit(name, data)
    return name


def snapshot_shards(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Corpus and name of every shard, in the order of the snapshot; see `read_indexes`."""
    return [(corpus.name, shard.name) for corpus in snapshot.corpora.values() for shard in corpus.shards]


def all_snapshots(store: Folder) -> list[Snapshot]:
    """Every snapshot of a store, oldest first."""
    return [_read(store, name) for name in layout.snapshots(store)]


def referenced_files(snapshot: Snapshot) -> set[str]:
    """Paths in the store of every file that a snapshot needs."""
    files = {snapshot.duplicates} if snapshot.duplicates else set()
    for corpus in snapshot.corpora.values():
        files.add(corpus.catalog)
        for shard in corpus.shards:
            files.add(layout.tar_name(corpus.name, shard.name))
            files.add(layout.index_name(corpus.name, shard.name))
            if shard.rejected:
                files.add(layout.rejects_name(corpus.name, shard.name))
        if corpus.regions:
            files.add(layout.regions_name(corpus.name, corpus.regions.digest))
    return files


def _to_json(snapshot: Snapshot) -> bytes:
    document = {"format": FORMAT, "digest": snapshot.digest} | asdict(snapshot)
    return json.dumps(document, indent=1, sort_keys=True).encode()


def _read(store: Folder, name: str) -> Snapshot:
    document: dict[str, Any] = json.loads(store.read(layout.snapshot_name(name)))
    if document["format"] != FORMAT:
        raise InputError(
            f"snapshot format {document['format']} is not supported; this version reads format {FORMAT}"
        )
    corpora = {}
    for name, corpus in document["corpora"].items():
        shards = tuple(ShardSummary(**shard) for shard in corpus.pop("shards"))
        losses = tuple(ClassCounts(**counts) for counts in corpus.pop("losses", ()))
        regions = corpus.pop("regions", None)
        corpora[name] = CorpusSnapshot(
            **corpus, shards=shards, losses=losses, regions=RegionSummary(**regions) if regions else None
        )
    return Snapshot(
        document["number"], document["created"], corpora, document["run_id"], document["duplicates"]
    )


def only_roles(snapshot: Snapshot, roles: Collection[str]) -> Snapshot:
    """The snapshot with only the corpora of some roles."""
    corpora = {name: corpus for name, corpus in snapshot.corpora.items() if corpus.role in roles}
    return replace(snapshot, corpora=corpora)


def only_named(snapshot: Snapshot, names: Collection[str] = ()) -> Snapshot:
    """The snapshot with only the named corpora; all of them if there are no names.

    Raises:
        InputError: the snapshot lacks a named corpus.
    """
    unknown = sorted(set(names) - set(snapshot.corpora))
    if unknown:
        raise InputError(
            f"snapshot {snapshot.name} has no {', '.join(unknown)}; it has: {', '.join(snapshot.corpora) or 'none'}"
        )
    corpora = {name: corpus for name, corpus in snapshot.corpora.items() if not names or name in names}
    return replace(snapshot, corpora=corpora)


def choose_corpora(snapshot: Snapshot, names: Sequence[str] = (), role: str | None = None) -> Snapshot:
    """The snapshot with only some of its corpora of utterances; never with augmentation corpora.

    Args:
        snapshot: the snapshot to choose from.
        names: names of the corpora to keep.
        role: keep the corpora of this role if no names are given; None for all.

    Raises:
        InputError: the snapshot lacks a named corpus, has no corpus of the role, or a named corpus is one for
            augmentation.
    """
    recordings = only_roles(snapshot, [AUGMENTATION]).corpora
    for name in names:
        if name in recordings:
            raise InputError(
                f"{name} is an augmentation corpus, whose recordings are not utterances; leave its name out here, and "
                'give it as `from` of an augmentation: [[augment]] name = "noise"'
            )
    utterances = only_roles(snapshot, UTTERANCE_ROLES if names or role is None else [role])
    if not utterances.corpora:
        known = ", ".join(snapshot.corpora) or "none"
        raise InputError(f"snapshot {snapshot.name} has no {role or 'other'} corpora; it has: {known}")
    return only_named(utterances, names)


def load_utterances(store: Folder, snapshot: Snapshot, columns: Sequence[str] | None = None) -> pa.Table:
    """The index rows of all shards of a snapshot, in the order of its shards.

    Raises:
        InputError: the snapshot has no shards.
    """
    shards = snapshot_shards(snapshot)
    if not shards:
        raise InputError(f"snapshot {snapshot.name} of {store.uri} has no shards")
    indexes = read_indexes(store, shards, columns)
    return pa.concat_tables(index.replace_schema_metadata(None) for index in indexes)


def load_regions(store: Folder, snapshot: Snapshot) -> pa.Table:
    """The labelled parts of the utterances of all corpora of a snapshot, with the columns `REGIONS`.

    Those of an utterance are in ascending order and do not overlap. An utterance that has none was not labelled.
    """
    parts = [
        read_regions(store, corpus.name, corpus.regions.digest)
        for corpus in snapshot.corpora.values()
        if corpus.regions
    ]
    return pa.concat_tables([REGIONS.empty_table(), *parts])
