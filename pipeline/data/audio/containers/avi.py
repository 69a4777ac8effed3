"""The structure of AVI files: RIFF chunks, of which `movi` holds one for each packet."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from pipeline.data.audio.containers.chain import walk
from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.containers.tolerances import BOXED_PRIMING_SAMPLES, ENCODER_DELAY_S
from pipeline.data.audio.errors import AudioError

_PROBED_BYTES = 1 << 16
_PCM_TAGS = (1, 3, 6, 7, 0xFFFE)
_OPEN_LENGTH = 0xFFFFFFFF  # of a list that was written to a pipe: it ends with the file


@dataclass(slots=True)
class _Stream:
    """The audio stream of a file."""

    number: int
    scale: int
    rate: int
    """`scale / rate` seconds are one unit."""
    unit_bytes: int
    """Bytes of a unit; 0 if each packet is one."""
    num_stated: int
    """Units that the header states."""
    is_pcm: bool = False
    sample_rate: int = 0
    """Hz."""
    num_bytes: int = 0
    num_packets: int = 0
    num_empty: int = 0
    """Packets without bytes: they fill the time before the audio begins."""

    @property
    def num_units(self) -> int:
        """How many units the file holds."""
        return self.num_bytes // self.unit_bytes if self.unit_bytes else self.num_packets

    @property
    def num_units_of_audio(self) -> int:
        """How many of these units hold audio."""
        return self.num_units if self.unit_bytes else self.num_packets - self.num_empty


def locate_avi(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Check that chunks fill the file, and that the audio has its stated length.

    Raises:
        AudioError: truncated, trailing_data, undecodable, not_audio.
    """
    extent = Extent(span.begin, span.end, "avi")
    file.seek(span.begin)
    data = file.read(span.end - span.begin if is_whole else min(_PROBED_BYTES, span.end - span.begin))
    headers = _headers(data, name)
    if not is_whole:
        is_stated = headers is not None and not _is_open(data)
        return _with_length(extent, headers, headers.num_stated) if headers and is_stated else extent
    if headers is None:
        raise AudioError("not_audio", name, "avi without an audio stream")
    packets = b"%02dwb" % headers.number
    for begin, end in walk(data, 0, _chunk_end, name, "avi"):
        kind = data[begin : begin + 12]
        if kind[:4] != b"RIFF" or kind[8:] != (b"AVIX" if begin else b"AVI "):
            detail = f"avi: {len(data) - begin} bytes behind the file that ends at byte {begin}"
            raise AudioError("trailing_data", name, detail)
        for chunk, body, chunk_end in _chunks(data, begin + 12, end, name):
            if chunk == packets:
                headers.num_bytes += chunk_end - body
                headers.num_packets += 1
                headers.num_empty += body == chunk_end
    if _is_open(data):
        return _with_length(extent, headers, headers.num_units_of_audio)
    missing_s = (headers.num_stated - headers.num_units) * headers.scale / headers.rate
    if missing_s > ENCODER_DELAY_S:
        raise AudioError("truncated", name, f"avi: {missing_s:.1f} s less than the header states")
    return _with_length(extent, headers, headers.num_units_of_audio)


def _with_length(extent: Extent, stream: _Stream, num_units: int) -> Extent:
    # The last packet may be shorter than the others, and FFmpeg adds an empty one.
    packet_samples = 0 if stream.unit_bytes else stream.scale * stream.sample_rate // stream.rate
    tolerance = 0 if stream.is_pcm else BOXED_PRIMING_SAMPLES + 2 * packet_samples
    num_samples = num_units * stream.scale or None
    return replace(extent, num_samples=num_samples, rate=stream.rate, tolerance=tolerance)


def _headers(data: bytes, name: str) -> _Stream | None:
    """Return the first audio stream that the headers in front of the packets describe."""
    number, found = -1, None
    if data[20:24] != b"hdrl":
        raise AudioError("undecodable", name, "avi: no headers behind the first 12 bytes")
    end = min(len(data), 20 + int.from_bytes(data[16:20], "little"))
    for kind, body, chunk_end in _chunks(data, 24, end, name):
        if kind == b"strh" and chunk_end - body >= 48:
            number += 1
            if data[body : body + 4] == b"auds" and found is None:
                scale, rate, _, num_stated, _, _, unit_bytes = struct.unpack_from("<7I", data, body + 20)
                if scale == 0 or rate == 0:
                    raise AudioError("undecodable", name, "avi: the audio has no rate")
                found = _Stream(number, scale, rate, unit_bytes, num_stated)
        elif kind == b"strf" and found is not None and found.number == number:
            found.sample_rate = int.from_bytes(data[body + 4 : body + 8], "little")
            found.is_pcm = (
                int.from_bytes(data[body : body + 2], "little") in _PCM_TAGS and found.unit_bytes > 0
            )
    return found


def _is_open(data: bytes) -> bool:
    """Whether a file was written to a pipe, so that its lengths are unknown."""
    return int.from_bytes(data[4:8], "little") == _OPEN_LENGTH


def _chunks(data: bytes, begin: int, end: int, name: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, first byte of the body, and end of all chunks, those in lists included."""
    position = begin
    while position + 8 <= end:
        kind, length = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 : position + 8], "little"),
        )
        body, chunk_end = position + 8, position + 8 + length
        is_list = kind == b"LIST" and length >= 4
        if (chunk_end > end and not (is_list and length == _OPEN_LENGTH)) or not kind.isascii():
            raise AudioError("undecodable", name, f"avi: a damaged chunk at byte {position}")
        if is_list:
            position = body + 4  # its chunks follow
        else:
            yield kind, body, chunk_end
            position = chunk_end + length % 2


def _chunk_end(data: bytes, position: int) -> int | None:
    if position + 12 > len(data) or data[position : position + 4] != b"RIFF":
        return None
    length = int.from_bytes(data[position + 4 : position + 8], "little")
    if length == _OPEN_LENGTH and position == 0:
        return len(data)
    return min(position + 8 + length + length % 2, max(len(data), position + 8 + length))
