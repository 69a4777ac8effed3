"""Recordings are found in a store by corpus and kind, and read from local shards or from a copy of those on S3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline.data.corpora.utterance import utterance_uid
from pipeline.data.loading.augment.library import check_sources, load_recordings
from pipeline.data.store.catalog import CATALOG
from pipeline.data.store.shards import write_shard
from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot
from pipeline.errors import InputError
from pipeline.storage import Folder
from tests.data.loading.augment.recorded import speech

KINDS = ("noise", "rir", "noise", "speech")


def write_store(folder: Path, store: Folder) -> Snapshot:
    """A corpus of four recordings in two shards."""
    corpus = folder / "corpus"
    corpus.mkdir()
    members: list[Any] = []
    for number, kind in enumerate(KINDS):
        path = f"{number}.wav"
        # Half a minute of stereo, and an impulse response of 20 ms, which is too short for an utterance.
        waveform = speech(320 if kind == "rir" else 30 * 16_000, number)
        soundfile.write(corpus / path, np.stack([waveform, 0 * waveform], axis=1), 16_000)
        columns: Any = dict.fromkeys(CATALOG.names)
        columns |= {
            "uid": utterance_uid("toy", path),
            "id": path,
            "corpus": "toy",
            "path": path,
            "label": kind,
        }
        members.append(columns)
    root = Folder(str(corpus))
    shards = tuple(
        write_shard(
            f"toy-{number}",
            members[2 * number : 2 * number + 2],
            root,
            store,
            licence="",
            resampler="soxr_hq",
        )
        for number in range(2)
    )
    return Snapshot(
        1, "", {"toy": CorpusSnapshot("toy", "augmentation", "", None, "", "", 4, {}, {}, {}, shards)}
    )


def test_recordings_are_found_by_kind_and_decoded_window_by_window(tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    snapshot = write_store(tmp_path, store)
    sources = [(("toy",), "noise"), (("toy",), "rir")]
    check_sources(snapshot, sources)
    noises, rooms = load_recordings(store, snapshot, sources).values()
    assert (len(noises), len(rooms)) == (2, 1)
    assert noises.num_samples.tolist() == [480_000, 480_000]
    expected = speech(480_000, 2) / 2  # the mean of the channels
    np.testing.assert_allclose(noises.read(1, 400_000, 400_100), expected[400_000:400_100], atol=1e-4)
    impulse_response = rooms.read(0)
    assert len(impulse_response) == 320
    assert np.abs(impulse_response).max() == pytest.approx(1, abs=1e-4)  # the first channel, at full scale


def test_augmentations_without_recordings_need_no_store(tmp_path: Path):
    assert load_recordings(Folder(str(tmp_path / "nowhere")), Snapshot(1, "", {}), []) == {}


def test_shards_on_s3_are_copied_once_and_read_from_the_copy(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    store, sources = Folder(f"{bucket}/store"), [(("toy",), "noise")]
    snapshot = write_store(tmp_path, store)
    first = load_recordings(store, snapshot, sources)[sources[0]].read(0, 5, 99)
    for name in ("toy-0", "toy-1"):
        store.delete(f"shards/toy/{name}.tar")
    [copied] = load_recordings(store, snapshot, sources).values()
    np.testing.assert_array_equal(copied.read(0, 5, 99), first)
    [tar] = {path for path in copied.tars if path.endswith("toy-1.tar")}
    Path(tar).unlink()  # as a cleaner of temporary files would
    with pytest.raises(InputError, match=r"toy-0.tar: the snapshot lists this shard, but it is missing"):
        load_recordings(store, snapshot, sources)


def test_a_source_that_the_snapshot_lacks_is_one_line(tmp_path: Path):
    shards = write_store(tmp_path, Folder(str(tmp_path / "store"))).corpora["toy"].shards
    toy = CorpusSnapshot("toy", "augmentation", "", None, "", "", 4, {}, {}, {}, shards)
    asv = CorpusSnapshot("asv", "train", "", None, "", "", 4, {}, {}, {}, ())
    snapshot = Snapshot(7, "", {"asv": asv, "toy": toy})
    for source, message in (
        ((("musan",), "noise"), "'musan': snapshot 000007 has no such corpus for augmentation; it has: toy"),
        ((("asv",), "noise"), "'asv': a corpus with the role train; those for augmentation: toy"),
        (
            (("toy",), "music"),
            "'toy': the corpus has no recordings of the kind music; it has: noise, rir, speech",
        ),
    ):
        with pytest.raises(InputError, match=message):
            check_sources(snapshot, [source])


def test_a_damaged_recording_names_its_shard(tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    snapshot = write_store(tmp_path, store)
    [noises] = load_recordings(store, snapshot, [(("toy",), "noise")]).values()
    tar = Path(noises.tars[noises.shard[0]])
    tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(InputError, match=r"toy-0\.tar: this shard of recordings for augmentation is damaged"):
        noises.read(0)
