"""The structure of ASF files (wma, wmv): objects with their lengths, and packets of one size that hold the payloads.

See "Advanced Systems Format (ASF) Specification", Microsoft, revision 01.20.03.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.containers.padding import is_padding
from pipeline.data.audio.containers.tolerances import ASF_DELAY_SAMPLES
from pipeline.data.audio.errors import AudioError

_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_STREAM = bytes.fromhex("9107dcb7b7a9cf118ee600c00c205365")
_AUDIO = bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b")
_ENCRYPTIONS = frozenset(
    map(bytes.fromhex, ("fbb3112223bdd211b4b700a0c955fc6e", "14e68a292226174cb935dae07ee9289c"))
)
_END_MARK = bytes.fromhex("244508000000000000000800")  # the last chunk of the protocol MMS
_UNITS_PER_S = 10_000_000
_LARGEST_HEADER = 1 << 24
_WIDTHS = (0, 1, 2, 4)  # bytes of a field by its two-bit type


@dataclass(slots=True)
class _File:
    """What the header of a file states."""

    is_live: bool = False
    """Written while it was recorded: sizes and duration are not known."""
    packet_bytes: int = 0
    duration: int = 0
    """In units of 100 ns."""
    streams: dict[int, bool] = field(default_factory=dict)
    """Whether it is audio, for each stream."""


@dataclass(slots=True)
class _Object:
    """A packet of the codec that is put together from payloads."""

    number: int
    num_bytes: int
    received: int


def locate_asf(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Check that the packets of an ASF file are complete and belong together.

    Raises:
        AudioError: truncated, trailing_data, undecodable, not_audio.
    """
    header_end, stated = _read_header(file, span, name)
    file.seek(header_end)
    head = file.read(50)
    if header_end > span.end or len(head) < 50:
        raise AudioError("truncated", name, "asf: the file ends within its header")
    if head[:16] != _DATA:
        raise AudioError("undecodable", name, f"asf: no packets at byte {header_end}")
    data_bytes, num_packets = struct.unpack("<Q16xQ", head[16:48])
    begin = header_end + 50
    if stated.is_live and not _is_data_end(data_bytes, num_packets, stated.packet_bytes):
        end = _without_end_mark(file, begin, span.end, stated.packet_bytes)
    else:
        end = header_end + data_bytes
        if end > span.end:
            raise AudioError("truncated", name, f"asf: {end - span.end} bytes of the packets are missing")
        if end - begin != num_packets * stated.packet_bytes:
            raise AudioError("undecodable", name, f"asf: {num_packets} packets in {end - begin} bytes")
    if (end - begin) % stated.packet_bytes:
        raise AudioError("truncated", name, "asf: the file ends within a packet")
    if is_whole:
        _check_rest(file, end, span, name)
        file.seek(begin)
        _check_packets(file.read(end - begin), stated, begin, name)
    extent = Extent(span.begin, span.end, "asf")
    if stated.is_live or not all(stated.streams.values()) or len(stated.streams) > 1 or stated.duration <= 0:
        return extent
    return Extent(
        span.begin,
        span.end,
        "asf",
        num_samples=stated.duration,
        rate=_UNITS_PER_S,
        tolerance=ASF_DELAY_SAMPLES,
    )


def _is_data_end(data_bytes: int, num_packets: int, packet_bytes: int) -> bool:
    return num_packets > 0 and data_bytes == 50 + num_packets * packet_bytes


def _without_end_mark(file: BinaryIO, begin: int, end: int, packet_bytes: int) -> int:
    """Return the end of the packets of a live stream; some writers, such as FFmpeg into a pipe, mark it."""
    num_left = (end - begin) % packet_bytes
    file.seek(end - num_left)
    return end - num_left if file.read(num_left) == _END_MARK else end


def _read_header(file: BinaryIO, span: Span, name: str) -> tuple[int, _File]:
    """Return the end of the header object, and what it states."""
    file.seek(span.begin)
    size = int.from_bytes(file.read(24)[16:], "little")
    if span.begin + size > span.end:
        raise AudioError("truncated", name, "asf: the file ends within its header")
    if not 30 <= size <= _LARGEST_HEADER:
        raise AudioError("undecodable", name, f"asf: a header of {size} bytes")
    file.seek(span.begin)
    data = file.read(size)
    stated, position = _File(), 30
    while position + 24 <= size:
        kind, length = (
            data[position : position + 16],
            int.from_bytes(data[position + 16 : position + 24], "little"),
        )
        body = data[position + 24 : position + length]
        if length < 24 or position + length > size:
            raise AudioError("undecodable", name, f"asf: a damaged header at byte {span.begin + position}")
        if kind in _ENCRYPTIONS:
            raise AudioError("undecodable", name, "asf: the audio is encrypted")
        if kind == _FILE and len(body) >= 80:
            duration, preroll_ms, flags, smallest, largest = struct.unpack("<40xQ8xQIII", body[:76])
            stated.is_live = bool(flags & 1)
            stated.packet_bytes = smallest if smallest == largest else 0
            stated.duration = duration - preroll_ms * (_UNITS_PER_S // 1000)
        elif kind == _STREAM and len(body) >= 54:
            stated.streams[body[48] & 127] = body[:16] == _AUDIO
        position += length
    if stated.packet_bytes == 0:
        raise AudioError("undecodable", name, "asf: the header states no size of packets")
    if True not in stated.streams.values():
        raise AudioError("not_audio", name, "asf without an audio stream")
    return span.begin + size, stated


def _check_rest(file: BinaryIO, position: int, span: Span, name: str) -> None:
    """Check that indexes fill the file behind the packets."""
    while position < span.end:
        file.seek(position)
        head = file.read(min(24, span.end - position))
        length = int.from_bytes(head[16:], "little")
        if head[:16] == _HEADER or not 24 <= length <= span.end - position:
            is_end_mark = head == _END_MARK and position + len(head) == span.end
            if is_end_mark or is_padding(file, position, span.end, is_whole=True):
                return
            raise AudioError("trailing_data", name, f"asf: {span.end - position} bytes behind the packets")
        position += length


def _check_packets(data: bytes, stated: _File, begin: int, name: str) -> None:
    """Check that payloads fill the packets, and that the pieces of each audio object follow each other."""
    objects: dict[int, _Object] = {}
    for position in range(0, len(data), stated.packet_bytes):
        packet = data[position : position + stated.packet_bytes]
        try:
            for payload in _payloads(packet):
                _add_payload(objects, stated, *payload)
        except (ValueError, IndexError) as error:
            detail = f"asf: the packet at byte {begin + position}: {error}"
            raise AudioError("undecodable", name, detail) from error
    if any(last.received != last.num_bytes for last in objects.values()):
        raise AudioError("truncated", name, "asf: the last packet of the audio is not complete")


def _payloads(packet: bytes) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Yield stream, object number, modulus of the number, bytes of the object, offset in it, and bytes of each payload.

    Raises:
        ValueError, IndexError: the packet is damaged.
    """
    position = 0
    if packet[0] & 0x80:
        if packet[0] & 0x70:
            raise ValueError("unknown error correction")
        position = 1 + (packet[0] & 15)
    kinds, widths = packet[position], packet[position + 1]
    fields = []
    position += 2
    for shift in (5, 1, 3):  # length of the packet, sequence, padding
        width = _WIDTHS[kinds >> shift & 3]
        fields.append(int.from_bytes(packet[position : position + width], "little"))
        position += width
    position += 6  # send time, duration
    end = len(packet) - fields[2] if not fields[0] else fields[0] - fields[2]
    if not position <= end <= len(packet):
        raise ValueError("its lengths contradict each other")
    count, length_width = 1, 0
    if kinds & 1:
        count, length_width = packet[position] & 63, _WIDTHS[packet[position] >> 6]
        position += 1
    number_width, offset_width, extra_width = (_WIDTHS[widths >> shift & 3] for shift in (4, 2, 0))
    for _ in range(count):
        stream = packet[position] & 127
        position += 1
        values = []
        for width in (number_width, offset_width, extra_width):
            values.append(int.from_bytes(packet[position : position + width], "little"))
            position += width
        number, offset, num_extra = values
        num_bytes = int.from_bytes(packet[position : position + 4], "little") if num_extra >= 8 else 0
        position += num_extra
        length = end - position
        if length_width:
            length = int.from_bytes(packet[position : position + length_width], "little")
            position += length_width
        if length < 0 or position + length > end:
            raise ValueError("a payload exceeds it")
        if num_extra != 1:  # otherwise whole objects, each with its length in front
            yield stream, number, 1 << 8 * number_width, num_bytes, offset, length
        position += length
    if position != end:
        raise ValueError("its payloads do not fill it")


def _add_payload(
    objects: dict[int, _Object],
    stated: _File,
    stream: int,
    number: int,
    modulus: int,
    num_bytes: int,
    offset: int,
    length: int,
) -> None:
    if stream not in stated.streams:
        raise ValueError(f"no stream {stream}")
    if not stated.streams[stream]:
        return
    last = objects.get(stream)
    if offset == 0:
        if last is not None and (last.received != last.num_bytes or number != (last.number + 1) % modulus):
            raise ValueError(f"packet {number} of the audio follows a piece of {last.number}")
        objects[stream] = _Object(number, num_bytes or length, length)
        return
    if (
        last is None
        or last.number != number
        or last.received != offset
        or num_bytes not in (0, last.num_bytes)
    ):
        raise ValueError(f"a piece of packet {number} of the audio is missing")
    last.received += length
