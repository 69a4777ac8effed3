"""The structure of wav files (RIFF, RIFX, RF64, BW64) and of w64, their 64-bit sibling: a row of chunks."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.containers.mpeg import locate_mpeg
from pipeline.data.audio.containers.samples import (
    Chunk,
    Framing,
    Samples,
    chunks,
    is_name,
    locate_samples,
    miscounts,
)
from pipeline.data.audio.containers.tolerances import EXCESS_BYTES
from pipeline.data.audio.errors import AudioError

_LINEAR_WIDTHS = {0x01: (1, 2, 3, 4), 0x03: (4, 8), 0x06: (1,), 0x07: (1,)}
"""Bytes per sample of the codecs without compression, by format tag: PCM, float, A-law, µ-law."""
_PCM, _MS_ADPCM, _IMA_ADPCM, _YAMAHA_ADPCM, _GSM, _NMS_ADPCM = 0x01, 0x02, 0x11, 0x20, 0x31, 0x38
_EXTENSIBLE = 0xFFFE
_G72X = frozenset({0x14, 0x40, 0x45, 0x64, 0x65})
_MPEG_CODECS = {0x50: "mp2", 0x55: "mp3"}

_STANDARD_RATES = frozenset(
    {
        *(4_000, 5_512, 5_513, 6_000, 8_000, 9_600, 11_025, 12_000, 16_000, 18_900, 22_050, 22_255, 24_000),
        *(32_000, 37_800, 44_056, 44_100, 47_250, 48_000, 50_000, 50_400, 64_000, 88_200, 96_000),
        *(176_400, 192_000, 352_800, 384_000),
    }
)
"""Hz; of two fields that contradict each other, a rate outside of these is taken to be the damaged one."""
_MAX_FORMAT_BYTES = 4096
_MAX_32 = 0xFFFFFFFF

_FORMS = frozenset({b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM"})
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_WAVE = bytes.fromhex("77617665f3acd3118cd100c04f8edb8a")
_W64_SUFFIX = _W64_WAVE[4:]


def _parse_riff_head(head: bytes, order: str) -> tuple[bytes, int] | None:
    chunk_name, length = struct.unpack(f"{order}4sI", head)
    return (chunk_name, length) if is_name(chunk_name) else None


def _parse_w64_head(head: bytes) -> tuple[bytes, int] | None:
    if head[:16] == _W64_RIFF:
        return b"RIFF", 0
    length = int.from_bytes(head[16:24], "little")
    return (head[:4], max(length - 24, 0)) if head[4:16] == _W64_SUFFIX else None


_ESSENTIAL = _FORMS | {b"fmt ", b"data", b"ds64"}
_RIFF = Framing(8, partial(_parse_riff_head, order="<"), 2, _ESSENTIAL)
_RIFX = Framing(8, partial(_parse_riff_head, order=">"), 2, _ESSENTIAL)
_W64 = Framing(24, _parse_w64_head, 8, _ESSENTIAL)


@dataclass(frozen=True, slots=True)
class _Format:
    """The fmt chunk of a wav file."""

    tag: int
    num_channels: int
    rate: int
    """Hz."""
    byte_rate: int
    block_bytes: int
    """Bytes of a block; PCM: one sample of each channel."""
    bits: int
    """Bits per sample."""
    extension: bytes
    """What follows those fields."""

    @property
    def codec(self) -> int:
        """The format tag, or that inside the GUID of an extensible format."""
        if self.tag == _EXTENSIBLE and len(self.extension) >= 10:
            return int.from_bytes(self.extension[8:10], "little")
        return self.tag

    def packed(self, order: str) -> bytes:
        """Return the content of the chunk."""
        fields = (self.tag, self.num_channels, self.rate, self.byte_rate, self.block_bytes, self.bits)
        return struct.pack(f"{order}HHIIHH", *fields) + self.extension


_NO_DATA = Chunk(b"", 0, 0)


@dataclass(frozen=True, slots=True)
class _Layout:
    """The chunks of a wav file that a decoder needs."""

    form: bytes
    order: str
    framing: Framing
    form_end: int
    """One past the last byte of the file, according to the length of the form."""
    raw_format: bytes = b""
    data: Chunk = _NO_DATA
    is_aligned: bool = True
    """Whether every chunk begins where decoders expect it."""


def locate_wav(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Find the samples of a wav file.

    Raises:
        AudioError: undecodable, truncated, trailing_data.
    """
    file.seek(span.begin)
    form, size = file.read(4), file.read(4)
    order = ">" if form == b"RIFX" else "<"
    framing = _RIFX if form == b"RIFX" else _RIFF
    form_end = span.begin + 8 + int.from_bytes(size, "big" if form == b"RIFX" else "little")
    layout = _read_layout(file, span, name, span.begin + 12, _Layout(form, order, framing, form_end))
    return _locate(file, span, name, is_whole, layout, "wav", _build_wav)


def locate_w64(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Find the samples of a w64 file.

    Raises:
        AudioError: undecodable, truncated, trailing_data.
    """
    file.seek(span.begin + 16)
    form_end = span.begin + int.from_bytes(file.read(8), "little")
    layout = _Layout(b"riff", "<", _W64, form_end)
    layout = _read_layout(file, span, name, span.begin + 40, layout)
    return _locate(file, span, name, is_whole, layout, "w64", _build_w64)


def _read_layout(file: BinaryIO, span: Span, name: str, begin: int, layout: _Layout) -> _Layout:
    """Walk through the chunks up to the samples."""
    wide = b""
    for chunk in chunks(file, begin, span.end, layout.framing):
        layout = replace(layout, is_aligned=layout.is_aligned and chunk.is_aligned)
        if chunk.name == b"ds64":
            file.seek(chunk.begin)
            wide = file.read(16)
        elif chunk.name == b"fmt " and chunk.length <= _MAX_FORMAT_BYTES:
            file.seek(chunk.begin)
            layout = replace(layout, raw_format=file.read(chunk.length))
        elif chunk.name == b"data" and not layout.raw_format:
            raise AudioError("undecodable", name, "no fmt chunk before the data chunk")
        elif chunk.name == b"data":
            if len(wide) == 16 and chunk.length == _MAX_32:
                form_size, data_size = struct.unpack("<QQ", wide)
                layout = replace(layout, form_end=span.begin + 8 + form_size)
                chunk = replace(chunk, length=data_size)
            return replace(layout, data=chunk)
        elif chunk.end > span.end:
            raise AudioError("truncated", name, f"the file ends within its chunk {chunk.name!r}")
    raise AudioError("undecodable", name, "no data chunk")


def _locate(
    file: BinaryIO,
    span: Span,
    name: str,
    is_whole: bool,
    layout: _Layout,
    container: str,
    build: Callable[[_Layout, bytes, int], bytes],
) -> Extent:
    stated = _parse_format(layout.raw_format, layout.order, name)
    mended = _mend_format(stated, name)
    block_bytes, block_samples = _block(mended)
    samples = Samples(
        layout.data.begin,
        layout.data.length,
        block_bytes,
        block_samples,
        max_excess=EXCESS_BYTES if container == "wav" else 0,
        covers_file=layout.form_end in (span.end, span.end + 1),
        miscounts=miscounts(block_bytes, mended.num_channels) if block_samples == 1 else frozenset(),
    )

    def build_header(num_bytes: int) -> bytes:
        # libsndfile decodes one block too many of GSM if the stated length is odd, and none too few if it is even.
        num_stated = num_bytes - num_bytes % 2 if mended.codec == _GSM else num_bytes
        return build(layout, mended.packed(layout.order), num_stated)

    extent = locate_samples(
        file,
        span,
        name,
        samples,
        layout.framing,
        Extent(span.begin, span.end, container),
        build_header,
        is_whole=is_whole,
        is_regular=mended == stated
        and len(layout.raw_format) >= 16
        and layout.is_aligned
        and layout.form != b"BW64"
        and not (mended.codec == _GSM and layout.data.length % 2),
    )
    codec = _MPEG_CODECS.get(mended.codec)
    if codec is None:
        return extent
    end = extent.end if extent.header else min(layout.data.end, span.end)
    return replace(locate_mpeg(file, Span(layout.data.begin, end), name, is_whole), codec=codec)


def _parse_format(raw: bytes, order: str, name: str) -> _Format:
    if len(raw) < 14:
        raise AudioError("undecodable", name, f"a fmt chunk of {len(raw)} bytes")
    tag, num_channels, rate, byte_rate, block_bytes = struct.unpack(f"{order}HHIIH", raw[:14])
    if len(raw) >= 16:
        bits = struct.unpack(f"{order}H", raw[14:16])[0]
    else:  # a WAVEFORMAT without the bits per sample
        bits = 8 * block_bytes // num_channels if tag == _PCM and num_channels else 0
    return _Format(tag, num_channels, rate, byte_rate, block_bytes, bits, raw[16:])


def _mend_format(stated: _Format, name: str) -> _Format:
    """Return the format with its redundant fields put right.

    Raises:
        AudioError: undecodable: the fields contradict each other, so that one of them is damaged.
    """
    if stated.num_channels == 0:
        raise AudioError("undecodable", name, "no channels")
    mended = _mend_linear(stated, name) if stated.codec in _LINEAR_WIDTHS else stated
    if stated.codec in (_IMA_ADPCM, _MS_ADPCM) and stated.bits not in (3, 4):
        raise AudioError("undecodable", name, f"ADPCM of {stated.bits} bits")
    if stated.codec not in (*_LINEAR_WIDTHS, *_MPEG_CODECS) and _is_linear_size(stated):
        raise AudioError("undecodable", name, f"the sizes of PCM under the format tag {stated.codec:#x}")
    block_bytes, block_samples = _block(mended)
    expected = mended.rate * block_bytes // (block_samples or 1)
    slack = 0 if block_samples == 1 else expected // 50
    is_contradicted = block_samples and stated.byte_rate and abs(stated.byte_rate - expected) > slack
    if is_contradicted and stated.rate not in _STANDARD_RATES:
        detail = f"{stated.rate} Hz, but {stated.byte_rate} bytes per second in blocks of {block_bytes}"
        raise AudioError("undecodable", name, detail)
    return mended


def _is_linear_size(stated: _Format) -> bool:
    """Whether the fields agree that every sample has 16 bits or more, as no codec that compresses has."""
    bits, block_bytes = stated.bits, stated.block_bytes
    return (
        bits >= 16
        and 8 * block_bytes == stated.num_channels * bits
        and stated.byte_rate == stated.rate * block_bytes
    )


def _mend_linear(stated: _Format, name: str) -> _Format:
    """Settle the bytes per sample of a format without compression, by the fields of which two agree."""
    channels, rate, block_bytes, byte_rate = (
        stated.num_channels,
        stated.rate,
        stated.block_bytes,
        stated.byte_rate,
    )
    widths = _LINEAR_WIDTHS[stated.codec]
    width = widths[0] if len(widths) == 1 else -(-stated.bits // 8)
    if byte_rate == rate * block_bytes and block_bytes == 4 * channels and 16 < stated.bits <= 24:
        width = 4  # samples in wider containers
    is_agreed = width * channels == block_bytes or byte_rate == rate * width * channels
    is_unset = block_bytes == byte_rate == 0
    if width not in widths or not (is_agreed or is_unset):
        detail = f"{channels} channels of {stated.bits} bits in blocks of {block_bytes} bytes, {byte_rate} a second"
        raise AudioError("undecodable", name, detail)
    if width * channels == block_bytes and (width == -(-stated.bits // 8) or len(widths) == 1):
        return stated
    return replace(stated, bits=8 * width, block_bytes=width * channels, byte_rate=rate * width * channels)


def _block(stated: _Format) -> tuple[int, int | None]:
    """Return bytes and samples per channel of a block; None if only decoding can tell the samples."""
    codec, channels, block_bytes = stated.codec, stated.num_channels, stated.block_bytes
    if codec in _LINEAR_WIDTHS:
        return block_bytes, 1
    if codec == _GSM:
        return 65, 320
    if codec == _NMS_ADPCM and block_bytes:
        return block_bytes, 160
    if codec == _IMA_ADPCM and block_bytes > 4 * channels:
        return block_bytes, 2 * (block_bytes - 4 * channels) // channels + 1
    if codec == _MS_ADPCM and block_bytes > 7 * channels:
        return block_bytes, 2 * (block_bytes - 7 * channels) // channels + 2
    if codec == _YAMAHA_ADPCM:
        return channels, 2
    if codec in _G72X and channels == 1 and 2 <= stated.bits <= 5:
        divisor = math.gcd(stated.bits, 8)
        return stated.bits // divisor, 8 // divisor
    return 1, None


def _build_wav(layout: _Layout, raw_format: bytes, num_bytes: int) -> bytes:
    """Return a wav header in front of this many bytes of samples."""
    order = layout.order
    raw_format += bytes(len(raw_format) % 2)
    size = 4 + 8 + len(raw_format) + 8 + num_bytes
    form, wide = (b"RIFX" if order == ">" else b"RIFF"), b""
    if size + 36 > _MAX_32:
        form, wide = b"RF64", struct.pack("<4sIQQQI", b"ds64", 28, size + 36, num_bytes, 0, 0)
    return b"".join(
        [
            struct.pack(f"{order}4sI4s", form, _MAX_32 if wide else size, b"WAVE"),
            wide,
            struct.pack(f"{order}4sI", b"fmt ", len(raw_format)),
            raw_format,
            struct.pack(f"{order}4sI", b"data", _MAX_32 if wide else num_bytes),
        ]
    )


def _build_w64(layout: _Layout, raw_format: bytes, num_bytes: int) -> bytes:  # noqa: ARG001
    """Return a w64 header in front of this many bytes of samples."""
    padding = bytes(-len(raw_format) % 8)
    size = 40 + 24 + len(raw_format + padding) + 24 + num_bytes
    return b"".join(
        [
            _W64_RIFF + struct.pack("<Q", size) + _W64_WAVE,
            b"fmt " + _W64_SUFFIX + struct.pack("<Q", 24 + len(raw_format)) + raw_format + padding,
            b"data" + _W64_SUFFIX + struct.pack("<Q", 24 + num_bytes),
        ]
    )
