"""Files that have the name of a missing one, with another ending."""

from __future__ import annotations

import posixpath
import unicodedata

MAX_FILES = 100_000
"""Maximum number of files that are remembered."""


class Namesakes:
    """Audio files without a row in the protocol, by path and by name, both without their ending."""

    def __init__(self) -> None:
        self._paths: dict[str, str] = {}
        self._num_files = 0

    def add(self, path: str) -> None:
        """Remember a file, unless there are already very many."""
        if self._num_files < MAX_FILES:
            self._num_files += 1
            stem = _stem(path)
            self._paths.setdefault(stem, path)
            self._paths.setdefault(_name_only(stem), path)

    def hint(self, path: str) -> str:
        """Return `; on disk is FILE` if a file differs from this path only in its ending, else "".

        Args:
            path: the missing file; a `*` in it stands for an unknown part, and only the name is then compared.
        """
        if not self._paths:
            return ""
        stem = _stem(path)
        namesake = self._paths.get(_name_only(stem) if "*" in path else stem)
        return f"; on disk is {namesake}" if namesake else ""


def _stem(path: str) -> str:
    return posixpath.splitext(unicodedata.normalize("NFC", path))[0]


def _name_only(stem: str) -> str:
    # With a slash in front, a name is never the path of a file.
    return f"/{posixpath.basename(stem)}"
