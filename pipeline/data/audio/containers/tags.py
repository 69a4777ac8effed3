"""Tags and padding that may surround the audio of any format: ID3v2 in front; ID3v1, APE, Lyrics3, ID3v2 behind.

Only the first and last bytes of a tag are read, so the pictures in it cost nothing.
"""

from __future__ import annotations

import io
import re
from typing import BinaryIO

from pipeline.data.audio.containers.extent import Span
from pipeline.data.audio.containers.tolerances import PADDING_BYTES

_ID3V1, _ID3V1_EXTENDED, _ID3V2, _APE = 128, 227, 10, 32  # sizes of a tag, or of its header or footer
_LYRICS3V1 = 5100  # longest text between LYRICSBEGIN and LYRICSEND
_START_BYTES = 377  # three packets of a transport stream
_CONTROL = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f]")
_START = re.compile(
    rb"ID3|RIFF|RF64|RIFX|FORM|fLaC|OggS|\.snd|caff|#!AMR|\x0b\x77|\xff[\xe2-\xff]", re.DOTALL
)
"""How audio may begin after a tag or padding; not MP4, whose first zeros are the size of its first box."""
_OTHER_START = re.compile(
    rb"\x1a\x45\xdf\xa3|\x30\x26\xb2\x75\x8e\x66\xcf\x11|NIST_1A|FLV\x01|wvpk|TTA1|riff\x2e\x91"
    rb"|\x00\x00\x01\xba|G.{187}G.{187}G|Creative Voice|\.RMF|2BIT|fap | paf|MAC |DSD |MPCK|qoaf"
    rb"|\x64\xa3[\x01-\x04]\x00|\x00[\x01-\x04]\xa3\x64",
    re.DOTALL,
)
"""Further formats, in which tags in front are not usual."""
_MP4_BOX = re.compile(rb"ftyp|moov|mdat|wide|free|skip|pnot|styp|moof|uuid")


def audio_span(file: BinaryIO) -> Span:
    """Return the part of a file that is neither a tag nor padding around tags.

    Zeros at the end of a file are left to the locator of its container, unless they follow a tag: a recording may
    end in digital silence.
    """
    size = file.seek(0, io.SEEK_END)
    begin = _after_front(file, size)
    return Span(begin, _before_back(file, begin, size))


def begins_audio(data: bytes, position: int) -> bool:
    """Whether a file of a known format begins at a position; frames of MPEG and AAC show only two bytes."""
    is_boxed = _MP4_BOX.match(data, position + 4) is not None
    return is_boxed or any(start.match(data, position) for start in (_START, _OTHER_START))


def tag_size(file: BinaryIO, begin: int) -> int:
    """Return the size of the tag that begins at a byte, as between MP3 files that were joined; 0 if there is none."""
    head = _read(file, begin, _APE)
    if head[:3] == b"ID3":
        return _id3v2_size(file, head, begin)
    if head[:8] == b"APETAGEX":
        size = int.from_bytes(head[12:16], "little")
        is_header = bool(head[23] & 0x20) if len(head) == _APE else False
        return _APE + size if is_header else _APE
    if head[:11] == b"LYRICSBEGIN":
        text = _read(file, begin, 1 << 16)
        end = re.search(rb"LYRICS200|LYRICSEND", text)
        return end.end() if end else 0
    if head[:4] == b"TAG+":
        return _ID3V1_EXTENDED
    return _ID3V1 if _is_id3v1(_read(file, begin, _ID3V1)) else 0


def _after_front(file: BinaryIO, size: int) -> int:
    """Return the offset of the audio after any ID3v2 tags and zeros."""
    begin = 0
    while begin < size:
        head = _read(file, begin, _ID3V2)
        if head[:3] == b"ID3":
            skipped = _id3v2_size(file, head, begin)
        elif head[:1] == b"\0" and not _MP4_BOX.match(head, 4):
            skipped = _num_zeros(file, begin)
        else:
            skipped = 0
        if skipped == 0:
            break
        begin += skipped
    return min(begin, size)


def _id3v2_size(file: BinaryIO, head: bytes, begin: int) -> int:
    """Return the size of an ID3v2 tag; 0 if it is none.

    Sizes have seven bits per byte; some writers use eight. The reading after which audio begins is the right one.
    """
    if len(head) < _ID3V2 or 0xFF in head[3:5]:
        return 0
    footer = _ID3V2 if head[5] & 0x10 else 0
    sizes = [_ID3V2 + int.from_bytes(head[6:10], "big") + footer]
    if max(head[6:10]) < 0x80:
        sizes.insert(0, _ID3V2 + _syncsafe(head[6:10]) + footer)
    followers = [_read(file, begin + size, _START_BYTES) for size in sizes]
    for is_likely in (lambda follower: begins_audio(follower, 0), lambda follower: follower[:1] == b"\0"):
        for size, follower in zip(sizes, followers, strict=True):
            if is_likely(follower):
                return size
    return sizes[0]


def _num_zeros(file: BinaryIO, begin: int) -> int:
    """Return the length of the zeros between a byte and the start of audio; 0 if no audio follows them."""
    padding = _read(file, begin, 16)
    if not padding.strip(b"\0"):
        padding = _read(file, begin, PADDING_BYTES)
    length = len(padding) - len(padding.lstrip(b"\0"))
    return length if _START.match(_read(file, begin + length, 8)) else 0


def _before_back(file: BinaryIO, begin: int, end: int) -> int:
    """Return the offset of the first tag behind the audio, or the end of the file."""
    audio_end = _without_tag(file, begin, end)
    if audio_end == end and _read(file, end - 1, 1) == b"\0":
        for candidate in _ends_before_zeros(file, begin, end):
            audio_end = _without_tag(file, begin, candidate)
            if audio_end < candidate:
                break
        else:
            return end
    while audio_end < end:
        end, audio_end = audio_end, _without_tag(file, begin, audio_end)
    return end


def _ends_before_zeros(file: BinaryIO, begin: int, end: int) -> list[int]:
    """Return where a tag may end that zeros follow; the tag itself may end in zeros too."""
    tail_begin = max(begin, end - PADDING_BYTES)
    tail = _read(file, tail_begin, end - tail_begin)
    content = len(tail.rstrip(b"\0"))
    ends = [content]
    for magic, length in ((b"TAG", _ID3V1), (b"APETAGEX", _APE), (b"3DI", _ID3V2)):
        position = tail.rfind(magic, max(content - length, 0), content)
        if position >= 0 and position + length <= len(tail):
            ends.append(position + length)
    return [tail_begin + position for position in ends]


def _without_tag(file: BinaryIO, begin: int, end: int) -> int:
    """Return where the tag begins that ends at a byte; that byte if there is none."""
    tail_begin = max(begin, end - _ID3V1)
    tail = _read(file, tail_begin, end - tail_begin)
    footer = tail[-_APE:]
    if _is_id3v1(tail):
        start = end - _ID3V1
        extended = start - _ID3V1_EXTENDED
        return extended if extended >= begin and _read(file, extended, 4) == b"TAG+" else start
    size, magic = 0, b""
    if footer[:8] == b"APETAGEX" and len(footer) == _APE:
        has_header = bool(footer[23] & 0x80)
        size = int.from_bytes(footer[12:16], "little") + (_APE if has_header else 0)
        magic = b"APETAGEX" if has_header else b""
    elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
        size, magic = int(tail[-15:-9]) + 15, b"LYRICSBEGIN"
    elif tail[-9:] == b"LYRICSEND":
        text_begin = max(begin, end - _LYRICS3V1 - 20)
        position = _read(file, text_begin, end - text_begin).rfind(b"LYRICSBEGIN")
        size = end - text_begin - position if position >= 0 else 0
    elif tail[-10:-7] == b"3DI" and max(tail[-4:]) < 0x80:
        size, magic = _syncsafe(tail[-4:]) + 2 * _ID3V2, b"ID3"
    start = end - size
    return start if start >= begin and _read(file, start, len(magic)) == magic else end


def _is_id3v1(data: bytes) -> bool:
    """Whether 128 bytes are an ID3v1 tag: its text has no control characters, as chance in audio would have."""
    return len(data) == _ID3V1 and data[:3] == b"TAG" and not _CONTROL.search(data, 3, 97)


def _syncsafe(size: bytes) -> int:
    return size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]


def _read(file: BinaryIO, begin: int, num_bytes: int) -> bytes:
    file.seek(begin)
    return file.read(num_bytes)
