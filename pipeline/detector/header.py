"""The header of a safetensors file, which tells its metadata and size without reading weights. Imports no torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

_LENGTH_BYTES = 8
_METADATA = "__metadata__"
MAX_HEADER_BYTES = 100_000_000
"""Limit of the format."""
_ALIGNMENT = 8
"""The tensors begin at a multiple of so many bytes."""
_COPY_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a safetensors file states."""

    metadata: Mapping[str, str]
    num_bytes: int
    """Size of the complete file."""


def read_header(read: Callable[[int, int], bytes]) -> Header:
    """Read the header of a safetensors file.

    Args:
        read: returns the bytes of the file from a start up to but excluding an end.

    Raises:
        ValueError: the file does not begin with a whole header.
    """
    length, content = _read_content(read)
    try:
        end = max(
            (int(tensor["data_offsets"][1]) for name, tensor in content.items() if name != _METADATA),
            default=0,
        )
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("a header that does not state where its tensors are") from error
    return Header(content.get(_METADATA, {}), _LENGTH_BYTES + length + end)


def copy_with_metadata(source: BinaryIO, target: BinaryIO, changes: Mapping[str, str]) -> None:
    """Copy a safetensors file, with some entries of its metadata added or replaced; the tensors stay as they are.

    Args:
        source: the file, at its beginning.
        target: receives the copy.
        changes: name → new value.

    Raises:
        ValueError: the file does not begin with a whole header, or the new header is too long.
    """
    _, content = _read_content(lambda start, end: source.read(end - start))
    content[_METADATA] = {**content.get(_METADATA, {}), **changes}
    header = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-(_LENGTH_BYTES + len(header)) % _ALIGNMENT)
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {len(header)} bytes")
    target.write(len(header).to_bytes(_LENGTH_BYTES, "little") + header)
    shutil.copyfileobj(source, target, _COPY_BYTES)


def _read_content(read: Callable[[int, int], bytes]) -> tuple[int, dict[str, Any]]:
    """Read the length and the JSON object of a header; see `read_header`."""
    length = int.from_bytes(read(0, _LENGTH_BYTES), "little")
    if not 0 < length <= MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes")
    content = json.loads(read(_LENGTH_BYTES, _LENGTH_BYTES + length))
    if not isinstance(content, dict):
        raise ValueError("a header that is not a JSON object")
    if not isinstance(content.get(_METADATA, {}), dict):
        raise ValueError("a header whose metadata is not a JSON object")
    return length, content
