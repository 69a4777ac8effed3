"""The structure of MPEG transport streams (ts, m2ts) and program streams (mpg, vob)."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.data.audio.containers.chain import walk
from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.errors import AudioError, Reason

_SYNC = 0x47
_NULL_PACKETS = 0x1FFF
_PACKET_SIZES = ((188, 0), (192, 4), (204, 0))
"""Bytes of a packet of the transport stream, and of a time stamp in front of its first byte."""


def transport_packet(head: bytes) -> tuple[int, int] | None:
    """Return one of `_PACKET_SIZES` if the first bytes are those of a transport stream."""
    for size, skip in _PACKET_SIZES:
        syncs = head[skip::size][:5]
        if len(syncs) >= 3 and syncs.count(_SYNC) == len(syncs):
            return size, skip
    return None


def locate_ts(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Check that packets of a transport stream fill the file, and that their counters leave none out.

    Raises:
        AudioError: truncated, trailing_data, undecodable.
    """
    extent = Extent(span.begin, span.end, "ts")
    file.seek(span.begin)
    data = file.read(span.end - span.begin if is_whole else 1024)
    packet = transport_packet(data)
    if packet is None:
        raise AudioError("undecodable", name, "ts: no packets at the beginning")
    if not is_whole:
        return extent
    size, skip = packet
    rows = np.frombuffer(data, np.uint8, len(data) // size * size).reshape(-1, size)[:, skip:]
    is_packet = rows[:, 0] == _SYNC
    if not is_packet.all():
        position = int(np.argmin(is_packet)) * size
        reason: Reason = "undecodable" if is_packet[-1] else "trailing_data"
        raise AudioError(reason, name, f"ts: no packet at byte {span.begin + position}")
    rest = len(data) % size
    if rest and data.count(0, len(data) - rest) < rest:
        raise AudioError("truncated", name, f"ts: {rest} bytes are no packet")
    _check_counters(rows, name)
    return extent


def _check_counters(rows: NDArray[np.uint8], name: str) -> None:
    """Check that the counter of each stream rises by one with each packet that has a payload."""
    if np.any(rows[:, 1] & 0x80):
        raise AudioError("undecodable", name, "ts: a packet is marked as damaged")
    streams = (rows[:, 1].astype(np.int32) & 0x1F) << 8 | rows[:, 2]
    has_payload = rows[:, 3] & 0x10 != 0
    counters = rows[:, 3] & 15
    may_jump = (rows[:, 3] & 0x20 != 0) & (rows[:, 4] > 0) & (rows[:, 5] & 0x80 != 0)
    for stream in np.unique(streams):
        if stream == _NULL_PACKETS:
            continue
        chosen = (streams == stream) & has_payload
        steps = np.diff(counters[chosen].astype(np.int16)) % 16
        # A packet may be sent twice.
        if np.any((steps > 1) & ~may_jump[chosen][1:]):
            raise AudioError("undecodable", name, f"ts: packets of stream {stream} are missing")


def locate_ps(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Check that packets of a program stream fill the file.

    Raises:
        AudioError: truncated, trailing_data.
    """
    if is_whole:
        file.seek(span.begin)
        for _ in walk(file.read(span.end - span.begin), 0, _pack_end, name, "mpeg-ps"):
            pass
    return Extent(span.begin, span.end, "ps")


def _pack_end(data: bytes, position: int) -> int | None:
    """Return the end of a packet of a program stream: pack header, end code, or one with its length."""
    if data[position : position + 3] != b"\0\0\1" or position + 4 > len(data):
        return None
    kind = data[position + 3]
    if kind == 0xB9:
        return position + 4
    if kind == 0xBA:
        is_mpeg2 = data[position + 4 : position + 5] >= b"\x40"
        stuffing = data[position + 13 : position + 14]
        return position + (14 + (stuffing[0] & 7 if stuffing else 0) if is_mpeg2 else 12)
    if kind < 0xBB:
        return None
    return position + 6 + int.from_bytes(data[position + 4 : position + 6], "big")
