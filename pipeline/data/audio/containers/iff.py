"""The structure of aiff, svx and caf files: chunks with big-endian lengths that follow each other."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.containers.samples import (
    Chunk,
    Framing,
    Samples,
    chunks,
    is_name,
    is_placeholder,
    locate_samples,
    miscounts,
)
from pipeline.data.audio.containers.tolerances import ENCODER_DELAY_S, EXCESS_BYTES
from pipeline.data.audio.errors import AudioError

_UINT32 = 1 << 32
_AIFC_VERSION = struct.pack(">4sII", b"FVER", 4, 0xA2805140)

_CAF_EXACT = frozenset({b"lpcm", b"alac", b"flac", b"ulaw", b"alaw", b"ima4"})
"""Codecs of caf that return as many samples as its packet table states."""
_MAX_RATE = 1e6

_FORMS = frozenset({b"FORM", b"RIFF", b"caff"})

_AIFF_WIDTHS = {
    **dict.fromkeys((b"in24", b"42ni"), 3),
    **dict.fromkeys((b"in32", b"23ni", b"fl32", b"FL32"), 4),
    **dict.fromkeys((b"fl64", b"FL64"), 8),
    **dict.fromkeys((b"raw ", b"ulaw", b"ULAW", b"alaw", b"ALAW"), 1),
}
"""Bytes per sample of the compressions of aiff that have a fixed one."""
_AIFF_PCM = frozenset({b"NONE", b"twos", b"sowt"})
"""Compressions of aiff whose bytes per sample follow from the bits per sample."""
_AIFF_BLOCKS = {b"ima4": (34, 64), b"GSM ": (33, 160)}
"""Bytes per channel and samples of a block."""


def _parse_iff_head(head: bytes) -> tuple[bytes, int] | None:
    name, length = struct.unpack(">4sI", head)
    return (name, length) if is_name(name) else None


def _parse_caf_head(head: bytes) -> tuple[bytes, int] | None:
    name, length = struct.unpack(">4sQ", head)
    return (name, length) if is_name(name) else None


_AIFF = Framing(8, _parse_iff_head, 2, _FORMS | {b"SSND"})
_SVX = Framing(8, _parse_iff_head, 2, _FORMS | {b"BODY"})
_CAF = Framing(12, _parse_caf_head, 1, _FORMS | {b"data"})


def _read(file: BinaryIO, chunk: Chunk, num_bytes: int) -> bytes:
    """Return the first bytes of a chunk."""
    file.seek(chunk.begin)
    return file.read(min(chunk.length, num_bytes))


@dataclass(frozen=True, slots=True)
class _Common:
    """The COMM chunk of an aiff file."""

    raw: bytes
    num_channels: int
    num_frames: int
    """Samples per channel; blocks if the compression is ima4."""
    block_bytes: int
    block_samples: int | None
    """Samples per channel in a block; None if only decoding can tell."""
    frames_per_block: int

    def packed(self, num_bytes: int) -> bytes:
        """Return the content of the chunk for this many bytes of samples."""
        num_frames = num_bytes // self.block_bytes * self.frames_per_block
        return self.raw[:2] + struct.pack(">I", num_frames % _UINT32) + self.raw[6:]


def locate_aiff(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Find the samples of an aiff file.

    Raises:
        AudioError: undecodable, truncated, trailing_data.
    """
    file.seek(span.begin)
    head = file.read(12)
    common, sound, offset, is_aligned = None, None, 0, True
    for chunk in chunks(file, span.begin + 12, span.end, _AIFF):
        is_aligned = is_aligned and chunk.is_aligned
        if chunk.name == b"COMM":
            common = _parse_common(_read(file, chunk, 512), head[8:], name)
        elif chunk.name == b"SSND":
            sound = chunk
            offset = int.from_bytes(_read(file, chunk, 4), "big")
        if common is not None and sound is not None:
            break
    if common is None or sound is None:
        missing = "COMM" if common is None else "SSND"
        raise AudioError("undecodable", name, f"no {missing} chunk")
    begin = sound.begin + 8 + offset
    if begin > span.end:
        raise AudioError("truncated", name, "the file ends before its samples")
    num_bytes = _aiff_bytes(max(sound.length - 8 - offset, 0), span.end - begin, common, name)
    samples = Samples(
        begin,
        num_bytes,
        common.block_bytes,
        common.block_samples,
        max_excess=EXCESS_BYTES,
        covers_file=span.begin + 8 + int.from_bytes(head[4:8], "big") in (span.end, span.end + 1),
        miscounts=miscounts(common.block_bytes, common.num_channels)
        if common.block_samples == 1
        else frozenset(),
    )
    return locate_samples(
        file,
        span,
        name,
        samples,
        _AIFF,
        Extent(span.begin, span.end, "aiff"),
        partial(_build_aiff, head[8:], common),
        is_whole=is_whole,
        is_regular=is_aligned
        and (common.block_samples != 1 or common.num_frames == num_bytes // common.block_bytes)
        and sound.length == num_bytes + 8 + offset,
    )


def _parse_common(raw: bytes, form: bytes, name: str) -> _Common:
    if len(raw) < 18 or (form == b"AIFC" and len(raw) < 22):
        raise AudioError("undecodable", name, f"a COMM chunk of {len(raw)} bytes")
    num_channels, num_frames, bits = struct.unpack(">HIH", raw[:8])
    compression = raw[18:22] if form == b"AIFC" else b"NONE"
    if num_channels == 0:
        raise AudioError("undecodable", name, "no channels")
    if compression in _AIFF_BLOCKS:
        block_bytes, block_samples = _AIFF_BLOCKS[compression]
        frames_per_block = 1 if compression == b"ima4" else block_samples
        return _Common(
            raw, num_channels, num_frames, block_bytes * num_channels, block_samples, frames_per_block
        )
    if compression not in _AIFF_PCM and compression not in _AIFF_WIDTHS:
        return _Common(raw, num_channels, num_frames, 1, None, 1)
    width = _AIFF_WIDTHS.get(compression, -(-bits // 8))
    if width == 0:
        raise AudioError("undecodable", name, "no bits per sample")
    return _Common(raw, num_channels, num_frames, width * num_channels, 1, 1)


def _aiff_bytes(stated: int, available: int, common: _Common, name: str) -> int:
    """Return the stated bytes of samples, by SSND and COMM.

    Raises:
        AudioError: undecodable: the two contradict each other.
    """
    if common.block_samples != 1:  # some writers count blocks, some samples
        return stated
    counted = common.num_frames * common.block_bytes
    is_counted = counted > 0 and not is_placeholder(counted) and not is_placeholder(common.num_frames)
    if stated == 0 or (stated > available and is_placeholder(stated)):
        return counted if is_counted else 0
    if is_counted and abs(stated - counted) > EXCESS_BYTES + common.block_bytes:
        detail = f"{common.num_frames} frames of {common.block_bytes} bytes, but {stated} bytes of samples"
        raise AudioError("undecodable", name, detail)
    return stated


def _build_aiff(form: bytes, common: _Common, num_bytes: int) -> bytes:
    """Return an aiff header in front of this many bytes of samples."""
    raw = common.packed(num_bytes)
    raw += bytes(len(raw) % 2)
    body = b"".join(
        [
            form,
            _AIFC_VERSION if form == b"AIFC" else b"",
            struct.pack(">4sI", b"COMM", len(raw)) + raw,
            struct.pack(">4sIII", b"SSND", (num_bytes + 8) % _UINT32, 0, 0),
        ]
    )
    return struct.pack(">4sI", b"FORM", (len(body) + num_bytes) % _UINT32) + body


def locate_svx(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Find the samples of an 8svx or 16sv file.

    Raises:
        AudioError: undecodable, truncated, trailing_data.
    """
    file.seek(span.begin)
    head = file.read(12)
    voice, is_mono = b"", True
    for chunk in chunks(file, span.begin + 12, span.end, _SVX):
        if chunk.name == b"VHDR":
            voice = _read(file, chunk, 20)
        elif chunk.name == b"CHAN":
            is_mono = False
        elif chunk.name == b"BODY":
            break
    else:
        raise AudioError("undecodable", name, "no BODY chunk")
    if len(voice) < 20:
        raise AudioError("undecodable", name, "no VHDR chunk before the BODY chunk")
    width = 2 if head[8:] == b"16SV" else 1
    is_plain = is_mono and voice[15] == 0
    samples = Samples(
        chunk.begin,
        chunk.length,
        width,
        1 if is_plain else None,
        covers_file=span.begin + 8 + int.from_bytes(head[4:8], "big") in (span.end, span.end + 1),
        miscounts=miscounts(width, 1),
    )
    return locate_samples(
        file,
        span,
        name,
        samples,
        _SVX,
        Extent(span.begin, span.end, "svx"),
        partial(_build_svx, head[8:], voice),
        is_whole=is_whole,
    )


def _build_svx(form: bytes, voice: bytes, num_bytes: int) -> bytes:
    """Return an 8svx or 16sv header in front of this many bytes of samples."""
    body = form + struct.pack(">4sI", b"VHDR", len(voice)) + voice + struct.pack(">4sI", b"BODY", num_bytes)
    return struct.pack(">4sI", b"FORM", len(body) + num_bytes) + body


def locate_caf(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Find the samples of a caf file.

    Raises:
        AudioError: undecodable, truncated, trailing_data.
    """
    kept: dict[bytes, Chunk] = {}
    data = None
    for chunk in chunks(file, span.begin + 8, span.end, _CAF):
        if chunk.name in (b"desc", b"kuki", b"pakt", b"chan"):
            kept[chunk.name] = chunk
        elif chunk.name == b"data":
            data = chunk
    if data is None or b"desc" not in kept or kept[b"desc"].length != 32:
        raise AudioError(
            "undecodable", name, "no data chunk" if data is None else "no desc chunk of 32 bytes"
        )
    rate, codec, _, packet_bytes, packet_samples, num_channels, bits = struct.unpack(
        ">d4sIIIII", _read(file, kept[b"desc"], 32)
    )
    width = -(-bits // 8)
    if codec == b"lpcm" and packet_bytes not in (width * num_channels, 4 * num_channels):
        detail = f"{num_channels} channels of {bits} bits in packets of {packet_bytes} bytes"
        raise AudioError("undecodable", name, detail)
    is_fixed = packet_bytes > 0 and packet_samples > 0
    extent = Extent(span.begin, span.end, "caf")
    table = _read(file, kept[b"pakt"], 24) if b"pakt" in kept else b""
    num_packets, num_samples, delay = struct.unpack(">qqq", table) if len(table) == 24 else (0, 0, 0)
    if num_samples > 0:
        is_exact = codec in _CAF_EXACT or not 0 < rate <= _MAX_RATE
        tolerance = 0 if is_exact else int(ENCODER_DELAY_S * rate)
        if codec == b"alac" and num_samples == num_packets * packet_samples:
            tolerance = packet_samples - 1  # FFmpeg counts whole packets; the last one knows its own length
        extent = replace(extent, num_samples=num_samples, tolerance=tolerance)
    samples = Samples(
        data.begin + 4,
        max(data.length - 4, 0),
        packet_bytes if is_fixed else 1,
        packet_samples if is_fixed else None,
        miscounts=miscounts(packet_bytes, num_channels) if codec == b"lpcm" else frozenset(),
    )
    return locate_samples(
        file,
        span,
        name,
        samples,
        _CAF,
        extent,
        partial(_build_caf, file, list(kept.values()), codec),
        is_whole=is_whole,
        is_regular=codec != b"alac" or delay == 0,
    )


def _build_caf(file: BinaryIO, kept: list[Chunk], codec: bytes, num_bytes: int) -> bytes:
    """Return a caf header in front of this many bytes of samples.

    The padding at the end of ALAC is stated as zero, because FFmpeg takes it off twice.
    """
    parts = [struct.pack(">4sHH", b"caff", 1, 0)]
    for chunk in kept:
        raw = _read(file, chunk, chunk.length)
        if chunk.name == b"pakt" and codec == b"alac":
            raw = raw[:16] + bytes(len(raw[16:24])) + raw[24:]
        parts.append(struct.pack(">4sQ", chunk.name, len(raw)) + raw)
    return b"".join([*parts, struct.pack(">4sQI", b"data", num_bytes + 4, 0)])
