"""Write a planned shard as one WebDataset tar and its index, and read indexes back.

Building a shard again gives the same bytes. The index is written last, so a shard is finished when its index exists.
The index has one row per utterance, with its position in the tar; the metadata of its schema holds the
`ShardSummary` that snapshots are made of. Index and rejects record a digest of each source file, so that a later ingest
can tell whether a file with a new time has new content.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import BinaryIO, Protocol, TypedDict, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import tables
from pipeline.data.audio.bandwidth import bandwidth_hz
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.flac import encode_flac, pcm_digest, quantise
from pipeline.data.audio.isolation import crash_safe
from pipeline.data.audio.load import Loaded, OpenAudio, load_audio
from pipeline.data.audio.versions import POLICY, codec_versions
from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.data.store.catalog import (
    COVERED_BYTES,
    MISSING,
    UNREADABLE,
    UtteranceColumns,
    fingerprint,
    source_digest,
)
from pipeline.data.store.layout import attempt_name, index_name, rejects_name, tar_name
from pipeline.data.store.read_ahead import read_ahead
from pipeline.errors import UnreadableError
from pipeline.storage import Folder

Result = TypeVar("Result")

FORMAT = "1"
"""Version of the layout of tars; a change rebuilds every shard."""

READ_AHEAD = 16
"""Source files that are read while one is decoded."""

INDEX_READERS = 32
"""Index files that are read at once."""

INDEX = pa.schema(
    [
        ("uid", pa.string()),
        ("id", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),  # of the FLAC in the tar, bytes
        ("num_bytes", pa.int32()),
        ("seconds", pa.float32()),
        ("label", pa.string()),
        ("artifact", pa.string()),
        ("attack", pa.string()),
        ("corpus", pa.string()),
        ("language", pa.string()),
        ("speaker", pa.string()),
        ("split", pa.string()),
        ("licence", pa.string()),
        ("path", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("container", pa.string()),
        ("codec", pa.string()),
        ("encoding", pa.string()),
        ("sample_rate", pa.int32()),
        ("num_channels", pa.int16()),
        ("bit_depth", pa.int16()),
        ("bitrate", pa.int32()),
        ("decoder", pa.string()),
        ("pcm_sha256", pa.string()),  # of the 16 kHz mono PCM16, so equal for equal audio
        ("source_digest", pa.string()),  # of all bytes of the file
        ("bandwidth_hz", pa.float32()),  # measured from the PCM16; null if it tells nothing
    ]
)
"""Columns of an index, in order; `read_index` gives nulls for those that an older index lacks."""

REJECTS = pa.schema(
    [
        ("uid", pa.string()),
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("path", pa.string()),
        ("label", pa.string()),
        ("artifact", pa.string()),
        ("attack", pa.string()),
        ("language", pa.string()),
        ("container", pa.string()),
        ("codec", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("shard", pa.string()),
        ("source_digest", pa.string()),  # of all bytes of the file; null if they were not read or had changed
    ]
)
"""Columns of a table of rejects; `read_rejects` gives nulls for those that an older table lacks."""

CHANGED = "changed"
"""The reason of a reject whose file has been overwritten since it was cataloged."""

METADATA = (
    "id",
    "corpus",
    "label",
    "artifact",
    "attack",
    "speaker",
    "language",
    "split",
    "licence",
    "seconds",
)
"""Keys of the JSON that accompanies each FLAC."""


class SourceColumns(UtteranceColumns):
    """Those columns of a catalog row that the index repeats."""

    container: str
    codec: str
    encoding: str
    sample_rate: int
    num_channels: int
    bit_depth: int | None
    bitrate: int


class ShardMember(SourceColumns):
    """An utterance to write: columns of a catalog row, those to recognise its file by included."""

    size: int | None
    """Bytes; None, like `fingerprint`, if any content will do."""
    fingerprint: str | None
    source_digest: str | None
    """None if the catalog has not read the whole file."""


class IndexRow(SourceColumns):
    """One row of `INDEX`: an utterance that has been written."""

    shard: str
    offset: int
    num_bytes: int
    seconds: float
    licence: str
    decoder: str
    pcm_sha256: str
    source_digest: str
    bandwidth_hz: float | None


class RejectRow(TypedDict):
    """One row of `REJECTS`: an utterance that could not be written."""

    uid: str
    id: str
    corpus: str
    path: str
    label: str
    artifact: str | None
    attack: str | None
    language: str | None
    container: str
    codec: str
    reason: str
    detail: str
    shard: str
    source_digest: str | None


@dataclass(frozen=True, slots=True)
class Source:
    """A file of a corpus as it was read for its shard; either its audio or why there is none."""

    audio: OpenAudio | None = None
    """Shared by the segments of the file, so that it is decoded once."""
    digest: str | None = None
    """Of all bytes; None if the file is not the one that was cataloged."""
    problem: str | None = None
    """The reason of the rejects of its members."""
    detail: str = ""


class Load(Protocol):
    """Decodes the bytes of a file, or of a segment of it, into a waveform."""

    def __call__(
        self, audio: OpenAudio, name: str, /, *, start: int | None, end: int | None, resampler: str
    ) -> Loaded: ...


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What a snapshot records about a shard."""

    name: str
    corpus: str
    num_bytes: int
    """Size of the tar."""
    sha256: str
    """Hash of the tar."""
    num_utterances: int
    seconds: dict[str, float]
    """Written audio by label."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Members that could not be written, by reason."""


def build_settings(resampler: str, licence: str) -> str:
    """Everything except the members that determines the bytes of a shard; the shard's name depends on it."""
    return f"format={FORMAT} audio={POLICY} resampler={resampler} licence={licence}"


class TarWriter:
    """Writes a deterministic USTAR tar, without times and owners, and hashes it while writing."""

    def __init__(self, file: BinaryIO) -> None:
        self._sink = _HashingSink(file)
        self._tar = tarfile.TarFile(
            fileobj=cast("BinaryIO", self._sink), mode="w", format=tarfile.USTAR_FORMAT
        )

    def add(self, uid: str, flac: bytes, metadata: Mapping[str, object]) -> int:
        """Append `UID.flac` and `UID.json`; returns the offset of the FLAC in bytes."""
        offset = self._member(f"{uid}.flac", flac)
        self._member(f"{uid}.json", json.dumps(metadata, sort_keys=True, ensure_ascii=False).encode())
        return offset

    def _member(self, name: str, data: bytes) -> int:
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = len(data), 0, 0o644
        self._tar.addfile(member, io.BytesIO(data))
        padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return int(self._tar.offset) - padded

    def close(self) -> tuple[str, int]:
        """Finish the tar; returns its SHA-256 and its length in bytes."""
        self._tar.close()
        return self._sink.digest.hexdigest(), self._sink.position


class _HashingSink:
    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.position = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.position += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.position


def build_shard(
    name: str, members: Sequence[ShardMember], root: Folder, store: Folder, *, licence: str, resampler: str
) -> ShardSummary:
    """Write a shard as `write_shard` does; a file that crashes or hangs the decoder becomes a reject.

    Raises:
        RuntimeError: too many workers have died while building the shard.
    """
    with crash_safe(load_audio, store, attempt_name(members[0]["corpus"], name)) as load:
        return write_shard(name, members, root, store, licence=licence, resampler=resampler, load=load)


def write_shard(
    name: str,
    members: Sequence[ShardMember],
    root: Folder,
    store: Folder,
    *,
    licence: str,
    resampler: str,
    load: Load = load_audio,
) -> ShardSummary:
    """Decode, resample and write the members of one shard: first the tar, then the rejects, then the index.

    A member whose audio is at fault, or whose file cannot be read or is no longer the one that was cataloged, becomes
    a reject with a reason. Any other error is raised, and leaves no shard.

    Args:
        name: name of the shard, from the plan.
        members: catalog rows in the order of the tar; the segments of a file must be consecutive.
        root: folder of the corpus.
        store: where tar, index and rejects are written.
        licence: licence of the corpus.
        resampler: one of `RESAMPLERS` in `pipeline.data.audio.convert`.
        load: decodes one file.
    """
    corpus = members[0]["corpus"]
    written: list[IndexRow] = []
    rejects: list[RejectRow] = []
    with store.staged(tar_name(corpus, name)) as file:
        tar = TarWriter(file)
        for member, source in _with_sources(root, members):
            if source.problem is not None:
                rejects.append(_reject(member, name, source, source.problem, source.detail))
                continue
            assert source.audio is not None
            try:
                loaded = load(
                    source.audio,
                    member["path"],
                    start=member["start"],
                    end=member["end"],
                    resampler=resampler,
                )
            except AudioError as error:
                rejects.append(_reject(member, name, source, error.reason, error.detail))
                continue
            assert source.digest is not None
            pcm = quantise(loaded.waveform)
            flac = encode_flac(pcm)
            row: IndexRow = {
                **_source_columns(member),
                "shard": name,
                "offset": 0,  # known once the FLAC is in the tar
                "num_bytes": len(flac),
                "seconds": len(loaded.waveform) / SAMPLE_RATE,
                "licence": licence,
                "decoder": loaded.decoder,
                "pcm_sha256": pcm_digest(pcm),
                "source_digest": source.digest,
                "bandwidth_hz": bandwidth_hz(pcm),
            }
            metadata: Mapping[str, object] = row
            row["offset"] = tar.add(member["uid"], flac, {key: metadata[key] for key in METADATA})
            written.append(row)
        sha256, num_bytes = tar.close()
    reasons = Counter(reject["reason"] for reject in rejects)
    summary = ShardSummary(
        name,
        corpus,
        num_bytes,
        sha256,
        len(written),
        _seconds_by_label(written),
        rejected=dict(sorted(reasons.items())),
    )
    if rejects:
        store.commit(rejects_name(corpus, name), tables.to_parquet(pa.Table.from_pylist(rejects, REJECTS)))
    index = pa.Table.from_pylist(written, INDEX).replace_schema_metadata(
        {
            "bonafide": json.dumps(
                asdict(summary) | {"versions": codec_versions(), "recipe": build_settings(resampler, licence)}
            )
        }
    )
    store.commit(index_name(corpus, name), tables.to_parquet(index))
    return summary


def _source_columns(member: ShardMember) -> SourceColumns:
    columns = {name: member[name] for name in SourceColumns.__annotations__}  # type: ignore[literal-required]
    return cast("SourceColumns", columns)


def _reject(member: ShardMember, shard: str, source: Source, reason: str, detail: str) -> RejectRow:
    return {
        "uid": member["uid"],
        "id": member["id"],
        "corpus": member["corpus"],
        "path": member["path"],
        "label": member["label"],
        "artifact": member["artifact"],
        "attack": member["attack"],
        "language": member["language"],
        "container": member["container"],
        "codec": member["codec"],
        "reason": reason,
        "detail": detail,
        "shard": shard,
        "source_digest": source.digest,
    }


def _with_sources(root: Folder, members: Sequence[ShardMember]) -> Iterator[tuple[ShardMember, Source]]:
    """Each member with its file.

    Files are read while earlier ones are decoded. Consecutive segments of one file share one read.
    """
    files = [list(group) for _, group in itertools.groupby(members, key=lambda member: member["path"])]
    sources = read_ahead(
        functools.partial(_read_source, root),
        [segments[0] for segments in files],
        num_threads=READ_AHEAD,
        num_ahead=READ_AHEAD,
        size=_size,
    )
    for segments, source in zip(files, sources, strict=True):
        for member in segments:
            yield member, source


def _size(member: ShardMember) -> int:
    return member["size"] or 0


def _read_source(root: Folder, member: ShardMember) -> Source:
    """Read the file of a member; a file that has grown is read only as far as shows it."""
    path, size = member["path"], member["size"]
    try:
        data = root.read(path) if size is None else root.read(path, 0, size + 1)
    except FileNotFoundError:
        return Source(problem=MISSING, detail="deleted since it was cataloged")
    except UnreadableError as error:
        return Source(problem=UNREADABLE, detail=str(error))
    digest = source_digest(io.BytesIO(data))
    if _is_cataloged(member, data, digest):
        return Source(OpenAudio(data, path), digest)
    return Source(
        problem=CHANGED, detail="overwritten since it was cataloged; the next ingest reads it again"
    )


def _is_cataloged(member: ShardMember, data: bytes, digest: str) -> bool:
    """Whether these bytes are those that the name of the shard stands for."""
    size, expected = member["size"], member["source_digest"]
    if size is None or member["fingerprint"] is None:
        return True
    if len(data) != size:
        return False
    if expected is None and size > COVERED_BYTES:
        return fingerprint(io.BytesIO(data), size) == member["fingerprint"]
    return digest == (expected or member["fingerprint"])


def read_summary(store: Folder, corpus: str, name: str) -> ShardSummary:
    """The summary of a finished shard, from the metadata of its index."""
    with store.open(index_name(corpus, name)) as file:
        metadata = pq.read_schema(file).metadata or {}
    recorded = json.loads(metadata[b"bonafide"])
    return ShardSummary(**{key: recorded[key] for key in ShardSummary.__dataclass_fields__})


def read_index(store: Folder, corpus: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The index of a shard, or some of its columns."""
    return _read(store, index_name(corpus, name), INDEX, columns)


def read_rejects(store: Folder, corpus: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rejects of a shard that has any, or some of their columns."""
    return _read(store, rejects_name(corpus, name), REJECTS, columns)


def _read(store: Folder, name: str, schema: pa.Schema, columns: Sequence[str] | None) -> pa.Table:
    """Some columns of a table with a schema; those that an older version of the schema did not have are null."""
    columns = schema.names if columns is None else list(columns)
    file = pq.ParquetFile(pa.BufferReader(store.read(name)))
    present = set(file.schema_arrow.names)
    table = file.read([column for column in columns if column in present])
    for column in columns:
        if column not in present:
            table = table.append_column(schema.field(column), pa.nulls(len(table), schema.field(column).type))
    return table.select(columns)


def read_indexes(
    store: Folder, shards: Iterable[tuple[str, str]], columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The indexes of many shards, read concurrently, in order, with a bounded number in memory.

    Args:
        store: holds the shards.
        shards: corpus and name of each.
        columns: which columns to read; None for all.
    """
    return map_indexes(lambda index: index, store, shards, columns)


def map_indexes(
    function: Callable[[pa.Table], Result],
    store: Folder,
    shards: Iterable[tuple[str, str]],
    columns: Sequence[str] | None = None,
) -> Iterator[Result]:
    """Like `read_indexes`, but apply a function to each table, in the thread that has read it."""

    def read(shard: tuple[str, str]) -> Result:
        corpus, name = shard
        return function(read_index(store, corpus, name, columns))

    return read_ahead(read, shards, num_threads=INDEX_READERS, num_ahead=2 * INDEX_READERS)


def _seconds_by_label(rows: Sequence[IndexRow]) -> dict[str, float]:
    seconds: Counter[str] = Counter()  # adds floats as well as counts
    for row in rows:
        seconds[row["label"]] += row["seconds"]  # type: ignore[assignment]
    return dict(sorted(seconds.items()))
