"""The layout names every file of a store, and garbage collection keeps what the user needs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pipeline.data.store import layout
from pipeline.storage import Folder

NAMES = {
    layout.snapshot_name("000001"),
    layout.catalog_name("toy", "d1"),
    layout.tar_name("toy", "toy-d2"),
    layout.index_name("toy", "toy-d2"),
    layout.rejects_name("toy", "toy-d2"),
    layout.regions_name("toy", "d4"),
    layout.duplicates_name("d3"),
    layout.config_name("000001"),
    layout.attempt_name("toy", "toy-d2"),
    f"{layout.running_ingest_name('0123')}/lease/00000001.json",
}


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    """A store with one file of each kind, and files that killed writers have left."""
    store = Folder(str(tmp_path))
    for name in NAMES:
        store.commit(name, b"")
        store.commit(f"{name}.0123.staged", b"")
    return store


def test_the_annotated_tree_has_every_name():
    tree = re.findall(r"^      (\S+/\S+)", layout.__doc__ or "", re.MULTILINE)
    assert sorted(path.partition("/")[0] for path in tree) == sorted(name.partition("/")[0] for name in NAMES)
    assert [path.count("/") for path in sorted(tree)] == [name.count("/") for name in sorted(NAMES)]


def test_gc_may_delete_everything_but_snapshots_configs_and_leases(store: Folder):
    kept = {info.name for info in store.find() if info.name.partition("/")[0] not in layout.SWEPT_FOLDERS}
    folders = {name.partition("/")[0] for name in kept & NAMES}
    assert folders == set(layout.KEPT_FOLDERS) == {"snapshots", "configs", "running"}


def test_listings_skip_unfinished_files(store: Folder):
    assert layout.snapshots(store) == ["000001"]
    assert layout.catalogs(store, "toy") == [layout.catalog_name("toy", "d1")]
    assert layout.finished_shards(store, "toy") == {"toy-d2"}


def test_catalogs_are_listed_from_the_oldest_to_the_newest(tmp_path: Path):
    store = Folder(str(tmp_path))
    names = [layout.catalog_name("toy", digest) for digest in ("d3", "d1", "d2")]
    for age, name in enumerate(reversed(names)):
        store.commit(name, b"")
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    assert layout.catalogs(store, "toy") == names


def test_listings_of_an_empty_store_are_empty(tmp_path: Path):
    store = Folder(str(tmp_path / "nowhere"))
    assert layout.snapshots(store) == layout.catalogs(store, "toy") == []
    assert layout.finished_shards(store, "toy") == set()
