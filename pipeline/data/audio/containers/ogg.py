"""The structure of ogg files: pages of one or several streams, each with a checksum and a number.

The granule position of a page is the number of samples up to its end. The page with the last one therefore tells the
length, also where no page is marked as the end of the stream, as in what Android's recorder writes.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.containers.tolerances import OPUS_SAMPLES, SPEEX_SAMPLES
from pipeline.data.audio.errors import AudioError

_HEADER_BYTES = 27
_LONGEST_HEADER = _HEADER_BYTES + 255
_LONGEST_PAGE = _LONGEST_HEADER + 255 * 255
_MOST_PAGES_PROBED = 64  # a picture of 3 MB in the comments takes 48 pages
_CONTINUED, _FIRST, _LAST = 1, 2, 4  # flags of a page
_OPUS_RATE = 48_000
_OPUS_FRAME_SAMPLES = (480, 960, 1920, 2880) * 3 + (480, 960) * 2 + (120, 240, 480, 960) * 4
"""Samples of a frame by the configuration in the first five bits of an Opus packet (RFC 6716, section 3.1)."""

_CODECS = (
    (b"\x01vorbis", "vorbis"),
    (b"OpusHead", "opus"),
    (b"\x7fFLAC", "flac"),
    (b"Speex   ", "speex"),
)
"""Audio codecs by the begin of their first packet."""

# The checksum of ogg is that of zlib with all bits in the opposite order, and without inversion at begin and end.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_NO_INVERSION = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _Page:
    begin: int
    flags: int
    granule: int
    """Samples up to the end of the last packet that ends in the page; −1 if none ends there."""
    serial: int
    """Number of the stream."""
    sequence: int
    lacing: bytes
    """Sizes of the segments; a packet ends with the first one below 255."""

    @property
    def body(self) -> int:
        return self.begin + _HEADER_BYTES + len(self.lacing)

    @property
    def end(self) -> int:
        return self.body + sum(self.lacing)

    def packet_sizes(self) -> Iterator[int]:
        """Yield the sizes of the packets, or of the parts of them, in this page."""
        size = 0
        for segment in self.lacing:
            size += segment
            if segment < 255:
                yield size
                size = 0
        if size:
            yield size


@dataclass(slots=True)
class _Stream:
    """One stream, and what its pages have told so far."""

    codec: str
    first_packet: bytes
    last: _Page
    most_samples: int = 0
    """The packets up to the first granule position hold no more samples than these."""
    is_started: bool = False
    """Whether the first granule position has been seen."""
    is_offset: bool = False
    """Whether that is beyond `most_samples`: the stream was cut out of a longer one."""

    def add(self, page: _Page, data: bytes, data_begin: int) -> None:
        """Take note of the next page, given data that include its body."""
        if self.codec and not self.is_started:
            position = page.body - data_begin
            for packet_bytes in page.packet_sizes():
                self.most_samples += self._most_samples_in(data[position : position + 2])
                position += packet_bytes
            self.is_started = page.granule > 0
            self.is_offset = self.is_started and page.granule > self.most_samples
        self.last = page

    def _most_samples_in(self, packet: bytes) -> int:
        """Return how many samples a packet may hold, from its first two bytes."""
        if self.codec == "opus":
            return _opus_samples(packet)
        if self.codec == "vorbis":  # half the size of a long block
            return 1 << (self.first_packet[28] >> 4) >> 1 if len(self.first_packet) > 28 else 0
        if self.codec == "flac":  # the largest block, in the STREAMINFO
            return int.from_bytes(self.first_packet[19:21], "big")
        return self._speex_packet_samples

    @property
    def _speex_packet_samples(self) -> int:
        header = self.first_packet
        return int.from_bytes(header[56:60], "little") * int.from_bytes(header[64:68], "little")

    def extent(self, begin: int, end: int, header: bytes = b"") -> Extent:
        """Return the extent of the audio, with its length if the stream begins at 0."""
        length, tolerance, rate = self.last.granule, 0, 0
        if self.codec == "opus":
            length, rate = length - int.from_bytes(self.first_packet[10:12], "little"), _OPUS_RATE
            tolerance = OPUS_SAMPLES
        elif self.codec == "speex":
            tolerance = SPEEX_SAMPLES + self._speex_packet_samples
        num_samples = None if self.is_offset else max(length, 0)
        return Extent(begin, end, "ogg", self.codec, header, num_samples, rate=rate, tolerance=tolerance)


def locate_ogg(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Check the pages of an ogg file, and find the length of its audio.

    Raises:
        AudioError: not_audio, undecodable, truncated, trailing_data.
    """
    if is_whole:
        file.seek(0)
        return _locate_whole(file.read(span.end), span.begin, name)
    return _locate_ends(file, span, name)


def _locate_whole(data: bytes, begin: int, name: str) -> Extent:
    streams: dict[int, _Stream] = {}
    heads_end = end = begin
    for page in _checked_pages(data, begin, name):
        if page.flags & _FIRST:
            if heads_end != page.begin:
                raise AudioError("trailing_data", name, f"another stream begins at byte {page.begin}")
            heads_end = page.end
            streams[page.serial] = _stream(page, data[page.body : page.end])
        else:
            stream = streams.get(page.serial)
            if stream is None:
                raise AudioError("undecodable", name, f"the page at byte {page.begin} is of no known stream")
            _check_order(stream.last, page, name)
            stream.add(page, data, 0)
        end = page.end
    stream = _audio_stream(streams.values(), name)
    _check_last(stream.last, name)
    _check_rest(data, end, stream, name)
    if stream.last.flags & _LAST:
        return stream.extent(begin, end)
    return stream.extent(end, end, _with_end_mark(data[begin:end], stream.last.begin - begin))


def _locate_ends(file: BinaryIO, span: Span, name: str) -> Extent:
    """Read the headers of the first pages, up to the first audio, and the last page of the audio stream."""
    streams: dict[int, _Stream] = {}
    position = span.begin
    for _ in range(_MOST_PAGES_PROBED):
        file.seek(position)
        page = _parse_page(file.read(_LONGEST_HEADER), position)
        if page is None or page.end > span.end:
            break
        if page.flags & _FIRST:
            file.seek(page.body)
            streams[page.serial] = _stream(page, file.read(page.end - page.body))
        elif page.serial in streams:
            file.seek(page.body)
            streams[page.serial].add(page, file.read(page.end - page.body), page.body)
            if streams[page.serial].codec and streams[page.serial].is_started:
                break
        position = page.end
    stream = _audio_stream(streams.values(), name)
    tail_begin = max(span.end - _LONGEST_PAGE, span.begin)
    file.seek(tail_begin)
    tail = file.read(span.end - tail_begin)
    stream.last = _last_page(tail, tail_begin, stream.last.serial, set(streams), name)
    _check_last(stream.last, name)
    return stream.extent(span.begin, span.end)


def _last_page(tail: bytes, tail_begin: int, serial: int, known: set[int], name: str) -> _Page:
    """Return the last page of a stream in the last bytes of a file.

    Raises:
        AudioError: truncated, trailing_data.
    """
    position = len(tail)
    while (position := tail.rfind(b"OggS\0", 0, position)) >= 0:
        page = _parse_page(tail[position : position + _LONGEST_HEADER], tail_begin + position)
        if page is None or page.end > tail_begin + len(tail):
            raise AudioError("truncated", name, f"the page at byte {tail_begin + position} is not complete")
        if page.serial == serial:
            return page
        if page.serial not in known:
            raise AudioError("trailing_data", name, f"another stream ends at byte {page.end}")
    raise AudioError("truncated", name, "no page of the audio at the end of the file")


def _checked_pages(data: bytes, begin: int, name: str) -> Iterator[_Page]:
    """Yield the pages that follow each other without a gap.

    Raises:
        AudioError: truncated, undecodable.
    """
    reversed_data = memoryview(data.translate(_REVERSED))
    position = begin
    while data.startswith(b"OggS\0", position):
        page = _parse_page(data[position : position + _LONGEST_HEADER], position)
        if page is None or page.end > len(data):
            raise AudioError("truncated", name, f"the page at byte {position} is not complete")
        if _checksum(reversed_data[position : page.end]) != reversed_data[position + 22 : position + 26]:
            raise AudioError("undecodable", name, f"wrong checksum of the page at byte {position}")
        yield page
        position = page.end


def _checksum(reversed_page: bytes | memoryview) -> bytes:
    """Return the checksum of a page; all bytes with their bits in reverse order."""
    checksum = zlib.crc32(reversed_page[:22], _NO_INVERSION)
    checksum = zlib.crc32(bytes(4), checksum)
    return (zlib.crc32(reversed_page[26:], checksum) ^ _NO_INVERSION).to_bytes(4, "big")


def _with_end_mark(data: bytes, begin: int) -> bytes:
    """Return data with the end mark in the page that begins at `begin`.

    Without it, libsndfile refuses Opus whose last packet is padded, and FFmpeg returns the padding.
    """
    page = _parse_page(data[begin : begin + _LONGEST_HEADER], begin)
    assert page is not None
    marked = bytearray(data)
    marked[begin + 5] |= _LAST
    checksum = _checksum(bytes(marked[begin : page.end]).translate(_REVERSED))
    marked[begin + 22 : begin + 26] = checksum.translate(_REVERSED)
    return bytes(marked)


def _parse_page(header: bytes, begin: int) -> _Page | None:
    """Return the page with this header; None if it is not complete."""
    if len(header) < _HEADER_BYTES or not header.startswith(b"OggS\0"):
        return None
    lacing = header[_HEADER_BYTES : _HEADER_BYTES + header[26]]
    if len(lacing) < header[26]:
        return None
    return _Page(
        begin,
        header[5],
        int.from_bytes(header[6:14], "little", signed=True),
        int.from_bytes(header[14:18], "little"),
        int.from_bytes(header[18:22], "little"),
        lacing,
    )


def _opus_samples(packet: bytes) -> int:
    """Return the samples of an Opus packet that begins with these two bytes."""
    if not packet:
        return 0
    code = packet[0] & 3
    num_frames = (1, 2, 2, packet[-1] & 63)[code]
    return num_frames * _OPUS_FRAME_SAMPLES[packet[0] >> 3]


def _stream(first: _Page, packet: bytes) -> _Stream:
    codec = next((codec for magic, codec in _CODECS if packet.startswith(magic)), "")
    return _Stream(codec, packet, first)


def _audio_stream(streams: Collection[_Stream], name: str) -> _Stream:
    """Return the only stream that holds audio, beside video or subtitles."""
    audio = [stream for stream in streams if stream.codec]
    if not audio:
        raise AudioError("not_audio", name, "no stream of Vorbis, Opus, FLAC or Speex")
    if len(audio) > 1:
        raise AudioError("undecodable", name, f"{len(audio)} audio streams; which one is meant is not known")
    return audio[0]


def _check_order(previous: _Page, page: _Page, name: str) -> None:
    """Check that no page of a stream is missing, and none follows its end."""
    if previous.flags & _LAST:
        raise AudioError(
            "trailing_data", name, f"the stream has ended, but another page follows at byte {page.begin}"
        )
    if page.sequence != (previous.sequence + 1) % (1 << 32):
        detail = f"page {page.sequence} follows page {previous.sequence} at byte {page.begin}"
        raise AudioError("truncated", name, detail)


def _check_last(page: _Page, name: str) -> None:
    """Check that the last page ends a packet."""
    if page.lacing[-1:] == b"\xff" or page.granule < 0:
        raise AudioError("truncated", name, "the last page ends within a packet")


def _check_rest(data: bytes, end: int, stream: _Stream, name: str) -> None:
    """Check that nothing but zeros follows the last page."""
    rest = data[end:]
    if not rest.strip(b"\0"):
        return
    following = rest.find(b"OggS")
    if following >= 0:
        raise AudioError("undecodable", name, f"{following} bytes at byte {end} are no page")
    if stream.last.flags & _LAST:
        raise AudioError("trailing_data", name, f"{len(rest)} bytes follow the last page")
    raise AudioError("truncated", name, f"{len(rest)} bytes at byte {end} are no complete page")
