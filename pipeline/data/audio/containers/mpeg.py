"""The structure of MPEG audio (mp1, mp2, mp3): frames, each with its length in its header.

The first frame of an mp3 may be a table (Xing, Info, VBRI) that states how many frames follow. Decoders believe it, and
estimate the length from the first frame where there is none; both are wrong for joined files. So the frames are
counted, and where the table does not agree, the decoder is given a table that does.
"""

from __future__ import annotations

import itertools
import re
import struct
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import BinaryIO

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.containers.frames import (
    Frame,
    FrameRow,
    Syntax,
    find_frames,
    first_frame,
    refuse_partial_frame,
    walk,
)
from pipeline.data.audio.containers.tolerances import LEADING_JUNK_BYTES, MP3_TABLE_BYTES
from pipeline.data.audio.errors import AudioError

NUM_HEAD_BYTES = 2 * LEADING_JUNK_BYTES
"""So many bytes from the begin of the audio show whether it is MPEG, and hold its table."""

_DECODER_DELAY = (
    529  # samples by which every decoder of layer III delays; the padding of the encoder includes them
)
_MOST_FREE_TRIALS = 16

# Indexed by bits of the frame header: version (0: MPEG 2.5, 2: MPEG 2, 3: MPEG 1) and layer (1: III, 2: II, 3: I).
_MPEG_RATES = {0: (11025, 12000, 8000), 2: (22050, 24000, 16000), 3: (44100, 48000, 32000)}
_MPEG_VERSIONS = {0: "2.5", 2: "2", 3: "1"}
_MPEG1_KBITS = {
    3: (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_MPEG2_KBITS = {
    3: (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    1: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_TABLE_NAMES = (b"Xing", b"Info")
_TABLE_FIELDS = ((1, 4), (2, 4), (4, 100), (8, 4))  # flag and size: frames, bytes, seek table, quality
_DELAY_OFFSET = 21  # from the end of these fields, where the extension of LAME begins
_SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xff][\x00-\xef]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Table:
    """What the first frame states about those that follow it."""

    num_frames: int | None
    num_bytes: int | None
    """From the table to the end of the audio."""
    delay: int | None = None
    """Samples that the encoder put in front, and that decoders remove; None in a VBRI table, which states none."""
    padding: int = 0
    """Samples that the encoder put behind."""

    def num_samples(self, frame_samples: int) -> int:
        """Return how many samples decoders return for this table."""
        total = (self.num_frames or 0) * frame_samples
        if self.delay is None:
            return total
        return total - self.delay - _DECODER_DELAY - max(self.padding - _DECODER_DELAY, 0)


def locate_mpeg(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Find the frames of an MPEG audio file, and count their samples.

    Raises:
        AudioError: truncated: a frame is cut or missing. undecodable: no frames, or frames of several kinds.
    """
    file.seek(span.begin)
    head = file.read(NUM_HEAD_BYTES)
    syntax = mpeg_syntax(head)
    offset = first_frame(head, syntax, 0)
    frame = None if offset is None else syntax.at(head, offset)
    if offset is None or frame is None:
        raise AudioError(
            "undecodable", name, f"no frame in the first {LEADING_JUNK_BYTES} bytes of the audio"
        )
    first = head[offset : offset + frame.num_bytes]
    codec = f"mp{_layer(first)}"
    if is_whole:
        row = walk(file, span, syntax, name)
        file.seek(0)
        return _counted(file.read(span.end), row, codec, name)
    table, num_samples, begin = _read_table(first), None, span.begin + offset
    if table is not None and table.num_frames and table.num_bytes:
        is_alone = span.end - begin <= table.num_bytes + MP3_TABLE_BYTES  # otherwise another file follows
        num_samples = table.num_samples(frame.num_samples) if is_alone else None
    return Extent(begin, span.end, "mp3", codec, num_samples=num_samples)


def mpeg_syntax(head: bytes) -> Syntax:
    """Return how to read the frames of a file that begins with these bytes; frames of free format state no length."""
    syntax = Syntax(_SYNC, 4, _parse)
    if find_frames(head, syntax, 0, LEADING_JUNK_BYTES) is not None:
        return syntax
    matches = re.finditer(rb"\xff[\xe2-\xe7\xf2-\xff][\x00-\x0f]", head[:LEADING_JUNK_BYTES])
    for match in itertools.islice(matches, _MOST_FREE_TRIALS):
        followers = re.finditer(re.escape(match[0][:2]), head[match.end() :])
        for follower in itertools.islice(followers, _MOST_FREE_TRIALS):
            num_bytes = follower.start() + len(match[0])
            padding = (match[0][2] >> 1 & 1) * _padding_bytes(match[0])
            free = Syntax(_SYNC, 4, partial(_parse, free_bytes=num_bytes - padding))
            second = match.start() + num_bytes
            third = second + num_bytes + _padding_bytes(match[0]) + 4
            if third <= len(head) and find_frames(head, free, match.start(), match.start() + 1) is not None:
                return free
    return syntax


def has_mpeg_frame(head: bytes, most_junk: int) -> bool:
    """Whether the first bytes of a file are frames of MPEG audio, after so much junk at most."""
    return find_frames(head, mpeg_syntax(head), 0, most_junk + 1) is not None


def _counted(data: bytes, row: FrameRow, codec: str, name: str) -> Extent:
    """Return the extent of frames that have been counted.

    Where the table in front does not agree with the count, or tables and tags of joined files are between the frames,
    the decoder is given the frames alone, behind a table that agrees.
    """
    frame_samples = row.num_samples // len(row.offsets)
    tables = _find_tables(data, row)
    num_frames = len(row.offsets) - len(tables)
    for index, following in itertools.pairwise([*tables, len(row.offsets)]):
        _check_table(tables[index], row, index, following, name)
    first, last = tables.get(0), tables[max(tables)] if tables else None
    if last is None or last.num_frames not in (
        len(row.offsets) - max(tables),
        len(row.offsets) - max(tables) - 1,
    ):
        refuse_partial_frame(data, row, name)
    is_plain = len(row.runs) == 1 and len(tables) == (first is not None)
    if is_plain and first is None:
        return Extent(row.begin, row.end, "mp3", codec, num_samples=num_frames * frame_samples)
    if is_plain and first is not None and first.num_frames == num_frames and first.delay is not None:
        return Extent(row.begin, row.end, "mp3", codec, num_samples=first.num_samples(frame_samples))
    frames, num_samples = _without_tables(data, row, tables), num_frames * frame_samples
    if first is not None and last is not None and first.delay is not None:
        is_last_whole = last.num_frames in (
            len(row.offsets) - max(tables),
            len(row.offsets) - max(tables) - 1,
        )
        padding = last.padding if is_last_whole else 0
        correct = _Table(num_frames, len(frames), first.delay, padding)
        num_samples = correct.num_samples(frame_samples)
        frames = _table_frame(data[row.begin : row.begin + 4], correct) + frames
    return Extent(row.end, row.end, "mp3", codec, frames, num_samples)


def _check_table(table: _Table, row: FrameRow, index: int, following: int, name: str) -> None:
    """Check that a table states no more than the frames between itself and the next one.

    Raises:
        AudioError: truncated.
    """
    num_frames, stated = following - index - 1, table.num_frames or 0
    num_bytes = _frame_end(row, following - 1) - row.offsets[index]
    # Some encoders count the table as a frame, but the bytes then agree.
    if stated > num_frames + 1 or (stated > num_frames and (table.num_bytes or 0) > num_bytes):
        detail = f"{num_frames} frames; {stated} expected from the table at byte {row.offsets[index]}"
        raise AudioError("truncated", name, detail)


def _find_tables(data: bytes, row: FrameRow) -> dict[int, _Table]:
    """Return the tables among the frames, by the number of their frame."""
    tables = {}
    for name in (*_TABLE_NAMES, b"VBRI"):
        position = row.begin
        while (position := data.find(name, position)) >= 0:
            index = bisect_right(row.offsets, position) - 1
            table = _read_table(data[row.offsets[index] : _frame_end(row, index)])
            if table is not None:
                tables[index] = table
            position += len(name)
    return dict(sorted(tables.items()))


def _without_tables(data: bytes, row: FrameRow, tables: Iterable[int]) -> bytes:
    """Return the frames that hold audio, without what is between them."""
    cuts = [(row.offsets[index], _frame_end(row, index)) for index in tables]
    edges = sorted([*itertools.chain(*row.runs), *itertools.chain(*cuts)])
    # Runs and tables are nested, so every second edge ends a piece of audio.
    return b"".join(data[begin:end] for begin, end in zip(edges[::2], edges[1::2], strict=True))


def _frame_end(row: FrameRow, index: int) -> int:
    begin = row.offsets[index]
    run_end = next(end for _, end in row.runs if end > begin)
    return (
        row.offsets[index + 1]
        if index + 1 < len(row.offsets) and row.offsets[index + 1] < run_end
        else run_end
    )


def _read_table(frame: bytes) -> _Table | None:
    """Return the table of contents that the first frame is; None if it is audio."""
    if frame[36:40] == b"VBRI":
        num_bytes, num_frames = int.from_bytes(frame[46:50], "big"), int.from_bytes(frame[50:54], "big")
        return _Table(num_frames or None, num_bytes or None)
    begin = 4 + _side_info_bytes(frame)
    if frame[begin : begin + 4] not in _TABLE_NAMES:
        begin += 2  # behind a checksum
        if frame[begin : begin + 4] not in _TABLE_NAMES:
            return None
    flags, position = frame[begin + 7] if begin + 7 < len(frame) else 0, begin + 8
    values: list[int | None] = []
    for bit, length in _TABLE_FIELDS:
        value = int.from_bytes(frame[position : position + length], "big")
        values.append(value or None if flags & bit else None)
        position += length * bool(flags & bit)
    position += _DELAY_OFFSET
    both = int.from_bytes(frame[position : position + 3], "big")
    return _Table(values[0], values[1], both >> 12, both & 0xFFF)


def _table_frame(first: bytes, table: _Table) -> bytes:
    """Return a table as a frame in the format of the first frame."""
    assert table.num_frames is not None and table.num_bytes is not None and table.delay is not None
    begin = 4 + _side_info_bytes(first)
    # The lowest bit of the second byte says that no checksum follows.
    starts = [bytes([first[0], first[1] | 1, code << 4 | first[2] & 0x0C, first[3]]) for code in range(1, 15)]
    frames = [(start, frame) for start in starts if (frame := _parse(start)) is not None]
    start, frame = next(item for item in frames if item[1].num_bytes >= begin + 16 + _DELAY_OFFSET + 3)
    content = bytearray(frame.num_bytes)
    content[:4] = start
    num_bytes = table.num_bytes + frame.num_bytes
    content[begin : begin + 16] = struct.pack(">4sIII", b"Xing", 3, table.num_frames, num_bytes)
    content[begin + 16 : begin + 20] = b"LAME"
    delays = (table.delay << 12 | table.padding).to_bytes(3, "big")
    content[begin + 16 + _DELAY_OFFSET : begin + 16 + _DELAY_OFFSET + 3] = delays
    return bytes(content)


def _layer(frame: bytes) -> int:
    return 4 - (frame[1] >> 1 & 3)


def _side_info_bytes(frame: bytes) -> int:
    """Return the size of the side information of a frame of layer III, which a table leaves empty."""
    is_mpeg1, is_mono = frame[1] >> 3 & 3 == 3, frame[3] >> 6 == 3
    return (17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17)


def _padding_bytes(header: bytes) -> int:
    return 4 if _layer(header) == 1 else 1


@lru_cache(maxsize=4096)  # a file has tens of frames per second, but only some tens of different headers
def _parse(header: bytes, free_bytes: int = 0) -> Frame | None:
    """Return the frame with this 4-byte header; None if the header is invalid.

    Args:
        header: first bytes of the frame.
        free_bytes: size of the frames without padding, if they are of free format.
    """
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    kbits_index, rate_index, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if (
        version == 1
        or layer == 0
        or rate_index == 3
        or kbits_index == 15
        or (kbits_index == 0) != (free_bytes > 0)
    ):
        return None
    rate = _MPEG_RATES[version][rate_index]
    channels = "1 channel" if header[3] >> 6 == 3 else "2 channels"
    kind = f"MPEG {_MPEG_VERSIONS[version]} layer {'I' * (4 - layer)}, {rate} Hz, {channels}"
    bits = 1000 * (_MPEG1_KBITS if version == 3 else _MPEG2_KBITS)[layer][kbits_index]
    if layer == 3:
        return Frame((free_bytes or 12 * bits // rate * 4) + 4 * padding, 384, kind)
    num_samples = 576 if layer == 1 and version != 3 else 1152
    return Frame((free_bytes or num_samples // 8 * bits // rate) + padding, num_samples, kind)
