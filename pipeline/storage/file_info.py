"""A file in a listing, and the names that a listing may hold."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

FileProblem = Literal["unreadable", "link-loop", "special"]
"""Why a file must not be opened: no access or a read error, a circle of links, or no regular file."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file in a listing."""

    name: str
    """Path relative to the folder, with forward slashes."""
    size: int
    """Bytes."""
    version: str
    """Changes when the bytes change: the times of modification and of change (ctime) in ns, or the ETag on S3.

    Tools restore the modification time (`cp -p`, `rsync -t`, `touch -r`), but not the time of change. That one also
    moves when only the mode, the owner or the number of links changes, so a new version need not mean new bytes.
    """
    modified: float
    """Seconds since the epoch; 0 if the file is a dangling link or has a problem."""
    problem: FileProblem | Literal[""] = ""
    """Why the file must not be opened; empty for an ordinary file.

    A folder that cannot be listed, or that is a link to a folder above itself, is listed as one such file, in place of
    everything below it.
    """


def regular_file(name: str, status: os.stat_result) -> FileInfo:
    """The listing of a regular local file."""
    version = f"{status.st_mtime_ns}-{status.st_ctime_ns}"
    return FileInfo(name, status.st_size, version, status.st_mtime)


def is_below(name: str) -> bool:
    """Whether a name cannot lead out of its folder; backslashes are ordinary letters."""
    return not (name.startswith("/") or "\0" in name or ".." in name.split("/"))
