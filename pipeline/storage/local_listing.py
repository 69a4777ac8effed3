"""Walking a local folder in the order of full names; an entry that cannot be read is listed with its problem."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pipeline.storage.file_info import FileInfo, regular_file
from pipeline.storage.user_errors import MOUNT_ERRORS, PROCESS_ERRORS, local_errors

_Links = tuple[str, ...]
"""For each link on the way to a folder, the real path of the folder that holds the link."""

_NO_LINKS: _Links = ()


def find(root: str, prefix: str) -> Iterator[FileInfo]:
    """Every entry below a prefix that is not a folder, as `Folder.find` documents it.

    Args:
        root: path of the folder that names are relative to.
        prefix: a folder below it; empty for the root itself.
    """
    location = f"{root}/{prefix}" if prefix else root
    with local_errors(location, of_one_file=bool(prefix)):
        # A stack instead of recursion: folders can be nested deeper than Python's calls.
        stack = [(prefix, _names(location), _NO_LINKS)]
        while stack:
            folder, names, links = stack[-1]
            base = next(names, "").rstrip("/")
            if not base:
                stack.pop()
                continue
            name = f"{folder}/{base}" if folder else base
            entry = f"{root}/{name}"
            found = _look_at(entry, name, links)
            if isinstance(found, FileInfo):
                yield found
            elif found is not None:
                try:
                    stack.append((name, _names(entry), found))
                except (FileNotFoundError, NotADirectoryError):  # renamed or deleted since the listing
                    continue
                except OSError as error:
                    yield _problem_file(name, error)


def _names(location: str) -> Iterator[str]:
    """The names in a folder, sorted as the full names below them are; those of folders end with a slash.

    Compares folders with their slash: `a-1` sorts before `a/b`, although `a` sorts before `a-1`.
    """
    with os.scandir(location) as entries:
        return iter(sorted(f"{entry.name}/" if _is_folder(entry) else entry.name for entry in entries))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a loop of links; `_look_at` tells
        return False


def _look_at(location: str, name: str, links: _Links) -> FileInfo | _Links | None:
    """What an entry of a folder is: a file, the links on the way to a folder, or None if it was deleted meanwhile.

    Args:
        location: path of the entry.
        name: its name in the listing.
        links: the links on the way to the folder that holds the entry.
    """
    try:
        status = os.stat(location)  # noqa: PTH116 - a third of the time of a listing would go into Path
    except FileNotFoundError:
        # Keep a dangling link, so that reading it names the missing file.
        return FileInfo(name, 0, "", 0.0) if Path(location).is_symlink() else None
    except OSError as error:
        return _problem_file(name, error)
    if stat.S_ISREG(status.st_mode):
        return regular_file(name, status)
    if not stat.S_ISDIR(status.st_mode):
        return FileInfo(name, 0, "", 0.0, "special")
    path = Path(location)
    if not path.is_symlink():
        return links
    links = (*links, os.path.realpath(path.parent))
    target = os.path.realpath(path)
    if any(Path(link).is_relative_to(target) for link in links):  # it leads to a folder above itself
        return FileInfo(name, 0, "", 0.0, "link-loop")
    return links


def _problem_file(name: str, error: OSError) -> FileInfo:
    """The listing of an entry that cannot be looked at; raises an error that is not the fault of the entry."""
    if error.errno in MOUNT_ERRORS or error.errno in PROCESS_ERRORS:
        raise error
    return FileInfo(name, 0, "", 0.0, "link-loop" if error.errno == errno.ELOOP else "unreadable")
