"""What the tests of containers share: short files, the tags around them, and what becomes of them."""

from __future__ import annotations

import io
import random

import pytest

from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.load import load_audio, probe
from pipeline.data.audio.waveform import Waveform
from tests.data.audio.formats import speech_like

RATE = 16_000
SPEECH = speech_like(3, RATE)


def heard(data: bytes) -> Waveform:
    """Decode a whole file."""
    return load_audio(data, "file").waveform


def reason_of(data: bytes) -> str:
    """Return why a file is refused."""
    with pytest.raises(AudioError) as caught:
        heard(data)
    return caught.value.reason


def stated(data: bytes) -> int | None:
    """Return the length that a probe finds without decoding."""
    return probe(io.BytesIO(data), "file").num_samples


def noise(num_bytes: int, seed: int = 0) -> bytes:
    """Random bytes, as of a picture."""
    return random.Random(seed).randbytes(num_bytes)


def id3v2(content: bytes, *, footer: bool = False, is_syncsafe: bool = True) -> bytes:
    """An ID3v2 tag; with `is_syncsafe` False its size is coded in eight bits per byte, as some writers do."""
    size, bits = len(content), 7 if is_syncsafe else 8
    coded = bytes(size >> bits * index & (1 << bits) - 1 for index in (3, 2, 1, 0))
    head = b"\x04\0" + bytes([0x10 if footer else 0]) + coded
    return b"ID3" + head + content + (b"3DI" + head if footer else b"")


def id3v1(title: bytes = b"title") -> bytes:
    """An ID3v1 tag."""
    return b"TAG" + title.ljust(124, b"\0") + b"\xff"


def ape(content: bytes, *, header: bool = True) -> bytes:
    """An APE tag; version 1 has no header."""
    rest = (
        (2000 if header else 1000).to_bytes(4, "little")
        + (len(content) + 32).to_bytes(4, "little")
        + bytes(4)
    )
    front = b"APETAGEX" + rest + b"\0\0\0\xa0" + bytes(8)
    return front * header + content + b"APETAGEX" + rest + bytes([0, 0, 0, 0x80 * header]) + bytes(8)


def lyrics3v2(text: bytes) -> bytes:
    """A Lyrics3 tag of version 2."""
    return b"LYRICSBEGIN" + text + f"{len(text) + 11:06d}".encode() + b"LYRICS200"
