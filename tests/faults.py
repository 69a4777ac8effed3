"""Faults of file systems that tests imitate: missing permissions, and file systems without hard links."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args
from unittest import mock

import pytest

from pipeline.errors import InputError
from pipeline.storage import Folder, local_writing

_CAPABILITIES_VERSION = 0x20080522
_OVERRIDING = 0b110
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by which root reads what it has no permission for."""


@contextlib.contextmanager
def ordinary_permissions() -> Iterator[None]:
    """Let permissions bind this thread and those that it starts, also where the tests run as root."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0)
    capabilities = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, capabilities) == 0, os.strerror(ctypes.get_errno())
    before = capabilities[0]
    capabilities[0] = before & ~_OVERRIDING
    assert libc.capset(header, capabilities) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        capabilities[0] = before
        assert libc.capset(header, capabilities) == 0, os.strerror(ctypes.get_errno())


def reports_full_disk(folder: Path) -> pytest.RaisesExc[InputError]:
    """Expect the error of a job that cannot write to a folder, or below it, because the disk is full."""
    remedy = "make room there, then run the same command again"
    return pytest.raises(InputError, match=rf"^{folder}\S+: No space left on device; {remedy}$")


@contextlib.contextmanager
def small_disk(path: Path, num_kib: int) -> Iterator[Callable[..., None]]:
    """Mount an empty file system of a limited size; yields a function that mounts it again with other options."""

    def mount(*options: str) -> None:
        command = ["/bin/mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this machine cannot mount a small disk: {done.stderr.strip()}")

    path.mkdir()
    mount(f"size={num_kib}k")
    try:
        yield functools.partial(mount, "remount")
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(path)], check=True)


def fill(folder: Path, num_bytes_left: int = 0) -> None:
    """Fill the file system of a folder."""
    with (folder / "filling").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        num_blocks, block = shutil.disk_usage(folder).free - num_bytes_left, 4096
        for _ in range(num_blocks // block):
            file.write(bytes(block))


Lacking = Literal["links", "links and renames"]
"""What a file system may lack: hard links, and renames on condition that the name is free."""
LACKING: tuple[Lacking, ...] = get_args(Lacking)


def _refuse(source: Path, target: str) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(source), None, target)


@contextlib.contextmanager
def file_system_without(lacking: Lacking) -> Iterator[None]:
    """Make every file system of this process lack something."""
    with mock.patch.object(os, "link", _refuse):
        if lacking == "links":
            yield
        else:
            with mock.patch.object(local_writing, "_rename_if_free", _refuse):
                yield


def create_files(uri: str, count: int, lacking: Lacking, content: bytes) -> list[bool]:
    """Create files in a folder; returns which of them this call wrote."""
    with file_system_without(lacking):
        return [Folder(uri).create(f"{number}.json", content) for number in range(count)]


def die_while_creating(uri: str, name: str, lacking: Lacking) -> None:
    """Die when everything is written and the name is about to be given, under the lock if there is one."""

    def die(*_args: object) -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return False

    last = (local_writing, "_rename_if_free") if lacking == "links" else (os.path, "lexists")
    with file_system_without(lacking), mock.patch.object(*last, die):
        Folder(uri).create(name, b"first")
