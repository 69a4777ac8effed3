"""The boxes of which mp4, m4a, mov and 3gp files consist: a length, a kind, and content that may be boxes again.

See ISO/IEC 14496-12, 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.data.audio.containers.extent import Span
from pipeline.data.audio.errors import AudioError

_LARGEST_BOX = 1 << 26
"""An index of more bytes would be that of months of audio."""


@dataclass(frozen=True, slots=True)
class Box:
    """Where a box is, in bytes of the file."""

    kind: bytes
    """Four letters."""
    begin: int
    body: int
    """Where its content begins."""
    end: int


class BoxReader:
    """Reads boxes of a file whose audio is within a span."""

    def __init__(self, file: BinaryIO, span: Span, name: str, is_whole: bool) -> None:
        self.file, self.span, self.name, self.is_whole = file, span, name, is_whole

    def error(self, detail: str) -> AudioError:
        """Return an error to raise where boxes contradict each other."""
        return AudioError("undecodable", self.name, f"mp4: {detail}")

    def truncated(self, detail: str) -> AudioError:
        """Return an error to raise where something is missing."""
        return AudioError("truncated", self.name, f"mp4: {detail}")

    def box_at(self, position: int, end: int) -> Box:
        """Return the box at a position; its end may be beyond `end`."""
        self.file.seek(position)
        head = self.file.read(min(16, end - position))
        if len(head) < 8:
            raise self.error(f"{len(head)} bytes at byte {position} are no box")
        length, body = int.from_bytes(head[:4], "big"), position + 8
        if length == 1 and len(head) == 16:
            length, body = int.from_bytes(head[8:], "big"), position + 16
        elif length == 0:
            length = end - position
        if length < body - position:
            raise self.error(f"the box {text_of(head[4:8])} at byte {position} states {length} bytes")
        return Box(head[4:8], position, body, position + length)

    def children(self, box: Box, skip: int = 0) -> Iterator[Box]:
        """Yield the boxes in a box, behind its first `skip` bytes of content."""
        position = box.body + skip
        while position + 8 <= box.end:
            child = self.box_at(position, box.end)
            if child.kind == bytes(4):  # QuickTime ends a list of boxes with zeros
                return
            if child.end > box.end:
                raise self.error(
                    f"the box {text_of(child.kind)} at byte {position} exceeds {text_of(box.kind)}"
                )
            yield child
            position = child.end

    def child(self, box: Box, *path: bytes) -> Box | None:
        """Return the first box of each kind within the one before, from outside to inside; None if one is missing."""
        for kind in path:
            found = next((child for child in self.children(box) if child.kind == kind), None)
            if found is None:
                return None
            box = found
        return box

    def body(self, box: Box, at_least: int = 0) -> bytes:
        """Return the content of a box, which must be complete and have at least so many bytes."""
        if box.end - box.body > _LARGEST_BOX:
            raise self.error(f"the box {text_of(box.kind)} has {box.end - box.body} bytes")
        self.file.seek(box.body)
        data = self.file.read(box.end - box.body)
        if len(data) < max(at_least, box.end - box.body):
            raise self.error(f"the box {text_of(box.kind)} has only {len(data)} bytes")
        return data

    def table(self, box: Box, columns: list[tuple[str, str]], skip: int = 8) -> NDArray[Any]:
        """Return the rows of a box with version, flags and number of rows in front."""
        data = self.body(box, skip)
        count, kind = int.from_bytes(data[skip - 4 : skip], "big"), np.dtype(columns)
        if skip + count * kind.itemsize > len(data):
            raise self.error(f"the box {text_of(box.kind)} states {count} rows in {len(data)} bytes")
        return np.frombuffer(data, kind, count, skip)


def text_of(kind: bytes) -> str:
    """Return the kind of a box for messages."""
    return kind.decode("latin-1")
