"""Shards are deterministic, all or nothing, and lose no utterance without a reason."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline.data.audio.isolation import MAX_ATTEMPTS
from pipeline.data.audio.load import Loaded, OpenAudio, load_audio
from pipeline.data.corpora.utterance import utterance_uid
from pipeline.data.store import fingerprints
from pipeline.data.store.catalog import CATALOG
from pipeline.data.store.layout import attempt_name, finished_shards, rejects_name, tar_name
from pipeline.data.store.plan import IDENTITY
from pipeline.data.store.shard_tables import (
    REJECTS,
    read_index,
    read_rejects,
    read_summary,
)
from pipeline.data.store.shards import (
    METADATA,
    ShardMember,
    build_settings,
    build_shard,
    write_shard,
)
from pipeline.data.store.tar_writer import TarWriter
from pipeline.errors import InputError
from pipeline.storage import Folder
from pipeline.tables import read_table


@pytest.fixture
def root(tmp_path: Path) -> Folder:
    """A corpus of six clips, of which the last is truncated."""
    rng = np.random.default_rng(0)
    (tmp_path / "corpus").mkdir()
    for number in range(6):
        path = tmp_path / "corpus" / f"{number}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(8000 + 500 * number), 16_000)
    path.write_bytes(path.read_bytes()[:9000])
    return Folder(str(tmp_path / "corpus"))


def member(number: int, **changes: Any) -> ShardMember:
    path = f"{number}.wav"
    columns: Any = dict.fromkeys(CATALOG.names)
    columns |= {
        "uid": utterance_uid("toy", path),
        "id": f"Toy-{number}",
        "corpus": "toy",
        "path": path,
        "label": "spoof",
    }
    return columns | changes


MEMBERS = [member(number) for number in range(6)]
SETTINGS: dict[str, Any] = {"licence": "CC0-1.0", "resampler": "soxr_hq"}


def tar_bytes(store: Folder) -> bytes:
    return store.read(tar_name("toy", "toy-1"))


def test_a_typed_member_has_columns_of_the_catalog():
    assert ShardMember.__annotations__.keys() <= set(CATALOG.names)


def test_a_shard_has_a_tar_an_index_and_rejects(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    summary = write_shard("toy-1", MEMBERS, root, store, **SETTINGS)
    rows = read_index(store, "toy", "toy-1").to_pylist()
    assert [row["id"] for row in rows] == [f"Toy-{number}" for number in range(5)]
    assert (summary.num_utterances, summary.rejected) == (5, {"truncated": 1})
    assert summary.seconds == {"spoof": pytest.approx(sum(row["seconds"] for row in rows))}
    assert read_summary(store, "toy", "toy-1") == summary
    assert finished_shards(store, "toy") == {"toy-1"}
    rejects = read_table(store, rejects_name("toy", "toy-1"))
    assert rejects.schema.names == REJECTS.names
    assert rejects["path"].to_pylist() == ["5.wav"]
    data = tar_bytes(store)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == [f"{row['uid']}.{end}" for row in rows for end in ("flac", "json")]
    for row in rows:
        audio, rate = soundfile.read(io.BytesIO(data[row["offset"] : row["offset"] + row["num_bytes"]]))
        assert (rate, len(audio)) == (16_000, round(row["seconds"] * 16_000))


def test_building_twice_gives_the_same_bytes(root: Folder, tmp_path: Path):
    one, two = Folder(str(tmp_path / "one")), Folder(str(tmp_path / "two"))
    assert write_shard("toy-1", MEMBERS, root, one, **SETTINGS) == write_shard(
        "toy-1", iter(MEMBERS), root, two, **SETTINGS
    )
    assert tar_bytes(one) == tar_bytes(two)


def test_a_shard_that_fails_leaves_no_tar_and_no_index(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    calls = []

    def load(audio: OpenAudio, name: str, **how: Any) -> Loaded:
        calls.append(name)
        if len(calls) == 3:
            raise OSError("the disk is gone")
        return load_audio(audio, name, **how)

    with pytest.raises(OSError, match="the disk is gone"):
        write_shard("toy-1", MEMBERS, root, store, load=load, **SETTINGS)
    assert list(store.find()) == []


def test_a_shard_whose_worker_died_is_decoded_in_a_child_process_to_the_same_bytes(
    root: Folder, tmp_path: Path
):
    fast, careful = Folder(str(tmp_path / "fast")), Folder(str(tmp_path / "careful"))
    careful.commit(attempt_name("toy", "toy-1"), b"1")
    assert build_shard("toy-1", MEMBERS, root, fast, **SETTINGS) == build_shard(
        "toy-1", MEMBERS, root, careful, **SETTINGS
    )
    assert tar_bytes(fast) == tar_bytes(careful)
    assert not careful.exists(attempt_name("toy", "toy-1"))


def test_a_shard_that_kills_many_workers_fails_the_job(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    store.commit(attempt_name("toy", "toy-1"), str(MAX_ATTEMPTS).encode())
    with pytest.raises(InputError, match="toy/toy-1: 4 processes died"):
        build_shard("toy-1", MEMBERS, root, store, **SETTINGS)


def test_a_deleted_file_is_a_reject(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    root.delete("2.wav")
    summary = write_shard("toy-1", MEMBERS, root, store, **SETTINGS)
    assert summary.rejected == {"missing": 1, "truncated": 1}


def cataloged(root: Folder, number: int, **changes: Any) -> ShardMember:
    """A member with what a catalog records about its file."""
    data = root.read(f"{number}.wav")
    fingerprint = fingerprints.fingerprint(io.BytesIO(data), len(data))
    return member(number, size=len(data), fingerprint=fingerprint, **changes)


def digest_of(root: Folder, name: str) -> str:
    data = root.read(name)
    return fingerprints.source_digest(io.BytesIO(data), len(data))


def overwrite(path: Path, position: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


def test_a_file_that_changes_between_catalog_and_build_is_a_reject(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    members = [cataloged(root, number) for number in range(5)]
    members[3]["source_digest"] = "0" * 16  # of other bytes, although both ends are the same
    folder = Path(root.uri)
    with (folder / "0.wav").open("ab") as file:
        file.truncate(2**40)  # reading it to its end would take hours
    os.truncate(folder / "1.wav", 9000)
    overwrite(folder / "2.wav", 9000, b"other samples")
    summary = write_shard("toy-1", members, root, store, **SETTINGS)
    assert summary.rejected == {"changed": 4}
    assert read_index(store, "toy", "toy-1")["path"].to_pylist() == ["4.wav"]
    rejects = read_rejects(store, "toy", "toy-1", ["path", "source_digest"]).to_pylist()
    assert rejects == [{"path": f"{number}.wav", "source_digest": None} for number in range(4)]


def test_index_and_rejects_record_the_bytes_that_were_read(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    path = Path(root.uri) / "0.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(1).standard_normal(160_000), 16_000)
    members = [cataloged(root, number) for number in (0, 5)]
    overwrite(path, 160_000, b"as it is when the shard is built")  # where no fingerprint looks
    write_shard("toy-1", members, root, store, **SETTINGS)
    columns = ["path", "source_digest"]
    rows = [
        *read_index(store, "toy", "toy-1", columns).to_pylist(),
        *read_rejects(store, "toy", "toy-1", columns).to_pylist(),
    ]
    assert rows == [{"path": name, "source_digest": digest_of(root, name)} for name in ("0.wav", "5.wav")]


def test_files_on_s3_are_compared_with_the_catalog_too(root: Folder, tmp_path: Path, bucket: str):
    store, remote = Folder(str(tmp_path / "store")), Folder(f"{bucket}/corpus")
    members = [cataloged(root, number) for number in range(3)]
    for number in range(3):
        remote.commit(f"{number}.wav", root.read(f"{number}.wav") + bytes(number % 2))
    remote.delete("2.wav")
    summary = write_shard("toy-1", members, remote, store, **SETTINGS)
    assert (summary.num_utterances, summary.rejected) == (1, {"changed": 1, "missing": 1})


def test_a_file_that_cannot_be_read_is_a_reject(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    members = [cataloged(root, number) for number in range(3)]
    for number, target in enumerate(("/proc/self/mem", "1.wav")):  # a read error, and a circle of links
        root.delete(f"{number}.wav")
        (Path(root.uri) / f"{number}.wav").symlink_to(target)
    summary = write_shard("toy-1", members, root, store, **SETTINGS)
    assert (summary.num_utterances, summary.rejected) == (1, {"unreadable": 2})
    details = read_rejects(store, "toy", "toy-1", ["detail"])["detail"].to_pylist()
    assert "Input/output error" in details[0]
    assert "Too many levels of symbolic links" in details[1]


def test_rejects_name_the_class_that_lost_an_utterance(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    known = {"artifact": "tts", "attack": "A07", "language": "en", "container": "wav", "codec": "pcm_16"}
    write_shard("toy-1", [member(5, **known)], root, store, **SETTINGS)
    (reject,) = read_rejects(store, "toy", "toy-1").to_pylist()
    assert {name: reject[name] for name in known} == known


def test_segments_of_one_file_share_one_read_and_one_decode(root: Folder, tmp_path: Path):
    bounds = [(start, start + 1000) for start in range(0, 8000, 1000)]
    parts = [
        cataloged(root, 0, uid=utterance_uid("toy", "0.wav", start, end), start=start, end=end)
        for start, end in bounds
    ]
    loaded: list[int] = []

    def load(audio: OpenAudio, name: str, **how: Any) -> Loaded:
        loaded.append(id(audio))
        return load_audio(audio, name, **how)

    summary = write_shard("toy-1", parts, root, Folder(str(tmp_path / "store")), load=load, **SETTINGS)
    assert summary.num_utterances == 8
    assert len(loaded) == 8
    assert len(set(loaded)) == 1


def test_segments_are_cut_at_their_start_and_end(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    parts = [
        member(0, uid=utterance_uid("toy", "0.wav", start, end), start=start, end=end)
        for start, end in ((0, 4000), (4000, 8000))
    ]
    write_shard("toy-1", [*parts, member(1)], root, store, **SETTINGS)
    source, _ = soundfile.read(root.location("0.wav"), dtype="int16")
    index = read_index(store, "toy", "toy-1").to_pylist()
    data = tar_bytes(store)
    for row, start in zip(index[:2], (0, 4000), strict=True):
        part, _ = soundfile.read(
            io.BytesIO(data[row["offset"] : row["offset"] + row["num_bytes"]]), dtype="int16"
        )
        assert (part == source[start : start + 4000]).all()


def test_each_flac_is_accompanied_by_its_metadata_as_json(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    write_shard("toy-1", MEMBERS[:1], root, store, **SETTINGS)
    with tarfile.open(fileobj=io.BytesIO(tar_bytes(store))) as tar:
        file = tar.extractfile(f"{MEMBERS[0]['uid']}.json")
        assert file is not None
        metadata = json.loads(file.read())
    assert (metadata["id"], metadata["label"], metadata["licence"], metadata["seconds"]) == (
        "Toy-0",
        "spoof",
        "CC0-1.0",
        0.5,
    )


def test_everything_in_the_metadata_changes_the_name_of_the_shard():
    assert set(METADATA) - {"corpus", "licence", "seconds"} <= set(IDENTITY)
    assert build_settings("soxr_hq", "CC0-1.0") != build_settings("soxr_hq", "CC-BY-4.0")


def test_a_tar_writer_returns_hash_and_length_of_the_tar():
    file = io.BytesIO()
    tar = TarWriter(file)
    offset = tar.add("0123456789abcdef", b"audio", {"id": "x"})
    digest, length = tar.close()
    assert file.getvalue()[offset : offset + 5] == b"audio"
    assert (hashlib.sha256(file.getvalue()).hexdigest(), len(file.getvalue())) == (digest, length)


def test_a_tar_has_the_bytes_that_tarfile_writes():
    file, expected = io.BytesIO(), io.BytesIO()
    tar = TarWriter(file)
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as other:
        for number, size in enumerate((0, 1, 511, 512, 513, 70_000, *range(40))):
            uid, flac = f"{number:016x}", bytes([number]) * size
            tar.add(uid, flac, {"id": "ä"})
            for name, data in ((f"{uid}.flac", flac), (f"{uid}.json", '{"id": "ä"}'.encode())):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o644
                other.addfile(member, io.BytesIO(data))
    tar.close()
    assert file.getvalue() == expected.getvalue()


def test_the_index_has_the_bandwidth_measured_in_the_audio(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    time_s = np.arange(16_000) / 16_000
    low = sum(np.sin(2 * np.pi * hz * time_s) for hz in range(200, 3000, 100))
    soundfile.write(Path(root.location("0.wav")), 0.01 * low, 16_000)
    write_shard("toy-1", [member(0), member(1)], root, store, **SETTINGS)
    assert read_index(store, "toy", "toy-1", ["bandwidth_hz"])["bandwidth_hz"].to_pylist() == [3125.0, 8000.0]
