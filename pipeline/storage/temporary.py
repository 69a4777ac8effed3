"""Temporary files on the disk of this machine; TMPDIR decides where."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from pipeline.errors import InputError
from pipeline.storage.user_errors import local_errors

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
    folder = temporary_root() / f"bonafide-{os.getuid()}"
    with local_errors(str(folder)):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()  # not that of the target of a link
        if stat.S_ISLNK(status.st_mode):
            raise InputError(f"{folder}: this is a link, which may lead to files of another user; {_REMEDY}")
        if status.st_uid != os.getuid():
            raise InputError(f"{folder}: another user owns this folder (user id {status.st_uid}); {_REMEDY}")
        if stat.S_IMODE(status.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
            raise InputError(f"{folder}: other users can write to this folder; delete it, or {_REMEDY}")
        folder.chmod(0o700)
        below = folder / name
        below.mkdir(mode=0o700, exist_ok=True)
        return below
