"""Garbage collection and ingests keep away from each other; ingests do not."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from jobs import gc
from pipeline.data.store import layout
from pipeline.data.store.running import collecting, ingesting
from pipeline.errors import InputError
from pipeline.storage import Folder


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "store"))


def test_ingests_run_together_and_leave_no_trace(store: Folder):
    with ingesting(store) as first, ingesting(store) as second:
        first.check()
        second.check()
    assert not store.exists()


def test_files_that_a_running_ingest_may_refer_to_are_not_collected(store: Folder):
    finished = layout.index_name("corpus", "shard")
    store.commit(finished, b"x")
    os.utime(store.location(finished), (0, 0))
    with (
        ingesting(store),
        pytest.raises(InputError, match=rf"^process {os.getpid()} on .* wait until it ends$"),
    ):
        gc.main(gc.GcConfig(store.uri, delete=True))
    assert store.exists(finished)
    gc.main(gc.GcConfig(store.uri, delete=True))
    assert not store.exists(finished)
    assert list(store.find()) == []


def test_no_ingest_starts_during_a_garbage_collection(store: Folder):
    refused = pytest.raises(InputError, match=r"deletes files of this store: wait until it ends$")
    with collecting(store), refused, ingesting(store):
        pass
    with ingesting(store):
        pass
    assert not store.exists()


def test_an_ingest_that_was_taken_for_dead_commits_nothing(store: Folder):
    with ingesting(store) as fence:
        claim = fence.folder.location(f"lease/{fence.number:08d}.json")
        stored = json.loads(Path(claim).read_text())
        Path(claim).write_text(json.dumps(stored | {"machine": "another", "lifetime_s": 0.3}))
        with collecting(store), pytest.raises(InputError, match=r"taken over by .*writes nothing more$"):
            fence.check()
        with pytest.raises(InputError, match=r"taken over by another process"):
            fence.check()


def test_what_killed_writers_left_is_collected_by_its_age(store: Folder):
    snapshot, config = layout.snapshot_name("000001"), layout.config_name("000001")
    for name in (snapshot, config):
        store.commit(name, b"x")
        with pytest.raises(RuntimeError), store.staged(name):
            left = next(info.name for info in store.find() if info.name.endswith(".staged"))
            Path(f"{store.location(left)}.copy").touch()
            raise RuntimeError
        Path(f"{store.location(left)}.copy").rename(store.location(left))
    lock = "snapshots/.lock.staged"
    store.commit(lock, b"")  # some file systems need it, and it has no age
    old = [info.name for info in store.find() if info.name.endswith(".staged")]
    assert len(old) == 3
    found = gc.unreferenced_files(store, set(), time.time() + 60)
    assert sorted(info.name for info in found) == sorted({*old} - {lock})
    assert list(gc.unreferenced_files(store, set(), time.time() - 60)) == []
