"""Ingest of awkward audio: every file is written, or is counted as a reject with its reason."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from jobs import ingest
from jobs.ingestion.config import IngestConfig
from pipeline import tables
from pipeline.data.audio.waveform import MAX_SECONDS
from pipeline.data.store.layout import rejects_name
from pipeline.data.store.snapshot import load_snapshot, load_utterances
from pipeline.fields import Names
from pipeline.storage import Folder

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]

RATE = 16_000
NOISE = (0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def with_one(value: float) -> np.ndarray:
    samples = NOISE.copy()
    samples[100] = value
    return samples


def claims_hours(flac: bytes) -> bytes:
    """A FLAC whose header states three hours, in 36 bits that start in the middle of byte 21."""
    num_samples = 3 * 3600 * RATE
    return (
        flac[:21]
        + bytes([flac[21] & 0xF0 | num_samples >> 32])
        + struct.pack(">I", num_samples & 0xFFFFFFFF)
        + flac[26:]
    )


WAV, FLAC = encoded(NOISE), encoded(NOISE, form="FLAC")

GOOD = {
    "plain": WAV,
    "another_format": FLAC,
    "loud": encoded(3 * NOISE / np.abs(NOISE).max(), subtype="FLOAT"),
    "quiet": encoded(NOISE / 1000),
    "eight_channels": encoded(np.repeat(NOISE[:, None], 8, axis=1)),
    "high_rate": encoded(NOISE, rate=192_000),
    "trailing_bytes": WAV + b"\0" * 1000,
}

BAD = {
    "zero_length": (b"", "empty"),
    "only_a_header": (WAV[:44], "truncated"),
    "no_samples": (encoded(NOISE[:0]), "too_short"),
    "ten_milliseconds": (encoded(NOISE[:160]), "too_short"),
    "cut_wav": (WAV[:20_000], "truncated"),
    "cut_flac": (FLAC[: len(FLAC) // 2], "truncated"),
    "zeros": (encoded(0 * NOISE), "silent"),
    "constant": (encoded(0 * NOISE + 0.5), "silent"),
    "not_a_number": (encoded(with_one(np.nan), subtype="FLOAT"), "not_finite"),
    "infinite": (encoded(with_one(np.inf), subtype="DOUBLE"), "not_finite"),
    "web_page": (b"<html>not found</html>" * 50, "not_audio"),
    "low_rate": (encoded(NOISE, rate=2_000), "absurd_rate"),
    "rate_of_zero": (WAV[:24] + struct.pack("<I", 0) + WAV[28:], "undecodable"),
    "claims_hours": (claims_hours(FLAC), "truncated"),
    "noise_after_its_header": (FLAC[:200] + NOISE.tobytes(), "truncated"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Folder:
    """A store with all of them as AISHELL-3, ingested with a recipe that excludes the test split."""
    folder = tmp_path_factory.mktemp("awkward")
    wavs = folder / "data" / "AIShell3" / "train" / "wav" / "SSB1567"
    wavs.mkdir(parents=True)
    for name, data in [*GOOD.items(), *((name, data) for name, (data, _) in BAD.items())]:
        (wavs / f"{name}.wav").write_bytes(data)
    with (wavs / "too_long.wav").open("wb") as file:  # sparse, so it occupies no disk space
        num_bytes = int((MAX_SECONDS + 60) * 8_000)
        header = encoded(NOISE[:0], rate=8_000, subtype="PCM_U8")[:44]
        file.write(
            header[:4] + struct.pack("<I", 36 + num_bytes) + header[8:40] + struct.pack("<I", num_bytes)
        )
        file.truncate(44 + num_bytes)
    (wavs / "dangling.wav").symlink_to(wavs / "nowhere.wav")
    excluded = folder / "data" / "AIShell3" / "test" / "wav" / "SSB0005" / "1.wav"
    excluded.parent.mkdir(parents=True)
    excluded.write_bytes(WAV)
    stray = folder / "data" / "AIShell3" / "dev" / "1.wav"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(WAV)
    recipe = folder / "no_test.toml"
    recipe.write_text('name = "no_test"\ncorpora = ["aishell3"]\nexcluded = ["*/test"]\n')
    ingest.main(
        IngestConfig(str(folder / "data"), str(folder / "store"), Names(("aishell3",)), recipe=str(recipe))
    )
    return Folder(str(folder / "store"))


def test_everything_found_is_written_rejected_or_excluded(store: Folder):
    corpus = load_snapshot(store).corpora["aishell3"]
    assert corpus.found == len(GOOD) + len(BAD) + 4
    assert corpus.written == len(GOOD)
    assert sum(corpus.rejected.values()) == len(BAD) + 3
    assert corpus.excluded == {"excluded-test": 1}


def test_every_reject_has_the_expected_reason(store: Folder):
    expected = {f"{name}.wav": reason for name, (_, reason) in BAD.items()}
    expected |= {"too_long.wav": "too_long", "dangling.wav": "missing", "1.wav": "stray"}
    assert rejects(store) == expected


def rejects(store: Folder) -> dict[str, str]:
    """File name → reason, from the catalog and from the shards."""
    corpus = load_snapshot(store).corpora["aishell3"]
    rows = tables.read_table(store, corpus.catalog).to_pylist()
    reasons = {row["path"]: row["problem"] for row in rows if row["problem"]}
    for shard in corpus.shards:
        if shard.rejected:
            table = tables.read_table(store, rejects_name(corpus.name, shard.name)).to_pylist()
            reasons |= {row["path"]: row["reason"] for row in table}
    return {
        path.rpartition("/")[2]: reason
        for path, reason in reasons.items()
        if not reason.startswith("excluded-")
    }


def test_readable_files_are_written_whatever_their_extension(store: Folder):
    utterances = load_utterances(store, load_snapshot(store)).to_pylist()
    seconds = {row["path"].rpartition("/")[2]: row["seconds"] for row in utterances}
    expected = {f"{name}.wav": RATE / 192_000 if name == "high_rate" else 1.0 for name in GOOD}
    assert seconds == pytest.approx(expected, abs=1 / RATE)
