"""The audio to score: utterances of a store, or the audio files of a folder."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.scoring.config import ScoreConfig
from pipeline.data.corpora.files import FILE_PROBLEMS, left_out
from pipeline.data.corpora.recipe import Recipe, load_recipe
from pipeline.errors import InputError, UnreadableError
from pipeline.evaluation import layout
from pipeline.storage import FileInfo, Folder

if TYPE_CHECKING:
    from pipeline.data.audio.waveform import Pcm, Waveform

NUM_READERS = 16
"""Concurrent reads from storage per decoding task."""

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

Row = dict[str, Any]

Samples = NDArray[np.int16] | NDArray[np.float32]
"""[num_samples] 16 kHz mono; int16 samples span ±32768, float32 samples ±1."""


class Reject(NamedTuple):
    """Why a file or an utterance has no score."""

    reason: str
    detail: str


def to_reject_row(row: Row, reject: Reject, seconds: float | None = None) -> Row:
    """Combine a row of the plan with the reason why it has no score, as in `layout.REJECT_COLUMNS`.

    Args:
        row: at least the path.
        reject: the reason.
        seconds: the duration, if it is known exactly.
    """
    known = {name: row.get(name) for name in ("path", "corpus", "id")}
    return known | {"seconds": seconds} | reject._asdict()


@dataclass
class DecodedPart:
    """The audio of the rows of one part, and the reasons why some rows have none."""

    positions: list[int] = field(default_factory=list)
    """Positions of the decoded rows within the part."""
    lengths: list[int] = field(default_factory=list)
    """Number of samples of each decoded row."""
    audio: list[Samples] = field(default_factory=list)
    """The samples of each decoded row."""
    rejects: list[Row] = field(default_factory=list)
    """One row per undecodable file, with `layout.REJECT_COLUMNS`."""

    def add(self, position: int, samples: Samples) -> None:
        """Add the audio of a row."""
        self.positions.append(position)
        self.lengths.append(len(samples))
        self.audio.append(samples)

    def sort_by_length(self) -> None:
        """Put the decoded rows into the order in which they are batched: longest first."""
        order = np.argsort(-np.array(self.lengths, np.int64), kind="stable").tolist()
        self.positions = [self.positions[index] for index in order]
        self.lengths = [self.lengths[index] for index in order]
        self.audio = [self.audio[index] for index in order]

    def reject(self, row: Row, reason: str, detail: str) -> None:
        """Record why a row has no audio."""
        self.rejects.append(to_reject_row(row, Reject(reason, detail)))


class AudioSource(Protocol):
    """Reads and decodes the audio of a plan; sent to the workers that decode."""

    schema: pa.Schema
    """Columns of the scores."""

    def decode(self, rows: Sequence[Row], out: Folder, marker: str) -> DecodedPart:
        """Read and decode some rows of the plan.

        Args:
            rows: rows of the plan.
            out: folder of the scores, which all workers share.
            marker: file in `out` that counts the workers that have started to decode this part.
        """


@dataclass(frozen=True)
class ScoringPlan:
    """The utterances or files of one scoring."""

    audio_source: AudioSource
    rows: pa.Table
    """Utterances or files to score; the column `seconds` has their durations."""
    rejects: list[Row]
    """Files that are known before decoding to have no score."""
    identity: dict[str, Any]
    """What the input contributes to the identity of the scores."""
    name: str
    """Name of the input, for display."""
    digest: str
    """Digest of the input for MLflow."""
    uri: str
    """Location of the input."""

    @property
    def num_found(self) -> int:
        """Utterances or files in the input, with and without a score."""
        return len(self.rows) + len(self.rejects)


def plan_scoring(config: ScoreConfig, out: Folder) -> ScoringPlan:
    """List the utterances or files to score.

    Raises:
        InputError: the store, its snapshot, a corpus or the folder does not exist, or contains nothing to score.
    """
    if config.use == "validation":
        recipe = load_recipe(config.recipe) if config.recipe else Recipe()
        return plan_validation(Folder(config.store), config.snapshot, config.corpora, recipe)
    if config.store:
        return plan_store(Folder(config.store), config.snapshot, config.corpora)
    return plan_folder(Folder(config.audio), out)


@dataclass(frozen=True)
class StoredUtterances:
    """Utterances in the shards of a store."""

    store: Folder
    schema = layout.UTTERANCE_COLUMNS

    def decode(self, rows: Sequence[Row], out: Folder, marker: str) -> DecodedPart:  # noqa: ARG002
        """Read PCM16 from shards, at half the bytes of float32.

        Ingest has encoded these utterances itself, so no protection against crashes is needed.

        Raises:
            InputError: a shard is missing or damaged.
        """
        part = DecodedPart()
        with concurrent.futures.ThreadPoolExecutor(NUM_READERS) as threads:
            for position, pcm in enumerate(threads.map(self._read_pcm, rows)):
                part.add(position, pcm)
        return part

    def _read_pcm(self, row: Row) -> Pcm:
        from pipeline.data.audio.errors import AudioError
        from pipeline.data.audio.flac import decode_pcm
        from pipeline.data.loading.reading import REBUILD_HINT
        from pipeline.data.store.layout import tar_name

        name, start = tar_name(row["corpus"], row["shard"]), row["offset"]
        try:
            return decode_pcm(self.store.read(name, start, start + row["num_bytes"]))
        except (FileNotFoundError, AudioError) as error:
            state = "missing" if isinstance(error, FileNotFoundError) else f"damaged at {row['uid']}"
            location = self.store.location(name)
            raise InputError(
                f"{location}: the snapshot lists this shard, but it is {state}; {REBUILD_HINT}"
            ) from error


def plan_store(store: Folder, snapshot_name: str, corpora: Sequence[str]) -> ScoringPlan:
    """List the utterances of the named corpora of a snapshot; without names, of all its evaluation corpora.

    Raises:
        InputError: the store, the snapshot or a corpus does not exist.
    """
    from pipeline.data.store.snapshot import choose_corpora, load_snapshot, load_utterances

    snapshot = load_snapshot(store, snapshot_name)
    chosen = choose_corpora(snapshot, corpora, role="evaluation")
    return ScoringPlan(
        audio_source=StoredUtterances(store),
        rows=load_utterances(store, chosen),
        rejects=[],
        identity={"snapshot": snapshot.digest, "corpora": sorted(chosen.corpora)},
        name=f"snapshot {snapshot.name}",
        digest=snapshot.digest,
        uri=store.uri,
    )


def plan_validation(store: Folder, snapshot_name: str, corpora: Sequence[str], recipe: Recipe) -> ScoringPlan:
    """List the utterances that a recipe holds out from a training; of all corpora that it covers, or the named ones.

    Raises:
        InputError: the store, the snapshot or a corpus does not exist, the recipe does not cover a corpus, or it holds
            out nothing.
    """
    from pipeline.data.store.snapshot import choose_corpora, load_snapshot, load_utterances

    snapshot = load_snapshot(store, snapshot_name)
    named = choose_corpora(snapshot, corpora).corpora
    covered = [name for name, corpus in named.items() if recipe.covers(name, corpus.role)]
    uncovered = sorted(set(corpora) - set(covered))
    name = f"recipe {recipe.name}" if recipe.name else "the recipe"
    if uncovered or not covered:
        raise InputError(
            f"{name} trains and validates with none of {', '.join(uncovered or named)}; name other --corpora, or score "
            "evaluation corpora without --use"
        )
    chosen = choose_corpora(snapshot, covered)
    rows = load_utterances(store, chosen)
    rows = rows.filter(pa.array(recipe.mask(rows, "validation")))
    if not rows.num_rows:
        raise InputError(f"{name} validates with no utterance of {', '.join(covered)}; name another --recipe")
    uids = "\n".join(sorted(rows["uid"].to_pylist()))
    digest = hashlib.sha256(uids.encode()).hexdigest()[:16]
    return ScoringPlan(
        audio_source=StoredUtterances(store),
        rows=rows,
        rejects=[],
        identity={
            "snapshot": snapshot.digest,
            "corpora": sorted(set(rows["corpus"].to_pylist())),
            "use": "validation",
            "utterances": digest,
        },
        name=f"snapshot {snapshot.name}, validation",
        digest=digest,
        uri=store.uri,
    )


@dataclass(frozen=True)
class AudioFiles:
    """Audio files of any format in a folder and its subfolders."""

    root: Folder
    schema = layout.FILE_COLUMNS

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
