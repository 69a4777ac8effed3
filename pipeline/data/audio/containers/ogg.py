"""The structure of ogg files: pages with a checksum each, whose last one ends the stream."""

from __future__ import annotations

from typing import BinaryIO

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.errors import AudioError

_LONGEST_PAGE = 65_307


def locate_ogg(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:  # noqa: ARG001
    """Find the pages of an ogg file.

    Raises:
        AudioError: truncated.
    """
    if not _ends_stream(file, span.end):
        raise AudioError("truncated", name, "the last page does not end the stream")
    return Extent(span.begin, span.end, "ogg")


def _ends_stream(file: BinaryIO, size: int) -> bool:
    """Whether an ogg file ends in a complete page with the end-of-stream flag, which every encoder sets."""
    file.seek(max(size - 2 * _LONGEST_PAGE, 0))
    tail = file.read()
    begin = tail.rfind(b"OggS\x00")
    if begin < 0 or begin + 27 > len(tail):
        return False
    num_segments = tail[begin + 26]
    segments = tail[begin + 27 : begin + 27 + num_segments]
    return bool(tail[begin + 5] & 4) and begin + 27 + num_segments + sum(segments) <= len(tail)
