"""The header of a safetensors file, which tells its metadata and size without reading weights. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""Limit of the format."""


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
    length = int.from_bytes(read(0, _LENGTH_BYTES), "little")
    if not 0 < length <= MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes")
    content = json.loads(read(_LENGTH_BYTES, _LENGTH_BYTES + length))
    if not isinstance(content, dict):
        raise ValueError("a header that is not a JSON object")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError("a header whose metadata is not a JSON object")
    try:
        end = max((int(tensor["data_offsets"][1]) for tensor in content.values()), default=0)
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("a header that does not state where its tensors are") from error
    return Header(metadata, _LENGTH_BYTES + length + end)
