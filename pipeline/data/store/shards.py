"""Write a planned shard as one WebDataset tar and its index, and read indexes back.

Building a shard again gives the same bytes. The index is written last, so a shard is finished when its index exists.
The index has one row per utterance, with its position in the tar; the metadata of its schema holds the
`ShardSummary` that snapshots are made of.
"""

from __future__ import annotations

import functools
import hashlib
import io
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
from pipeline.data.audio.load import POLICY, Loaded, codec_versions, load_audio
from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.data.store.catalog import UtteranceColumns
from pipeline.data.store.layout import attempt_name, index_name, rejects_name, tar_name
from pipeline.data.store.read_ahead import read_ahead
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
        ("codec", pa.string()),
        ("encoding", pa.string()),
        ("sample_rate", pa.int32()),
        ("num_channels", pa.int16()),
        ("bit_depth", pa.int16()),
        ("bitrate", pa.int32()),
        ("decoder", pa.string()),
        (
            "bandwidth_hz",
            pa.float32(),
        ),  # of the 16 kHz mono PCM16; null if too short to measure, or not yet measured
        ("pcm_sha256", pa.string()),  # of the 16 kHz mono PCM16, so equal for equal audio
    ]
)
"""Columns of an index, in order."""

REJECTS = pa.schema(
    [(name, pa.string()) for name in ("uid", "id", "corpus", "path", "label", "reason", "detail", "shard")]
)
"""Columns of a table of rejects."""

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


class ShardMember(UtteranceColumns):
    """An utterance to write: those columns of a catalog row that its index row repeats."""

    codec: str
    encoding: str
    sample_rate: int
    num_channels: int
    bit_depth: int | None
    bitrate: int


class IndexRow(ShardMember):
    """One row of `INDEX`: an utterance that has been written."""

    shard: str
    offset: int
    num_bytes: int
    seconds: float
    licence: str
    decoder: str
    bandwidth_hz: float | None
    pcm_sha256: str


class RejectRow(TypedDict):
    """One row of `REJECTS`: an utterance that could not be written."""

    uid: str
    id: str
    corpus: str
    path: str
    label: str
    reason: str
    detail: str
    shard: str


class Load(Protocol):
    """Decodes the bytes of a file, or of a segment of it, into a waveform."""

    def __call__(
        self, data: bytes, name: str, /, *, start: int | None, end: int | None, resampler: str
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

    A member whose audio is at fault becomes a reject with a reason. Any other error is raised, and leaves no shard.

    Args:
        name: name of the shard, from the plan.
        members: catalog rows in the order of the tar; the segments of a file must be consecutive.
        root: folder of the corpus.
        store: where tar, index and rejects are written.
        licence: licence of the corpus.
        resampler: one of `RESAMPLERS` in `pipeline.data.audio.load`.
        load: decodes one file.
    """
    corpus = members[0]["corpus"]
    written: list[IndexRow] = []
    rejects: list[RejectRow] = []
    with store.staged(tar_name(corpus, name)) as file:
        tar = TarWriter(file)
        for member, data in _with_contents(root, members):
            if data is None:
                rejects.append(_reject(member, name, "missing", "deleted after the catalog was made"))
                continue
            try:
                loaded = load(
                    data, member["path"], start=member["start"], end=member["end"], resampler=resampler
                )
            except AudioError as error:
                rejects.append(_reject(member, name, error.reason, error.detail))
                continue
            pcm = quantise(loaded.waveform)
            flac = encode_flac(pcm)
            row: IndexRow = {
                **member,
                "shard": name,
                "offset": 0,  # known once the FLAC is in the tar
                "num_bytes": len(flac),
                "seconds": len(loaded.waveform) / SAMPLE_RATE,
                "licence": licence,
                "decoder": loaded.decoder,
                "bandwidth_hz": bandwidth_hz(pcm),
                "pcm_sha256": pcm_digest(pcm),
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


def _reject(member: ShardMember, shard: str, reason: str, detail: str) -> RejectRow:
    return {
        "uid": member["uid"],
        "id": member["id"],
        "corpus": member["corpus"],
        "path": member["path"],
        "label": member["label"],
        "reason": reason,
        "detail": detail,
        "shard": shard,
    }


def _with_contents(
    root: Folder, members: Sequence[ShardMember]
) -> Iterator[tuple[ShardMember, bytes | None]]:
    """Each member with the bytes of its file, or None if the file has been deleted.

    Files are read while earlier ones are decoded. Segments of one file are consecutive and share one read.
    """
    paths = dict.fromkeys(member["path"] for member in members)
    read = functools.partial(_read_if_exists, root)
    contents = zip(paths, read_ahead(read, paths, num_threads=READ_AHEAD, num_ahead=READ_AHEAD), strict=True)
    path, data = None, None
    for member in members:
        if member["path"] != path:
            path, data = next(contents)
            assert path == member["path"], "members of a file must be consecutive"
        yield member, data


def _read_if_exists(root: Folder, path: str) -> bytes | None:
    try:
        return root.read(path)
    except FileNotFoundError:
        return None


def read_summary(store: Folder, corpus: str, name: str) -> ShardSummary:
    """The summary of a finished shard, from the metadata of its index."""
    with store.open(index_name(corpus, name)) as file:
        metadata = pq.read_schema(file).metadata or {}
    recorded = json.loads(metadata[b"bonafide"])
    return ShardSummary(**{key: recorded[key] for key in ShardSummary.__dataclass_fields__})


def read_index(store: Folder, corpus: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The index of a shard, or some of its columns; those that an earlier version did not write are null."""
    parquet = pq.ParquetFile(pa.BufferReader(store.read(index_name(corpus, name))))
    names = INDEX.names if columns is None else list(columns)
    index = parquet.read([column for column in names if column in parquet.schema_arrow.names])
    for position, column in enumerate(names):
        if column not in index.column_names:
            index = index.add_column(
                position, INDEX.field(column), pa.nulls(len(index), INDEX.field(column).type)
            )
    return index


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
