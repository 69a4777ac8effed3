"""The structure of FLV files: tags, each with its length in front and behind."""

from __future__ import annotations

from typing import BinaryIO

from pipeline.data.audio.containers.chain import walk
from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.errors import AudioError

_KINDS = (8, 9, 18)  # audio, video, data


def locate_flv(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Check that tags fill the file.

    Raises:
        AudioError: truncated, trailing_data, undecodable.
    """
    if is_whole:
        file.seek(span.begin)
        data = file.read(span.end - span.begin)
        for begin, end in walk(data, int.from_bytes(data[5:9], "big") + 4, _end, name, "flv"):
            if int.from_bytes(data[end - 4 : end], "big") not in (end - begin - 4, 0):
                raise AudioError("undecodable", name, f"flv: the tag at byte {begin} states two lengths")
    return Extent(span.begin, span.end, "flv")


def _end(data: bytes, position: int) -> int | None:
    if data[position] & 31 not in _KINDS or position + 11 > len(data):
        return None if data[position] & 31 not in _KINDS else len(data) + 1
    return position + 15 + int.from_bytes(data[position + 1 : position + 4], "big")
