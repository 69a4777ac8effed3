"""Fingerprints of source files, on which the names of shards depend, and digests that tell whether a file has changed.

The fingerprint of a new file covers both its ends only. A file whose size or time has changed since is read as a whole:
if its bytes are those that its shard was built from, as after a copy or a touch, it keeps its fingerprint; otherwise it
gets one that covers all bytes, so that its shard is rebuilt.
"""

from __future__ import annotations

import hashlib
from typing import BinaryIO

SAMPLED_BYTES = 64 * 1024
"""Bytes at each end of a long file that its first fingerprint covers."""

COVERED_BYTES = 2 * SAMPLED_BYTES
"""Length up to which the fingerprint of a file covers all of it."""

DIGESTED_BYTES = 8 * 2**20
"""Bytes that are read at a time while a whole file is digested; each is one request to S3."""

_TRIED_AGAIN = "/"
"""Separates a digest from the shard that rejected the file, in the fingerprint of a file that is tried again."""


def fingerprint(file: BinaryIO, size: int) -> str:
    """16 hex digits that change when a short file does, or the size or one of the ends of a longer one."""
    return _short(_digest_of_ends(file, size))


def source_digest(file: BinaryIO, size: int) -> str:
    """16 hex digits that change when any byte of a file does."""
    return fingerprint_and_digest(file, size)[1]


def fingerprint_and_digest(file: BinaryIO, size: int) -> tuple[str, str]:
    """Compute both while reading the file once: first its ends, for the fingerprint, then what lies between them."""
    digest = _digest_of_ends(file, size)
    ends, remaining = _short(digest), max(size - COVERED_BYTES, 0)
    file.seek(SAMPLED_BYTES)
    while block := file.read(min(DIGESTED_BYTES, remaining)):
        digest.update(block)
        remaining -= len(block)
    return ends, _short(digest)


def _digest_of_ends(file: BinaryIO, size: int) -> hashlib._Hash:
    file.seek(0)
    if size <= COVERED_BYTES:
        return hashlib.sha256(file.read())
    digest = hashlib.sha256(size.to_bytes(8, "big"))
    digest.update(file.read(SAMPLED_BYTES))
    file.seek(size - SAMPLED_BYTES)
    digest.update(file.read(SAMPLED_BYTES))
    return digest


def _short(digest: hashlib._Hash) -> str:
    return digest.hexdigest()[:16]


def retried_fingerprint(digest: str, shard: str) -> str:
    """The fingerprint of a file that is tried again, so that it is written into another shard.

    Args:
        digest: digest of all its bytes.
        shard: the shard that rejected the file.
    """
    return f"{digest}{_TRIED_AGAIN}{shard.rpartition('-')[2]}"


def was_tried_again(fingerprint: str) -> bool:
    """Whether a fingerprint belongs to a file that was tried again after a shard had rejected it."""
    return _TRIED_AGAIN in fingerprint
