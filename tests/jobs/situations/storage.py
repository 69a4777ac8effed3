"""Disks and S3 buckets that are full, forbidden, or answer differently."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

import pytest

from pipeline.data.store.running import ingesting
from pipeline.storage import Folder
from tests.corpora import write_in_the_wild
from tests.faults import fill, small_disk
from tests.jobs.situations.situation import Place, Situation
from tests.jobs.test_evaluate import write_scores
from tests.s3 import Gate, gated_s3

T = TypeVar("T")

OTHER_USER = 54321


def with_corpus(place: Place) -> None:
    write_in_the_wild(place.here / "data", count=4, seconds=0.5)


def with_full_disk(place: Place) -> None:
    """`data`, `scores` and a file system `disk` without any room."""
    with_corpus(place)
    write_scores(place.here / "scores", "trained", 1.0)
    entered(place, small_disk(place.here / "disk", 16))
    fill(place.here / "disk")


def with_read_only_disk(place: Place) -> None:
    write_scores(place.here / "scores", "trained", 1.0)
    entered(place, small_disk(place.here / "disk", 16))("ro")


def with_full_temporary_folder(bucket: str, place: Place) -> None:
    with_full_disk(place)
    make_bucket(bucket, place)
    place.fixture("monkeypatch").setattr(tempfile, "tempdir", str(place.here / "disk"))


def with_folder_of_another_user(bucket: str, place: Place) -> None:
    if os.getuid():
        pytest.skip("only root can give a folder to another user")
    with_corpus(place)
    make_bucket(bucket, place)
    Folder(f"s3://{bucket}").commit("detector.safetensors", b"x")
    folder = place.here / "tmp" / f"bonafide-{os.getuid()}"
    folder.mkdir(parents=True)
    os.chown(folder, OTHER_USER, OTHER_USER)
    place.fixture("monkeypatch").setattr(tempfile, "tempdir", str(folder.parent))


def with_running_ingest(place: Place) -> None:
    Folder(str(place.here / "store")).commit("configs/ingest-000001.toml", b"")
    entered(place, ingesting(Folder(str(place.here / "store"))))


def with_bucket(bucket: str, change: Callable[[Gate], object], place: Place) -> None:
    """`data`, and an empty bucket on an S3 server that is changed."""
    with_corpus(place)
    make_bucket(bucket, place)
    change(entered(place, gated_s3(place.fixture("monkeypatch"))))


def with_doubled_slash(bucket: str, place: Place) -> None:
    make_bucket(bucket, place)
    Folder(f"s3://{bucket}").commit("calls/today/a.wav", b"x")


def make_bucket(name: str, place: Place) -> None:
    import s3fs

    place.fixture("s3_endpoint")
    s3fs.S3FileSystem().mkdir(name)


def entered(place: Place, context: AbstractContextManager[T]) -> T:
    """Enter a context that ends with the test."""
    value = context.__enter__()
    place.request.addfinalizer(partial(context.__exit__, None, None, None))
    return value


def ignore_conditions(gate: Gate) -> None:
    gate.ignored_headers.add("HTTP_IF_NONE_MATCH")


def refuse_checksums(gate: Gate) -> None:
    refusal = "InvalidArgument: Unsupported header 'x-amz-sdk-checksum-algorithm' received for this API call."
    gate.refused_headers["HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM"] = "400 Bad Request", refusal


def freeze(gate: Gate) -> None:
    Folder("s3://my-cold").commit("train.csv", b"x")
    gate.refuse_always("403 Forbidden", "InvalidObjectState", "GET")


SITUATIONS = [
    Situation(
        what="the disk of a report is full",
        command="evaluate --scores scores --out disk/report --num-bootstrap 1",
        line="{here}/disk/report/…: No space left on device; make room there, then run the same command again",
        prepare=with_full_disk,
        leaves=("disk/report",),
    ),
    Situation(
        what="the disk of a store is full",
        command="ingest --root data --store disk/store",
        line="{here}/disk/store/running/…: No space left on device; make room there, then run the same command again",
        prepare=with_full_disk,
    ),
    Situation(
        what="the file system of a report is mounted for reading only",
        command="evaluate --scores scores --out disk/report --num-bootstrap 1",
        line="{here}/disk/report/…: Read-only file system; mount it for writing, or choose another folder, then run "
        "the same command again",
        prepare=with_read_only_disk,
    ),
    Situation(
        what="the disk for temporary files, through which files go to S3, is full",
        command="evaluate --scores scores --out s3://my-staging/report --num-bootstrap 1",
        line="{here}/disk on …: No space left on device; make room there, or set TMPDIR to a folder with more space, "
        "then run the same command again",
        prepare=partial(with_full_temporary_folder, "my-staging"),
    ),
    Situation(
        what="the folder for the temporary files of this user belongs to another one",
        command="score --audio data --checkpoint s3://my-user/detector.safetensors --out scores",
        line=f"{{here}}/tmp/bonafide-…: another user owns this folder (user id {OTHER_USER}); set TMPDIR "
        "to a folder of your own",
        prepare=partial(with_folder_of_another_user, "my-user"),
    ),
    Situation(
        what="a garbage collection during an ingest",
        command="gc store --delete",
        line="process … is using {here}/store/running/ingest-… (its lease lasts until … and is renewed while it "
        "runs); an ingest and a garbage collection cannot run at the same time: wait until it ends",
        prepare=with_running_ingest,
    ),
    Situation(
        what="an S3 server that ignores `If-None-Match`",
        command="ingest --root data --store s3://my-condition/store",
        line="s3://my-condition/store/running/…: this server does not support conditional writes "
        "(If-None-Match), without which two processes could work in one folder; use another server, or a local folder",
        prepare=partial(with_bucket, "my-condition", ignore_conditions),
    ),
    Situation(
        what="an S3 server that does not take the checksums of AWS",
        command="ingest --root data --store s3://my-checksum/store",
        line="s3://my-checksum/store/running/…: InvalidArgument: Unsupported header "
        "'x-amz-sdk-checksum-algorithm' received for this API call; if this server does not support the checksums of "
        "AWS, set AWS_REQUEST_CHECKSUM_CALCULATION=when_required and AWS_RESPONSE_CHECKSUM_VALIDATION=when_required",
        prepare=partial(with_bucket, "my-checksum", refuse_checksums),
    ),
    Situation(
        what="an object in cold storage",
        command="ingest --root data --store store --protocol s3://my-cold/train.csv",
        line="s3://my-cold/train.csv: InvalidObjectState: this object is in cold storage; restore it before it "
        "is read…",
        prepare=partial(with_bucket, "my-cold", freeze),
    ),
    Situation(
        what="a doubled slash in an S3 URI",
        command="score --audio s3://my-slash//calls/today --checkpoint detector.safetensors --out scores",
        line="s3://my-slash//calls/today: nothing has this name, and S3 tells // from /; did you mean "
        "s3://my-slash/calls/today?",
        prepare=partial(with_doubled_slash, "my-slash"),
    ),
]
