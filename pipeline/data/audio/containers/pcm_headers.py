"""The structure of files that are one header and its samples (au, sphere, IRCAM, avr, paf, pvf, wve), and of voc."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.containers.padding import is_padding
from pipeline.data.audio.containers.samples import (
    Chunk,
    Samples,
    locate_samples,
    miscounts,
)
from pipeline.data.audio.containers.tolerances import EXCESS_BYTES
from pipeline.data.audio.errors import AudioError

_MAX_HEADER_BYTES = 1 << 16
_MARK_BYTES = 12  # magic number, rate and channels; never found by chance
_MAX_32 = 0xFFFFFFFF
_MAX_BLOCKS = 1 << 16

_AU_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}
"""Bytes per sample by encoding: µ-law, PCM of 8 to 32 bits, float, double, A-law."""
_AU_BLOCKS = {23: (1, 2), 25: (3, 8), 26: (5, 8)}
"""Bytes and samples of a block of G.721 and G.723."""
_SPHERE_FIELD = re.compile(rb"^(\w+) +-(?:i|r|s\d+) +(\S+)", re.MULTILINE)
_SPHERE_CODINGS = frozenset({b"pcm", b"ulaw", b"mu-law", b"alaw"})
_IRCAM_WIDTHS = {1: 1, 2: 2, 3: 3, 4: 4, 8: 8, 0x10001: 1, 0x20001: 1, 0x40004: 4}
_PAF_BLOCKS = {0: (2, 1), 1: (32, 10), 2: (1, 1)}
"""Bytes and samples of a block per channel, by format: 16, 24, 8 bits."""
_VOC_END, _VOC_SOUND, _VOC_CONTINUED, _VOC_SILENCE, _VOC_CHANNELS, _VOC_NEW_SOUND = 0, 1, 2, 3, 8, 9
_VOC_HEADS = {_VOC_SOUND: 2, _VOC_CONTINUED: 0, _VOC_NEW_SOUND: 12}
_VOC_MISCOUNT = 8
"""Bytes in front of the samples of a block, by kind."""
_VOC_WIDTHS = {0: 1, 4: 2, 6: 1, 7: 1}
"""Bytes per sample by codec: PCM of 8 and 16 bits, A-law, µ-law."""


@dataclass(frozen=True, slots=True)
class _Parsed:
    """What a header says about the samples behind it; offsets count from the header."""

    samples: Samples
    build_header: Callable[[int], bytes] = bytes
    """Returns the header of a file with this many bytes of samples; never called if the header states no length."""
    num_samples: int | None = None
    """Samples per channel, where blocks of bytes do not tell them."""


def _parse_au(head: bytes, size: int, name: str) -> _Parsed:  # noqa: ARG001
    order = ">" if head[:4] == b".snd" else "<"
    begin, num_bytes, encoding, rate, num_channels = struct.unpack(f"{order}IIIII", head[4:24])
    if begin < 24 or num_channels == 0:
        raise AudioError("undecodable", name, f"a header of {begin} bytes for {num_channels} channels")
    block_bytes, block_samples = (
        _AU_WIDTHS.get(encoding, 1) * num_channels,
        1 if encoding in _AU_WIDTHS else None,
    )
    if encoding in _AU_BLOCKS and num_channels == 1:
        block_bytes, block_samples = _AU_BLOCKS[encoding]
    counted = miscounts(block_bytes, num_channels) if block_samples == 1 else frozenset()

    def build(num_bytes: int) -> bytes:
        fields = (24, min(num_bytes, _MAX_32), encoding, rate, num_channels)
        return head[:4] + struct.pack(f"{order}IIIII", *fields)

    return _Parsed(
        Samples(begin, num_bytes, block_bytes, block_samples, max_excess=EXCESS_BYTES, miscounts=counted),
        build,
    )


def _parse_sphere(head: bytes, size: int, name: str) -> _Parsed:
    digits = head[8:16].strip()
    begin = int(digits) if digits.isdigit() else 0
    text, mark, _ = head[:begin].partition(b"end_head")
    fields = dict(_SPHERE_FIELD.findall(text))
    numbers = {key: int(value) for key, value in fields.items() if value.isdigit()}
    num_channels, width = numbers.get(b"channel_count", 1), numbers.get(b"sample_n_bytes", 2)
    count = numbers.get(b"sample_count", 0)
    coding = fields.get(b"sample_coding", b"pcm").lower()
    if not mark or num_channels == 0 or width == 0 or begin > size:
        raise AudioError(
            "undecodable", name, "a sphere header that does not end, or states no channels or bytes"
        )
    if fields.get(b"channels_interleaved", b"TRUE").upper() == b"FALSE":
        raise AudioError("undecodable", name, "channels that are not interleaved")
    if coding not in _SPHERE_CODINGS:  # compressed: the count is of samples, not of bytes
        return _Parsed(Samples(begin, None, 1, None), num_samples=count or None)
    block_bytes = width * num_channels

    def build(num_bytes: int) -> bytes:
        kept = b"".join(
            line + b"\n" for line in text.splitlines()[2:] if line and not line.startswith(b"sample_count ")
        )
        kept += b"sample_count -i %d\nend_head\n" % (num_bytes // block_bytes)
        num_header = -(-(16 + len(kept)) // 1024) * 1024
        return (b"NIST_1A\n%7d\n" % num_header + kept).ljust(num_header, b" ")

    return _Parsed(Samples(begin, count * block_bytes, block_bytes, 1), build)


def _parse_ircam(head: bytes, size: int, name: str) -> _Parsed:  # noqa: ARG001
    order = "<" if head[10:12] == bytes(2) else ">"  # by the channels, which are few
    num_channels, encoding = struct.unpack(f"{order}II", head[8:16])
    return _unstated(1024, _IRCAM_WIDTHS.get(encoding), 1, num_channels, name)


def _parse_paf(head: bytes, size: int, name: str) -> _Parsed:  # noqa: ARG001
    order = ">" if head[:4] == b" paf" else "<"
    encoding, num_channels = struct.unpack(f"{order}II", head[16:24])
    block_bytes, block_samples = _PAF_BLOCKS.get(encoding, (None, 1))
    return _unstated(2048, block_bytes, block_samples, num_channels, name)


def _parse_pvf(head: bytes, size: int, name: str) -> _Parsed:  # noqa: ARG001
    line = head[5:].partition(b"\n")[0]
    numbers = line.split()
    if len(numbers) != 3 or not all(number.isdigit() for number in numbers):
        raise AudioError("undecodable", name, f"a pvf header of {line[:64]!r}")
    num_channels, _, bits = map(int, numbers)
    return _unstated(6 + len(line), {8: 1, 16: 2, 32: 4}.get(bits), 1, num_channels, name)


def _unstated(
    begin: int, block_bytes: int | None, block_samples: int, num_channels: int, name: str
) -> _Parsed:
    """Return what a header without a length says: all that follows are samples."""
    if block_bytes is None or num_channels == 0:
        raise AudioError("undecodable", name, "an unknown sample format, or no channels")
    return _Parsed(Samples(begin, None, block_bytes * num_channels, block_samples))


def _parse_avr(head: bytes, size: int, name: str) -> _Parsed:
    is_stereo, bits = struct.unpack(">HH", head[12:16])
    count = struct.unpack(">I", head[26:30])[0]
    if bits not in (8, 16):
        raise AudioError("undecodable", name, f"{bits} bits per sample")
    num_channels, width = 2 if is_stereo else 1, bits // 8
    block_bytes = width * num_channels
    counts_channels = (
        count * width == size - 128
    )  # the format leaves open whether samples or frames are counted

    def build(num_bytes: int) -> bytes:
        return head[:26] + struct.pack(">I", num_bytes // block_bytes) + head[30:128]

    num_bytes = count * (width if counts_channels else block_bytes)
    return _Parsed(Samples(128, num_bytes, block_bytes, 1), build)


def _parse_wve(head: bytes, size: int, name: str) -> _Parsed:  # noqa: ARG001
    def build(num_bytes: int) -> bytes:
        return head[:18] + struct.pack(">I", num_bytes) + head[22:32]

    return _Parsed(Samples(32, struct.unpack(">I", head[18:22])[0], 1, 1), build)


HEADED: dict[str, tuple[int, Callable[[bytes, int, str], _Parsed]]] = {
    "au": (24, _parse_au),
    "nist": (1024, _parse_sphere),
    "ircam": (1024, _parse_ircam),
    "avr": (128, _parse_avr),
    "paf": (2048, _parse_paf),
    "pvf": (12, _parse_pvf),
    "wve": (32, _parse_wve),
}
"""By container: the fewest bytes of a header, and its parser, given its bytes, the size and the name of the file."""


def locate_headed(container: str, file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Find the samples behind the header of one of the `HEADED` containers.

    Raises:
        AudioError: undecodable, truncated, trailing_data.
    """
    num_bytes, parse = HEADED[container]
    size = span.end - span.begin
    file.seek(span.begin)
    head = file.read(min(size, _MAX_HEADER_BYTES))
    if len(head) < num_bytes:
        raise AudioError("truncated", name, "the file ends within its header")
    parsed = parse(head, size, name)
    samples = replace(parsed.samples, begin=span.begin + parsed.samples.begin)
    if samples.begin > span.end:
        raise AudioError("truncated", name, "the file ends within its header")
    if is_whole and samples.num_bytes is None:
        file.seek(samples.begin)
        if head[:_MARK_BYTES] in file.read():
            raise AudioError("trailing_data", name, "a second header among the samples")
    extent = Extent(span.begin, span.end, container, num_samples=parsed.num_samples)
    return locate_samples(file, span, name, samples, None, extent, parsed.build_header, is_whole=is_whole)


def locate_voc(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Find the blocks of a voc file and count their samples.

    Raises:
        AudioError: undecodable, truncated, trailing_data.
    """
    file.seek(span.begin + 20)
    position = span.begin + int.from_bytes(file.read(2), "little")
    frame_bytes, num_channels, counts = 0, 1, []
    sound = Chunk(b"", position, 0)
    for kind, content in _voc_blocks(file, position, span.end):
        position = content.end
        if position > span.end:
            raise AudioError("truncated", name, f"{position - span.end} bytes are missing")
        if kind == _VOC_SILENCE:
            raise AudioError("undecodable", name, "a block of silence, which no decoder returns")
        file.seek(content.begin)
        head = file.read(min(content.length, 12)).ljust(12, b"\0")
        if kind == _VOC_CHANNELS:
            num_channels = head[3] + 1
        elif kind in _VOC_HEADS:
            begin = min(content.begin + _VOC_HEADS[kind], content.end)
            sound = Chunk(b"", begin, content.end - begin)
            frame_bytes = _voc_frame_bytes(kind, head, num_channels, frame_bytes)
            counts.append(sound.length // frame_bytes if frame_bytes else None)
    if not is_padding(file, position, span.end, is_whole=is_whole):
        raise AudioError("trailing_data", name, f"{span.end - position} bytes behind the last block")
    num_samples = None if None in counts else sum(filter(None, counts))
    extent = Extent(span.begin, min(position + 1, span.end), "voc", num_samples=num_samples)
    if len(counts) == frame_bytes == 1:
        return _without_voc_end(file, extent, sound)
    return extent


def _voc_blocks(file: BinaryIO, position: int, end: int) -> Iterator[tuple[int, Chunk]]:
    """Yield kind and content of the blocks of a voc file, up to the one that ends it."""
    for _ in range(_MAX_BLOCKS):
        file.seek(position)
        head = file.read(min(4, max(end - position, 0)))
        if len(head) < 4 or head[0] == _VOC_END:
            return
        content = Chunk(b"", position + 4, int.from_bytes(head[1:], "little"))
        if head[0] == _VOC_NEW_SOUND and _is_voc_miscount(file, content, end):
            content = Chunk(b"", content.begin, content.length + _VOC_MISCOUNT)
        yield head[0], content
        position = content.end


def _is_voc_miscount(file: BinaryIO, content: Chunk, end: int) -> bool:
    """Whether a block is eight bytes longer than stated and the last one: sox counts four bytes of its header of 12."""
    rest = end - content.end
    if rest not in (_VOC_MISCOUNT, _VOC_MISCOUNT + 1):
        return False
    file.seek(content.end)
    head = file.read(4)
    is_block = head[0] <= _VOC_NEW_SOUND and int.from_bytes(head[1:], "little") in (rest - 4, rest - 5)
    file.seek(end - 1)
    return not is_block and (rest == _VOC_MISCOUNT or file.read(1) == bytes([_VOC_END]))


def _voc_frame_bytes(kind: int, head: bytes, num_channels: int, previous: int) -> int:
    """Return the bytes of one sample of each channel; 0 if only decoding can tell."""
    if kind == _VOC_SOUND:
        return _VOC_WIDTHS.get(head[1], 0) * num_channels
    if kind == _VOC_NEW_SOUND:
        return head[4] // 8 * head[5] if int.from_bytes(head[6:8], "little") in _VOC_WIDTHS else 0
    return previous


def _without_voc_end(file: BinaryIO, extent: Extent, sound: Chunk) -> Extent:
    """Correct the length of a block that counts the byte behind it as one of its own, as libsndfile writes them."""
    file.seek(extent.begin)
    header = bytearray(file.read(sound.begin - extent.begin))
    file.seek(sound.end - 1)
    position = len(header) - _VOC_HEADS[_VOC_NEW_SOUND] - 4
    if file.read(1) != b"\0" or position < 0 or header[position] != _VOC_NEW_SOUND:
        return extent
    header[position + 1 : position + 4] = (sound.length + _VOC_HEADS[_VOC_NEW_SOUND] - 1).to_bytes(
        3, "little"
    )
    return replace(
        extent, begin=sound.begin, end=sound.end - 1, header=bytes(header), num_samples=sound.length - 1
    )
