"""Tags and padding that may surround the audio of any format: ID3v2 in front; ID3v1, APE and Lyrics3 behind."""

from __future__ import annotations

import io
from typing import BinaryIO

from pipeline.data.audio.containers.extent import Span


def audio_span(file: BinaryIO) -> Span:
    """Return the part of a file that is neither a tag nor padding in front of the audio."""
    return Span(_after_id3(file), file.seek(0, io.SEEK_END))


def _after_id3(file: BinaryIO) -> int:
    """Return the offset of the audio after any ID3v2 tags, which can precede flac and mp3."""
    begin = 0
    while True:
        file.seek(begin)
        tag = file.read(10)
        if len(tag) < 10 or tag[:3] != b"ID3":
            return begin
        size = (tag[6] & 127) << 21 | (tag[7] & 127) << 14 | (tag[8] & 127) << 7 | (tag[9] & 127)
        begin += 10 + size + (10 if tag[5] & 0x10 else 0)
