"""The structure of FLAC files: blocks of metadata, then frames with two checksums and a number each.

Frames do not state their size, so only a decoder can go through all of them; it checks their checksums. What it does
not check is that the last frame ends with the file, and that the numbers of the frames agree with the stated length.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

import numpy as np

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.containers.flac_checksums import crc8, crc16, crc16_table
from pipeline.data.audio.errors import AudioError, Reason

_STREAMINFO_BYTES = 34
_LAST_BLOCK = 0x80
_LONGEST_HEADER = 16
_SEARCHED_BYTES = 1 << 16  # at once: more would not stay in the cache of the processor
_LONGEST_SEARCH = 1 << 17  # for the end of a frame in front of other data
_MOST_LIKENESSES = 4
_TEXT = bytes([9, 10, 13, *range(32, 127)])
_RATES = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
_BLOCK_BYTES, _RATE_BYTES = {6: 1, 7: 2}, {12: 1, 13: 2, 14: 2}  # behind the number of the frame, by code
_BITS = (0, 8, 12, 0, 16, 20, 24, 32)
_JOINED = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What the header of a FLAC file states."""

    sample_rate: int
    num_channels: int
    bits: int
    num_samples: int | None
    """None: not stated, as by encoders that write to a pipe."""


@dataclass(frozen=True, slots=True)
class _Frame:
    begin: int
    first_sample: int
    num_samples: int
    kind: tuple[int, int, int]
    """Sample rate, channels, bits."""


def locate_flac(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Find the frames of a FLAC file, and the length that its header states or its last frame shows.

    Raises:
        AudioError: truncated, undecodable, trailing_data.
    """
    info, frames_begin = _read_metadata(file, span, name)
    if not is_whole:
        return Extent(span.begin, span.end, "flac", "flac", num_samples=info.num_samples)
    file.seek(0)
    data = file.read(span.end)
    if frames_begin == span.end and not info.num_samples:
        return Extent(span.begin, span.end, "flac", "flac", num_samples=0)
    try:
        first, last, end = _outer_frames(data, frames_begin, info, name)
        is_alone = _check_order(data, first, last, info, name)
    except AudioError as error:
        joined = _JOINED.search(data, frames_begin)
        if joined is None:
            raise
        detail = f"another FLAC file begins at byte {joined.start()}"
        raise AudioError("trailing_data", name, detail) from error
    num_samples = last.first_sample + last.num_samples
    stated = info.num_samples or num_samples
    if stated < num_samples:
        detail = f"the last frame ends at sample {num_samples}; {stated} expected from the header"
        raise AudioError("trailing_data", name, detail)
    # If it lacks samples, decoding tells.
    return Extent(span.begin, end, "flac", "flac", num_samples=stated, damage_shortens=is_alone)


def read_stream_info(file: BinaryIO, name: str) -> StreamInfo:
    """Read the header of a file that is nothing but FLAC.

    Raises:
        AudioError: truncated, undecodable.
    """
    return _read_metadata(file, Span(0, file.seek(0, io.SEEK_END)), name)[0]


def _read_metadata(file: BinaryIO, span: Span, name: str) -> tuple[StreamInfo, int]:
    """Return the STREAMINFO block, and where the frames begin.

    Raises:
        AudioError: truncated, undecodable.
    """
    position, info = span.begin + 4, None
    while True:
        file.seek(position)
        head = file.read(4)
        length = int.from_bytes(head[1:], "big")
        if len(head) < 4 or position + 4 + length > span.end:
            raise AudioError("truncated", name, f"the metadata at byte {position} is not complete")
        if info is None:
            info = _parse_streaminfo(file.read(length))
            if info is None or head[0] & ~_LAST_BLOCK:
                raise AudioError("undecodable", name, "the metadata does not begin with STREAMINFO")
        position += 4 + length
        if head[0] & _LAST_BLOCK:
            return info, position


def _parse_streaminfo(block: bytes) -> StreamInfo | None:
    if len(block) != _STREAMINFO_BYTES:
        return None
    packed = int.from_bytes(block[10:18], "big")
    return StreamInfo(
        sample_rate=packed >> 44,
        num_channels=(packed >> 41 & 7) + 1,
        bits=(packed >> 36 & 31) + 1,
        num_samples=packed & (1 << 36) - 1 or None,
    )


def _outer_frames(data: bytes, begin: int, info: StreamInfo, name: str) -> tuple[_Frame, _Frame, int]:
    """Return the first frame, the last one and its end, which only zeros may follow.

    Raises:
        AudioError: undecodable: there is no first frame. truncated: the last one is cut or damaged. trailing_data: it
            ends, but not where the file ends.
    """
    first = _parse_frame(data, begin, info)
    if first is None:
        reason: Reason = "truncated" if len(data) - begin < _LONGEST_HEADER else "undecodable"
        raise AudioError(reason, name, f"no frame follows the metadata at byte {begin}")
    content = len(data.rstrip(b"\0"))
    latest: _Frame | None = None
    for frame in _frames_from_back(data, begin, first, info):
        latest = latest or frame
        if crc16(data[frame.begin : content]) == 0:
            # Zeros that follow leave the checksum at 0, so two of them may be its own bytes; decoders pass over them.
            return first, frame, min(content + 2, len(data))
    assert latest is not None
    text_begin = _end_of_frame(data, latest)
    if text_begin is not None and _is_text(
        data[text_begin:]
    ):  # one cut frame in ten fits its checksum somewhere
        raise AudioError(
            "trailing_data", name, f"{len(data) - text_begin} bytes of text follow the last frame"
        )
    raise AudioError("truncated", name, f"the last frame, from byte {latest.begin}, is not complete")


def _is_text(data: bytes) -> bool:
    return 10 * len(data.translate(None, _TEXT)) < len(data)


def _check_order(data: bytes, first: _Frame, last: _Frame, info: StreamInfo, name: str) -> bool:
    """Check that each frame continues the one before; where one is missing, libFLAC would insert silence.

    Returns:
        Whether nothing else looks like a frame. Otherwise a decoder that passes over damaged frames might find a copy
        of another frame within one, and return as many samples as it should.

    Raises:
        AudioError: truncated: a frame is missing. undecodable: a frame is repeated.
    """
    if first.first_sample:
        raise AudioError("truncated", name, f"the first frame begins at sample {first.first_sample}")
    counts_samples, block = data[first.begin + 1] & 1, data[first.begin + 2]
    position, expected, is_alone = first.begin, first.num_samples, True
    positions = _sync_positions(data, first, last)
    while position != last.begin:
        strangers = []
        coded = _code_number(expected if counts_samples else expected // first.num_samples)
        for position in positions:
            if coded and data[position + 2] == block and data.startswith(coded, position + 4):
                expected += first.num_samples
                break  # as good as certain, so that the checksum is left to the decoder
            frame = _parse_frame(data, position, info, first)
            if frame is not None and frame.first_sample == expected:
                expected += frame.num_samples
                break
            if frame is not None:
                strangers.append(position)
            is_alone = is_alone and not _is_decodable(data, position, info, first)
        else:
            raise AudioError("truncated", name, f"no frame begins at sample {expected}")
        for stranger in strangers:  # nearly always samples that look like a header
            if crc16(data[stranger:position]) == 0:
                raise AudioError("undecodable", name, f"the frame at byte {stranger} is out of order")
    return is_alone


def _is_decodable(data: bytes, position: int, info: StreamInfo, first: _Frame) -> bool:
    """Whether a decoder would try the frame that seems to begin at a position: rate and bits may be any."""
    frame = _parse_frame(data, position, info)
    return frame is not None and frame.kind[1] == first.kind[1]


def _sync_positions(data: bytes, first: _Frame, last: _Frame) -> Iterator[int]:
    """Yield where frames may begin, of fixed or variable length: after the first, up to the last.

    NumPy is several times faster than `find`.
    """
    values = np.frombuffer(data, np.uint8)[: last.begin + 2]
    for begin in range(first.begin + 1, last.begin + 1, _SEARCHED_BYTES):
        part = values[begin : begin + _SEARCHED_BYTES + 1]
        matches = (part[:-1] == 0xFF) & (part[1:] & 0xFE == 0xF8)
        flags, place = matches.tobytes(), -1
        while (place := flags.find(1, place + 1)) >= 0:
            yield begin + place


def _frames_from_back(data: bytes, begin: int, first: _Frame, info: StreamInfo) -> Iterator[_Frame]:
    """Yield what may be the last frame: by chance, its samples may contain the likeness of a header."""
    sync, num_frames, position = data[begin : begin + 2], 0, len(data)
    while num_frames < _MOST_LIKENESSES and (position := data.rfind(sync, begin, position + 1)) >= 0:
        frame = _parse_frame(data, position, info, first)
        if frame is not None:
            num_frames += 1
            yield frame


def _end_of_frame(data: bytes, frame: _Frame) -> int | None:
    """Return the first end of a frame that fits its checksum; None if there is none."""
    table, state = crc16_table().tolist(), 0
    for position in range(frame.begin, min(len(data), frame.begin + _LONGEST_SEARCH)):
        state = (state << 8 & 0xFFFF) ^ table[state >> 8 ^ data[position]]
        if state == 0 and position - frame.begin > _LONGEST_HEADER:
            return position + 1
    return None


def _parse_frame(data: bytes, begin: int, info: StreamInfo, first: _Frame | None = None) -> _Frame | None:
    """Return the frame whose header is at a position; None if there is none of the kind of the first frame."""
    header = data[begin : begin + _LONGEST_HEADER]
    if len(header) < 6 or header[0] != 0xFF or header[1] & 0xFE != 0xF8 or header[3] & 1:
        return None
    block_code, rate_code, channel_code, bits_code = (
        header[2] >> 4,
        header[2] & 15,
        header[3] >> 4,
        header[3] >> 1 & 7,
    )
    number = _coded_number(header)
    if number is None or block_code == 0 or rate_code == 15 or channel_code > 10:
        return None
    value, position = number
    block_bytes, rate_bytes = _BLOCK_BYTES.get(block_code, 0), _RATE_BYTES.get(rate_code, 0)
    block = header[position : position + block_bytes]
    rate = header[position + block_bytes : position + block_bytes + rate_bytes]
    position += block_bytes + rate_bytes
    if position >= len(header) or crc8(header[: position + 1]):
        return None
    num_samples = _block_samples(block_code, int.from_bytes(block, "big"))
    kind = (
        _sample_rate(rate_code, int.from_bytes(rate, "big")) or info.sample_rate,
        channel_code + 1 if channel_code < 8 else 2,
        _BITS[bits_code] or info.bits,
    )
    if first is not None and kind != first.kind:
        return None
    block_samples = num_samples if first is None else first.num_samples
    first_sample = value if header[1] & 1 else value * block_samples
    return _Frame(begin, first_sample, num_samples, kind)


def _coded_number(header: bytes) -> tuple[int, int] | None:
    """Return the number of a frame, or of its first sample, coded as in UTF-8 from byte 4, and where its code ends."""
    lead = header[4]
    if lead < 0x80:
        return lead, 5
    num_following = f"{lead:08b}0".index("0") - 1  # as many as the leading ones, but for the first
    following = header[5 : 5 + num_following]
    if num_following == 0 or len(following) < num_following or any(byte & 0xC0 != 0x80 for byte in following):
        return None
    value = lead & (0x3F >> num_following)
    for byte in following:
        value = value << 6 | byte & 0x3F
    return value, 5 + num_following


@lru_cache(1 << 14)
def _code_number(number: int) -> bytes:
    """Return the code of a number as in UTF-8; empty if it is too large for characters."""
    return chr(number).encode("utf-8", "surrogatepass") if number <= sys.maxunicode else b""


def _block_samples(code: int, stated: int) -> int:
    if code in (6, 7):
        return stated + 1
    if code == 1:
        return 192
    return 576 << code - 2 if code < 6 else 256 << code - 8


def _sample_rate(code: int, stated: int) -> int:
    return _RATES[code] if code < 12 else stated * {12: 1000, 13: 1, 14: 10}[code]
