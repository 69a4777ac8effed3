"""One labelled piece of audio: the record that everything downstream shares."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import PurePosixPath

LABELS = ("spoof", "bonafide")
"""The two labels; the position of a label is its logit index."""

ARTIFACTS = ("tts", "vc", "vocoder", "codec", "restoration", "partial", "mixed")
"""Families of traces that a spoofing process leaves."""

SPLITS = ("train", "validation", "test")

AUDIO_SUFFIXES = frozenset(
    (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".aif", ".sph")
)
"""Endings, in lower case, of files that are taken to be audio."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A file of a corpus, or a segment of one, and what is known about it; None means not known."""

    uid: str
    """16 hex digits, see `utterance_uid`; no dots, because dots split WebDataset keys."""
    id: str
    """The name that published protocols use: `ASV19LA-LA_D_1047731`."""
    corpus: str
    path: str
    """Relative to the root of the corpus, with forward slashes."""
    label: str
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
    """A slug to count by: `stray`, `unlisted`, `known-bad`, `unknown-label`, `missing`, `duplicate-row` …"""
    detail: str = ""
    is_file: bool = True
    """Whether an audio file was found and rejected; False where only a row speaks of one."""


def is_audio(path: str) -> bool:
    """Whether the ending of a name says that it is audio."""
    return PurePosixPath(path).suffix.lower() in AUDIO_SUFFIXES


def utterance_uid(corpus: str, path: str, start: int | None = None, end: int | None = None) -> str:
    """Name a file of a corpus, or the segment `start:end` of it, by 16 hex digits that never change.

    Raises:
        UnicodeEncodeError: the path holds bytes that are no text.
    """
    name = f"{corpus}\0{path}" if start is None else f"{corpus}\0{path}\0{start}\0{end}"
    return blake2b(name.encode(), digest_size=8).hexdigest()
