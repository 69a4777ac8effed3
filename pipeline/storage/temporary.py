"""Temporary files on the disk of this machine; TMPDIR decides where."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.storage.user_errors import WRITE_REMEDIES, converted, error_number, local_errors

_REMEDY = "set TMPDIR to a folder of your own"


def temporary_root() -> Path:
    """The folder for temporary files: TMPDIR, or one that the system offers to everybody.

    Raises:
        InputError: none can be written to; a full disk is a common reason.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise InputError(
            f"{error.strerror}; make room or permit writing there, or set TMPDIR to another folder"
        ) from error


def user_folder(name: str) -> Path:
    """A folder for the processes of this user on this machine, which no other user can read or write.

    The folder for temporary files is shared by all users of a machine, so the name of ours contains the user id. It is
    used only if this user owns it: whoever else made it could put files there for us to trust.

    Args:
        name: of the folder below that of the user, which is made if it does not exist.

    Raises:
        InputError: another user owns the folder or can write to it.
    """
    folder = private_folder(temporary_root(), _REMEDY)
    with local_errors(str(folder)):
        below = folder / name
        below.mkdir(mode=0o700, exist_ok=True)
        return below


def private_folder(root: Path, remedy: str) -> Path:
    """The folder of this user in one that all users share; made if it does not exist.

    Args:
        root: the shared folder.
        remedy: what to do if the folder cannot be trusted, for the message.

    Raises:
        InputError: another user owns the folder or can write to it.
    """
    folder = root / f"bonafide-{os.getuid()}"
    with local_errors(str(folder)):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()  # not that of the target of a link
        if stat.S_ISLNK(status.st_mode):
            raise InputError(f"{folder}: this is a link, which may lead to files of another user; {remedy}")
        if status.st_uid != os.getuid():
            raise InputError(f"{folder}: another user owns this folder (user id {status.st_uid}); {remedy}")
        if stat.S_IMODE(status.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
            raise InputError(f"{folder}: other users can write to this folder; delete it, or {remedy}")
        folder.chmod(0o700)
        return folder


class TemporaryFile(io.BufferedRandom):
    """A file on this machine that has no name, so that a process that is killed leaves nothing behind.

    Closing it gives up what is not yet written, so that it never fails.

    Raises:
        InputError: the disk is full; writing and flushing raise it, too.
    """

    def __init__(self) -> None:
        with temporary_errors():
            descriptor, name = tempfile.mkstemp(prefix="bonafide-", dir=temporary_root())
            Path(name).unlink()
        super().__init__(_Unbuffered(descriptor, "r+b"))

    def close(self) -> None:
        self.raw.close()


class _Unbuffered(io.FileIO):
    def write(self, data: Any) -> int:
        with temporary_errors():
            return super().write(data)


@contextlib.contextmanager
def temporary_folder(prefix: str = "bonafide-") -> Iterator[Path]:
    """A new folder on this machine, deleted after the block; an error that the disk is full names it."""
    with temporary_errors(), tempfile.TemporaryDirectory(prefix=prefix, dir=temporary_root()) as folder:
        yield Path(folder)


def temporary_errors() -> contextlib.AbstractContextManager[None]:
    """Turn the error of a full disk, while temporary files are written, into an `InputError` with the remedy."""
    return converted(_temporary_error, "", False)


def _temporary_error(error: Exception, _location: str, _of_one_file: bool) -> InputError | None:
    number = error_number(error)
    if number not in WRITE_REMEDIES:
        return None
    # The machine is named because it may be any of a cluster, each with a folder of this name.
    return InputError(
        f"{tempfile.gettempdir()} on {socket.gethostname()}: {os.strerror(number)}; make room there, or set TMPDIR to "
        "a folder with more space, then run the same command again"
    )
