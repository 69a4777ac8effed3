"""`bonafide ingest` as a user runs it: what S3 refuses is one line, and what is done is not done again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from jobs import ingest
from jobs.ingestion import cataloging
from jobs.ingestion.sources import find_sources
from pipeline.data.store.snapshot import load_snapshot
from pipeline.storage import Folder
from tests.corpora import write_in_the_wild
from tests.s3 import Gate, gated_s3

SECRET = "wJalrXUtnFEMI"  # noqa: S105 - made up
NO_RAY = {"RAY_ADDRESS": "127.0.0.1:1"}
"""Nobody listens there: who needs Ray fails."""


@pytest.fixture
def gate(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """The S3 of this test and of the commands that it runs."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with gated_s3(monkeypatch) as gate:
        yield gate


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_in_the_wild(tmp_path / "data", count=4)
    return tmp_path / "data"


def command(
    root: Path | str, store: Path | str, environment: Mapping[str, str] = NO_RAY
) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "jobs", "ingest", "--root", str(root), "--store", str(store)]
    return subprocess.run(
        [*words, "--corpora", "in_the_wild"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a command ended with."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert SECRET not in line
    return line


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"])
def test_wrong_credentials_of_the_store_are_one_line(code: str, data: Path, bucket: str, gate: Gate):
    gate.refuse_always("403 Forbidden", code)
    line = refusal(command(data, f"{bucket}/store"))
    assert line.startswith(f"bonafide ingest: {bucket}/store/snapshots: permission denied")
    assert "check the AWS credentials" in line


def test_wrong_credentials_of_the_data_are_one_line(tmp_path: Path, bucket: str, gate: Gate):
    gate.refuse_always("403 Forbidden", "SignatureDoesNotMatch")
    line = refusal(command(f"{bucket}/data", tmp_path / "store"))
    assert line.startswith(f"bonafide ingest: {bucket}/data/In-the-Wild: permission denied")


def test_no_credentials_at_all_are_one_line(data: Path, bucket: str, gate: Gate, tmp_path: Path):
    nothing = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    nothing |= {"AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none"}
    line = refusal(command(data, f"{bucket}/store", NO_RAY | nothing))
    assert "Unable to locate credentials; check the AWS credentials" in line


@pytest.mark.parametrize("which", ["root", "store"])
def test_a_bucket_that_is_not_there_is_one_line(which: str, data: Path, gate: Gate, tmp_path: Path):
    missing = "s3://no-such-bucket/place"
    done = command(missing, tmp_path / "store") if which == "root" else command(data, missing)
    line = refusal(done)
    assert line.startswith(f"bonafide ingest: {missing}")
    assert "no such bucket" in line


@pytest.mark.ray
@pytest.mark.filterwarnings("default")
def test_a_second_run_opens_no_file_and_needs_no_ray(data: Path, cluster: None, tmp_path: Path):
    clips, store = data / "In-the-Wild" / "release_in_the_wild", tmp_path / "store"
    (clips / "3.wav").write_bytes(b"<html>not found</html>" * 50)
    ingest.main(ingest.IngestConfig(str(data), str(store)))
    first = load_snapshot(Folder(str(store)))
    assert first.corpora["in_the_wild"].rejected == {"not_audio": 1}
    for clip in clips.glob("*.wav"):
        clip.chmod(0)
    done = command(data, store)
    assert done.returncode == 0, done.stderr
    assert "1 shards planned, 1 there, 0 to build" in done.stdout
    assert load_snapshot(Folder(str(store))) == first


@pytest.mark.ray
@pytest.mark.filterwarnings("default")
def test_what_needs_ray_is_a_file_that_is_not_known(data: Path, cluster: None, tmp_path: Path):
    config = ingest.IngestConfig(str(data), str(tmp_path / "store"))
    ingest.main(config)
    assert labels(config) == ["spoof", "bonafide", "spoof", "bonafide"]
    table = data / "In-the-Wild" / "release_in_the_wild" / "meta.csv"
    table.write_text(table.read_text().replace("\n1.wav,Somebody 1,bona-fide", "\n1.wav,Somebody 1,spoof"))
    assert labels(config) == ["spoof", "spoof", "spoof", "bonafide"]
    write_in_the_wild(data, count=1, first=4)
    assert labels(config) is None


def labels(config: ingest.IngestConfig) -> list[str] | None:
    """As the catalog has them that is made without Ray; None if that cannot be."""
    store = Folder(config.store)
    found = cataloging.unchanged_corpora(find_sources(config), store, load_snapshot(store), config)
    if found is None:
        return None
    labels: list[str] = found["in_the_wild"]["label"].to_pylist()
    return labels
