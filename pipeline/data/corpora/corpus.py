"""Read a corpus as its manifest describes: each of its files is an utterance, a problem, or counted as no audio."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pipeline.data.audio.containers.names import is_audio_name
from pipeline.data.corpora.files import FILE_PROBLEMS, IGNORED, excluded, kind_of
from pipeline.data.corpora.manifest import Manifest
from pipeline.data.corpora.pattern import Fields, compile_glob
from pipeline.data.corpora.protocol import ProtocolTable
from pipeline.data.corpora.translation import Translator, classified
from pipeline.data.corpora.utterance import (
    Entry,
    NotAudio,
    Problem,
    Utterance,
    utterance_uid,
)
from pipeline.errors import InputError
from pipeline.storage import FileInfo, Folder


def read_corpus(manifest: Manifest, root: Folder) -> Iterator[Utterance | Problem]:
    """Yield every utterance of a corpus and every problem, in the order of the paths.

    Streams: only the protocol table is held in memory, and missing files come last. Duplicate ids are kept here;
    `repeated.reject_repeated` removes them once every row is known.

    Raises:
        InputError: the folder or its protocol does not exist, or the protocol is not a table.
    """
    for _, item in read_files(manifest, root):
        if not isinstance(item, NotAudio):
            yield item


def read_files(manifest: Manifest, root: Folder) -> Iterator[Entry]:
    """Like `read_corpus`, but yield each item with its listed file, or None for a problem without a file.

    Every listed file is yielded, also those that are left out by rule. A file with published segments is yielded once
    per segment.
    """
    if not root.exists():
        raise InputError(f"{manifest.name}: no folder {root.uri}")
    reader = _Reader(manifest)
    if reader.table:
        for problem in reader.table.load(root):
            yield None, problem
    for file, fields in _matched(reader, root):
        if isinstance(fields, (Problem, NotAudio)):
            yield file, fields
        else:
            for item in reader.items(file, fields):
                yield file, item
    if reader.table:
        for problem in reader.table.missing(root):
            yield None, problem


def _matched(reader: _Reader, root: Folder) -> Iterator[tuple[FileInfo, Fields | Problem | NotAudio]]:
    """Yield every file with its fields; those that find a row only by another form of their name come last."""
    later: list[tuple[FileInfo, Fields]] = []
    for file in root.find():
        fields = reader.match(file)
        if (
            isinstance(fields, (Problem, NotAudio))
            or file.name.isascii()
            or reader.table is None
            or reader.table.joins_as_written(fields)
        ):
            yield file, fields
        else:
            later.append((file, fields))
    yield from later


def segment(utterance: Utterance, *, seconds: float, sample_rate: int, num_samples: int) -> list[Utterance]:
    """Cut a whole file into consecutive pieces; the shorter last piece is kept.

    Args:
        utterance: the whole file.
        seconds: length of a piece.
        sample_rate: sample rate of the file, Hz.
        num_samples: samples of the file per channel.

    Raises:
        InputError: a piece would have no sample.
    """
    step = int(seconds * sample_rate)
    if step < 1:
        raise InputError(f"{utterance.corpus}: pieces of {seconds} s have no samples at {sample_rate} Hz")
    return [
        replace(
            utterance,
            uid=utterance_uid(utterance.corpus, utterance.path, start, min(start + step, num_samples)),
            id=f"{utterance.id}_seg{number}",
            start=start,
            end=min(start + step, num_samples),
        )
        for number, start in enumerate(range(0, num_samples, step), 1)
    ]


class _Reader:
    """A compiled manifest, applied to one path or one set of fields at a time."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.patterns = [pattern.regex for pattern in manifest.audio]
        self.ignore = [compile_glob(glob) for glob in manifest.ignore]
        self.known_bad = [(compile_glob(glob), reason) for glob, reason in manifest.known_bad.items()]
        self.translator = Translator(manifest)
        self.table: ProtocolTable | None = None
        """The protocol, still to be loaded."""
        if manifest.protocol:
            self.table = ProtocolTable(manifest, manifest.protocol, self.translator)

    def match(self, file: FileInfo) -> Fields | Problem | NotAudio:
        """Return the fields of a file that an audio pattern matches, or what it is otherwise."""
        path = file.name
        other = excluded(path)
        if other is not None:
            return other
        for regex in self.patterns:
            match = regex.fullmatch(path)
            if match:
                return {**self.manifest.constants, **match.groupdict()}
        if any(glob.fullmatch(path) for glob in self.ignore):
            return NotAudio(path, IGNORED)
        if file.problem:
            return Problem(path, file.problem, FILE_PROBLEMS[file.problem])
        if not is_audio_name(path.rstrip(" .")):
            return NotAudio(path, kind_of(path))
        if self.table:
            self.table.namesakes.add(path)
        return Problem(path, "stray", "matches no audio pattern of the manifest")

    def items(self, file: FileInfo, fields: Fields) -> Iterator[Utterance | Problem | NotAudio]:
        """Yield what a file that an audio pattern matches is: one item, or one per segment."""
        path, fault = file.name, self._fault(file)
        is_listed = False
        for row in self.table.rows(path, fields) if self.table else (fields,):
            is_listed = True
            item = row if isinstance(row, Problem) else self._resolve(path, row)
            if self.table and item is not row and isinstance(item, Problem):
                item = self.table.located(item, fields)
            if fault is not None:
                item = Problem(path, *fault, item.label, item.artifact, item.attack, item.language)
            yield item
        if not is_listed:  # nor has it an audio ending
            yield NotAudio(path, kind_of(path)) if fault is None else Problem(path, *fault)

    def _fault(self, file: FileInfo) -> tuple[str, str] | None:
        """Reason and detail why a file must not be used, whatever path and protocol say; None if it may be."""
        for glob, reason in self.known_bad:
            if glob.fullmatch(file.name):
                return "known-bad", reason
        return (file.problem, FILE_PROBLEMS[file.problem]) if file.problem else None

    def _resolve(self, path: str, fields: Fields) -> Utterance | Problem:
        """Translate the fields of a file into an utterance. Modifies `fields`."""
        fault = self.translator.translate(fields)
        if fault:
            return classified(path, fault.reason, fault.detail, fields)
        return self._utterance(path, fields)

    def _utterance(self, path: str, fields: Fields) -> Utterance:
        get = fields.get
        label = get("label")
        assert label is not None  # the translator has checked it
        is_spoof = label == "spoof"
        start, end = get("start"), get("end")
        bounds = (None, None) if start is None or end is None else (int(start), int(end))
        corpus = self.manifest.name
        return Utterance(
            utterance_uid(corpus, path, *bounds),
            self.manifest.id.fill(fields),
            corpus,
            path,
            label,
            get("artifact") if is_spoof else None,
            get("attack") if is_spoof else None,
            get("speaker"),
            get("language"),
            get("split"),
            *bounds,
        )
