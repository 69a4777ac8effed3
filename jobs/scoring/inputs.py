"""What a scoring listens to: utterances of a store, or the audio files of a bare folder."""

from __future__ import annotations

import concurrent.futures
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from pipeline.errors import InputError
from pipeline.storage import STAGED_SUFFIX, Folder

if TYPE_CHECKING:
    from pipeline.config import Names

READERS = 16
"""Files on their way from the storage at once, per task."""

Row = dict[str, Any]

LOGITS = [
    ("logit_spoof", pa.float32()),
    ("logit_bonafide", pa.float32()),
    ("score", pa.float32()),  # logit_bonafide − logit_spoof
]
UTTERANCE_SCORES = pa.schema(
    [
        ("uid", pa.string()),
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("path", pa.string()),
        ("label", pa.string()),
        ("artifact", pa.string()),
        ("attack", pa.string()),
        ("language", pa.string()),
        ("speaker", pa.string()),
        ("split", pa.string()),
        ("seconds", pa.float32()),
        *LOGITS,
    ]
)
"""Columns of scores of a store, in order."""
FILE_SCORES = pa.schema([("id", pa.string()), ("path", pa.string()), *LOGITS])
"""Columns of scores of a bare folder, in order."""
REJECTS = pa.schema([("path", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
"""Columns of the files that have no score."""


@dataclass
class Heard:
    """The audio of some rows of the plan, and why others have none."""

    sample_type: Literal["int16", "float32"]
    positions: list[int] = field(default_factory=list)
    """Which rows, in order."""
    audio: list[bytes] = field(default_factory=list)
    """Their samples, 16 kHz mono."""
    rejects: list[Row] = field(default_factory=list)

    def reject(self, row: Row, reason: str, detail: str) -> None:
        """Say why a row has no audio."""
        self.rejects.append({"path": row["path"], "reason": reason, "detail": detail})


class Input(Protocol):
    """Where audio comes from; goes to the workers that decode."""

    schema: pa.Schema
    """Columns of the scores."""
    num_cpus: float
    """Of a task that decodes."""

    def hear(self, rows: Sequence[Row], out: Folder, work: str) -> Heard:
        """Decode some rows of the plan; `work` names them to whoever takes over from a dead worker."""


@dataclass(frozen=True)
class Planned:
    """All that a scoring is about to do, and what makes it that one and no other."""

    input: Input
    rows: pa.Table
    """What to score, with a column `seconds`."""
    rejects: list[Row]
    """What is known before anything is decoded to have no score."""
    identity: dict[str, Any]
    name: str
    """What people call it."""
    digest: str
    source: str
    """Where it lies."""


@dataclass(frozen=True)
class StoredUtterances:
    """Shards of a store."""

    store: Folder
    schema = UTTERANCE_SCORES
    num_cpus = 0.25

    def hear(self, rows: Sequence[Row], out: Folder, work: str) -> Heard:  # noqa: ARG002 what we wrote is no danger
        """PCM16, as shards hold it: half the bytes of float32."""
        with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
            return Heard("int16", list(range(len(rows))), list(pool.map(self._pcm, rows)))

    def _pcm(self, row: Row) -> bytes:
        from pipeline.data.audio.load import decode_flac
        from pipeline.data.store.layout import tar_name

        first = row["offset"]
        flac = self.store.read(tar_name(row["corpus"], row["shard"]), first, first + row["num_bytes"])
        return (decode_flac(flac) * 32768).astype(np.int16).tobytes()


def plan_store(store: Folder, snapshot_name: str, corpora: Names) -> Planned:
    """The utterances of the named corpora of a snapshot, by default of all evaluation corpora."""
    from pipeline.data.store.snapshot import choose_corpora, load_snapshot, load_utterances

    snapshot = load_snapshot(store, snapshot_name)
    chosen = choose_corpora(snapshot, corpora, role="evaluation")
    return Planned(
        input=StoredUtterances(store),
        rows=load_utterances(store, chosen),
        rejects=[],
        identity={"snapshot": snapshot.digest, "corpora": sorted(chosen.corpora)},
        name=f"snapshot {snapshot.name}",
        digest=snapshot.digest,
        source=store.uri,
    )


@dataclass(frozen=True)
class BareFiles:
    """Audio files of any format below a folder."""

    root: Folder
    schema = FILE_SCORES
    num_cpus = 1.0

    def hear(self, rows: Sequence[Row], out: Folder, work: str) -> Heard:
        """Waveforms as they come out of the decoder and the resampler, not rounded to PCM16."""
        from pipeline.data.audio.isolation import crash_safe
        from pipeline.data.audio.load import AudioError, load_audio

        heard = Heard("float32")
        with (
            concurrent.futures.ThreadPoolExecutor(READERS) as pool,
            crash_safe(load_audio, out, f"attempts/{work}") as load,
        ):
            for start in range(0, len(rows), READERS):  # files wait in memory, so few of them at once
                some = rows[start : start + READERS]
                for position, (row, data) in enumerate(zip(some, pool.map(self._read, some), strict=True)):
                    if data is None:
                        heard.reject(row, "missing", "gone since it was listed")
                        continue
                    try:
                        waveform = load(data, row["path"]).waveform
                    except AudioError as error:
                        heard.reject(row, error.reason, error.detail)
                        continue
                    heard.positions.append(start + position)
                    heard.audio.append(waveform.tobytes())
        return heard

    def _read(self, row: Row) -> bytes | None:
        try:
            return self.root.read(row["path"])
        except FileNotFoundError:
            return None


BYTES_PER_SECOND = 32_000
BYTES_PER_SECOND_LOSSY = 4_000
LOSSLESS_ENDINGS = (".wav", ".wave", ".flac")


def plan_folder(root: Folder, out: Folder) -> Planned:
    """Every file below a folder; which of them is audio only decoding tells, and how long it is a guess from its size.

    Raises:
        InputError: there is no such folder, nothing in it, or the scores would go into it.
    """
    if f"{out.uri}/".startswith(f"{root.uri}/"):
        raise InputError(
            f"{out.uri} lies in the folder that is scored; choose an --out outside of {root.uri}"
        )
    try:
        files = [info for info in root.find() if not info.name.endswith(STAGED_SUFFIX)]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{root.uri}: no such folder; --audio takes a folder of audio files") from error
    if not files:
        raise InputError(f"{root.uri}: no files there")
    digest = hashlib.sha256()
    rows, rejects = [], []
    for info in files:
        digest.update(f"{info.name}\0{info.size}\0{info.version}\n".encode("utf-8", "surrogatepass"))
        if not _is_text(info.name):
            path = info.name.encode("utf-8", "backslashreplace").decode()
            rejects.append({"path": path, "reason": "name_not_text", "detail": "rename it to UTF-8"})
            continue
        is_lossless = info.name.lower().endswith(LOSSLESS_ENDINGS)
        seconds = info.size / (BYTES_PER_SECOND if is_lossless else BYTES_PER_SECOND_LOSSY)
        rows.append({"path": info.name, "size": info.size, "seconds": seconds})
    return Planned(
        input=BareFiles(root),
        rows=pa.Table.from_pylist(_with_ids(rows), _PLAN),
        rejects=rejects,
        identity={"audio": root.uri, "files": digest.hexdigest()[:16]},
        name=PurePosixPath(root.uri).name,
        digest=digest.hexdigest()[:16],
        source=root.uri,
    )


_PLAN = pa.schema(
    [("id", pa.string()), ("path", pa.string()), ("size", pa.int64()), ("seconds", pa.float32())]
)


def _with_ids(rows: Sequence[Row]) -> list[Row]:
    """Rows with an id: the path without its ending, or with it where another file is called the same."""
    stems = [str(PurePosixPath(row["path"]).with_suffix("")) for row in rows]
    counts = Counter([*stems, *(row["path"] for row in rows)])
    return [
        row | {"id": stem if counts[stem] == 1 + (stem == row["path"]) else row["path"]}
        for row, stem in zip(rows, stems, strict=True)
    ]


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def reasons(rejects: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Rejected files by reason."""
    return dict(sorted(Counter(str(reject["reason"]) for reject in rejects).items()))
