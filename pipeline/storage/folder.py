"""A folder, local or on S3, and everything that the rest of bonafide does with its files."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from fsspec.core import split_protocol

from pipeline.errors import InputError
from pipeline.paths import absolute_path
from pipeline.storage import local_listing, local_reading, local_writing, s3
from pipeline.storage.file_info import FileInfo, is_below
from pipeline.storage.user_errors import local_errors

PROBE_BLOCK_BYTES = 64 * 1024
"""Bytes that a file from `Folder.open` fetches at a time; enough for the header of an audio file."""


@dataclass(frozen=True)
class Folder:
    """A local folder or an `s3://bucket/prefix`; file names are relative to it and cannot leave it.

    Errors that a user can fix, such as a missing permission or a wrong endpoint, are one-line `InputError`s.
    """

    uri: str

    def __post_init__(self) -> None:
        protocol, path = split_protocol(self.uri)
        if protocol not in (None, "file", "s3"):
            raise InputError(f"{self.uri}: only local paths and s3:// URIs are supported")
        if not path:
            raise InputError("empty location; give a folder or an s3:// URI")
        uri = f"s3://{path.strip('/')}" if protocol == "s3" else absolute_path(path)
        object.__setattr__(self, "uri", uri)

    @classmethod
    def of_file(cls, location: str) -> tuple[Folder, str]:
        """The folder of a file, and the name of the file in it.

        Args:
            location: absolute path or s3:// URI of the file.

        Raises:
            InputError: the URI names a bucket and no file.
        """
        parent, _, name = location.rpartition("/")
        if parent == "s3:/" or not name:
            raise InputError(f"{location}: names no file; give the name of a file")
        return cls(parent or "/"), name

    @property
    def is_local(self) -> bool:
        """Whether files can be opened by path on this machine."""
        return not self.uri.startswith("s3://")

    def folder(self, name: str) -> Folder:
        """A folder below this one."""
        return Folder(self.location("/".join(PurePosixPath(name).parts)))

    def location(self, name: str = "") -> str:
        """The full path or URI of a file.

        Raises:
            InputError: the name is absolute or points outside the folder.
        """
        if not name:
            return self.uri
        # A name on S3 may begin with a slash, which follows another one then; elsewhere it would be an absolute path.
        if not is_below(name if self.is_local else name.lstrip("/")):
            raise InputError(f"{name!r} points outside {self.uri}")
        return f"{self.uri}/{name}"

    def find(self, prefix: str = "") -> Iterator[FileInfo]:
        """Every entry below `prefix` that is not a folder, in lexicographic order of names.

        An entry that cannot be read is listed with its problem, and so is a folder that cannot be listed, in place of
        its files. Holds the names of one local folder and its parents in memory, or one page of a listing of S3.

        Raises:
            InputError: the folder itself, or the folder of the prefix, cannot be listed.
            FileNotFoundError: it does not exist.
        """
        self.location(prefix)  # refuses a prefix outside the folder
        yield from local_listing.find(self.uri, prefix) if self.is_local else s3.find(self.uri, prefix)

    def info(self, name: str) -> FileInfo:
        """The size and version of one file.

        Raises:
            FileNotFoundError: the file does not exist.
            UnreadableError: it cannot be looked at, or it is a folder.
        """
        location = self.location(name)
        return local_reading.info(location, name) if self.is_local else s3.info(location, name)

    def exists(self, name: str = "") -> bool:
        """Whether a file or a non-empty folder of this name exists; an empty local folder does, too."""
        location = self.location(name)
        if not self.is_local:
            return s3.exists(location)
        with local_errors(location):
            return Path(location).exists()

    def open(self, name: str, size: int | None = None) -> BinaryIO:
        """Open a file for reading; seekable, and on S3 only the ranges that are read are fetched.

        Args:
            name: a file, which `find` listed without a problem.
            size: its size in bytes if the caller knows it from a listing, which saves a request to S3.

        Raises:
            FileNotFoundError: the file does not exist.
            UnreadableError: this file cannot be read. Reading from the open file raises it, too.
        """
        location = self.location(name)
        if self.is_local:
            return io.BufferedReader(local_reading.LocalFile(location), PROBE_BLOCK_BYTES)
        if size is None:
            size = self.info(name).size
        return io.BufferedReader(s3.RemoteFile(location, size), PROBE_BLOCK_BYTES)

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Read a file, or its bytes from `start` up to but excluding `end`.

        Raises:
            FileNotFoundError: the file does not exist.
            UnreadableError: this file cannot be read.
        """
        location, first = self.location(name), start or 0
        return local_reading.read(location, first, end) if self.is_local else s3.read(location, first, end)

    def commit(self, name: str, data: bytes) -> None:
        """Write a file; readers see the old contents or the new ones, never a part."""
        with self.staged(name) as file:
            file.write(data)

    @contextlib.contextmanager
    def staged(self, name: str) -> Iterator[BinaryIO]:
        """Open a file for writing that appears under its name only if the block ends without an exception."""
        location = self.location(name)
        with local_writing.staged(location) if self.is_local else s3.staged(location) as file:
            yield file

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; returns whether this call wrote it.

        Of several processes that create the same file, one writes it, and readers never see a part of it.
        """
        location = self.location(name)
        try:
            if self.is_local:
                with local_writing.staged(location, is_new=True) as file:
                    file.write(data)
            else:
                s3.create(location, data)
        except FileExistsError:
            return False
        return True

    def delete(self, name: str) -> None:
        """Remove a file if it exists."""
        location = self.location(name)
        with contextlib.suppress(FileNotFoundError):
            if not self.is_local:
                s3.delete(location)
            else:
                with local_errors(location):
                    Path(location).unlink()
