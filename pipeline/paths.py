"""Paths that a user writes, as absolute paths."""

from __future__ import annotations

import os

from pipeline.errors import InputError


def absolute_path(path: str) -> str:
    """The absolute path of a file or folder, without `~`, `.` and `..`; links in it keep their names.

    It names what the system would open: `..` after a link leads to the parent of the folder that the link points to.

    Raises:
        InputError: the home folder after `~` is not known, or the working folder has been deleted.
    """
    expanded = os.path.expanduser(path)  # noqa: PTH111 - Path raises RuntimeError for an unknown user
    if expanded.startswith("~"):
        raise InputError(f"{path}: the home folder is not known; write the path without ~")
    try:
        parts = f"{os.getcwd()}/{expanded}" if not expanded.startswith("/") else expanded  # noqa: PTH109
    except FileNotFoundError as error:
        raise InputError(f"{path}: the working folder has been deleted; change to another one") from error
    absolute = ""
    for part in parts.split("/"):
        if part == "..":
            if os.path.islink(absolute):  # noqa: PTH114 - a string stays one
                absolute = os.path.realpath(absolute)
            absolute = absolute.rpartition("/")[0]
        elif part not in ("", "."):
            absolute += f"/{part}"
    return absolute or "/"
