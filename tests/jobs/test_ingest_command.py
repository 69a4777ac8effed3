"""`bonafide ingest` as a command: user errors are one line, and an unchanged store needs neither files nor Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs import gc, ingest
from jobs.ingestion import cataloging
from jobs.ingestion.cataloging import Cataloger, catalog_corpora
from jobs.ingestion.config import IngestConfig
from jobs.ingestion.sources import find_sources
from pipeline.data.store.snapshot import load_snapshot
from pipeline.errors import InputError
from pipeline.fields import Names, Pairs
from pipeline.storage import Folder
from tests.corpora import write_in_the_wild
from tests.s3 import Gate, gated_s3

SECRET = "wJalrXUtnFEMI"  # noqa: S105 - made up
NO_RAY = {"RAY_ADDRESS": "127.0.0.1:1"}
"""No server listens at this address, so a command that needs Ray fails."""


@pytest.fixture
def gate(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """An S3 endpoint for this test and for the commands that it runs."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with gated_s3(monkeypatch) as gate:
        yield gate


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_in_the_wild(tmp_path / "data", count=4)
    return tmp_path / "data"


OPENS_NO_WAV = """
import sys

def refuse(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".wav"):
        raise AssertionError(f"opens {arguments[0]}")

sys.addaudithook(refuse)
from jobs.__main__ import main
sys.exit(main())
"""
"""A program that runs a command, but cannot open an audio file."""


def command(
    root: Path | str, store: Path | str, environment: Mapping[str, str] = NO_RAY
) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "jobs", "ingest", "--root", str(root), "--store", str(store)]
    return subprocess.run(
        [*argv, "--corpora", "in_the_wild"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on standard error of a command that failed with a user error."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert SECRET not in line
    return line


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"])
def test_wrong_credentials_for_the_store_are_reported_in_one_line(
    code: str, data: Path, bucket: str, gate: Gate
):
    gate.refuse_always("403 Forbidden", code)
    line = refusal(command(data, f"{bucket}/store"))
    assert line.startswith(f"bonafide ingest: {bucket}/store/running/")
    assert "/lease: permission denied" in line
    assert "check the AWS credentials" in line


def test_wrong_credentials_for_the_data_are_reported_in_one_line(tmp_path: Path, bucket: str, gate: Gate):
    gate.refuse_always("403 Forbidden", "SignatureDoesNotMatch")
    line = refusal(command(f"{bucket}/data", tmp_path / "store"))
    assert line.startswith(f"bonafide ingest: {bucket}/data/In-the-Wild: permission denied")


def test_missing_credentials_are_reported_in_one_line(data: Path, bucket: str, gate: Gate, tmp_path: Path):
    nothing = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    nothing |= {"AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none"}
    line = refusal(command(data, f"{bucket}/store", NO_RAY | nothing))
    assert "Unable to locate credentials; check the AWS credentials" in line


@pytest.mark.parametrize("which", ["root", "store"])
def test_a_missing_bucket_is_reported_in_one_line(which: str, data: Path, gate: Gate, tmp_path: Path):
    missing = "s3://no-such-bucket/folder"
    done = command(missing, tmp_path / "store") if which == "root" else command(data, missing)
    line = refusal(done)
    assert line.startswith(f"bonafide ingest: {missing}")
    assert "no such bucket" in line


@pytest.mark.ray
@pytest.mark.filterwarnings("default")
def test_a_second_run_opens_no_file_and_needs_no_ray(data: Path, cluster: None, tmp_path: Path):
    clips, store = data / "In-the-Wild" / "release_in_the_wild", tmp_path / "store"
    (clips / "3.wav").write_bytes(b"<html>not found</html>" * 50)
    ingest.main(IngestConfig(str(data), str(store)))
    first = load_snapshot(Folder(str(store)))
    assert first.corpora["in_the_wild"].rejected == {"not_audio": 1}
    done = subprocess.run(
        [sys.executable, "-c", OPENS_NO_WAV, "ingest", "--root", str(data), "--store", str(store)],
        env={**os.environ, **NO_RAY},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "1 shard planned, 1 already built, 0 to build" in done.stdout
    assert load_snapshot(Folder(str(store))) == first


class RayNeededError(Exception):
    """Raised in place of starting Ray."""


def refuse_ray() -> None:
    raise RayNeededError


@pytest.mark.ray
@pytest.mark.filterwarnings("default")
def test_only_a_new_file_or_a_large_store_needs_ray(
    data: Path, cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = IngestConfig(str(data), str(tmp_path / "store"))
    ingest.main(config)
    assert labels(config) == ["spoof", "bonafide", "spoof", "bonafide"]
    table = data / "In-the-Wild" / "release_in_the_wild" / "meta.csv"
    table.write_text(table.read_text().replace("\n1.wav,Somebody 1,bona-fide", "\n1.wav,Somebody 1,spoof"))
    assert labels(config) == ["spoof", "spoof", "spoof", "bonafide"]
    with monkeypatch.context() as patch, pytest.raises(RayNeededError):
        patch.setattr(cataloging, "MAX_ROWS_IN_PROCESS", 3)
        labels(config)
    write_in_the_wild(data, count=1, first=4)
    with pytest.raises(RayNeededError):
        labels(config)


def labels(config: IngestConfig) -> list[str]:
    """The labels in a catalog that is made without Ray."""
    store = Folder(config.store)
    cataloger = Cataloger(find_sources(config), store)
    found = catalog_corpora(cataloger, load_snapshot(store), start_ray=refuse_ray)
    return [label for part in found["in_the_wild"].rows.parts() for label in part["label"].to_pylist()]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"protocol": "a.csv", "corpora": Names(["mls"])}, "leave out --corpora and --roots"),
        ({"protocol": "a.csv", "roots": Pairs([("mls", "/data")])}, "leave out --corpora and --roots"),
        ({"name": "toy"}, "give --protocol FILE"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_read(flags: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        IngestConfig("DATA", "STORE", **flags)


def test_gc_of_a_missing_store_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no such store"):
        gc.main(gc.GcConfig(str(tmp_path / "nowhere")))
