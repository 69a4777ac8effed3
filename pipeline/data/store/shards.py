"""One planned shard becomes one WebDataset tar and its index; running it again gives the same bytes.

The index is written last: a shard is done when its index is there. It holds a row per utterance with its place in
the tar, and in the metadata of its schema what a snapshot needs to know of the shard.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import io
import itertools
import json
import tarfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO, Protocol, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import tables
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.flac import encode_flac, pcm_digest, quantise
from pipeline.data.audio.isolation import crash_safe
from pipeline.data.audio.load import POLICY, Loaded, codec_versions, load_audio
from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.storage import Folder

FORMAT = "1"
"""Version of the layout of tars; a change rebuilds every shard."""

READ_AHEAD = 16
"""Source files on their way while one is decoded."""

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
        ("pcm_sha256", pa.string()),  # of the 16 kHz mono PCM16: equal audio, equal digest
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
"""What the JSON beside each FLAC says."""


Row = dict[str, Any]
"""A row of the catalog, and what building adds to it."""


class Load(Protocol):
    """What turns the bytes of a file, or of a segment of it, into a waveform."""

    def __call__(
        self, data: bytes, name: str, /, *, start: int | None, end: int | None, resampler: str
    ) -> Loaded: ...


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What a snapshot knows of a shard."""

    name: str
    corpus: str
    num_bytes: int
    """Of the tar."""
    sha256: str
    """Of the tar."""
    num_utterances: int
    seconds: dict[str, float]
    """Written audio by label."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Members that could not be written, by reason."""


def tar_name(corpus: str, name: str) -> str:
    """Where a tar lies in the store."""
    return f"shards/{corpus}/{name}.tar"


def index_name(corpus: str, name: str) -> str:
    """Where an index lies in the store."""
    return f"index/{corpus}/{name}.parquet"


def rejects_name(corpus: str, name: str) -> str:
    """Where the rejects of a shard lie in the store; there is no such file if there are none."""
    return f"rejects/{corpus}/{name}.parquet"


def build_settings(resampler: str, licence: str) -> str:
    """What determines the bytes of a shard beside its members: part of every shard's name."""
    return f"format={FORMAT} audio={POLICY} resampler={resampler} licence={licence}"


class TarWriter:
    """Writes a deterministic USTAR tar and hashes it on the way: no times, owners or order of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._sink = _HashingSink(file)
        self._tar = tarfile.TarFile(
            fileobj=cast("BinaryIO", self._sink), mode="w", format=tarfile.USTAR_FORMAT
        )

    def add(self, uid: str, flac: bytes, metadata: Row) -> int:
        """Append `<uid>.flac` and `<uid>.json`; returns the offset of the audio in bytes."""
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
        """End the tar; returns its SHA-256 and its length in bytes."""
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
    name: str, members: Sequence[Row], root: Folder, store: Folder, *, licence: str, resampler: str
) -> ShardSummary:
    """Write a shard; survive the file that ends the worker.

    Raises:
        RuntimeError: too many workers died over the shard.
    """
    with crash_safe(load_audio, store, f"attempts/{members[0]['corpus']}/{name}") as load:
        return write_shard(name, members, root, store, licence=licence, resampler=resampler, load=load)


def write_shard(
    name: str,
    members: Sequence[Row],
    root: Folder,
    store: Folder,
    *,
    licence: str,
    resampler: str,
    load: Load = load_audio,
) -> ShardSummary:
    """Decode, resample and write the members of one shard; tar first, index last.

    Args:
        name: of the shard, from the plan.
        members: catalog rows in the order of the tar.
        root: folder of the corpus.
        store: where tar, index and rejects go.
        licence: of the corpus.
        resampler: policy of `pipeline.data.audio.load`.
        load: decodes one file.

    A member whose audio is at fault becomes a reject with a reason. Anything else rises, and nothing is written.
    """
    corpus = str(members[0]["corpus"])
    written: list[Row] = []
    rejects: list[Row] = []
    with store.staged(tar_name(corpus, name)) as file:
        tar = TarWriter(file)
        for member, data in _read_ahead(root, members):
            if data is None:
                rejects.append(_reject(member, name, "missing", "gone since the catalog was made"))
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
            row = member | {
                "shard": name,
                "licence": licence,
                "seconds": len(loaded.waveform) / SAMPLE_RATE,
                "decoder": loaded.decoder,
                "num_bytes": len(flac),
                "pcm_sha256": pcm_digest(pcm),
            }
            row["offset"] = tar.add(row["uid"], flac, {key: row[key] for key in METADATA})
            written.append(row)
        sha256, num_bytes = tar.close()
    summary = ShardSummary(
        name, corpus, num_bytes, sha256, len(written), _seconds_by_label(written), dict(_reasons(rejects))
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


def _reject(member: Row, shard: str, reason: str, detail: str) -> Row:
    return member | {"shard": shard, "reason": reason, "detail": detail}


def _read_ahead(root: Folder, members: Sequence[Row]) -> Iterator[tuple[Row, bytes | None]]:
    """Each member with the bytes of its file (None if it is gone), read while earlier ones are decoded.

    Segments of one file follow each other and share one read.
    """
    with concurrent.futures.ThreadPoolExecutor(READ_AHEAD) as pool:
        paths = iter(dict.fromkeys(member["path"] for member in members))
        pending = deque(
            (path, pool.submit(_read, root, path)) for path in itertools.islice(paths, READ_AHEAD)
        )
        path, data = None, None
        for member in members:
            if member["path"] != path:
                path, future = pending.popleft()
                assert path == member["path"], "members of a file must follow each other"
                data = future.result()
                following = next(paths, None)
                if following is not None:
                    pending.append((following, pool.submit(_read, root, following)))
            yield member, data


def _read(root: Folder, path: str) -> bytes | None:
    try:
        return root.read(path)
    except FileNotFoundError:
        return None


def read_summary(store: Folder, corpus: str, name: str) -> ShardSummary:
    """What the index of a finished shard says of it."""
    with store.open(index_name(corpus, name)) as file:
        metadata = pq.read_schema(file).metadata or {}
    found = json.loads(metadata[b"bonafide"])
    return ShardSummary(**{key: found[key] for key in ShardSummary.__dataclass_fields__})


def read_index(store: Folder, corpus: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The index of a shard."""
    return tables.read_table(store, index_name(corpus, name), columns)


def done_shards(store: Folder, corpus: str) -> set[str]:
    """Names of the finished shards of a corpus."""
    if not store.exists(f"index/{corpus}"):
        return set()
    suffix = ".parquet"
    return {
        info.name.rpartition("/")[2].removesuffix(suffix)
        for info in store.find(f"index/{corpus}")
        if info.name.endswith(suffix)
    }


def _seconds_by_label(rows: Sequence[Row]) -> dict[str, float]:
    seconds: Counter[str] = Counter()
    for row in rows:
        seconds[row["label"]] += row["seconds"]
    return dict(sorted(seconds.items()))


def _reasons(rejects: Sequence[Row]) -> list[tuple[str, int]]:
    return sorted(Counter(str(row["reason"]) for row in rejects).items())
