"""The structure of mp4 files: boxes that follow each other without a gap."""

from __future__ import annotations

from typing import BinaryIO

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.errors import AudioError


def locate_mp4(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:  # noqa: ARG001
    """Check that the boxes of an mp4 file are complete.

    Raises:
        AudioError: truncated.
    """
    missing = _missing_bytes(file, span.end)
    if missing:
        raise AudioError("truncated", name, f"{missing} bytes are missing")
    return Extent(span.begin, span.end, "mp4")


def _missing_bytes(file: BinaryIO, size: int) -> int:
    """Return how many bytes the last top-level box of an mp4 file lacks."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0 means up to the end of the file; other values are invalid
            return 0
        position += length
    return max(position - size, 0)
