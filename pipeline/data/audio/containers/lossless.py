"""The structure of files of lossless and simple codecs: WavPack, TTA, Monkey's Audio, DSF, QOA and Musepack 8."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

import numpy as np

from pipeline.data.audio.containers.chain import walk
from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.errors import AudioError, Reason

_PROBED_BYTES = 4096
_UNKNOWN = 0xFFFFFFFF
_WAVPACK_FIRST, _WAVPACK_DSD = 0x800, 0x8000_0000
_QOA_FRAME = struct.Struct(">BBHHH")  # channels, rate above 16 bits, rate, samples per channel, bytes


def _read(file: BinaryIO, span: Span, is_whole: bool) -> bytes:
    file.seek(span.begin)
    return file.read(span.end - span.begin if is_whole else min(_PROBED_BYTES, span.end - span.begin))


def locate_wavpack(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Check that blocks of WavPack follow each other up to the stated number of samples.

    Raises:
        AudioError: truncated, trailing_data, undecodable.
    """
    data = _read(file, span, is_whole)
    stated = int.from_bytes(data[12:16], "little")
    if not is_whole or len(data) < 32:
        is_pcm = not int.from_bytes(data[24:28], "little") & _WAVPACK_DSD
        num_samples = stated if is_pcm and stated != _UNKNOWN else None
        return Extent(span.begin, span.end, "wavpack", num_samples=num_samples or None)
    count, is_pcm = 0, True
    for begin, _ in walk(data, 0, _wavpack_end, name, "wavpack"):
        index, samples, flags = struct.unpack_from("<III", data, begin + 16)
        if flags & _WAVPACK_FIRST and samples:  # further blocks hold other channels of the same samples
            if index != count & _UNKNOWN:
                detail = f"wavpack: the block at byte {begin} begins at sample {index} instead of {count}"
                raise AudioError("undecodable", name, detail)
            count += samples
        is_pcm = is_pcm and not flags & _WAVPACK_DSD
    if stated not in (0, _UNKNOWN) and count != stated:  # FFmpeg states 0 in a pipe
        reason: Reason = "truncated" if count < stated else "trailing_data"
        raise AudioError(reason, name, f"wavpack: {count} samples; the header states {stated}")
    return Extent(span.begin, span.end, "wavpack", num_samples=count if is_pcm else None)


def _wavpack_end(data: bytes, position: int) -> int | None:
    if data[position : position + 4] != b"wvpk" or len(data) < position + 32:
        return None
    return position + 8 + int.from_bytes(data[position + 4 : position + 8], "little")


def locate_tta(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Check that the frames in the table of a TTA file fill it.

    Raises:
        AudioError: truncated, trailing_data, undecodable.
    """
    data = _read(file, span, is_whole)
    if len(data) < 22:
        raise AudioError("truncated", name, "tta: the file ends within its header")
    rate, num_samples, crc = struct.unpack_from("<III", data, 10)
    if zlib.crc32(data[:18]) != crc or rate == 0:
        raise AudioError("undecodable", name, "tta: the header is damaged")
    if is_whole:
        frame_samples = 256 * rate // 245
        num_frames = -(-num_samples // frame_samples)
        table_end = 22 + 4 * num_frames
        if len(data) < table_end + 4:
            raise AudioError("truncated", name, "tta: the file ends within its table")
        if zlib.crc32(data[22:table_end]).to_bytes(4, "little") != data[table_end : table_end + 4]:
            raise AudioError("undecodable", name, "tta: the table of frames is damaged")
        frames = np.frombuffer(data, "<u4", num_frames, 22)
        _check_end(table_end + 4 + int(frames.sum(dtype=np.int64)), data, name, "tta")
    return Extent(span.begin, span.end, "tta", num_samples=num_samples)


def locate_ape(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Check that the parts in the header of a Monkey's Audio file (from version 3.98) fill it.

    Raises:
        AudioError: truncated, trailing_data.
    """
    data = _read(file, span, is_whole)
    if len(data) < 76 or int.from_bytes(data[4:6], "little") < 3980:
        return Extent(span.begin, span.end, "ape")
    sizes = struct.unpack_from("<4I2II", data, 8)
    head, *others = sizes[:4]
    frame_samples, last_samples, num_frames = struct.unpack_from("<III", data[head:].ljust(16, b"\0"), 4)
    if is_whole:
        _check_end(head + sum(others) + sizes[4] + (sizes[5] << 32) + sizes[6], data, name, "ape")
    num_samples = max(num_frames - 1, 0) * frame_samples + last_samples
    return Extent(span.begin, span.end, "ape", num_samples=num_samples)


def locate_dsf(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Check that a DSF file has its stated size.

    Raises:
        AudioError: truncated, trailing_data, undecodable.
    """
    data = _read(file, span, is_whole)
    if len(data) < 92 or data[28:32] != b"fmt ":
        raise AudioError("truncated" if len(data) < 92 else "undecodable", name, "dsf: the header is damaged")
    stated, tag = struct.unpack_from("<QQ", data, 12)
    num_bits = struct.unpack_from("<Q", data, 64)[0]
    if is_whole:
        _check_end(min(stated, tag) if tag else stated, data[: tag or None], name, "dsf")
    # FFmpeg returns one sample for eight bits.
    return Extent(span.begin, span.end, "dsf", num_samples=num_bits // 8)


def _check_end(end: int, data: bytes, name: str, container: str) -> None:
    """Check that the stated end of a file is where it ends, or where zeros begin."""
    if end > len(data):
        raise AudioError("truncated", name, f"{container}: {end - len(data)} bytes are missing")
    if data.count(0, end) < len(data) - end:
        raise AudioError("trailing_data", name, f"{container}: {len(data) - end} bytes behind the audio")


def locate_qoa(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Check that frames of QOA fill the file and have the stated number of samples.

    Raises:
        AudioError: truncated, trailing_data, undecodable.
    """
    data = _read(file, span, is_whole)
    stated = int.from_bytes(data[4:8], "big")
    if is_whole and stated:  # a stream states 0
        count = sum(
            _QOA_FRAME.unpack_from(data, begin)[3] for begin, _ in walk(data, 8, _qoa_end, name, "qoa")
        )
        if count != stated:
            reason: Reason = "truncated" if count < stated else "trailing_data"
            raise AudioError(reason, name, f"qoa: {count} samples; the header states {stated}")
    return Extent(span.begin, span.end, "qoa", num_samples=stated or None)


def _qoa_end(data: bytes, position: int) -> int | None:
    if position + _QOA_FRAME.size > len(data):
        return None
    channels, _, _, samples, num_bytes = _QOA_FRAME.unpack_from(data, position)
    is_frame = 0 < samples <= 5120 and num_bytes == 8 + channels * (16 + 8 * -(-samples // 20))
    return position + num_bytes if is_frame else None


def locate_mpc8(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Check that packets of Musepack 8 fill the file up to the one that ends the stream.

    Raises:
        AudioError: truncated, trailing_data.
    """
    if is_whole:
        data = _read(file, span, is_whole)
        last = b""
        for begin, end in walk(data, 4, _mpc8_end, name, "mpc8"):
            last = data[begin : begin + 2]
            if last == b"SE":
                _check_end(end, data, name, "mpc8")
                break
        if last != b"SE":
            raise AudioError("truncated", name, "mpc8: no packet ends the stream")
    return Extent(span.begin, span.end, "mpc8")


def _mpc8_end(data: bytes, position: int) -> int | None:
    if not data[position : position + 2].isalpha():
        return None
    size, at = 0, position + 2
    while at < min(len(data), position + 10):
        size = size << 7 | data[at] & 127
        at += 1
        if not data[at - 1] & 128:
            return position + size
    return None
