"""Where commands take weights from: local paths, S3, and registered versions."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from jobs import checkpoint_source
from jobs.checkpoint_source import fetch_checkpoint
from pipeline import tracking
from pipeline.errors import InputError
from pipeline.storage import FileInfo, Folder
from pipeline.tracking import Version
from tests.jobs.situations.checkpoints import empty_database

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for temporary files, in which copies are kept."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def copies(temporary: Path) -> Iterator[Path]:
    """All files below the folder for temporary files."""
    return (path for path in temporary.rglob("*") if path.is_file())


def test_a_local_checkpoint_is_a_file_or_a_folder_relative_or_below_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "model").mkdir(parents=True)
    for name in ("one.pt", "model/pytorch_model.bin", "model/other.safetensors"):
        (home / name).write_bytes(b"1")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    for name in ("one.pt", "~/one.pt", str(home / "one.pt"), f"file://{home}/one.pt"):
        checkpoint = fetch_checkpoint(name)
        assert (checkpoint.path, checkpoint.uri, checkpoint.name) == (home / "one.pt", name, "one")
    assert fetch_checkpoint("model").path == home / "model/pytorch_model.bin"
    for name, message in (
        ("~nobody-of-this-name/one.pt", "Could not determine home"),
        ("two.pt", f"{home}/two.pt: no such checkpoint"),
        (
            "https://example.org/one.pt",
            "only local paths, s3:// and models:/ URIs are supported; download it",
        ),
    ):
        with pytest.raises(InputError, match=message):
            fetch_checkpoint(name)


def test_a_checkpoint_on_s3_is_a_file_or_the_weights_of_a_folder(bucket: str, temporary: Path) -> None:
    remote = Folder(f"{bucket}/models")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    remote.commit("one.safetensors", b"1")
    remote.commit("many/config.json", b"{}")
    remote.commit("many/model.safetensors.index.json", json.dumps({"weight_map": shards}).encode())
    for shard in shards.values():
        remote.commit(f"many/{shard}", shard.encode())
    remote.commit("many/pytorch_model.bin", b"older")
    remote.commit("many/checkpoints/state.pt", b"not needed")
    one = fetch_checkpoint(f"{bucket}/models/one.safetensors")
    assert (one.path.read_bytes(), one.name) == (b"1", "one")
    many = fetch_checkpoint(f"{bucket}/models/many/").path
    assert many.name == "model.safetensors.index.json"
    assert {path.name for path in many.parent.iterdir()} == {many.name, "config.json", *shards.values()}
    older = fetch_checkpoint(f"{bucket}/models/many/pytorch_model.bin").path
    assert {path.name: path.read_bytes() for path in older.parent.iterdir()} == {
        "pytorch_model.bin": b"older",
        "config.json": b"{}",
    }
    remote.delete(f"many/{shards['b']}")
    before = set(copies(temporary))
    with pytest.raises(
        InputError, match=rf"many/{shards['b']}: missing, but model.safetensors.index.json names"
    ):
        fetch_checkpoint(f"{bucket}/models/many")
    with pytest.raises(InputError, match=f"{bucket}/models/none: no such checkpoint"):
        fetch_checkpoint(f"{bucket}/models/none")
    with pytest.raises(
        InputError, match=r"models: a folder without .*; name one of its files: one.safetensors"
    ):
        fetch_checkpoint(f"{bucket}/models")
    assert set(copies(temporary)) == before


def test_an_object_beside_a_folder_or_a_folder_marker_of_its_name_is_found(bucket: str) -> None:
    import s3fs

    remote = Folder(bucket)
    remote.commit("x", b"weights")
    s3fs.S3FileSystem().pipe_file(f"{bucket}/x/", b"")
    assert fetch_checkpoint(f"{bucket}/x").path.read_bytes() == b"weights"
    remote.commit("x/model.safetensors", b"of the folder")
    assert fetch_checkpoint(f"{bucket}/x").path.read_bytes() == b"weights"
    assert fetch_checkpoint(f"{bucket}/x/").path.read_bytes() == b"of the folder"
    remote.commit("x", b"")  # in place of a marker
    assert fetch_checkpoint(f"{bucket}/x").path.read_bytes() == b"of the folder"


def test_a_copy_is_used_again_until_the_object_changes(bucket: str, temporary: Path) -> None:
    remote = Folder(bucket)
    remote.commit("x.pt", b"old")
    first = fetch_checkpoint(f"{bucket}/x.pt").path
    inode = first.stat().st_ino
    assert fetch_checkpoint(f"{bucket}/x.pt").path.stat().st_ino == inode
    remote.commit("x.pt", b"new")
    assert fetch_checkpoint(f"{bucket}/x.pt").path.read_bytes() == b"new"
    assert first.read_bytes() == b"old", "a process may still read it"
    (folder,) = temporary.iterdir()
    assert folder.name == f"bonafide-{os.getuid()}"


def test_an_object_that_is_replaced_while_it_is_copied_leaves_no_copy(
    bucket: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Folder(bucket)
    remote.commit("x.pt", b"old")
    copy = checkpoint_source._copy

    def replace_first(folder: Folder, info: FileInfo, local: Folder) -> None:
        remote.commit("x.pt", b"new")
        copy(folder, info, local)

    monkeypatch.setattr(checkpoint_source, "_copy", replace_first)
    with pytest.raises(
        InputError, match=r"x.pt: was replaced while it was copied; run the same command again"
    ):
        fetch_checkpoint(f"{bucket}/x.pt")
    assert not list(copies(temporary))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_copies_that_another_user_may_have_planted_are_refused(bucket: str, temporary: Path) -> None:
    Folder(bucket).commit("x.pt", b"weights")
    planted = temporary / f"bonafide-{os.getuid()}"
    planted.mkdir(mode=0o777)
    os.chown(planted, 54321, 54321)
    with pytest.raises(InputError, match="another user owns this folder"):
        fetch_checkpoint(f"{bucket}/x.pt")


def test_an_artifact_of_mlflow_is_copied_once_for_each_registered_digest(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    uri, artifact = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts" / "detector.safetensors"
    artifact.parent.mkdir()
    with tracking.run(uri, "bonafide", job="train", name="train") as run:
        pass
    source = "artifacts/detector.safetensors"  # neither on S3 nor an absolute path, so MLflow is asked for it
    for digest in "ab":
        tags = {"weights": digest, "error": 0.1, "validation": "v"}
        tracking.register(uri, "calls", source, run_id=str(run.run_id), tags=tags, description="")
    MlflowClient(uri).create_model_version("calls", source)

    def fetch(version: int, content: bytes) -> bytes:
        artifact.write_bytes(content)
        checkpoint = fetch_checkpoint(f"models:/calls/{version}", uri)
        assert (checkpoint.uri, checkpoint.name) == (f"models:/calls/{version}", f"calls v{version}")
        return checkpoint.path.read_bytes()

    assert fetch(1, b"1") == b"1"
    assert fetch(1, b"2") == b"1"
    assert fetch(2, b"2") == b"2"
    assert fetch(3, b"3") == b"3"
    assert fetch(3, b"4") == b"4", "what was registered is unknown, so no copy is trusted"
    assert len(list(copies(temporary))) == 3


def test_weights_of_a_version_must_be_the_registered_ones() -> None:
    version = Version("calls", 2, "s3://bucket/x", {"weights": "a" * 64}, is_best=False)
    version.check_weights("a" * 64)
    Version("calls", 2, "s3://bucket/x", {}, is_best=False).check_weights("b" * 64)
    with pytest.raises(
        InputError, match=f"models:/calls/2: .* were {'a' * 12}, but s3://bucket/x has {'b' * 12};"
    ):
        version.check_weights("b" * 64)
