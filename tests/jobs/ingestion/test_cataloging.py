"""Cataloging on a real Ray: files that crash or hang the decoder, and how work is shared between workers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from jobs import ingest
from jobs.ingestion import cataloging
from jobs.ingestion.cataloging import CatalogedCorpus, Cataloger, Listing, catalog_corpora
from jobs.ingestion.config import IngestConfig
from jobs.ingestion.sources import find_sources
from pipeline.data.store import probing
from pipeline.data.store.catalog import HeaderColumns
from pipeline.data.store.probing import ReadHeader, ToRead
from pipeline.errors import InputError
from pipeline.fields import Names
from pipeline.storage import Folder
from tests.corpora import write_asvspoof2019_la, write_in_the_wild

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]

HANG_S = 8.0


def catalog(data: Path, store: Path, read: ReadHeader) -> pa.Table:
    """The catalog of In-the-Wild as Ray makes it, with headers read by `read`."""
    config = IngestConfig(str(data), str(store), Names(("in_the_wild",)))
    cataloger = Cataloger(find_sources(config), Folder(str(store)), read=read, hang_s=HANG_S)
    return rows_of(catalog_corpora(cataloger, None, start_ray=lambda: None)["in_the_wild"])


def rows_of(corpus: CatalogedCorpus) -> pa.Table:
    return pa.concat_tables(corpus.rows.parts())


def read_or_die(root: Folder, path: str, wanted: ToRead) -> HeaderColumns:
    """Stands in for a decoder that some files crash and others hang."""
    if path.endswith("/7.wav"):
        os.abort()
    if path.endswith("/11.wav"):
        time.sleep(600)
    return probing.read_header(root, path, wanted)


def test_files_that_crash_or_hang_the_decoder_are_counted_as_rejects(cluster: None, tmp_path: Path):
    write_in_the_wild(tmp_path / "data")
    table = catalog(tmp_path / "data", tmp_path / "store", read_or_die)
    problems = {row["id"]: row["problem"] for row in table.to_pylist() if row["problem"]}
    assert problems == {"ItW-7": "crashes_decoder", "ItW-11": "hangs_decoder"}
    assert len(table) == 30
    assert table["codec"].null_count == 2
    assert list(Folder(str(tmp_path / "store")).find()) == [], "markers of attempts are deleted"


def read_and_log(root: Folder, path: str, wanted: ToRead) -> HeaderColumns:
    """Read a header, and leave a file beside the data that is named by the task of Ray."""
    (Path(root.uri).parents[1] / "tasks" / str(ray.get_runtime_context().get_task_id())).touch()
    return probing.read_header(root, path, wanted)


def test_the_files_of_one_corpus_are_shared_between_tasks(cluster: None, tmp_path: Path):
    data, store, tasks = tmp_path / "data", tmp_path / "store", tmp_path / "tasks"
    write_in_the_wild(data, count=1)
    clips = data / "In-the-Wild" / "release_in_the_wild"
    with (clips / "meta.csv").open("a") as table:
        for number in range(1, 2 * cataloging.PART_ROWS):
            os.link(clips / "0.wav", clips / f"{number}.wav")
            table.write(f"{number}.wav,Somebody,spoof\n")
    tasks.mkdir()
    assert len(catalog(data, store, read_and_log)) == 2 * cataloging.PART_ROWS
    assert len(list(tasks.iterdir())) == 2


def test_ray_makes_the_same_catalogs_as_one_process(cluster: None, tmp_path: Path):
    write_in_the_wild(tmp_path / "data", count=5)
    write_asvspoof2019_la(tmp_path / "data", num_train=6, num_dev=3)
    config = IngestConfig(str(tmp_path / "data"), str(tmp_path / "store"))
    cataloger = Cataloger(find_sources(config), Folder(config.store))
    on_ray = catalog_corpora(cataloger, None, start_ray=lambda: None)
    assert set(on_ray) == {"asvspoof2019_la", "in_the_wild"}
    tables_of = {"asvspoof2019_la": {".txt": 3}, "in_the_wild": {".csv": 1}}
    for name, corpus in on_ray.items():
        *parts, listing = cataloger.list_parts(name)
        assert corpus.listing == listing == Listing(name, tables_of[name])
        table = pa.concat_tables([cataloger.probe_part(name, part) for part in parts])  # type: ignore[arg-type]
        assert rows_of(corpus).sort_by("path").equals(table.sort_by("path"))


def test_a_corpus_without_its_protocol_does_not_end_the_cataloging_of_others(cluster: None, tmp_path: Path):
    write_in_the_wild(tmp_path / "data", count=5)
    (tmp_path / "data" / "ASVspoof2019-LA").mkdir()
    config = IngestConfig(str(tmp_path / "data"), str(tmp_path / "store"))
    cataloger = Cataloger(find_sources(config), Folder(config.store))
    found = catalog_corpora(cataloger, None, start_ray=lambda: None)
    failure = found["asvspoof2019_la"].listing.failure
    assert failure.startswith(f"asvspoof2019_la: no protocol in {tmp_path}/data/ASVspoof2019-LA")
    assert found["in_the_wild"].listing.failure == ""
    assert len(rows_of(found["in_the_wild"])) == 5


def test_a_user_error_in_a_worker_is_raised_as_one_line(cluster: None, tmp_path: Path):
    write_in_the_wild(tmp_path / "data", count=2)
    store = tmp_path / "store"
    store.mkdir()
    (store / "attempts").write_bytes(b"x")
    with pytest.raises(
        InputError, match=r"^.*/store/attempts/.*: a parent of this path is a file, not a folder$"
    ):
        ingest.main(IngestConfig(str(tmp_path / "data"), str(store)))
