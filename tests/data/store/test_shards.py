from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline.data.audio.isolation import MAX_ATTEMPTS
from pipeline.data.audio.load import Loaded, load_audio
from pipeline.data.corpora.utterance import utterance_uid
from pipeline.data.store import catalog as catalogs
from pipeline.data.store.plan import IDENTITY
from pipeline.data.store.shards import (
    METADATA,
    REJECTS,
    TarWriter,
    build_settings,
    build_shard,
    done_shards,
    read_index,
    read_summary,
    rejects_name,
    tar_name,
    write_shard,
)
from pipeline.storage import Folder
from pipeline.tables import read_table


@pytest.fixture
def root(tmp_path: Path) -> Folder:
    """A corpus of six clips, one of them cut short."""
    rng = np.random.default_rng(0)
    (tmp_path / "corpus").mkdir()
    for number in range(6):
        path = tmp_path / "corpus" / f"{number}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(8000 + 500 * number), 16_000)
    path.write_bytes(path.read_bytes()[:9000])
    return Folder(str(tmp_path / "corpus"))


def member(number: int) -> dict[str, Any]:
    path = f"{number}.wav"
    known = {
        "uid": utterance_uid("toy", path),
        "id": f"Toy-{number}",
        "corpus": "toy",
        "path": path,
        "label": "spoof",
    }
    return dict.fromkeys(catalogs.CATALOG.names) | known


MEMBERS = [member(number) for number in range(6)]
HOW: dict[str, Any] = {"licence": "CC0-1.0", "resampler": "soxr_hq"}


def tar_bytes(store: Folder) -> bytes:
    return store.read(tar_name("toy", "toy-1"))


def test_a_shard_is_its_tar_its_index_and_its_rejects(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    summary = write_shard("toy-1", MEMBERS, root, store, **HOW)
    rows = read_index(store, "toy", "toy-1").to_pylist()
    assert [row["id"] for row in rows] == [f"Toy-{number}" for number in range(5)]
    assert (summary.num_utterances, summary.rejected) == (5, {"truncated": 1})
    assert summary.seconds == {"spoof": pytest.approx(sum(row["seconds"] for row in rows))}
    assert read_summary(store, "toy", "toy-1") == summary
    assert done_shards(store, "toy") == {"toy-1"}
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
    assert write_shard("toy-1", MEMBERS, root, one, **HOW) == write_shard("toy-1", MEMBERS, root, two, **HOW)
    assert tar_bytes(one) == tar_bytes(two)


def test_a_shard_that_fails_leaves_no_tar_and_no_index(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    calls = []

    def load(data: bytes, name: str, **how: Any) -> Loaded:
        calls.append(name)
        if len(calls) == 3:
            raise OSError("the disk is gone")
        return load_audio(data, name, **how)

    with pytest.raises(OSError, match="the disk is gone"):
        write_shard("toy-1", MEMBERS, root, store, load=load, **HOW)
    assert list(store.find()) == []


def test_after_a_death_files_are_decoded_in_a_child_and_give_the_same_bytes(root: Folder, tmp_path: Path):
    fast, careful = Folder(str(tmp_path / "fast")), Folder(str(tmp_path / "careful"))
    careful.commit("attempts/toy/toy-1", b"1")
    assert build_shard("toy-1", MEMBERS, root, fast, **HOW) == build_shard(
        "toy-1", MEMBERS, root, careful, **HOW
    )
    assert tar_bytes(fast) == tar_bytes(careful)
    assert not careful.exists("attempts/toy/toy-1")


def test_a_shard_that_keeps_killing_workers_ends_the_job(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    store.commit("attempts/toy/toy-1", str(MAX_ATTEMPTS).encode())
    with pytest.raises(RuntimeError, match="toy/toy-1: 4 workers died"):
        build_shard("toy-1", MEMBERS, root, store, **HOW)


def test_a_file_that_is_gone_is_a_reject(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    root.delete("2.wav")
    summary = write_shard("toy-1", MEMBERS, root, store, **HOW)
    assert summary.rejected == {"missing": 1, "truncated": 1}


def test_segments_of_a_file_are_read_once_and_cut_where_they_say(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    parts = [
        member(0) | {"uid": utterance_uid("toy", "0.wav", start, end), "start": start, "end": end}
        for start, end in ((0, 4000), (4000, 8000))
    ]
    write_shard("toy-1", [*parts, member(1)], root, store, **HOW)
    whole, _ = soundfile.read(root.location("0.wav"), dtype="int16")
    index = read_index(store, "toy", "toy-1").to_pylist()
    data = tar_bytes(store)
    for row, start in zip(index[:2], (0, 4000), strict=True):
        part, _ = soundfile.read(
            io.BytesIO(data[row["offset"] : row["offset"] + row["num_bytes"]]), dtype="int16"
        )
        assert (part == whole[start : start + 4000]).all()


def test_json_beside_the_audio_says_what_it_is(root: Folder, tmp_path: Path):
    store = Folder(str(tmp_path / "store"))
    write_shard("toy-1", MEMBERS[:1], root, store, **HOW)
    with tarfile.open(fileobj=io.BytesIO(tar_bytes(store))) as tar:
        file = tar.extractfile(f"{MEMBERS[0]['uid']}.json")
        assert file is not None
        facts = json.loads(file.read())
    assert (facts["id"], facts["label"], facts["licence"], facts["seconds"]) == (
        "Toy-0",
        "spoof",
        "CC0-1.0",
        0.5,
    )


def test_everything_in_the_json_decides_the_name_of_the_shard():
    assert set(METADATA) - {"corpus", "licence", "seconds"} <= set(IDENTITY)
    assert build_settings("soxr_hq", "CC0-1.0") != build_settings("soxr_hq", "CC-BY-4.0")


def test_a_tar_knows_its_own_hash_and_length():
    file = io.BytesIO()
    tar = TarWriter(file)
    offset = tar.add("0123456789abcdef", b"audio", {"id": "x"})
    digest, length = tar.close()
    assert file.getvalue()[offset : offset + 5] == b"audio"
    assert (hashlib.sha256(file.getvalue()).hexdigest(), len(file.getvalue())) == (digest, length)
