"""One labelled piece of audio, and the problem that is reported in its place."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from pipeline.storage import FileInfo

LABELS = ("spoof", "bonafide")
"""The two labels; the position of a label is its logit index."""

KINDS = ("noise", "music", "speech", "rir")
"""What the recordings of an augmentation corpus are; they stand where utterances have their label. A rir is the impulse
response of a room."""

ARTIFACTS = ("tts", "vc", "vocoder", "codec", "restoration", "partial", "mixed")
"""Families of the traces that spoofing leaves."""

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Utterance:
    """A file of a corpus, or a segment of one, with its metadata; None means unknown."""

    uid: str
    """16 hex digits from `utterance_uid`; without dots, because dots split WebDataset keys."""
    id: str
    """The name used in published protocols: `ASV19LA-LA_D_1047731`."""
    corpus: str
    path: str
    """Relative to the root of the corpus, with forward slashes."""
    label: str
    """One of `LABELS`; for a recording of an augmentation corpus, one of `KINDS`."""
    artifact: str | None
    """One of `ARTIFACTS`; None for bona fide speech."""
    attack: str | None
    """The system that made it (`A14`, `bark`); None for bona fide speech."""
    speaker: str | None
    language: str | None
    """Lower-case code: `en`, `zh` for Mandarin, `yue` for Cantonese."""
    split: str | None
    """The official split: one of `SPLITS`."""
    start: int | None = None
    """First sample of a segment, at the file's own rate; None for a whole file."""
    end: int | None = None
    """One past the last sample of a segment."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A file, or a row of a protocol, that gives no utterance."""

    path: str
    """The file below the root, or `protocol:line`."""
    reason: str
    """Short name to count by: `stray`, `unlisted`, `known-bad`, `unknown-label`, `missing`, `duplicate-row` …"""
    detail: str = ""
    label: str | None = None
    """The class that loses an utterance, as far as path and protocol tell; None means unknown."""
    artifact: str | None = None
    attack: str | None = None
    language: str | None = None


@dataclass(frozen=True, slots=True)
class NotAudio:
    """A file that is left out by rule: it is counted by kind, and gets no row in the catalog."""

    path: str
    """Relative to the root of the corpus."""
    kind: str
    """The ending of its name (`.txt`), `no ending`, `hidden` or `system`."""


Entry = tuple[FileInfo | None, Utterance | Problem | NotAudio]
"""A listed file with what it is; the file is None if there is only a row of a protocol."""


def utterance_uid(corpus: str, path: str, start: int | None = None, end: int | None = None) -> str:
    """Return 16 hex digits that identify a file of a corpus, or its segment `start:end`, and never change.

    Raises:
        UnicodeEncodeError: the path contains bytes that are not valid text.
    """
    name = f"{corpus}\0{path}" if start is None else f"{corpus}\0{path}\0{start}\0{end}"
    return blake2b(name.encode(), digest_size=8).hexdigest()
