"""The structure of mp4, m4a, mov and 3gp files: boxes that follow each other, and an index of the samples in them.

A *sample* of the index is a packet of the codec. The index states where each one is and how long it lasts: in the boxes
of a track (`stsz`, `stco`, `stsc`, `stts`), or in front of each fragment (`moof`). See ISO/IEC 14496-12.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.containers.mp4_boxes import Box, BoxReader, text_of
from pipeline.data.audio.containers.padding import is_padding
from pipeline.data.audio.containers.tolerances import BOXED_PRIMING_SAMPLES
from pipeline.data.audio.errors import AudioError

_PROBED_BOXES = 64
_TOP_LEVEL = frozenset(
    b"ftyp moov mdat free skip wide uuid moof mfra sidx ssix styp meta pnot PICT pict pdin udta prft emsg junk".split()
)
_EXACT_CODECS = frozenset(
    {b"raw ", *b"NONE sowt twos lpcm in24 in32 fl32 fl64 ipcm fpcm alac fLaC ulaw alaw".split()}
)
_ENCRYPTED = frozenset({b"enca", b"drms"})

_TIMES = [("count", ">u4"), ("units", ">u4")]
_GROUPS = [("first", ">u4"), ("samples", ">u4"), ("description", ">u4")]
_RUN_FIELDS = ((0x100, "duration"), (0x200, "size"), (0x400, "flags"), (0x800, "offset"))

Offsets = NDArray[np.int64]
_NONE: Offsets = np.empty(0, np.int64)


@dataclass(slots=True)
class _Track:
    """An audio track; durations are in units of its own time scale."""

    number: int
    scale: int
    is_exact: bool
    """Whether the codec is exact to the sample, and the time scale the sample rate."""
    duration: int
    """Of all samples of the index, with priming and padding."""
    edits: list[tuple[int, int]]
    """First unit and number of units of each piece that is played; a length of 0 means up to the end."""
    runs: list[tuple[Offsets, Offsets]] = field(default_factory=list)
    """First bytes, and bytes after the last ones, of adjacent samples."""

    def played(self) -> int:
        """Return how many units are played."""
        if not self.edits:
            return self.duration
        begin, length = self.edits[0]
        rest = max(self.duration - begin, 0)
        return min(length, rest) if length else rest


def locate_mp4(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Check that boxes fill the file and hold every sample of the index, and find the length of the audio.

    Raises:
        AudioError: truncated, trailing_data, undecodable, not_audio.
    """
    reader = BoxReader(file, span, name, is_whole)
    boxes = _top_level(reader)
    movie = next((box for box in boxes if box.kind == b"moov"), None)
    extent = Extent(span.begin, span.end, "mp4")
    if movie is None:
        if not is_whole and len(boxes) == _PROBED_BOXES:
            return extent
        raise reader.truncated("no index (moov): the recording was not finished, or its end is missing")
    tracks = _audio_tracks(reader, movie)
    if not tracks:
        raise AudioError("not_audio", name, "mp4 without an audio track")
    extensions = reader.child(movie, b"mvex")
    if extensions is not None and not is_whole:
        return extent  # only all fragments together tell the length
    if is_whole:
        if extensions is not None:
            _add_fragments(reader, extensions, boxes, tracks)
        _check_runs(reader, boxes, tracks)
        if all(track.duration == 0 for track in tracks):
            raise reader.truncated("an index without samples")
    return _with_length(extent, tracks)


def _with_length(extent: Extent, tracks: list[_Track]) -> Extent:
    """Add what the index says about the length, unless tracks or edits leave open what a decoder returns."""
    track = tracks[0]
    if len(tracks) > 1 or len(track.edits) > 1:
        return extent
    played = track.played()
    is_trimmed = played + (track.edits[0][0] if track.edits else 0) < track.duration
    tolerance = 0 if track.is_exact and not is_trimmed else BOXED_PRIMING_SAMPLES
    return replace(extent, num_samples=played, rate=track.scale, tolerance=tolerance)


def _top_level(reader: BoxReader) -> list[Box]:
    """Return the boxes of the file, which must fill it; of a file that is only probed, the first ones."""
    begin, end = reader.span.begin, reader.span.end
    boxes: list[Box] = []
    position = begin
    while position < end and (reader.is_whole or len(boxes) < _PROBED_BOXES):
        try:
            box = reader.box_at(position, end)
            is_box = box.kind in _TOP_LEVEL or (box.end <= end and box.kind.isalnum())
        except AudioError:
            is_box = False
        if not is_box:
            if is_padding(reader.file, position, end, is_whole=reader.is_whole):
                break
            raise AudioError("trailing_data", reader.name, f"mp4: {end - position} bytes behind the last box")
        if box.end > end:
            missing = box.end - end
            raise reader.truncated(
                f"{missing} bytes of the box {text_of(box.kind)} at byte {position} are missing"
            )
        if box.kind in (b"ftyp", b"moov") and any(earlier.kind == box.kind for earlier in boxes):
            raise AudioError("trailing_data", reader.name, f"mp4: a second file begins at byte {position}")
        boxes.append(box)
        position = box.end
    return boxes


def _audio_tracks(reader: BoxReader, movie: Box) -> list[_Track]:
    header = reader.child(movie, b"mvhd")
    movie_scale = _scale(reader, header) if header else 0
    tracks = []
    for box in reader.children(movie):
        handler = reader.child(box, b"mdia", b"hdlr") if box.kind == b"trak" else None
        if handler is not None and reader.body(handler, 12)[8:12] == b"soun":
            tracks.append(_track(reader, box, movie_scale))
    return tracks


def _track(reader: BoxReader, box: Box, movie_scale: int) -> _Track:
    head, header = reader.child(box, b"tkhd"), reader.child(box, b"mdia", b"mdhd")
    information = reader.child(box, b"mdia", b"minf")
    table = reader.child(information, b"stbl") if information else None
    if head is None or header is None or information is None or table is None:
        raise reader.error("an audio track without tkhd, mdhd or stbl")
    data = reader.body(head, 24)
    number = int.from_bytes(data[20:24] if data[0] == 1 else data[12:16], "big")
    scale = _scale(reader, header)
    codec, rate = _description(reader, information, table)
    times = reader.child(table, b"stts")
    rows = reader.table(times, _TIMES) if times else np.empty(0, _TIMES)
    counts = rows["count"].astype(np.int64)
    duration = sum(map(int.__mul__, counts.tolist(), rows["units"].tolist()))
    is_exact = codec in _EXACT_CODECS and rate in (scale, 0)
    track = _Track(number, scale, is_exact, duration, _edits(reader, box, scale, movie_scale))
    if reader.is_whole:
        track.runs.append(_indexed_runs(reader, table, int(counts.sum())))
    return track


def _scale(reader: BoxReader, header: Box) -> int:
    """Return the units per second of a movie (`mvhd`) or of a track (`mdhd`)."""
    data = reader.body(header, 24)
    scale = int.from_bytes(data[20:24] if data[0] == 1 else data[12:16], "big")
    if scale == 0:
        raise reader.error(f"the box {text_of(header.kind)} states a time scale of 0")
    return scale


def _description(reader: BoxReader, information: Box, table: Box) -> tuple[bytes, int]:
    """Return codec and sample rate of a track, 0 if its description has no room for it.

    Raises:
        AudioError: undecodable: the samples are encrypted, or in another file.
    """
    descriptions, references = reader.child(table, b"stsd"), reader.child(information, b"dinf", b"dref")
    data = reader.body(descriptions, 44) if descriptions else b""
    codec, index, version = (
        data[12:16],
        int.from_bytes(data[22:24], "big"),
        int.from_bytes(data[24:26], "big"),
    )
    if codec in _ENCRYPTED:
        raise reader.error("the audio is encrypted")
    if references is not None:
        sources = [reader.body(child, 4) for child in reader.children(references, 8)]
        if 0 < index <= len(sources) and not sources[index - 1][3] & 1:
            raise reader.error("the audio is in another file, which is not read")
    return codec, 0 if version == 2 else int.from_bytes(data[40:42], "big")


def _edits(reader: BoxReader, box: Box, scale: int, movie_scale: int) -> list[tuple[int, int]]:
    edit_list = reader.child(box, b"edts", b"elst")
    if edit_list is None or movie_scale == 0:
        return []
    is_wide = reader.body(edit_list, 8)[0] == 1
    kinds = (">u8", ">i8") if is_wide else (">u4", ">i4")
    rows = reader.table(edit_list, [("length", kinds[0]), ("begin", kinds[1]), ("speed", ">u4")])
    # A row that begins before the first sample is a pause.
    return [
        (int(row["begin"]), round(int(row["length"]) * scale / movie_scale))
        for row in rows
        if row["begin"] >= 0
    ]


def _indexed_runs(reader: BoxReader, table: Box, num_samples: int) -> tuple[Offsets, Offsets]:
    """Return where the samples are that the boxes of a track list, a run for each of its chunks."""
    chunks, groups = (
        reader.child(table, b"stco") or reader.child(table, b"co64"),
        reader.child(table, b"stsc"),
    )
    kind = [("offset", ">u8" if chunks and chunks.kind == b"co64" else ">u4")]
    offsets = reader.table(chunks, kind)["offset"].astype(np.int64) if chunks else _NONE
    runs = reader.table(groups, _GROUPS) if groups else np.empty(0, _GROUPS)
    firsts = runs["first"].astype(np.int64) - 1
    ends = np.append(firsts[1:], len(offsets))
    if len(offsets) and (len(firsts) == 0 or firsts[0] != 0 or np.any(ends <= firsts)):
        raise reader.error("the boxes stsc and stco contradict each other")
    per_chunk = np.repeat(runs["samples"].astype(np.int64), ends - firsts) if len(offsets) else _NONE
    sizes, size, count = _sample_sizes(reader, table)
    if not num_samples == count == int(per_chunk.sum()):
        raise reader.error(
            f"the index lists {num_samples} durations, {count} sizes, {per_chunk.sum()} positions"
        )
    if size == 0:
        bytes_before = np.append(0, np.cumsum(sizes))
        last = np.cumsum(per_chunk)
        lengths = bytes_before[last] - bytes_before[last - per_chunk]
    else:
        # QuickTime states 1 where a sample is not made of whole bytes.
        lengths = per_chunk * size if size > 1 else np.minimum(per_chunk, 1)
    begins = offsets + reader.span.begin
    return begins, begins + lengths


def _sample_sizes(reader: BoxReader, table: Box) -> tuple[Offsets, int, int]:
    """Return the bytes of each sample, or the size that all have in common; and the number of samples."""
    box, compact = reader.child(table, b"stsz"), reader.child(table, b"stz2")
    if box is not None:
        data = reader.body(box, 12)
        size, count = int.from_bytes(data[4:8], "big"), int.from_bytes(data[8:12], "big")
        if size:
            return _NONE, size, count
        return reader.table(box, [("size", ">u4")], 12)["size"].astype(np.int64), 0, count
    if compact is None:
        return _NONE, 0, 0
    data = reader.body(compact, 12)
    bits, count = data[7], int.from_bytes(data[8:12], "big")
    if bits not in (4, 8, 16) or 8 * (len(data) - 12) < bits * count:
        raise reader.error("the box stz2 contradicts itself")
    raw = np.frombuffer(data, np.uint8, offset=12)
    if bits == 4:
        return np.stack([raw >> 4, raw & 15], axis=1).reshape(-1)[:count].astype(np.int64), 0, count
    kind = ">u2" if bits == 16 else "u1"
    return np.frombuffer(data, kind, count, 12).astype(np.int64), 0, count


def _add_fragments(reader: BoxReader, extensions: Box, boxes: list[Box], tracks: list[_Track]) -> None:
    """Add runs and durations of all fragments to their tracks."""
    defaults: dict[int, tuple[int, int]] = {}
    for box in reader.children(extensions):
        data = reader.body(box)
        if box.kind == b"trex" and len(data) >= 20:
            number, _, duration, size = np.frombuffer(data, ">u4", 4, 4).tolist()
            defaults[number] = duration, size
    by_number = {track.number: track for track in tracks}
    for fragment in boxes:
        if fragment.kind != b"moof":
            continue
        base = fragment.begin
        for box in reader.children(fragment):
            if box.kind == b"traf":
                base = _add_fragment(reader, fragment, box, base, defaults, by_number)


def _add_fragment(
    reader: BoxReader,
    fragment: Box,
    box: Box,
    base: int,
    defaults: dict[int, tuple[int, int]],
    tracks: dict[int, _Track],
) -> int:
    """Add the runs of one track in one fragment; return the byte after its samples."""
    head = reader.child(box, b"tfhd")
    if head is None:
        raise reader.error(f"the fragment at byte {fragment.begin} has no tfhd")
    data = reader.body(head, 8)
    flags, number = int.from_bytes(data[1:4], "big"), int.from_bytes(data[4:8], "big")
    duration, size = defaults.get(number, (0, 0))
    if (
        flags & 0x20000
    ):  # offsets count from the fragment, otherwise from the end of the previous track's samples
        base = fragment.begin
    position = 8
    for flag, num_bytes in ((1, 8), (2, 4), (8, 4), (16, 4)):
        if flags & flag:
            value = int.from_bytes(data[position : position + num_bytes], "big")
            position += num_bytes
            base = value + reader.span.begin if flag == 1 else base
            duration = value if flag == 8 else duration
            size = value if flag == 16 else size
    begin = base
    for run in reader.children(box):
        if run.kind == b"trun":
            units, begin, end = _run(reader, run, base, begin, duration, size)
            if number in tracks:
                tracks[number].duration += units
                tracks[number].runs.append((np.array([begin]), np.array([end])))
            begin = end
    return begin


def _run(
    reader: BoxReader, run: Box, base: int, begin: int, duration: int, size: int
) -> tuple[int, int, int]:
    """Return the duration of a run of samples, its first byte, and the byte after its last one."""
    data = reader.body(run, 8)
    flags, count = int.from_bytes(data[1:4], "big"), int.from_bytes(data[4:8], "big")
    skip = 8 + 4 * bool(flags & 1) + 4 * bool(flags & 4)
    names = [name for flag, name in _RUN_FIELDS if flags & flag]
    width = 4 * len(names)
    if skip + count * width > len(data):
        raise reader.error(f"the box trun at byte {run.begin} states {count} samples in {len(data)} bytes")
    if flags & 1:
        begin = base + int.from_bytes(data[8:12], "big", signed=True)
    columns = np.frombuffer(data, ">u4", count * len(names), skip).reshape(-1, max(len(names), 1))
    sums = dict(zip(names, columns.sum(axis=0, dtype=np.int64).tolist(), strict=False))
    return sums.get("duration", count * duration), begin, begin + sums.get("size", count * size)


def _check_runs(reader: BoxReader, boxes: list[Box], tracks: list[_Track]) -> None:
    """Check that every run of samples is within the data of the file and overlaps no other run of its track."""
    data = [(box.body, box.end) for box in boxes if box.kind == b"mdat"]
    first, last = np.array(data, np.int64).reshape(-1, 2).T
    for track in tracks:
        begins, ends = (np.concatenate(column) for column in zip(*track.runs, strict=True))
        begins, ends = begins[ends != begins], ends[ends != begins]
        order = np.argsort(begins, kind="stable")
        begins, ends = begins[order], ends[order]
        if len(ends) and int(ends.max()) > reader.span.end:
            missing = int(ends.max()) - reader.span.end
            raise reader.truncated(f"the index ends {missing} bytes behind the file")
        box = np.searchsorted(first, begins, side="right") - 1
        if np.any(box < 0) or np.any(ends > last[box]) or np.any(ends < begins):
            raise reader.error("the index points outside of the data (mdat)")
        if np.any(ends[:-1] > begins[1:]):
            raise reader.error("the index lists the same bytes twice")
