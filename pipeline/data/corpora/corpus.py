"""Read a corpus as its manifest describes: each of its files is an utterance, a problem, or counted as no audio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from pipeline.data.audio.containers.names import is_audio_name
from pipeline.data.corpora.files import FILE_PROBLEMS, IGNORED, kind_of, left_out
from pipeline.data.corpora.manifest import ANY, Manifest
from pipeline.data.corpora.pattern import Fields, compile_glob, first_match, is_glob
from pipeline.data.corpora.protocol import ProtocolTable
from pipeline.data.corpora.utterance import (
    ARTIFACTS,
    LABELS,
    SPLITS,
    Entry,
    NotAudio,
    Problem,
    Utterance,
    utterance_uid,
)
from pipeline.errors import InputError
from pipeline.storage import FileInfo, Folder

SPOOF_FIELDS = ("attack", "artifact")
"""Fields that only spoofed utterances have; the cells of bona fide rows are ignored."""

CACHED_SPELLINGS = 100_000
"""Maximum number of cached translations per field."""


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
    table = None
    if manifest.protocol:
        table = ProtocolTable(manifest, manifest.protocol)
        for problem in table.load(root):
            yield None, problem
    for file in root.find():
        for item in reader.read(file, table):
            yield file, item
    if table:
        for problem in table.missing():
            yield None, problem


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
        # The label comes first: attack and artifact are ignored for bona fide speech.
        translated = sorted(manifest.translate, key=lambda name: name != "label")
        self.spellings = {name: _Spellings(manifest.translate[name]) for name in translated}
        self.languages = None if ANY in manifest.languages else frozenset(manifest.languages)

    def read(self, file: FileInfo, table: ProtocolTable | None) -> Iterator[Utterance | Problem | NotAudio]:
        """Yield what a listed file is: one item, or one for each published segment."""
        path = file.name
        fields = self._match(path)
        if fields is None or left_out(path) or _has_raw_bytes(path):
            yield self._other(file)
            return
        fault = self._fault(file)
        item: Utterance | Problem | NotAudio | None = None
        for row in table.rows(path, fields) if table else (fields,):
            item = row if isinstance(row, Problem) else self._resolve(path, row)
            yield _lost(item, *fault) if fault else item
        if item is None:  # neither a row nor an audio ending
            yield Problem(path, *fault) if fault else NotAudio(path, kind_of(path))

    def _match(self, path: str) -> Fields | None:
        """Return the fields of a path; None if no audio pattern matches."""
        for regex in self.patterns:
            match = regex.fullmatch(path)
            if match:
                return {**self.manifest.constants, **match.groupdict()}
        return None

    def _other(self, file: FileInfo) -> Problem | NotAudio:
        """What a file is that is left out by rule, has a name that is no text, or matches no audio pattern."""
        path = file.name
        if _has_raw_bytes(path):
            text = ascii(path)[1:-1]
            if left_out(path):
                return NotAudio(text, kind_of(path))
            return Problem(text, "bad-name", "the file name is not UTF-8")
        if left_out(path):
            return NotAudio(path, kind_of(path))
        if any(glob.fullmatch(path) for glob in self.ignore):
            return NotAudio(path, IGNORED)
        if file.problem:
            return Problem(path, file.problem, FILE_PROBLEMS[file.problem])
        if is_audio_name(path.rstrip(" .")):
            return Problem(path, "stray", "matches no audio pattern of the manifest")
        return NotAudio(path, kind_of(path))

    def _fault(self, file: FileInfo) -> tuple[str, str] | None:
        """Reason and detail why an audio file must not be used, whatever path and protocol say; None if it may be."""
        for glob, reason in self.known_bad:
            if glob.fullmatch(file.name):
                return "known-bad", reason
        return (file.problem, FILE_PROBLEMS[file.problem]) if file.problem else None

    def _resolve(self, path: str, fields: Fields) -> Utterance | Problem:
        """Parse and translate the fields of a path into an utterance. Modifies `fields`."""
        first: tuple[str, str] | None = (
            None  # the first fault counts; the fields after it still tell the class
        )
        for parsed, patterns in self.manifest.parse.items():
            value = fields.get(parsed)
            if value is None:
                continue
            captured = first_match(patterns, value)
            if captured is None:
                first = first or (f"unknown-{parsed}", f"{value!r} matches no pattern of parse.{parsed}")
            else:
                fields.update(captured)
        for name, spellings in self.spellings.items():
            value = fields.get(name)
            if value is None or (name in SPOOF_FIELDS and fields.get("label") == "bonafide"):
                continue
            try:
                fields[name] = spellings[value]
            except KeyError:
                fields[name] = None
                first = first or (f"unknown-{name}", f"{value!r}; known: {', '.join(spellings.table)}")
        first = first or self._unknown(fields)
        return _problem(path, *first, fields) if first else self._utterance(path, fields)

    def _unknown(self, fields: Fields) -> tuple[str, str] | None:
        """Reason and detail why the fields make no utterance; None if they do."""
        get = fields.get
        label, split, language = get("label"), get("split"), get("language")
        if label is None or label not in LABELS:
            return "unknown-label", f"{label!r}; known: {', '.join(LABELS)}"
        if split is not None and split not in SPLITS:
            return "unknown-split", f"{split!r}; known: {', '.join(SPLITS)}"
        if language is not None and self.languages is not None and language not in self.languages:
            return "unknown-language", f"{language!r} is not listed in languages"
        if label == "spoof" and get("artifact") not in ARTIFACTS:
            return "unknown-artifact", f"{get('artifact')!r}; known: {', '.join(ARTIFACTS)}"
        return None

    def _utterance(self, path: str, fields: Fields) -> Utterance:
        get = fields.get
        label = get("label")
        assert label is not None, "`_unknown` has checked it"
        artifact, attack = (get("artifact"), get("attack")) if label == "spoof" else (None, None)
        start, end = get("start"), get("end")
        bounds = (None, None) if start is None or end is None else (int(start), int(end))
        corpus = self.manifest.name
        return Utterance(
            utterance_uid(corpus, path, *bounds),
            self.manifest.id.fill(fields),
            corpus,
            path,
            label,
            artifact,
            attack,
            get("speaker"),
            get("language"),
            get("split"),
            *bounds,
        )


def _problem(path: str, reason: str, detail: str, fields: Fields) -> Problem:
    """A problem with as much of the class as the fields tell."""
    get = fields.get
    label = get("label") if get("label") in LABELS else None
    artifact = attack = None
    if label == "spoof":
        artifact = get("artifact") if get("artifact") in ARTIFACTS else None
        attack = get("attack")
    return Problem(path, reason, detail, label, artifact, attack, get("language"))


def _lost(item: Utterance | Problem, reason: str, detail: str) -> Problem:
    """The problem of a file that must not be used, with the class that loses it."""
    return Problem(item.path, reason, detail, item.label, item.artifact, item.attack, item.language)


class _Spellings(dict[str, str | None]):
    """Translations by spelling, with cached glob matches; an unlisted spelling raises `KeyError`."""

    def __init__(self, table: Mapping[str, str]) -> None:
        super().__init__()
        self.table = {
            spelling: translation for listed, translation in table.items() for spelling in listed.split("|")
        }
        self.globs = [
            (compile_glob(spelling), translation)
            for spelling, translation in self.table.items()
            if is_glob(spelling)
        ]

    def __missing__(self, spelling: str) -> str | None:
        translation = self._look_up(spelling)
        result = spelling if translation == ANY else translation or None
        if len(self) < CACHED_SPELLINGS:
            self[spelling] = result
        return result

    def _look_up(self, spelling: str) -> str:
        if spelling in self.table:
            return self.table[spelling]
        for glob, translation in self.globs:
            if glob.fullmatch(spelling):
                return translation
        raise KeyError(spelling)


def _has_raw_bytes(name: str) -> bool:
    """Whether a file name contains bytes that are not valid UTF-8, which Python decodes to surrogates."""
    return not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name)
