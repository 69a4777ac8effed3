"""The structure of RealMedia files: chunks with their lengths, and packets in the data chunk."""

from __future__ import annotations

from typing import BinaryIO

from pipeline.data.audio.containers.chain import walk
from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.errors import AudioError

_INDEX_HEAD = 10
_CHUNKS = (b".RMF", b"PROP", b"MDPR", b"CONT", b"DATA", b"INDX", b"RMMD", b"RJMD", b"RMJE")


def locate_realmedia(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Check that chunks fill the file, and packets the data chunks.

    Raises:
        AudioError: truncated, trailing_data, undecodable.
    """
    if is_whole:
        file.seek(span.begin)
        data = file.read(span.end - span.begin)
        for begin, end in walk(data, 0, _chunk_end, name, "realmedia"):
            if begin and data[begin : begin + 4] == b".RMF":
                detail = f"realmedia: a second file begins at byte {span.begin + begin}"
                raise AudioError("trailing_data", name, detail)
            if data[begin : begin + 4] == b"DATA":
                _check_packets(data[begin:end], name)
    return Extent(span.begin, span.end, "rm")


def _chunk_end(data: bytes, position: int) -> int | None:
    kind = data[position : position + 4]
    if kind not in _CHUNKS or position + 8 > len(data):
        return None
    end = position + max(int.from_bytes(data[position + 4 : position + 8], "big"), 8)
    # FFmpeg writes the length of an index that it does not write.
    return len(data) if kind == b"DATA" and len(data) < end <= len(data) + _INDEX_HEAD else end


def _check_packets(chunk: bytes, name: str) -> None:
    num_packets = int.from_bytes(chunk[10:14], "big")
    count = sum(1 for _ in walk(chunk, 18, _packet_end, name, "realmedia"))
    if num_packets and count != num_packets:
        raise AudioError("undecodable", name, f"realmedia: {count} packets; {num_packets} stated")


def _packet_end(data: bytes, position: int) -> int | None:
    if data[position : position + 2] not in (b"\0\0", b"\0\1") or position + 12 > len(data):
        return None
    length = int.from_bytes(data[position + 2 : position + 4], "big")
    return position + length if length >= 12 else None
