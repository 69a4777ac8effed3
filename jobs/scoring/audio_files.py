"""The audio files of a folder, in any format, as audio to score."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pyarrow as pa

from jobs.scoring.inputs import NUM_READERS, DecodedPart, Reject, Row, ScoringPlan, to_reject_row
from pipeline.data.corpora.files import FILE_PROBLEMS, left_out
from pipeline.errors import InputError, UnreadableError
from pipeline.evaluation import layout
from pipeline.storage import FileInfo, Folder

if TYPE_CHECKING:
    from pipeline.data.audio.waveform import Waveform

LARGE_BYTES = 64 * 2**20
"""A file of more bytes is not read ahead: its header is probed first, by the process that decodes it."""

BYTES_PER_SECOND = 32_000
"""Assumed size of lossless audio: 16 kHz mono PCM16."""
BYTES_PER_SECOND_LOSSY = 4_000
"""Assumed size of all other audio: 32 kbit/s."""
LOSSLESS_ENDINGS = (".wav", ".wave", ".flac")
"""Only for that estimate; the content of a file decides whether it is audio."""

LEFT_OUT = {
    "hidden": "its name, or that of a folder above it, begins with a dot",
    "system": "in a folder in which a system keeps copies or notes",
}
"""What it means that a file is left out by rule; such files do not count for the identity of scores."""

FILE_PLAN = pa.schema(
    [("id", pa.string()), ("path", pa.string()), ("size", pa.int64()), ("seconds", pa.float32())]
)
"""Columns of the plan for a folder of audio files; `size` is in bytes, `seconds` is an estimate."""


@dataclass(frozen=True)
class AudioFiles:
    """Audio files of any format in a folder and its subfolders."""

    root: Folder
    schema = layout.FILE_COLUMNS
    key = layout.FILE_KEY

    def decode(self, rows: Sequence[Row], out: Folder, marker: str) -> DecodedPart:
        """Decode and resample files to float32, without rounding to PCM16."""
        from pipeline.data.audio.errors import AudioError
        from pipeline.data.audio.isolation import crash_safe
        from pipeline.data.store.read_ahead import read_ahead

        part = DecodedPart()
        sources = read_ahead(
            self._read, rows, num_threads=NUM_READERS, num_ahead=NUM_READERS, size=_bytes_ahead
        )
        with contextlib.closing(sources), crash_safe(decode_file, out, marker) as decode:
            for position, row in enumerate(rows):
                source = next(sources)
                try:
                    if isinstance(source, Reject):
                        part.reject(row, *source)
                        continue
                    waveform = decode(source, row["path"])
                except AudioError as error:
                    part.reject(row, error.reason, error.detail)
                except (FileNotFoundError, UnreadableError) as error:
                    part.reject(row, *_reject(error))
                else:
                    part.add(position, waveform)
                finally:
                    del source  # before the next file is read, because each may be large
        return part

    def _read(self, row: Row) -> bytes | Folder | Reject:
        """Return the bytes of a file, its folder if it is large, or why it has no audio."""
        from pipeline.data.audio.containers.locate import recognise_or_refuse
        from pipeline.data.audio.errors import AudioError

        path, size = row["path"], row["size"]
        try:
            with self.root.open(path, size) as file:
                recognise_or_refuse(file, path)
                if size > LARGE_BYTES:
                    return self.root
                file.seek(0)
                return file.read()
        except AudioError as error:
            return Reject(error.reason, error.detail)
        except (FileNotFoundError, UnreadableError) as error:
            return _reject(error)


def _reject(error: FileNotFoundError | UnreadableError) -> Reject:
    if isinstance(error, UnreadableError):
        return Reject("unreadable", str(error))
    return Reject("missing", "deleted since the folder was listed")


def _bytes_ahead(row: Row) -> int:
    size = int(row["size"])
    return size if size <= LARGE_BYTES else 0


def decode_file(source: bytes | Folder, name: str) -> Waveform:
    """Decode and resample a file; of a large one, read the header first and the rest only if that holds no fault.

    Args:
        source: the whole file, or the folder with the file if it is large.
        name: path of the file in its folder.

    Raises:
        AudioError: the file is not complete, valid audio, or too long or large.
        UnreadableError: the file cannot be read.
    """
    from pipeline.data.audio.errors import AudioError
    from pipeline.data.audio.load import load_audio, probe
    from pipeline.data.audio.waveform import MAX_SECONDS
    from pipeline.data.store.read_ahead import MAX_FILE_BYTES

    if isinstance(source, bytes):
        return load_audio(source, name).waveform
    with source.open(name) as file:
        header = probe(file, name)
        if header.num_samples is not None and header.seconds > MAX_SECONDS:
            raise AudioError("too_long", name, f"{header.seconds:.0f} s; the limit is {MAX_SECONDS:.0f} s")
        num_bytes = file.seek(0, io.SEEK_END)
        if num_bytes > MAX_FILE_BYTES:
            raise AudioError("too_large", name, f"{num_bytes} bytes; the limit is {MAX_FILE_BYTES} bytes")
        file.seek(0)
        data = file.read()
    return load_audio(data, name).waveform


def plan_folder(root: Folder, out: Folder) -> ScoringPlan:
    """List every file in a folder; decoding decides which files are audio, and file sizes give estimated durations.

    Hidden files, those of system folders and those that must not be opened are rejected here.

    Raises:
        InputError: the folder does not exist or has no file to score, or `out` is inside of it.
    """
    from pipeline.data.audio.waveform import MAX_SECONDS

    if f"{out.uri}/".startswith(f"{root.uri}/"):
        raise InputError(f"{out.uri} is inside the folder to score; choose an --out outside {root.uri}")
    try:
        files = list(root.find())
    except FileNotFoundError as error:
        raise InputError(f"{root.uri}: no such folder; --audio expects a folder of audio files") from error
    digest = hashlib.sha256()
    rows, rejects = [], []
    for info in files:
        reject = _reject_by_name(info)
        if reject is None or reject.reason not in LEFT_OUT:
            # Not the version, which changes when only the permissions do.
            identity = f"{info.name}\0{info.size}\0{info.modified!r}\n"
            digest.update(identity.encode("utf-8", "surrogatepass"))
        if reject is not None:
            path = info.name.encode("utf-8", "backslashreplace").decode()
            rejects.append(to_reject_row({"path": path}, reject))
            continue
        is_lossless = info.name.lower().endswith(LOSSLESS_ENDINGS)
        seconds = info.size / (BYTES_PER_SECOND if is_lossless else BYTES_PER_SECOND_LOSSY)
        # Whatever is longer is rejected, and would only make the division into parts expensive.
        rows.append({"path": info.name, "size": info.size, "seconds": min(seconds, MAX_SECONDS)})
    if not rows:
        counts = Counter(reject["reason"] for reject in rejects)
        files_found = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        content = f"has nothing to score: {files_found}" if counts else "is empty"
        raise InputError(f"{root.uri}: the folder {content}; --audio expects a folder of audio files")
    short_digest = digest.hexdigest()[:16]
    return ScoringPlan(
        audio_source=AudioFiles(root),
        rows=pa.Table.from_pylist(_with_ids(rows), FILE_PLAN),
        rejects=rejects,
        identity={"audio": root.uri, "files": short_digest},
        name=PurePosixPath(root.uri).name,
        digest=short_digest,
        uri=root.uri,
    )


def _reject_by_name(info: FileInfo) -> Reject | None:
    """Why a listed file is not opened; None if it is."""
    if kind := left_out(info.name):
        return Reject(kind, LEFT_OUT[kind])
    if not _is_utf8(info.name):
        return Reject("name_not_text", "rename it to UTF-8")
    return Reject(info.problem, FILE_PROBLEMS[info.problem]) if info.problem else None


def _with_ids(rows: Sequence[Row]) -> list[Row]:
    """Add an id to each row: the path without its ending, or the whole path if that would not be unique."""
    stems = [row["path"].removesuffix(PurePosixPath(row["path"]).suffix) for row in rows]
    counts = Counter([*stems, *(row["path"] for row in rows)])
    return [
        row | {"id": stem if counts[stem] == 1 + (stem == row["path"]) else row["path"]}
        for row, stem in zip(rows, stems, strict=True)
    ]


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
