"""Which files a corpus leaves out by rule, and the kinds by which they are counted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Literal

from pipeline.data.corpora.utterance import NotAudio, Problem
from pipeline.storage import FileProblem

SYSTEM_FOLDERS = (
    "__MACOSX",  # macOS, in archives: one AppleDouble file `._x.wav` for each x.wav
    "System Volume Information",  # Windows
    "$RECYCLE.BIN",
    "RECYCLER",
    "lost+found",  # ext4
    "@eaDir",  # Synology
    "#recycle",
    "#snapshot",
    "@Recycle",  # QNAP
    "@Recently-Snapshot",
    "Network Trash Folder",  # file servers for Apple's computers
    "Temporary Items",
)
"""Folders, at any level and in any case, in which a system keeps copies, deleted files or notes about files."""

IGNORED = "ignored"
"""The kind of a file that a manifest ignores."""

NO_ENDING = "no ending"

FILE_PROBLEMS: Mapping[FileProblem, str] = {
    "unreadable": "cannot be looked at or listed; check its permissions, its name and the disk",
    "link-loop": "a link that leads back to itself or to a folder above it",
    "special": "a pipe, a socket or a device",
}
"""What each problem of a listed file means."""

_LEFT_OUT = re.compile(
    rf"(?:^|/)(?:(?P<hidden>\.(?!\.?(?:/|$)))|(?:{'|'.join(map(re.escape, SYSTEM_FOLDERS))})(?:/|$))",
    re.IGNORECASE,
)
_ENDING = re.compile(r"\.(?=\w*[a-z])[\w+-]{1,12}", re.ASCII)


def left_out(path: str) -> Literal["hidden", "system", ""]:
    """Whether a file is left out whatever it holds: hidden, or of a system folder, by the first part that says so.

    Hidden is what has a part that begins with a dot: AppleDouble files, `.ipynb_checkpoints`, `.Trash`.

    Args:
        path: relative to the root of the corpus.
    """
    match = _LEFT_OUT.search(path)
    if match is None:
        return ""
    return "hidden" if match["hidden"] else "system"


def kind_of(path: str) -> str:
    """The kind by which a file is counted that is left out: `hidden`, `system`, its ending, or `no ending`.

    The ending is in lower case. What follows the last dot is no ending if it is long, or has no letter: a corpus can
    have a million names like `log.2024`, but has few endings.
    """
    ending = PurePosixPath(path).suffix.lower()
    return left_out(path) or (ending if _ENDING.fullmatch(ending) else NO_ENDING)


def excluded(path: str) -> NotAudio | Problem | None:
    """What a file is that is left out by its name alone, or whose name is no text; None for all others."""
    kind = left_out(path)
    if not path.isascii() and has_raw_bytes(path):
        text = ascii(path)[1:-1]
        return NotAudio(text, kind) if kind else Problem(text, "bad-name", "the file name is not UTF-8")
    return NotAudio(path, kind) if kind else None


def has_raw_bytes(path: str) -> bool:
    """Whether a file name contains bytes that are not valid UTF-8, which Python decodes to surrogates."""
    return any("\ud800" <= character <= "\udfff" for character in path)
