"""Folders that the processes of a machine share: the first one that needs a folder writes it while the others wait."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipeline.storage import local_errors

Loaded = TypeVar("Loaded")

UNUSED_LIFETIME_S = 14 * 24 * 3600
"""How long a shared folder is kept after its last use, seconds."""


def share_folder(folder: Path, load: Callable[[Path], Loaded], write: Callable[[Path], None]) -> Loaded:
    """Load what a shared folder holds; the first process of the machine writes it while the others wait.

    Also deletes folders in the same parent folder that have not been used for two weeks.

    Args:
        folder: the folder to load.
        load: reads it; raises FileNotFoundError if a file is missing.
        write: writes the folder, and replaces a damaged one only when complete. While it writes, it may use a folder
            beside it whose name begins with a dot.

    Raises:
        InputError: the disk is full.
    """
    with local_errors(str(folder.parent)):
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it if the process dies
            for other in folder.parent.iterdir():
                is_unused = other.is_dir() and time.time() - other.stat().st_mtime > UNUSED_LIFETIME_S
                # A name that begins with a dot was left by a killed writer: nobody else writes while we hold the lock.
                if other != folder and (is_unused or other.name.startswith(".")):
                    shutil.rmtree(other)
            try:
                loaded = load(folder)
            except FileNotFoundError:  # not written yet, or a cleaner of TMPDIR has deleted some of its files
                write(folder)
                loaded = load(folder)
            os.utime(folder)
            return loaded
