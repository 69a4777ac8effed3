"""Audio that is a row of frames without a container: the header of each frame tells how long it is."""

from __future__ import annotations

import io
import itertools
import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.data.audio.containers.extent import Span
from pipeline.data.audio.containers.tags import begins_audio, tag_size
from pipeline.data.audio.containers.tolerances import JOINED_PADDING_BYTES, LEADING_JUNK_BYTES
from pipeline.data.audio.errors import AudioError

_LIKELY_FRAMES = 3  # so many frames in a row are no chance


@dataclass(frozen=True, slots=True)
class Frame:
    """What the header of a frame states."""

    num_bytes: int
    num_samples: int
    kind: str
    """What must stay the same in all frames, such as the sample rate; in words for messages."""


@dataclass(frozen=True, slots=True)
class Syntax:
    """How to find and read the headers of one format."""

    sync: re.Pattern[bytes]
    """Matches the first bytes of every header."""
    num_header_bytes: int
    parse: Callable[[bytes], Frame | None]
    """Reads a header of so many bytes; None if they are no header."""

    def at(self, data: bytes, position: int) -> Frame | None:
        """Return the frame whose header is at a position; None if there is none."""
        return self.parse(data[position : position + self.num_header_bytes])


@dataclass(frozen=True, slots=True)
class FrameRow:
    """The frames of a file."""

    begin: int
    """First byte of the first frame."""
    end: int
    """One past the last byte of the last frame."""
    num_samples: int
    kind: str
    offsets: array[int]
    """First bytes of the frames."""
    runs: tuple[tuple[int, int], ...]
    """Begin and end of frames that follow each other without a gap; several if files were joined with their tags."""


def find_frames(data: bytes, syntax: Syntax, begin: int = 0, end: int | None = None) -> int | None:
    """Return the offset of the first frame that others of its kind follow, or that ends with the data.

    Args:
        data: bytes of a file, from its first one.
        syntax: the format of the frames.
        begin: where to begin the search.
        end: the frame must begin before this offset; None: anywhere.
    """
    position, stop = begin, len(data) if end is None else end
    while (match := syntax.sync.search(data, position)) and match.start() < stop:
        position = match.start()
        if _are_frames(data, syntax, position):
            return position
        position += 1
    return None


def first_frame(data: bytes, syntax: Syntax, begin: int) -> int | None:
    """Return the offset of the first frame of a file, which a little junk may precede; None if there is none.

    A frame that the audio begins with counts even if no other follows it: those may be missing.
    """
    if syntax.at(data, begin) is not None:
        return begin
    return find_frames(data, syntax, begin, begin + LEADING_JUNK_BYTES)


def refuse_partial_frame(data: bytes, row: FrameRow, name: str) -> None:
    """Refuse a file that ends in what damage has left of its last frames, between zeros or alone.

    Zeros and web pages alone are harmless, and so are tags, and more bytes than two frames can leave.

    Raises:
        AudioError: truncated.
    """
    begin = _after_tags(io.BytesIO(data), row.end)
    rest = data[begin:].translate(None, b"\0")
    num_bytes = len(rest)
    if num_bytes == 0 or (rest.lstrip()[:1] == b"<" and rest.isascii()):
        return
    longest = max(end - begin for begin, end in itertools.pairwise([*row.offsets, row.end]))
    if num_bytes < 2 * longest:
        detail = f"the last {len(data) - begin} bytes, from byte {begin}, are no complete frame"
        raise AudioError("truncated", name, detail)


def walk(file: BinaryIO, span: Span, syntax: Syntax, name: str) -> FrameRow:
    """Go through all frames of a file, also over the tags between files that were joined.

    Bytes behind the last frame are left out if they hold no audio: zeros, a web page, a tag of unknown kind.

    Raises:
        AudioError: truncated, undecodable, trailing_data.
    """
    file.seek(0)
    data = file.read(span.end)
    begin = first_frame(data, syntax, span.begin)
    first = None if begin is None else syntax.at(data, begin)
    if begin is None or first is None:
        raise AudioError(
            "undecodable", name, f"no frame in the first {LEADING_JUNK_BYTES} bytes of the audio"
        )
    parse, length, kind = syntax.parse, syntax.num_header_bytes, first.kind
    position, num_samples = begin, 0
    offsets, runs, run_begin = array("q"), [], begin
    while True:
        frame = parse(data[position : position + length])
        if frame is None or frame.kind != kind:
            following = _next_frame(file, data, begin, position, syntax, name)
            runs.append((run_begin, position))
            if following is None:
                _refuse_other_file(file, data, position, name)
                return FrameRow(begin, position, num_samples, kind, offsets, tuple(runs))
            position = run_begin = following
            continue
        offsets.append(position)
        position += frame.num_bytes
        if position > len(data):
            missing = position - len(data)
            raise AudioError("truncated", name, f"the last frame lacks {missing} of {frame.num_bytes} bytes")
        num_samples += frame.num_samples


def _are_frames(data: bytes, syntax: Syntax, position: int) -> bool:
    """Whether frames of one kind begin at a position: three, or fewer that end where the data end."""
    kind: str | None = None
    for count in range(_LIKELY_FRAMES):
        frame = syntax.at(data, position)
        if frame is None or kind not in (None, frame.kind):
            return count > 0 and position == len(data)
        kind = frame.kind
        position += frame.num_bytes
        if position + syntax.num_header_bytes > len(data):
            return count > 0 or position == len(data)
    return True


def _after_tags(file: BinaryIO, position: int) -> int:
    """Return the end of the tags that begin at a position."""
    while size := tag_size(file, position):
        position += size
    return position


def _refuse_other_file(file: BinaryIO, data: bytes, position: int, name: str) -> None:
    """Refuse audio of another format behind the last frame: decoders would leave it out.

    Raises:
        AudioError: trailing_data.
    """
    position = _after_tags(file, position)
    while position < len(data) and data[position] == 0 and not begins_audio(data, position):
        position += 1
    if begins_audio(data, position):
        raise AudioError("trailing_data", name, f"audio of another format begins at byte {position}")


def _next_frame(
    file: BinaryIO, data: bytes, begin: int, position: int, syntax: Syntax, name: str
) -> int | None:
    """Return where the frames that began at `begin` resume after tags and padding; None if no more follow.

    Raises:
        AudioError: truncated, undecodable.
    """
    rest = data[position : position + syntax.num_header_bytes]
    if 0 < len(rest) < syntax.num_header_bytes and data.startswith(rest[:2], begin):
        raise AudioError("truncated", name, f"the last frame ends within its header, at byte {position}")
    audio_end = position
    position = _after_tags(file, position)
    if position > audio_end:
        padding = data[position : position + JOINED_PADDING_BYTES]
        position += len(padding) - len(padding.lstrip(b"\0"))
    following = find_frames(data, syntax, position)
    if following is None:
        return None
    if following > position:
        detail = f"no frame at byte {position}, but further ones from byte {following}"
        raise AudioError("truncated", name, detail)
    first, frame = syntax.at(data, begin), syntax.at(data, following)
    assert first is not None and frame is not None
    if frame.kind != first.kind:
        raise AudioError(
            "undecodable", name, f"changes from {first.kind} to {frame.kind} at byte {following}"
        )
    return following
