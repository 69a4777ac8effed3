"""The catalog stage of ingest on a real Ray: files that end or stop the process that opens them, and what is known."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from jobs import ingest
from jobs.ingestion import cataloging
from jobs.ingestion.sources import find_sources
from pipeline.config import Names
from pipeline.data.store import catalog as catalogs
from pipeline.errors import InputError
from pipeline.storage import Folder
from tests.corpora import write_in_the_wild

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]

HANG_S = 4.0


def read(root: Folder, path: str, size: int) -> catalogs.Row:
    """Stands in for a decoder: some files end it, some stop it."""
    if path.endswith("/7.wav"):
        os.abort()
    if path.endswith("/11.wav"):
        time.sleep(600)
    return catalogs.read_header(root, path, size)


def catalog(data: Path, store: Path) -> pa.Table:
    """The catalog of In-the-Wild as Ray makes it, with a decoder that some files end."""
    config = ingest.IngestConfig(str(data), str(store), Names(("in_the_wild",)))
    probe = functools.partial(cataloging.probe_corpora, read=read, hang_s=HANG_S)
    sources = find_sources(config)
    return cataloging.catalog_corpora(sources, Folder(str(store)), None, config, probe)["in_the_wild"]


def test_files_that_end_or_stop_the_decoder_are_counted_rejects(cluster: None, tmp_path: Path):
    write_in_the_wild(tmp_path / "data")
    found = catalog(tmp_path / "data", tmp_path / "store")
    problems = {row["id"]: row["problem"] for row in found.to_pylist() if row["problem"]}
    assert problems == {"ItW-7": "crashes_decoder", "ItW-11": "hangs_decoder"}
    assert len(found) == 30
    assert found["codec"].null_count == 2
    assert list(Folder(str(tmp_path / "store")).find("attempts")) == []


def test_all_workers_share_the_files_of_one_corpus(cluster: None, tmp_path: Path):
    data, store, tasks = tmp_path / "data", tmp_path / "store", tmp_path / "tasks"
    write_in_the_wild(data, count=1)
    clips = data / "In-the-Wild" / "release_in_the_wild"
    for number in range(1, 2 * cataloging.PART_ROWS):
        os.link(clips / "0.wav", clips / f"{number}.wav")
    tasks.mkdir()
    config = ingest.IngestConfig(str(data), str(store))
    probe = functools.partial(probe_and_tell, tasks=tasks)
    found = cataloging.catalog_corpora(find_sources(config), Folder(str(store)), None, config, probe)
    assert len(found["in_the_wild"]) == 2 * cataloging.PART_ROWS
    assert len(list(tasks.iterdir())) == 2


def probe_and_tell(batch: pa.Table, tasks: Path, **how: Any) -> pa.Table:
    (tasks / str(ray.get_runtime_context().get_task_id())).touch()
    return cataloging.probe_corpora(batch, **how)


def test_what_the_user_can_mend_comes_back_from_a_worker_as_one_line(cluster: None, tmp_path: Path):
    write_in_the_wild(tmp_path / "data", count=2)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(
        InputError, match=r"^.*/file/store/attempts/.*: a parent of this path is a file, not a folder$"
    ):
        ingest.main(ingest.IngestConfig(str(tmp_path / "data"), str(tmp_path / "file" / "store")))
