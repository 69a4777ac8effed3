"""Write a planned shard: one WebDataset tar, its rejects and its index.

Building a shard again gives the same bytes. The index is written last, so a shard is finished when its index exists.
Index and rejects record a digest of each source file, so that a later ingest can tell whether a file with a new time
has new content.
"""

from __future__ import annotations

import functools
import io
import itertools
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from pipeline import tables
from pipeline.data.audio.bandwidth import bandwidth_hz
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.flac import encode_flac, pcm_digest, quantise
from pipeline.data.audio.isolation import crash_safe
from pipeline.data.audio.load import Loaded, OpenAudio, load_audio
from pipeline.data.audio.versions import POLICY
from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.data.store.catalog import MISSING, UNREADABLE
from pipeline.data.store.fingerprints import fingerprint_and_digest
from pipeline.data.store.layout import attempt_name, tar_name
from pipeline.data.store.read_ahead import read_ahead
from pipeline.data.store.shard_tables import (
    CHANGED,
    INDEX,
    IndexRow,
    RejectRow,
    ShardSummary,
    SourceColumns,
    commit_index,
    commit_rejects,
)
from pipeline.data.store.tar_writer import TarWriter
from pipeline.errors import UnreadableError
from pipeline.storage import Folder

FORMAT = "1"
"""Version of the layout of tars; a change rebuilds every shard."""

READ_AHEAD = 10
"""Groups of source files that are read while one is decoded."""

FILES_TOGETHER = 4
"""Files that a thread reads one after another before it waits. Each time that a thread wakes up, it takes the
interpreter lock from the decoder; with files of 200 KB, groups of 2 or 4 save at least 4 % of the processor time."""

BYTES_TOGETHER = 2**19
"""Bytes of such a group, unless it is one file; twice as many would save no time, but hold 5 MiB more."""

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


class ShardMember(SourceColumns):
    """An utterance to write: columns of a catalog row, those to recognise its file by included."""

    size: int | None
    """Bytes; None, like `fingerprint`, if any content will do."""
    fingerprint: str | None
    source_digest: str | None
    """None if the catalog has not read the whole file."""


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
        self,
        audio: OpenAudio,
        name: str,
        /,
        *,
        start: int | None,
        end: int | None,
        resampler: str,
        is_impulse_response: bool,
    ) -> Loaded: ...


def build_settings(resampler: str, licence: str) -> str:
    """Everything except the members that determines the bytes of a shard; the shard's name depends on it."""
    return f"format={FORMAT} audio={POLICY} resampler={resampler} licence={licence}"


def build_shard(
    name: str, members: Iterable[ShardMember], root: Folder, store: Folder, *, licence: str, resampler: str
) -> ShardSummary:
    """Write a shard as `write_shard` does; a file that crashes or hangs the decoder becomes a reject.

    Raises:
        InputError: too many workers have died while building the shard.
    """
    corpus, members = _corpus_of(members)
    with crash_safe(load_audio, store, attempt_name(corpus, name)) as load:
        return write_shard(name, members, root, store, licence=licence, resampler=resampler, load=load)


def write_shard(
    name: str,
    members: Iterable[ShardMember],
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
        members: catalog rows in the order of the tar; the segments of a file must be consecutive. Each row is dropped
            once it is written.
        root: folder of the corpus.
        store: where tar, index and rejects are written.
        licence: licence of the corpus.
        resampler: one of `RESAMPLERS` in `pipeline.data.audio.convert`.
        load: decodes one file.
    """
    corpus, members = _corpus_of(members)
    written = tables.Rows(INDEX)
    seconds: Counter[str] = Counter()  # adds floats as well as counts
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
                    is_impulse_response=member["label"] == "rir",
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
            seconds[row["label"]] += row["seconds"]  # type: ignore[assignment]
        sha256, num_bytes = tar.close()
    reasons = Counter(reject["reason"] for reject in rejects)
    summary = ShardSummary(
        name,
        corpus,
        num_bytes,
        sha256,
        len(written),
        dict(sorted(seconds.items())),
        rejected=dict(sorted(reasons.items())),
    )
    if rejects:
        commit_rejects(store, summary, rejects)
    commit_index(store, summary, written.table(), build_settings(resampler, licence))
    return summary


def _corpus_of(members: Iterable[ShardMember]) -> tuple[str, Iterator[ShardMember]]:
    """Return the corpus of the first member, and all members."""
    remaining = iter(members)
    first = next(remaining)
    return first["corpus"], itertools.chain([first], remaining)


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


def _with_sources(root: Folder, members: Iterable[ShardMember]) -> Iterator[tuple[ShardMember, Source]]:
    """Each member with its file.

    Files are read while earlier ones are decoded. Consecutive segments of one file share one read.
    """
    groups = read_ahead(
        functools.partial(_read_sources, root),
        _groups(members),
        num_threads=READ_AHEAD,
        num_ahead=READ_AHEAD,
        size=_num_bytes,
    )
    for group in groups:
        while group:
            segments, source = group.popleft()
            for member in segments:
                yield member, source


def _groups(members: Iterable[ShardMember]) -> Iterator[list[list[ShardMember]]]:
    """The files that one thread reads together, each as the list of its segments."""
    group: list[list[ShardMember]] = []
    for _, segments in itertools.groupby(members, key=lambda member: member["path"]):
        file = list(segments)
        if group and (len(group) == FILES_TOGETHER or _num_bytes([*group, file]) > BYTES_TOGETHER):
            yield group
            group = []
        group.append(file)
    yield group


def _num_bytes(files: Sequence[Sequence[ShardMember]]) -> int:
    return sum(segments[0]["size"] or 0 for segments in files)


def _read_sources(
    root: Folder, files: Sequence[list[ShardMember]]
) -> deque[tuple[list[ShardMember], Source]]:
    return deque((segments, _read_source(root, segments[0])) for segments in files)


def _read_source(root: Folder, member: ShardMember) -> Source:
    """Read the file of a member; a file that has grown is read only as far as shows it."""
    path, size = member["path"], member["size"]
    try:
        data = root.read(path) if size is None else root.read(path, 0, size + 1)
    except FileNotFoundError:
        return Source(problem=MISSING, detail="deleted since it was cataloged")
    except UnreadableError as error:
        return Source(problem=UNREADABLE, detail=str(error))
    ends, digest = fingerprint_and_digest(io.BytesIO(data), len(data))
    if _is_cataloged(member, len(data), ends, digest):
        return Source(OpenAudio(data, path), digest)
    return Source(
        problem=CHANGED, detail="overwritten since it was cataloged; the next ingest reads it again"
    )


def _is_cataloged(member: ShardMember, size: int, ends: str, digest: str) -> bool:
    """Whether a file with this size, fingerprint and digest is the one that the name of the shard stands for."""
    if member["size"] is None or member["fingerprint"] is None:
        return True
    if member["size"] != size:
        return False
    if member["source_digest"] is not None:
        return member["source_digest"] == digest
    return member["fingerprint"] == ends
