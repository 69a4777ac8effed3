"""Tags and padding around the audio are found from their ends, and never taken out of the audio."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest

from pipeline.data.audio.containers.extent import Span
from pipeline.data.audio.containers.tags import audio_span, tag_size
from tests.data.audio.containers.files import RATE, SPEECH, ape, heard, id3v1, id3v2, lyrics3v2, noise
from tests.data.audio.formats import FORMATS

AUDIO = b"\xff\xfb" + noise(5000) + b"\x01"
FRONTS = {
    "nothing": b"",
    "id3v2": id3v2(noise(2000)),
    "two id3v2": id3v2(noise(20)) + id3v2(noise(300)),
    "id3v2 with footer": id3v2(noise(70), footer=True),
    "id3v2 with padding after it": id3v2(noise(70)) + bytes(1000),
    "id3v2 with a size in eight bits": id3v2(noise(0x1234), is_syncsafe=False),
    "id3v2 with a size in eight bits that seems to have seven": id3v2(noise(0x0120), is_syncsafe=False),
    "one zero byte": b"\0",
    "zeros": bytes(4000),
    "zeros and id3v2": bytes(3) + id3v2(noise(9)),
}
BACKS = {
    "nothing": b"",
    "id3v1": id3v1(),
    "empty id3v1": b"TAG" + bytes(125),
    "extended id3v1": b"TAG+" + b"longer title".ljust(223, b"\0") + id3v1(),
    "ape v2": ape(noise(500)),
    "ape v1": ape(noise(500), header=False),
    "lyrics3 v2": lyrics3v2(b"la la"),
    "lyrics3 v1": b"LYRICSBEGIN" + b"la " * 300 + b"LYRICSEND",
    "appended id3v2": id3v2(noise(90), footer=True),
    "ape, lyrics and id3v1": ape(noise(40)) + lyrics3v2(b"la") + id3v1(),
    "id3v1, then ape": id3v1() + ape(noise(40)),
}


@pytest.mark.parametrize(("front", "back"), [*itertools.product(FRONTS, BACKS)])
def test_the_span_lies_between_the_tags(front: str, back: str) -> None:
    file = FRONTS[front] + AUDIO + BACKS[back]
    begin = len(FRONTS[front])
    assert audio_span(io.BytesIO(file)) == Span(begin, begin + len(AUDIO))


@pytest.mark.parametrize("num_zeros", [1, 128, 512, 5000])
@pytest.mark.parametrize("back", sorted(BACKS.keys() - {"nothing"}))
def test_zeros_behind_a_tag_are_padding(back: str, num_zeros: int) -> None:
    file = AUDIO + BACKS[back] + bytes(num_zeros)
    assert audio_span(io.BytesIO(file)) == Span(0, len(AUDIO))


def test_zeros_behind_no_tag_belong_to_the_audio() -> None:
    assert audio_span(io.BytesIO(AUDIO + bytes(700))).end == len(AUDIO) + 700


@pytest.mark.parametrize("box", [b"ftyp", b"moov", b"mdat", b"free", b"wide"])
def test_the_size_of_an_mp4_box_is_not_padding(box: bytes) -> None:
    assert audio_span(io.BytesIO(b"\0\0\xff\xfb" + box + AUDIO)).begin == 0


def test_letters_of_a_tag_within_the_audio_are_no_tag() -> None:
    for magic, length in (
        (b"TAG", 128),
        (b"APETAGEX", 32),
        (b"3DI", 10),
        (b"LYRICS200", 9),
        (b"LYRICSEND", 9),
    ):
        for seed in range(50):
            audio = AUDIO + magic + noise(length - len(magic), seed)
            assert audio_span(io.BytesIO(audio)).end == len(audio)


def test_pictures_of_megabytes_are_not_read() -> None:
    class Counting(io.BytesIO):
        num_bytes = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.num_bytes += len(data)
            return data

    file = Counting(id3v2(noise(3_000_000)) + AUDIO + ape(noise(3_000_000)) + id3v1())
    assert audio_span(file).end - audio_span(file).begin == len(AUDIO)
    assert file.num_bytes < 10_000


def test_any_bytes_have_a_span() -> None:
    for seed, magic in itertools.product(
        range(40), (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"\0\0", b"")
    ):
        data = magic + noise(seed * 7 + 1, seed)
        span = audio_span(io.BytesIO(data))
        assert 0 <= span.begin <= span.end <= len(data)
        backwards = data[::-1] + magic
        span = audio_span(io.BytesIO(backwards))
        assert 0 <= span.begin <= span.end <= len(backwards)


@pytest.mark.parametrize("tag", ["id3v1", "ape v2", "lyrics3 v2", "lyrics3 v1", "appended id3v2"])
def test_a_tag_between_joined_files_tells_its_size(tag: str) -> None:
    assert tag_size(io.BytesIO(AUDIO + BACKS[tag] + AUDIO), len(AUDIO)) == len(BACKS[tag])
    assert tag_size(io.BytesIO(AUDIO + BACKS[tag] + AUDIO), 0) == 0


@pytest.mark.parametrize("name", ["mp3 of variable rate", "vorbis", "opus", "flac", "aac in adts"])
def test_tags_do_not_change_what_is_heard(name: str) -> None:
    data = FORMATS[name](SPEECH, RATE)
    for front, back in (("two id3v2", "ape, lyrics and id3v1"), ("id3v2 with footer", "id3v1, then ape")):
        tagged = FRONTS[front] + data + BACKS[back] + bytes(100)
        np.testing.assert_array_equal(heard(tagged), heard(data))
