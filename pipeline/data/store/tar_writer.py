"""Write the tar of a shard: the same members give the same bytes."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Mapping
from typing import BinaryIO

_LONGEST_NAME = 100
_SIZE, _CHECKSUM = slice(124, 135), slice(148, 154)  # octal digits in a USTAR header


def _template() -> bytes:
    member = tarfile.TarInfo()
    member.mtime, member.mode = 0, 0o644
    return member.tobuf(tarfile.USTAR_FORMAT)


_TEMPLATE = _template()
_TEMPLATE_SUM = int(_TEMPLATE[_CHECKSUM], 8) - sum(_TEMPLATE[_SIZE])


class TarWriter:
    """Writes a deterministic USTAR tar, without times and owners, and hashes it while writing."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self._position = file, hashlib.sha256(), 0

    def add(self, uid: str, flac: bytes, metadata: Mapping[str, object]) -> int:
        """Append `UID.flac` and `UID.json`; returns the offset of the FLAC in bytes."""
        offset = self._member(f"{uid}.flac", flac)
        self._member(f"{uid}.json", json.dumps(metadata, sort_keys=True, ensure_ascii=False).encode())
        return offset

    def _member(self, name: str, data: bytes) -> int:
        self._write(_header(name, len(data)))
        offset = self._position
        self._write(data)
        self._write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._position += len(data)

    def close(self) -> tuple[str, int]:
        """Finish the tar; returns its SHA-256 and its length in bytes."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self._position % tarfile.RECORDSIZE))
        return self._digest.hexdigest(), self._position


def _header(name: str, size: int) -> bytes:
    """Return the header of a member, as tarfile writes it, in a tenth of the time."""
    encoded, digits = name.encode("ascii"), b"%011o" % size
    assert 0 < len(encoded) <= _LONGEST_NAME and len(digits) == 11, f"{name} with {size} bytes"
    header = bytearray(_TEMPLATE)
    header[: len(encoded)] = encoded
    header[_SIZE] = digits
    header[_CHECKSUM] = b"%06o" % (_TEMPLATE_SUM + sum(encoded) + sum(digits))
    return bytes(header)
