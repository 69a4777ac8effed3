"""Read a corpus as its manifest describes it: every audio file becomes an utterance or a problem, never nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from pipeline.data.corpora.manifest import ANY, Manifest, load_manifest, load_manifests
from pipeline.data.corpora.pattern import Fields, compile_glob, first_match, is_glob
from pipeline.data.corpora.protocol import ProtocolTable
from pipeline.data.corpora.utterance import (
    ARTIFACTS,
    LABELS,
    SPLITS,
    Problem,
    Utterance,
    is_audio,
    utterance_uid,
)
from pipeline.errors import InputError
from pipeline.storage import FileInfo, Folder

__all__ = ["Manifest", "Problem", "load_manifest", "load_manifests", "read_corpus", "read_files", "segment"]

SPOOF_FIELDS = ("attack", "artifact")
"""What a bona fide utterance does not have, whatever its protocol writes there."""

CACHED_SPELLINGS = 100_000
"""How many translations of one field are remembered; more spellings than that are worked out anew."""


def read_corpus(manifest: Manifest, root: Folder) -> Iterator[Utterance | Problem]:
    """Every utterance of a corpus and everything that is wrong with it, in the order of the paths.

    Streams: only a protocol table is held in memory, and missing files come last. Equal ids are both passed on;
    where they matter is for those who hold the whole catalog.

    Raises:
        InputError: there is no such folder, no protocol in it, or the protocol is no table.
    """
    for _, found in read_files(manifest, root):
        yield found


def read_files(manifest: Manifest, root: Folder) -> Iterator[tuple[FileInfo | None, Utterance | Problem]]:
    """As `read_corpus`, each with the file as the listing shows it; None where there is no file.

    A file that is cut into published segments comes once for each of them.
    """
    if not root.exists():
        raise InputError(f"{manifest.name}: there is no folder {root.uri}")
    reader = _Reader(manifest)
    table = None
    if manifest.protocol:
        table = ProtocolTable(manifest, manifest.protocol)
        for problem in table.load(root):
            yield None, problem
    for file in root.find():
        fields = reader.match(file.name)
        if isinstance(fields, Problem):
            yield file, fields
        elif fields is not None:
            rows = table.rows(file.name, fields) if table else (fields,)
            for row in rows:
                yield file, row if isinstance(row, Problem) else reader.resolve(file.name, row)
    if table:
        for problem in table.missing():
            yield None, problem


def segment(utterance: Utterance, *, seconds: float, sample_rate: int, num_samples: int) -> list[Utterance]:
    """Cut a whole file into consecutive pieces of `seconds`; the shorter last one is kept.

    Args:
        sample_rate: of the file itself, in Hz.
        num_samples: of the file itself, one channel.
    """
    step = int(seconds * sample_rate)
    if step < 1:
        raise InputError(f"{utterance.corpus}: pieces of {seconds} s hold no sample at {sample_rate} Hz")
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
    """A manifest made ready: decides for one path, or one set of fields, at a time."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.patterns = [pattern.regex for pattern in manifest.audio]
        self.ignore = [compile_glob(glob) for glob in manifest.ignore]
        self.known_bad = [(compile_glob(glob), reason) for glob, reason in manifest.known_bad.items()]
        # The label comes first: what it is decides whether attack and artifact mean anything.
        translated = sorted(manifest.translate, key=lambda name: name != "label")
        self.spellings = {name: _Spellings(manifest.translate[name]) for name in translated}
        self.languages = None if ANY in manifest.languages else frozenset(manifest.languages)

    def match(self, path: str) -> Fields | Problem | None:
        """The fields that a path gives; None if it is no business of this corpus."""
        if not path.isascii() and _has_raw_bytes(path):
            return Problem(ascii(path)[1:-1], "bad-name", "the name of the file is not UTF-8")
        for regex in self.patterns:
            found = regex.fullmatch(path)
            if found:
                break
        else:
            if not is_audio(path):
                return None
            if any(glob.fullmatch(path) for glob in self.ignore):
                return None
            return Problem(path, "stray", "no pattern of the manifest matches it")
        for glob, reason in self.known_bad:
            if glob.fullmatch(path):
                return Problem(path, "known-bad", reason)
        return {**self.manifest.constants, **found.groupdict()}

    def resolve(self, path: str, fields: Fields) -> Utterance | Problem:
        """The utterance that these fields describe. Changes `fields`."""
        for source, patterns in self.manifest.parse.items():
            value = fields.get(source)
            if value is None:
                continue
            captured = first_match(patterns, value)
            if captured is None:
                return Problem(path, f"unknown-{source}", f"{value!r} matches no pattern of parse.{source}")
            fields.update(captured)
        for name, spellings in self.spellings.items():
            value = fields.get(name)
            if value is None or (name in SPOOF_FIELDS and fields.get("label") == "bonafide"):
                continue
            try:
                fields[name] = spellings[value]
            except KeyError:
                return Problem(path, f"unknown-{name}", f"{value!r}; known: {', '.join(spellings.table)}")
        return self._utterance(path, fields)

    def _utterance(self, path: str, fields: Fields) -> Utterance | Problem:
        get = fields.get
        label, split, language = get("label"), get("split"), get("language")
        if label is None or label not in LABELS:
            return Problem(path, "unknown-label", f"{label!r}; known: {', '.join(LABELS)}")
        if split is not None and split not in SPLITS:
            return Problem(path, "unknown-split", f"{split!r}; known: {', '.join(SPLITS)}")
        if language is not None and self.languages is not None and language not in self.languages:
            return Problem(path, "unknown-language", f"{language!r} is not listed in languages")
        artifact = attack = None
        if label == "spoof":
            artifact, attack = get("artifact"), get("attack")
            if artifact not in ARTIFACTS:
                return Problem(path, "unknown-artifact", f"{artifact!r}; known: {', '.join(ARTIFACTS)}")
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
            language,
            split,
            *bounds,
        )


class _Spellings(dict[str, str | None]):
    """Spelling to meaning, worked out from globs once; an unlisted spelling raises `KeyError`."""

    def __init__(self, table: Mapping[str, str]) -> None:
        super().__init__()
        self.table = {one: meaning for listed, meaning in table.items() for one in listed.split("|")}
        self.globs = [(compile_glob(one), meaning) for one, meaning in self.table.items() if is_glob(one)]

    def __missing__(self, spelling: str) -> str | None:
        meaning = self._look_up(spelling)
        result = spelling if meaning == ANY else meaning or None
        if len(self) < CACHED_SPELLINGS:
            self[spelling] = result
        return result

    def _look_up(self, spelling: str) -> str:
        if spelling in self.table:
            return self.table[spelling]
        for glob, meaning in self.globs:
            if glob.fullmatch(spelling):
                return meaning
        raise KeyError(spelling)


def _has_raw_bytes(name: str) -> bool:
    """Whether a file system gave bytes in the name that are no text."""
    return any("\ud800" <= character <= "\udfff" for character in name)
