"""Probing reads no more of a file than it must, tells changed files by their fingerprints, and cuts all of a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from pipeline.data.audio.load import load_audio
from pipeline.data.corpora.manifest import load_manifests
from pipeline.data.store import fingerprints, probing
from pipeline.data.store.catalog import CATALOG, CatalogRow
from pipeline.data.store.probing import ToRead
from pipeline.storage import Folder
from tests.data.audio.containers.test_boxed import as_of_a_browser, encode
from tests.data.audio.formats import speech_like

MANIFESTS = load_manifests()
LJSPEECH = MANIFESTS["ljspeech"]


@pytest.mark.parametrize(
    "head",
    [b"", b"<html>", b"PK\3\4", b"ID3\4\0\0\x7f\x7f\x7f\x7f", b"RIFF\xff\xff\xff\xffAVI LIST", b"fLaC"],
)
def test_a_huge_file_that_is_no_audio_is_recognised_by_its_beginning(head: bytes, tmp_path: Path):
    size = 2**36  # reading so much would take minutes, and more memory than there is
    (tmp_path / "huge.wav").write_bytes(head)
    os.truncate(tmp_path / "huge.wav", size)
    rows = [row("huge.wav", "X", size=size)]
    list(probing.probe_rows(rows, Folder(str(tmp_path)), LJSPEECH))  # reads modules as well
    before = bytes_read()
    (probed,) = probing.probe_rows(rows, Folder(str(tmp_path)), LJSPEECH)
    assert probed["problem"] in {"not_audio", "undecodable"}
    assert bytes_read() - before < 2**20


def test_a_file_that_does_not_fit_in_memory_is_a_problem_however_it_begins(tmp_path: Path):
    size = 2**36
    soundfile.write(tmp_path / "huge.flac", 0.1 * np.random.default_rng(0).standard_normal(9000), 16_000)
    os.truncate(tmp_path / "huge.flac", size)
    before = bytes_read()
    for corpus in (LJSPEECH, CHUNKED):
        (probed,) = probing.probe_rows([row("huge.flac", "X", size=size)], Folder(str(tmp_path)), corpus)
        assert (probed["problem"], probed["codec"]) == ("too_large", None)
    assert bytes_read() - before < 2**20


def bytes_read() -> int:
    """Bytes that this process has read from files so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def row(path: str, id_: str, **others: Any) -> CatalogRow:
    columns: Any = dict.fromkeys(CATALOG.names) | {"corpus": "toy", "path": path, "id": id_} | others
    return columns


def header(root: Folder, wanted: ToRead) -> tuple[str, str | None]:
    columns = probing.read_header(root, "long.wav", wanted)
    return columns["fingerprint"], columns["source_digest"]


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A file of which a fingerprint covers only the ends."""
    path = tmp_path / "long.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(200_000), 16_000)
    return path


def overwrite(path: Path, position: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


def test_a_new_file_is_not_read_as_a_whole(long: Path):
    root, size = Folder(str(long.parent)), long.stat().st_size
    before = header(root, ToRead(size))
    overwrite(long, size // 2, b"other bytes")
    assert header(root, ToRead(size)) == before
    assert before[1] is None


def test_a_changed_file_with_the_bytes_of_its_shard_keeps_its_fingerprint(long: Path):
    root, size = Folder(str(long.parent)), long.stat().st_size
    fingerprint, _ = header(root, ToRead(size))
    with long.open("rb") as file:
        digest = fingerprints.source_digest(file, size)
    for earlier in (fingerprint, digest, f"{digest}/0123456789abcdef"):  # of each kind that there is
        assert header(root, ToRead(size, earlier, digest)) == (earlier, digest)


@pytest.mark.parametrize("position", [44, 150_000, 200_000, 399_000])
def test_a_changed_file_with_other_bytes_gets_another_fingerprint(long: Path, position: int):
    root, size = Folder(str(long.parent)), long.stat().st_size
    fingerprint, _ = header(root, ToRead(size))
    with long.open("rb") as file:
        digest = fingerprints.source_digest(file, size)
    overwrite(long, position, b"other bytes")
    changed, other_digest = header(root, ToRead(size, fingerprint, digest))
    assert changed == other_digest
    assert len({fingerprint, digest, changed}) == 3
    assert header(root, ToRead(size, fingerprint, digest)) == (changed, other_digest), "the same in every run"


def test_a_changed_file_that_was_in_no_shard_is_not_read_as_a_whole(long: Path):
    root, size = Folder(str(long.parent)), long.stat().st_size
    fingerprint, _ = header(root, ToRead(size))
    assert header(root, ToRead(size, fingerprint)) == (fingerprint, None)


def test_a_file_whose_size_changed_and_changed_back_gets_another_fingerprint(long: Path):
    root, size = Folder(str(long.parent)), long.stat().st_size
    first, _ = header(root, ToRead(size))
    whole = long.read_bytes()
    soundfile.write(long, 0.1 * np.random.default_rng(1).standard_normal(150_000), 16_000)
    second, second_digest = header(root, ToRead(long.stat().st_size, first, "0" * 16))
    long.write_bytes(whole)
    overwrite(long, size // 2, b"mended")
    third, _ = header(root, ToRead(size, second, second_digest))
    assert len({first, second, third}) == 3, "the first name stands for the bytes before they were mended"


def test_a_file_that_is_tried_again_gets_another_fingerprint_for_each_shard_that_rejected_it(long: Path):
    root, size = Folder(str(long.parent)), long.stat().st_size
    fingerprint, _ = header(root, ToRead(size))
    again, digest = header(root, ToRead(size, fingerprint, None, "ljspeech-0123456789abcdef"))
    assert again == f"{digest}/0123456789abcdef"
    assert fingerprints.was_tried_again(again)
    assert not fingerprints.was_tried_again(fingerprint)


def test_a_file_that_still_cannot_be_read_stays_in_the_shard_that_rejected_it(tmp_path: Path):
    shard = "ljspeech-0123456789abcdef"
    earlier = row("gone.wav", "X", size=9, fingerprint="0" * 16, codec="pcm_16", sample_rate=16_000)
    earlier |= {"file_seconds": 1.0, "shard": shard, "detail": f"rejected as missing by {shard}"}
    rows = list(probing.probe_rows([earlier], Folder(str(tmp_path)), LJSPEECH))
    assert rows == [earlier | {"detail": None, "seconds": 1.0}]


def test_a_changed_file_that_has_become_bad_has_no_header(long: Path):
    long.write_bytes(b"<html>not found</html>")
    changed = row("long.wav", "X", size=22, fingerprint="0" * 16, shard="ljspeech-0123456789abcdef")
    (probed,) = probing.probe_rows([changed], Folder(str(long.parent)), LJSPEECH)
    assert (probed["problem"], probed["fingerprint"], probed["codec"]) == ("not_audio", None, None)


CHUNKED = MANIFESTS["deepfake_eval_2024"]
CHUNKED_SECONDS = 30.5


def streamed_flac(path: Path, audio: np.ndarray) -> None:
    soundfile.write(path, audio, 16_000, format="FLAC")
    overwrite(
        path, 21, bytes([path.read_bytes()[21] & 0xF0, 0, 0, 0, 0])
    )  # STREAMINFO: the number of samples


def variable_mp3(path: Path, audio: np.ndarray) -> None:
    soundfile.write(path, audio, 16_000, format="MP3", bitrate_mode="VARIABLE")
    data = path.read_bytes()
    path.write_bytes(data[mpeg_frame_bytes(data) :])  # without the first frame, which states the length


def mpeg_frame_bytes(data: bytes) -> int:
    """The length of the first frame; every frame begins with the same 12 bits."""
    return next(n for n in range(4, len(data)) if data[n] == 0xFF and data[n + 1] == data[1])


def live_matroska(path: Path, audio: np.ndarray) -> None:
    write_matroska(path, audio, {"live": "1"})


def write_matroska(path: Path, audio: np.ndarray, options: dict[str, str]) -> None:
    with av.open(path, "w", format="matroska", options=options) as output:
        stream = output.add_stream("flac", rate=16_000, layout="mono")
        assert isinstance(stream, av.AudioStream)
        pcm = np.round(audio * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)


def ordinary_wav(path: Path, audio: np.ndarray) -> None:
    soundfile.write(path, audio, 16_000, format="WAV")


def vorbis(path: Path, audio: np.ndarray) -> None:
    soundfile.write(path, audio, 16_000, format="OGG", subtype="VORBIS")


def wav_of_no_bytes(path: Path, audio: np.ndarray) -> None:
    ordinary_wav(path, audio)
    overwrite(path, 40, bytes(4))


def wav_from_a_pipe(path: Path, audio: np.ndarray) -> None:
    ordinary_wav(path, audio)
    overwrite(path, 4, b"\xff" * 4)
    overwrite(path, 40, b"\xff" * 4)


def au_from_a_pipe(path: Path, audio: np.ndarray) -> None:
    soundfile.write(path, audio, 16_000, format="AU")
    overwrite(path, 8, b"\xff" * 4)


def constant_mp3(path: Path, audio: np.ndarray) -> None:
    soundfile.write(path, audio, 16_000, format="MP3", bitrate_mode="CONSTANT")
    data = path.read_bytes()
    path.write_bytes(data[mpeg_frame_bytes(data) :])


@pytest.mark.parametrize("is_loud_first", [False, True])  # an estimate that is too long, or too short
@pytest.mark.parametrize(
    "write",
    [
        ordinary_wav,
        wav_of_no_bytes,
        wav_from_a_pipe,
        au_from_a_pipe,
        streamed_flac,
        variable_mp3,
        constant_mp3,
        live_matroska,
        vorbis,
    ],
)
def test_a_file_is_cut_into_chunks_to_its_last_sample_whatever_its_header_states(
    write: Callable[[Path, np.ndarray], None], is_loud_first: bool, tmp_path: Path
):
    time_s = np.arange(int(CHUNKED_SECONDS * 16_000)) / 16_000
    # A bit rate that does not tell the length.
    loudness = np.where((time_s < 10) if is_loud_first else (time_s >= 20), 0.3, 0.001)
    write(tmp_path / "a", loudness * np.random.default_rng(0).standard_normal(time_s.size).clip(-3, 3))
    data = (tmp_path / "a").read_bytes()
    chunks = list(
        probing.probe_rows([row("a", "X", size=len(data))], Folder(str(tmp_path)), CHUNKED, chunk_s=10)
    )
    assert [chunk["id"] for chunk in chunks] == [f"X_seg{number}" for number in (1, 2, 3, 4)]
    assert [chunk["start"] for chunk in chunks] == [0, 160_000, 320_000, 480_000]
    whole = load_audio(data, "a").waveform
    assert chunks[-1]["end"] == len(whole) == chunks[0]["num_samples"]
    assert len(whole) == pytest.approx(time_s.size, abs=3000)
    assert sum(chunk["seconds"] or 0 for chunk in chunks) == pytest.approx(len(whole) / 16_000)
    parts = [load_audio(data, "a", start=chunk["start"], end=chunk["end"]).waveform for chunk in chunks]
    assert [len(part) for part in parts] == [160_000, 160_000, 160_000, len(whole) - 480_000]


def test_a_file_that_is_to_be_cut_but_cannot_be_decoded_is_one_problem(tmp_path: Path):
    audio = 0.1 * np.random.default_rng(0).standard_normal(320_000)
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "short.wav", audio[:0], 16_000)
    soundfile.write(tmp_path / "damaged.flac", audio, 16_000)
    overwrite(tmp_path / "damaged.flac", 100_000, b"damage" * 100)
    names = ("empty.wav", "short.wav", "damaged.flac")
    rows = [row(name, name, size=(tmp_path / name).stat().st_size) for name in names]
    probed = list(probing.probe_rows(rows, Folder(str(tmp_path)), CHUNKED))
    assert [(row["path"], row["problem"], row["start"]) for row in probed] == [
        ("empty.wav", "empty", None),
        ("short.wav", "too_short", None),
        ("damaged.flac", probed[2]["problem"], None),
    ]
    assert probed[2]["problem"] in {"undecodable", "truncated"}


def test_webm_of_a_browser_is_cut_into_chunks_to_its_last_sample(tmp_path: Path):
    data = as_of_a_browser(encode("webm", "libopus", 48_000, samples=speech_like(CHUNKED_SECONDS, 48_000)))
    (tmp_path / "a").write_bytes(data)
    rows = [row("a", "X", size=len(data))]
    chunks = list(probing.probe_rows(rows, Folder(str(tmp_path)), CHUNKED, chunk_s=10))
    assert [chunk["start"] for chunk in chunks] == [0, 480_000, 960_000, 1_440_000]
    assert chunks[-1]["end"] == pytest.approx(CHUNKED_SECONDS * 48_000, abs=1_000)
    last = load_audio(data, "a", start=chunks[-1]["start"], end=chunks[-1]["end"]).waveform
    assert len(last) == pytest.approx(8_000, abs=350)
    (tmp_path / "a").write_bytes(data[:-5])
    rows = [row("a", "X", size=len(data) - 5)]
    (cut,) = probing.probe_rows(rows, Folder(str(tmp_path)), CHUNKED, chunk_s=10)
    assert (cut["problem"], cut["start"]) == ("truncated", None)
