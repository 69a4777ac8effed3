"""Ingest gives the same bytes whatever is killed on the way, and loses no utterance."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import soundfile

from jobs import gc, ingest, verify
from jobs.ingestion.config import IngestConfig
from pipeline.data.store.layout import finished_shards, regions_name, tar_name
from pipeline.data.store.snapshot import latest_snapshot, load_regions, load_snapshot
from pipeline.errors import InputError
from pipeline.fields import Names
from pipeline.storage import STAGED_SUFFIX, Folder
from tests import plain_loop
from tests.corpora import write_asvspoof2019_la, write_in_the_wild, write_partialspoof

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Path:
    """Two corpora, while Ray is running."""
    folder = tmp_path_factory.mktemp("ingest") / "data"
    write_asvspoof2019_la(folder)
    write_in_the_wild(folder)
    return folder


@pytest.fixture(scope="module")
def reference(data: Path) -> dict[str, bytes]:
    """The tars of an undisturbed ingest."""
    store = data.parent / "reference"
    run_ingest(data, store)
    return tars(store)


def run_ingest(data: Path | str, store: Path | str, *corpora: str, shard_mib: float = 0.5) -> None:
    ingest.main(IngestConfig(str(data), str(store), Names(corpora), shard_mib=shard_mib))


def command(data: Path, store: Path, *corpora: str) -> subprocess.Popen[str]:
    """Start the same ingest as a process, on the Ray of the test."""
    argv = [
        sys.executable,
        "-m",
        "jobs.ingest",
        "--root",
        str(data),
        "--store",
        str(store),
        "--shard-mib",
        "0.5",
    ]
    argv += ["--corpora", ",".join(corpora)] if corpora else []
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    return subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def tars(store: Path | str) -> dict[str, bytes]:
    folder = Folder(str(store))
    return {info.name: folder.read(info.name) for info in folder.find("shards") if info.name.endswith(".tar")}


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.02)


def building_workers() -> list[int]:
    """Process ids of the Ray workers of this test that are building a shard."""
    pids = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                title = (process / "cmdline").read_bytes()
                if title.startswith(b"ray::MapBatches(build_batch)") and is_descendant(int(process.name)):
                    pids.append(int(process.name))
            except OSError:
                continue  # the process has ended
    return pids


def is_descendant(pid: int) -> bool:
    """Whether this process has started another one, directly or not; other tests may run on the machine."""
    while pid > 1 and pid != os.getpid():
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        pid = int(status.rpartition(")")[2].split()[1])
    return pid == os.getpid()


def markers(store: Path) -> list[Path]:
    """The markers of the work in progress, without unfinished files that killed workers have left."""
    return [file for file in (store / "attempts").glob("*/*") if file.suffix != STAGED_SUFFIX]


def ingest_with_kills(data: Path, store: Path) -> bool:
    """Ingest while up to three workers are killed; returns whether any was."""
    killed: list[int] = []
    has_ended = threading.Event()

    def kill() -> None:
        while len(killed) < 3 and not has_ended.is_set():
            if markers(store):  # a worker is building a shard
                for worker in building_workers()[:1]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker, signal.SIGKILL)
                        killed.append(worker)
                time.sleep(0.3)
            time.sleep(0.005)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run_ingest(data, store)
    finally:
        has_ended.set()
        killer.join()
    return bool(killed)


def test_bytes_survive_the_death_of_workers(data: Path, reference: dict[str, bytes], tmp_path: Path):
    stores = (tmp_path / str(number) for number in range(5))  # an ingest may end before a worker is killed
    store = next(store for store in stores if ingest_with_kills(data, store))
    assert tars(store) == reference
    assert not markers(store)


def kill_driver(data: Path, store: Path) -> bool:
    """Start an ingest, and kill it after its first shard; returns whether it was killed before its end."""
    with command(data, store) as driver:
        wait_for(lambda: list((store / "index").glob("*/*.parquet")) or driver.poll() is not None)
        driver.kill()
    return not (store / "snapshots").exists()


def test_bytes_survive_the_death_of_the_driver(data: Path, reference: dict[str, bytes], tmp_path: Path):
    stores = (tmp_path / str(number) for number in range(5))  # an ingest may end before it is killed
    store = next(store for store in stores if kill_driver(data, store))
    run_ingest(data, store)
    assert tars(store) == reference


def test_a_plain_loop_gives_the_same_bytes_as_ray(data: Path, reference: dict[str, bytes], tmp_path: Path):
    roots = {"asvspoof2019_la": data / "ASVspoof2019-LA", "in_the_wild": data / "In-the-Wild"}
    plain_loop.build_shards(Folder(str(data.parent / "reference")), roots, Folder(str(tmp_path / "store")))
    assert tars(tmp_path / "store") == reference


def test_s3_gives_the_same_bytes_as_a_disk(data: Path, reference: dict[str, bytes], bucket: str):
    corpora = Folder(f"{bucket}/data")
    for info in Folder(str(data)).find():
        corpora.commit(info.name, (data / info.name).read_bytes())
    run_ingest(f"{bucket}/data", f"{bucket}/store")
    assert tars(f"{bucket}/store") == reference
    local, remote = (
        load_snapshot(Folder(str(data.parent / "reference"))),
        load_snapshot(Folder(f"{bucket}/store")),
    )
    assert local.digest == remote.digest


def test_a_new_corpus_and_new_files_build_only_new_shards(data: Path, tmp_path: Path):
    grown, store = tmp_path / "data", tmp_path / "store"
    shutil.copytree(data, grown)
    run_ingest(grown, store, "in_the_wild")
    first = tars(store)
    run_ingest(grown, store, "asvspoof2019_la")
    second = tars(store)
    assert first.items() < second.items()
    assert set(load_snapshot(Folder(str(store))).corpora) == {"asvspoof2019_la", "in_the_wild"}
    write_in_the_wild(grown, count=10, first=30)
    run_ingest(grown, store)
    third = tars(store)
    assert second.items() < third.items()
    assert latest_snapshot(Folder(str(store))).corpora["in_the_wild"].written == 40


def test_a_changed_label_builds_only_its_shard(data: Path, tmp_path: Path):
    changed, store = tmp_path / "data", tmp_path / "store"
    shutil.copytree(data, changed)
    run_ingest(changed, store)
    before = shard_names(store)
    table = changed / "In-the-Wild" / "release_in_the_wild" / "meta.csv"
    table.write_text(table.read_text().replace("\n7.wav,Somebody 3,bona-fide", "\n7.wav,Somebody 3,spoof"))
    run_ingest(changed, store)
    assert len(shard_names(store) - before) == 1
    assert len(before - shard_names(store)) == 1


def shard_names(store: Path) -> set[str]:
    corpora = load_snapshot(Folder(str(store))).corpora.values()
    return {shard.name for corpus in corpora for shard in corpus.shards}


def test_other_regions_build_no_shard(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    changed, store = tmp_path / "data", Folder(str(tmp_path / "store"))
    write_partialspoof(changed)
    write_in_the_wild(changed, count=3)
    vad = changed / "PartialSpoof" / "database" / "vad" / "dev" / "CON_D_0000001.vad"
    (vad.parent / "CON_D_0000009.vad").write_text("0.0 1.0 0\n")
    run_ingest(changed, store.uri)
    first, shards = load_snapshot(store), tars(store.uri)
    output = capsys.readouterr().out
    assert "    regions of 4 utterances: 0.00 h bonafide, 0.00 h spoof\n" in output
    assert (
        "      1 unknown-utterance, first: database/vad/dev/CON_D_0000009.vad:1: dev/CON_D_0000009\n"
        in output
    )
    assert len(load_regions(store, first)) == 8

    vad.write_text("0.0 0.3 1\n0.3 0.4 0\n0.4 0.5 1\n")
    run_ingest(changed, store.uri)
    second = load_snapshot(store)
    assert ", 0 to build" in capsys.readouterr().out
    assert second.digest != first.digest and tars(store.uri) == shards
    assert len(load_regions(store, second)) == 9 and len(load_regions(store, first)) == 8
    gc.main(gc.GcConfig(store.uri, delete=True, older_than_hours=0.0))
    verify.main(verify.VerifyConfig(store.uri))
    regions = second.corpora["partialspoof"].regions
    assert regions
    store.delete(regions_name("partialspoof", regions.digest))
    with pytest.raises(SystemExit):
        verify.main(verify.VerifyConfig(store.uri, decode=False))
    assert "partialspoof: its regions: " in capsys.readouterr().out

    vad.write_text("0.0 0.3 1\n0.3 spoof\n")
    assert ingest.main(IngestConfig(str(changed), store.uri)) == 1
    assert "CON_D_0000001.vad: line 2: found 2 columns instead of 3" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"CON_D_0000001\.vad: line 2"):
        run_ingest(changed, store.uri, "partialspoof")
    assert load_snapshot(store) == second


def test_two_concurrent_ingests_both_get_into_the_snapshot(data: Path, tmp_path: Path):
    store = tmp_path / "store"
    drivers = [command(data, store, "asvspoof2019_la"), command(data, store, "in_the_wild")]
    outputs = [driver.communicate(timeout=300)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], outputs
    snapshot = load_snapshot(Folder(str(store)))
    assert set(snapshot.corpora) == {"asvspoof2019_la", "in_the_wild"}
    assert snapshot.number == 2


def test_verify_reports_damaged_and_lost_tars(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    store = tmp_path / "store"
    run_ingest(data, store, "in_the_wild")
    verify.main(verify.VerifyConfig(str(store)))
    assert "all intact" in capsys.readouterr().out
    damaged, lost = sorted((store / "shards" / "in_the_wild").iterdir())[:2]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 255
    damaged.write_bytes(content)
    lost.unlink()
    with pytest.raises(SystemExit) as end:
        verify.main(verify.VerifyConfig(str(store)))
    assert end.value.code == 1
    output = capsys.readouterr().out
    assert f"{damaged.stem}: its tar has changed" in output
    assert f"{lost.stem}: its tar is missing" in output


def test_duplicates_across_corpora_are_recorded(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    copied, store = tmp_path / "data", tmp_path / "store"
    shutil.copytree(data, copied)
    english = copied / "DECRO" / "petrichorwq-DECRO-dataset-6fc9884"
    (english / "en_train").mkdir(parents=True)
    audio, _ = soundfile.read(
        copied / "ASVspoof2019-LA/LA/ASVspoof2019_LA_dev/flac/LA_D_1000000.flac", dtype="int16"
    )
    soundfile.write(english / "en_train" / "LA_D_1000000.wav", audio, 16_000)
    (english / "en_train.txt").write_text("LA_0000 LA_D_1000000 - asv19 bonafide\n")
    run_ingest(copied, store, "asvspoof2019_la", "decro")
    verify.main(verify.VerifyConfig(str(store)))
    assert "duplicates in asvspoof2019_la/validation + decro/train: 1" in capsys.readouterr().out


def test_gc_deletes_only_files_that_no_snapshot_references(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store = tmp_path / "store"
    run_ingest(data, store, "in_the_wild")
    before = tars(store)
    orphan = store / tar_name("in_the_wild", "in_the_wild-0000000000000000")
    orphan.write_bytes(b"left by a killed ingest")
    gc.main(gc.GcConfig(str(store)))
    assert "0 files" in capsys.readouterr().out, "a recent file may belong to a running ingest"
    gc.main(gc.GcConfig(str(store), older_than_hours=0.0))
    assert orphan.exists()
    gc.main(gc.GcConfig(str(store), delete=True, older_than_hours=0.0))
    assert not orphan.exists()
    assert tars(store) == before
    assert finished_shards(Folder(str(store)), "in_the_wild")


def test_a_missing_protocol_is_reported_in_one_line(cluster: None, tmp_path: Path):
    (tmp_path / "data" / "ASVspoof2019-LA").mkdir(parents=True)
    with pytest.raises(InputError, match=r"^asvspoof2019_la: no protocol in .*ASVspoof2019-LA"):
        run_ingest(tmp_path / "data", tmp_path / "store", "asvspoof2019_la")


def test_a_corpus_that_fails_is_kept_as_it_was_and_the_others_are_committed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    changed, store = tmp_path / "data", tmp_path / "store"
    shutil.copytree(data, changed)
    assert ingest.main(IngestConfig(str(changed), str(store))) == 0
    before = load_snapshot(Folder(str(store)))
    (changed / "ASVspoof2019-LA" / "LA" / "ASVspoof2019_LA_cm_protocols").rename(tmp_path / "elsewhere")
    write_in_the_wild(changed, count=3, first=30)
    assert ingest.main(IngestConfig(str(changed), str(store))) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bonafide ingest:")]
    assert line.startswith("bonafide ingest: asvspoof2019_la: no protocol in ")
    assert line.endswith(f"[kept as in snapshot {before.name}]")
    after = load_snapshot(Folder(str(store)))
    assert after.corpora["asvspoof2019_la"] == before.corpora["asvspoof2019_la"]
    assert after.corpora["in_the_wild"].written == before.corpora["in_the_wild"].written + 3

    for clip in (changed / "In-the-Wild" / "release_in_the_wild").glob("*.wav"):
        clip.write_bytes(b"<html>not found</html>" * 50)
    (tmp_path / "elsewhere").rename(changed / "ASVspoof2019-LA" / "LA" / "ASVspoof2019_LA_cm_protocols")
    assert ingest.main(IngestConfig(str(changed), str(store))) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bonafide ingest:")]
    assert "in_the_wild: none of its 33 utterances could be written (33 not_audio)" in line
    assert load_snapshot(Folder(str(store))).corpora == after.corpora

    with pytest.raises(InputError, match=r"nothing could be written, so no snapshot is committed"):
        run_ingest(changed, tmp_path / "other", "in_the_wild")
    assert latest_snapshot(Folder(str(tmp_path / "other"))) is None
