"""The exact list of shards that readers trust, as one JSON file.

Snapshots are numbered, and a number is taken only once: of two ingests that end together the second sees the
snapshot of the first and builds on it. A corpus that an ingest does not name stays as it was.
"""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import hashlib
import itertools
import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import tables
from pipeline.data.corpora.recipe import Recipe, Use
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.store.duplicates import find_duplicates
from pipeline.data.store.index import Index, Part, join_index, shared_index, write_index
from pipeline.data.store.shards import ShardSummary, index_name, read_index, rejects_name, tar_name
from pipeline.errors import InputError
from pipeline.storage import Folder

FORMAT = 1
HOURS_TOLERANCE = 0.01
"""How far written hours may be from the published ones without a warning."""

READERS = 32
"""Index files on their way at once."""

INDEXED = ["uid", "offset", "num_bytes", "seconds", "label", "artifact", "corpus", "split"]
"""Columns that an index of training utterances is made of."""


@dataclass(frozen=True, slots=True)
class CorpusSnapshot:
    """What a snapshot says of one corpus: found = written + rejected + excluded."""

    name: str
    role: str
    licence: str
    non_commercial: bool | None
    manifest: str
    """Digest of the manifest it was read with."""
    catalog: str
    """Name of the catalog in the store."""
    found: int
    rejected: dict[str, int]
    """By reason, over the catalog and the shards."""
    excluded: dict[str, int]
    """Left out on purpose, by reason."""
    expected_hours: dict[str, float]
    """By label, as published; empty if unknown."""
    shards: tuple[ShardSummary, ...] = ()

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
        """Written and published hours, by label or `total`, where a corpus that was taken whole differs."""
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
    """MLflow run of the ingest that made it."""
    duplicates: str | None = None
    """Table of exact duplicates in the store; None if there are none."""

    @property
    def name(self) -> str:
        """As `--snapshot` takes it."""
        return f"{self.number:06d}"

    @property
    def digest(self) -> str:
        """16 hex digits: the same shards and counts, the same digest, whenever and wherever they were built.

        The name of a catalog is left out: it knows when a file was last touched.
        """
        corpora = {name: asdict(replace(corpus, catalog="")) for name, corpus in self.corpora.items()}
        text = json.dumps(corpora, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_snapshot(store: Folder, name: str = "latest") -> Snapshot:
    """Read a snapshot by its name, or the latest.

    Raises:
        InputError: the store has no snapshot, or none of this name.
    """
    snapshot = latest_snapshot(store) if name == "latest" else None
    if snapshot is not None:
        return snapshot
    if name == "latest":
        raise InputError(
            f"{store.uri}: no snapshot there; build one with `bonafide ingest --store {store.uri}`"
        )
    try:
        return _from_json(store.read(f"snapshots/{name}.json"))
    except FileNotFoundError:
        known = ", ".join(_names(store)) or "none"
        raise InputError(f"{store.uri}: no snapshot {name!r}; there are: {known}") from None


def latest_snapshot(store: Folder) -> Snapshot | None:
    """The snapshot with the highest number, or None in a store without one."""
    names = _names(store)
    return _from_json(store.read(f"snapshots/{names[-1]}.json")) if names else None


def _names(store: Folder) -> list[str]:
    if not store.exists("snapshots"):
        return []
    names = (info.name.rpartition("/")[2] for info in store.find("snapshots"))
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def commit_snapshot(store: Folder, corpora: Iterable[CorpusSnapshot], run_id: str | None = None) -> Snapshot:
    """Put new states of some corpora on top of the latest snapshot; the latest itself if nothing changed."""
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
        snapshot = replace(snapshot, duplicates=_record_duplicates(store, snapshot))
        if store.create(f"snapshots/{snapshot.name}.json", _to_json(snapshot)):
            return snapshot


def _record_duplicates(store: Folder, snapshot: Snapshot) -> str | None:
    """Write the table of exact duplicates, if there are any; returns its name."""
    found = find_duplicates(store, _shards(snapshot))
    if not len(found):
        return None
    data = tables.to_parquet(found)
    name = f"duplicates/{hashlib.sha256(data).hexdigest()[:16]}.parquet"
    store.commit(name, data)
    return name


def _shards(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Corpus and name of every shard."""
    return [(corpus.name, shard.name) for corpus in snapshot.corpora.values() for shard in corpus.shards]


def all_snapshots(store: Folder) -> list[Snapshot]:
    """Every snapshot of a store, oldest first."""
    return [_from_json(store.read(f"snapshots/{name}.json")) for name in _names(store)]


def named_files(snapshot: Snapshot) -> set[str]:
    """Every file of the store that a snapshot needs."""
    files = {snapshot.duplicates} if snapshot.duplicates else set()
    for corpus in snapshot.corpora.values():
        files.add(corpus.catalog)
        for shard in corpus.shards:
            files |= {tar_name(corpus.name, shard.name), index_name(corpus.name, shard.name)}
            if shard.rejected:
                files.add(rejects_name(corpus.name, shard.name))
    return files


def _to_json(snapshot: Snapshot) -> bytes:
    document = {"format": FORMAT, "digest": snapshot.digest} | asdict(snapshot)
    return json.dumps(document, indent=1, sort_keys=True).encode()


def _from_json(data: bytes) -> Snapshot:
    document: dict[str, Any] = json.loads(data)
    if document["format"] != FORMAT:
        raise InputError(
            f"snapshot format {document['format']} is not known here; this version reads {FORMAT}"
        )
    corpora = {}
    for name, corpus in document["corpora"].items():
        shards = tuple(ShardSummary(**shard) for shard in corpus.pop("shards"))
        corpora[name] = CorpusSnapshot(**corpus, shards=shards)
    return Snapshot(
        document["number"], document["created"], corpora, document["run_id"], document["duplicates"]
    )


def choose_corpora(snapshot: Snapshot, names: Sequence[str] = (), role: str | None = None) -> Snapshot:
    """The snapshot with only the named corpora, or only those of a role.

    Raises:
        InputError: a name that the snapshot does not have; nothing left.
    """
    unknown = sorted(set(names) - set(snapshot.corpora))
    if unknown:
        raise InputError(
            f"snapshot {snapshot.name} has no {', '.join(unknown)}; it has: {', '.join(snapshot.corpora) or 'nothing'}"
        )
    chosen = {
        name: corpus
        for name, corpus in snapshot.corpora.items()
        if (name in names if names else role is None or corpus.role == role)
    }
    if not chosen:
        raise InputError(
            f"snapshot {snapshot.name} has no {role or ''} corpora; it has: {', '.join(snapshot.corpora)}"
        )
    return replace(snapshot, corpora=chosen)


def load_utterances(store: Folder, snapshot: Snapshot, columns: Sequence[str] | None = None) -> pa.Table:
    """The index rows of all shards of a snapshot, in the order of its shards."""
    shards = _shards(snapshot)
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(lambda shard: read_index(store, shard[0], shard[1], columns), shards))
    if not tables:
        raise InputError(f"snapshot {snapshot.name} of {store.uri} has no shards")
    return pa.concat_tables([table.replace_schema_metadata(None) for table in tables])


def load_index(
    store: Folder,
    snapshot: Snapshot,
    recipe: Recipe,
    use: Use,
    shared: Path | None = None,
) -> Index:
    """What training needs of every utterance, as arrays.

    Args:
        store: holds the shards.
        snapshot: names them; see `choose_corpora`.
        recipe: says what trains and what validates, and which artifacts count as spoof.
        use: which of these to load.
        shared: where processes of this machine share indexes, see `node_folder`; else the arrays are this process's.
    """
    tars = tuple(tar_name(*shard) for shard in _shards(snapshot))
    corpora = tuple(snapshot.corpora)
    if shared is None:
        return join_index(tars, corpora, _index_parts(store, snapshot, recipe, use))
    rules = asdict(replace(recipe, name="", weights={}))
    key = json.dumps([FORMAT, snapshot.digest, tars, corpora, rules, use], sort_keys=True)
    return shared_index(
        shared / hashlib.sha256(key.encode()).hexdigest()[:16],
        lambda folder: write_index(folder, tars, corpora, _index_parts(store, snapshot, recipe, use)),
    )


def _index_parts(store: Folder, snapshot: Snapshot, recipe: Recipe, use: Use) -> Iterator[Part]:
    """The rows of each shard, one shard after the other while the next ones are on their way."""
    corpora = {name: position for position, name in enumerate(snapshot.corpora)}

    def read(numbered: tuple[int, tuple[str, str]]) -> Part:
        number, (corpus, name) = numbered
        return _index_part(read_index(store, corpus, name, INDEXED), number, corpora, recipe, use)

    shards = iter(enumerate(_shards(snapshot)))
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        coming = deque(pool.submit(read, shard) for shard in itertools.islice(shards, 2 * READERS))
        while coming:
            yield coming.popleft().result()
            coming.extend(pool.submit(read, shard) for shard in itertools.islice(shards, 1))


def _index_part(table: pa.Table, number: int, corpora: Mapping[str, int], recipe: Recipe, use: Use) -> Part:
    """The rows of shard `number`, in the order in which they lie in it."""
    table = recipe.relabel(table.filter(pa.array(recipe.mask(table, use)))).sort_by("offset")
    return {
        "shard": np.full(len(table), number, np.int32),
        "offset": table["offset"].to_numpy(),
        "num_bytes": table["num_bytes"].to_numpy(),
        "seconds": table["seconds"].to_numpy(),
        "label": _codes(table["label"], {label: code for code, label in enumerate(LABELS)}, np.int8),
        "corpus": _codes(table["corpus"], corpora, np.int16),
        "uid": _numbers(table["uid"]),
    }


def _numbers(uids: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Hexadecimal uids as numbers."""
    return np.frombuffer(bytes.fromhex("".join(uids.to_pylist())), ">u8").astype(np.uint64)


def _codes(column: pa.ChunkedArray, number: Mapping[str, int], dtype: type[np.signedinteger[Any]]) -> Any:
    """Each name of a column as its number."""
    encoded = pa.chunked_array(column.chunks, type=pa.string()).combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    codes = np.array([number[name] for name in encoded.dictionary.to_pylist()], dtype)
    return codes[encoded.indices.to_numpy(zero_copy_only=False)]
