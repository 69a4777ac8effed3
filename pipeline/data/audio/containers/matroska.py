"""The structure of Matroska and WebM files: nested EBML elements, and blocks of packets in clusters. See RFC 9559."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.containers.padding import is_padding
from pipeline.data.audio.containers.tolerances import MATROSKA_DURATION_S
from pipeline.data.audio.errors import AudioError

_EBML, _SEGMENT, _CLUSTER, _INFO, _TRACKS = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1549A966, 0x1654AE6B
_VOID, _CRC32 = 0xEC, 0xBF
_TIMESTAMP, _SIMPLE_BLOCK, _BLOCK_GROUP, _BLOCK = 0xE7, 0xA3, 0xA0, 0xA1
_BLOCK_DURATION = 0x9B
# SeekHead, Cues, Attachments, Chapters, Tags
_IN_SEGMENT = frozenset({0x114D9B74, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367})
_IN_SEGMENT |= {_CLUSTER, _INFO, _TRACKS, _VOID, _CRC32}
_IN_CLUSTER = frozenset({_TIMESTAMP, _SIMPLE_BLOCK, _BLOCK_GROUP, _VOID, _CRC32, 0x5854, 0xA7, 0xAB, 0xAF})
_IN_GROUP = frozenset(
    {_BLOCK, _VOID, _CRC32, _BLOCK_DURATION, 0xFB, 0xFD, 0xA4, 0xA2, 0x75A2, 0x75A1, 0xFA, 0x8E, 0xC8}
)
_AUDIO = 2
_XIPH_LACING, _FIXED_LACING, _LACING = 2, 4, 6
_PROBED_BYTES = 64


@dataclass(slots=True)
class _Segment:
    """What the elements in front of the clusters state, and how far the blocks reach."""

    scale: int = 1_000_000
    """Nanoseconds per unit of time."""
    duration: float = 0.0
    """Units; 0 if it is not stated."""
    tracks: dict[int, int] = field(default_factory=dict)
    """Type of each track by its number."""
    last: int = 0
    """Largest time stamp of a block, units."""


class _Parser:
    """Reads elements; positions count from the beginning of the span."""

    def __init__(self, data: bytes, span: Span, name: str) -> None:
        self.data, self.begin, self.size, self.name = data, span.begin, span.end - span.begin, name

    def error(self, position: int, detail: str) -> AudioError:
        return AudioError("undecodable", self.name, f"matroska: byte {self.begin + position}: {detail}")

    def truncated(self, position: int, detail: str) -> AudioError:
        return AudioError("truncated", self.name, f"matroska: byte {self.begin + position}: {detail}")

    def element(self, position: int, end: int) -> tuple[int, int, int | None]:
        """Return id, first byte of the body, and end of the element at a position; None if it states no size.

        Raises:
            AudioError: there is no element, or the file ends within its head.
        """
        data = self.data
        if position >= len(data):
            raise self.truncated(position, "the file ends where an element should begin")
        width = 9 - data[position].bit_length()
        if width > 4:
            raise self.error(position, f"no element begins with {data[position]:#04x}")
        at = position + width
        if at >= len(data):
            raise self.truncated(position, "the file ends within the head of an element")
        num_bytes = 9 - data[at].bit_length()
        body = at + num_bytes
        if num_bytes > 8 or body > end:
            raise self.error(position, "an element without a valid size")
        size = int.from_bytes(data[at:body], "big") ^ 1 << 7 * num_bytes
        is_open = size == (1 << 7 * num_bytes) - 1
        return int.from_bytes(data[position:at], "big"), body, None if is_open else body + size

    def children(self, position: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield id, first byte of the body, and end of each element in a body."""
        while position < end:
            kind, body, element_end = self.element(position, end)
            if element_end is None or element_end > end:
                raise self.error(position, "an element exceeds the one around it")
            yield kind, body, element_end
            position = element_end

    def check_end(self, position: int, element_end: int, end: int) -> None:
        """Refuse an element that exceeds the one around it, or the file."""
        if element_end > end and end == self.size:
            raise self.truncated(position, f"{element_end - end} bytes of an element are missing")
        if element_end > end:
            raise self.error(position, "an element exceeds the one around it")

    def check_crc(self, body: int, end: int) -> None:
        """Compare the checksum of an element, if it begins with one."""
        if self.data[body : body + 2] == b"\xbf\x84" and body + 6 <= end:
            stated = int.from_bytes(self.data[body + 2 : body + 6], "little")
            if zlib.crc32(memoryview(self.data)[body + 6 : end]) != stated:
                raise self.error(body, "a wrong checksum")


def locate_matroska(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Check that elements fill the file, and that blocks belong to known tracks.

    The stated duration is that of the longest track, so it does not tell the length of the audio.

    Raises:
        AudioError: truncated, trailing_data, undecodable, not_audio.
    """
    size = span.end - span.begin
    file.seek(span.begin)
    parser = _Parser(file.read(size if is_whole else min(size, _PROBED_BYTES)), span, name)
    kind, body, end = parser.element(0, size)
    if kind != _EBML or end is None or end > size:
        raise parser.error(0, "the header of the file is damaged")
    begin = end
    kind, body, segment_end = parser.element(begin, size)
    if kind != _SEGMENT:
        raise parser.error(begin, "no segment behind the header")
    if segment_end is not None and segment_end > size:
        raise parser.truncated(begin, f"{segment_end - size} bytes of the segment are missing")
    extent = Extent(span.begin, span.end, "matroska")
    if not is_whole:
        return extent
    end = size if segment_end is None else segment_end
    if not is_padding(file, span.begin + end, span.end, is_whole=is_whole):
        raise AudioError("trailing_data", name, f"matroska: {size - end} bytes behind the segment")
    segment = _read_segment(parser, body, end)
    if _AUDIO not in segment.tracks.values():
        raise AudioError("not_audio", name, "matroska without an audio track")
    if segment_end is None:
        _check_duration(parser, segment)
    return extent


def _read_segment(parser: _Parser, position: int, end: int) -> _Segment:
    """Read all elements of the segment."""
    segment = _Segment()
    while position < end and parser.data.count(0, position, end) < end - position:
        kind, body, element_end = parser.element(position, end)
        if kind == _EBML:
            detail = f"matroska: a second file begins at byte {parser.begin + position}"
            raise AudioError("trailing_data", parser.name, detail)
        if kind not in _IN_SEGMENT or (element_end is None and kind != _CLUSTER):
            raise parser.error(position, f"an unknown element {kind:#x}")
        if kind == _CLUSTER:
            element_end = _read_cluster(parser, segment, body, end, element_end)
        elif element_end is not None:
            parser.check_end(position, element_end, end)
            parser.check_crc(body, element_end)
            if kind == _INFO:
                _read_info(parser, segment, body, element_end)
            elif kind == _TRACKS:
                _read_tracks(parser, segment, body, element_end)
        position = element_end or end
    return segment


def _read_info(parser: _Parser, segment: _Segment, body: int, end: int) -> None:
    for kind, begin, child_end in parser.children(body, end):
        if kind == 0x2AD7B1:
            segment.scale = int.from_bytes(parser.data[begin:child_end], "big")
        elif kind == 0x4489 and child_end - begin in (4, 8):
            form = ">f" if child_end - begin == 4 else ">d"
            segment.duration = struct.unpack(form, parser.data[begin:child_end])[0]


def _read_tracks(parser: _Parser, segment: _Segment, body: int, end: int) -> None:
    for kind, begin, child_end in parser.children(body, end):
        if kind == 0xAE:
            fields = {key: parser.data[first:last] for key, first, last in parser.children(begin, child_end)}
            number, track_kind = (int.from_bytes(fields.get(key, b""), "big") for key in (0xD7, 0x83))
            segment.tracks[number] = track_kind
            if track_kind == _AUDIO and b"\x50\x33\x81\x01" in fields.get(0x6D80, b""):
                raise parser.error(begin, "the audio is encrypted")


def _read_cluster(parser: _Parser, segment: _Segment, position: int, end: int, stated_end: int | None) -> int:
    """Read the blocks of a cluster; return its end."""
    base = 0
    if stated_end is not None:
        parser.check_end(position, stated_end, end)
        parser.check_crc(position, stated_end)
        end = stated_end
    while position < end:
        if stated_end is None and parser.data[position] == 0:
            return position  # padding behind the last cluster
        kind, body, element_end = parser.element(position, end)
        if kind not in _IN_CLUSTER:
            if stated_end is None:
                return position
            raise parser.error(position, f"an unknown element {kind:#x} in a cluster")
        if element_end is None:
            raise parser.error(position, "an element without a size")
        parser.check_end(position, element_end, end)
        if kind == _SIMPLE_BLOCK:
            _read_block(parser, segment, base, body, element_end)
        elif kind == _BLOCK_GROUP:
            _read_group(parser, segment, base, body, element_end)
        elif kind == _TIMESTAMP:
            base = int.from_bytes(parser.data[body:element_end], "big")
        position = element_end
    return position


def _read_group(parser: _Parser, segment: _Segment, base: int, body: int, end: int) -> None:
    for kind, begin, child_end in parser.children(body, end):
        if kind not in _IN_GROUP:
            raise parser.error(begin, f"an unknown element {kind:#x} in a group of blocks")
        if kind == _BLOCK:
            _read_block(parser, segment, base, begin, child_end)
        elif kind == _BLOCK_DURATION:
            segment.last += int.from_bytes(parser.data[begin:child_end], "big")


def _read_block(parser: _Parser, segment: _Segment, base: int, body: int, end: int) -> None:
    data = parser.data
    width = 9 - data[body].bit_length()
    begin = body + width + 3
    if begin > end:
        raise parser.error(body, "a block without a head")
    number = int.from_bytes(data[body : body + width], "big") ^ 1 << 7 * width
    flags = data[begin - 1]
    if number not in segment.tracks or flags & 0x70:
        raise parser.error(body, "a block of no known track")
    if flags & _LACING and not _has_valid_laces(data, begin, end, flags & _LACING):
        raise parser.error(body, "a block whose packets do not fill it")
    segment.last = max(segment.last, base + int.from_bytes(data[begin - 3 : begin - 1], "big", signed=True))


def _has_valid_laces(data: bytes, position: int, end: int, lacing: int) -> bool:
    """Whether the stated sizes of several packets in one block leave at least one byte for the last packet."""
    if position >= end:
        return False
    count = data[position]  # packets but the last one
    position += 1
    if lacing == _FIXED_LACING:
        return (end - position) % (count + 1) == 0
    total = size = 0
    for index in range(count):
        if position >= end:
            return False
        if lacing == _XIPH_LACING:
            size = 0
            while position < end and data[position] == 255:
                size, position = size + 255, position + 1
            size += data[position] if position < end else 0
            position += 1
        else:
            width = 9 - data[position].bit_length()
            value = int.from_bytes(data[position : position + width], "big") ^ 1 << 7 * width
            size = value if index == 0 else size + value - (1 << 7 * width - 1) + 1
            position += width
        if size < 0:
            return False
        total += size
    return position + total < end


def _check_duration(parser: _Parser, segment: _Segment) -> None:
    """Compare the stated duration of a segment that states no size with its last block."""
    missing_s = (segment.duration - segment.last) * segment.scale / 1e9
    if missing_s > MATROSKA_DURATION_S:
        raise parser.truncated(len(parser.data), f"the last {missing_s:.1f} s are missing")
