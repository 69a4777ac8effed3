from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest

from pipeline.errors import InputError
from pipeline.storage import Folder
from pipeline.tables import to_parquet


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return Folder(str(tmp_path / "root"))
    return Folder(f"{request.getfixturevalue('bucket')}/root")


def test_a_committed_file_can_be_read_whole_and_in_ranges(folder: Folder):
    folder.commit("a/b.bin", b"0123456789")
    assert folder.read("a/b.bin") == b"0123456789"
    assert folder.read("a/b.bin", 2, 5) == b"234"
    with folder.open("a/b.bin") as file:
        file.seek(8)
        assert file.read() == b"89"


def test_a_range_ends_with_the_file(folder: Folder):
    folder.commit("a.bin", b"0123456789")
    folder.commit("empty.bin", b"")
    assert folder.read("a.bin", 8, 100) == b"89"
    assert folder.read("a.bin", 5) == b"56789"
    assert folder.read("a.bin", 5, 5) == b""
    assert folder.read("empty.bin") == folder.read("empty.bin", 0, 100) == b""
    with folder.open("empty.bin") as file:
        assert file.read() == b""


def test_a_listing_is_sorted_by_full_name(folder: Folder):
    names = ["a.wav", "a/b.wav", "a-1/c.wav", "b.wav"]
    for name in names:
        folder.commit(name, b"x")
    files = list(folder.find())
    assert [info.name for info in files] == sorted(names)
    assert all(info.size == 1 and info.version for info in files)
    assert [info.name for info in folder.find("a")] == ["a/b.wav"]


def test_overwriting_changes_the_version(folder: Folder):
    folder.commit("a.bin", b"old")
    if folder.is_local:  # the clock of a file system may stand still for some milliseconds
        os.utime(folder.location("a.bin"), (0, 0))
    before = next(folder.find()).version
    folder.commit("a.bin", b"new")
    assert next(folder.find()).version != before
    assert folder.read("a.bin") == b"new"


def test_a_writer_that_fails_leaves_nothing(folder: Folder):
    folder.commit("other.bin", b"x")
    with pytest.raises(RuntimeError, match="midway"), folder.staged("a.bin") as file:
        file.write(b"half")
        raise RuntimeError("midway")
    assert not folder.exists("a.bin")
    assert [info.name for info in folder.find()] == ["other.bin"]


def test_other_tools_that_read_a_folder_ignore_a_file_that_is_not_finished(tmp_path: Path):
    folder, rows = Folder(str(tmp_path)), to_parquet(pa.table({"score": [1.0, 2.0]}))
    folder.commit("part-0.parquet", rows)
    with folder.staged("part-1.parquet") as file:  # a killed writer leaves it like this
        file.write(rows[:10])
        file.flush()
        assert len(list(tmp_path.iterdir())) == 2
        assert pyarrow.dataset.dataset(tmp_path).count_rows() == 2


def test_a_folder_that_is_deleted_during_a_listing_is_left_out(tmp_path: Path):
    folder = Folder(str(tmp_path))
    for name in ("a.wav", "b/c.wav", "d.wav"):
        folder.commit(name, b"x")
    listing = folder.find()
    assert next(listing).name == "a.wav"
    shutil.rmtree(tmp_path / "b")
    assert [info.name for info in listing] == ["d.wav"]


def test_a_file_of_several_upload_parts_is_stored_whole(folder: Folder):
    data = os.urandom(60 << 20)  # beyond one part of a multipart upload
    folder.commit("large.bin", data)
    assert folder.read("large.bin") == data


def test_create_does_not_overwrite(folder: Folder):
    assert folder.create("lock.json", b"first")
    assert not folder.create("lock.json", b"second")
    assert folder.read("lock.json") == b"first"


def test_deleting_a_missing_file_is_not_an_error(folder: Folder):
    folder.commit("a.bin", b"x")
    folder.delete("a.bin")
    folder.delete("a.bin")
    assert not folder.exists("a.bin")


def test_reading_a_missing_file_raises_file_not_found(folder: Folder):
    folder.commit("a.bin", b"x")
    with pytest.raises(FileNotFoundError):
        folder.read("b.bin")


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/../etc/passwd", "a/..", "a\0b"])
def test_names_cannot_point_outside_the_folder(folder: Folder, name: str):
    with pytest.raises(InputError, match="points outside"):
        folder.read(name)


def test_an_absolute_path_is_not_the_name_of_a_file(tmp_path: Path):
    with pytest.raises(InputError, match=r"'/etc/passwd' points outside"):
        Folder(str(tmp_path)).read("/etc/passwd")


def test_a_path_is_absolute_and_without_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Folder("ci/demo").uri == str(tmp_path / "ci/demo")
    assert Folder("./elsewhere/../ci//demo/.").uri == str(tmp_path / "ci/demo")
    assert Folder("~/runs/").uri == str(tmp_path / "home/runs")
    assert Folder("file:///a/../b").uri == "/b"
    assert Folder("/..").uri == "/"


def test_dots_after_a_link_lead_where_the_system_leads(tmp_path: Path):
    (tmp_path / "disk/store").mkdir(parents=True)
    (tmp_path / "disk/beside.txt").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "disk/store")
    folder = Folder(f"{tmp_path}/link/..")
    assert folder.uri == str(tmp_path / "disk")
    assert folder.read("beside.txt") == Path(f"{tmp_path}/link/../beside.txt").read_bytes()
    assert Folder(f"{tmp_path}/link").uri == f"{tmp_path}/link", "a link keeps its name"


def test_a_home_that_is_not_known_is_a_user_error():
    with pytest.raises(InputError, match=r"^~nobody-of-this-name/x: the home folder is not known"):
        Folder("~nobody-of-this-name/x")


def test_a_working_folder_that_was_deleted_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match=r"^store: the working folder has been deleted"):
        Folder("store")


def test_a_folder_can_be_pickled(folder: Folder):
    folder.commit("a.bin", b"x")
    assert pickle.loads(pickle.dumps(folder)).read("a.bin") == b"x"  # noqa: S301


def test_a_file_in_the_place_of_a_folder_is_a_user_error(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(InputError, match=r"file/store/a\.bin: a parent of this path is a file"):
        Folder(str(tmp_path / "file" / "store")).commit("a.bin", b"x")


def test_other_protocols_are_rejected():
    with pytest.raises(InputError, match="only local paths and s3://"):
        Folder("http://example.org/x")


def test_an_unreachable_endpoint_is_a_user_error(
    s3_endpoint: str, unreachable: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{unreachable}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(
            InputError, match=r"^s3://nowhere/x: Could not connect .*; check .*AWS_ENDPOINT_URL$"
        ):
            Folder("s3://nowhere").read("x")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_the_location_of_a_file_names_its_folder(folder: Folder):
    folder.commit("a/b.json", b"x")
    parent, name = Folder.of_file(folder.location("a/b.json"))
    assert (parent, name) == (folder.folder("a"), "b.json") and parent.read(name) == b"x"
    for no_file in ("s3://bucket", "s3://bucket/", f"{folder.uri}/"):
        with pytest.raises(InputError, match="names no file"):
            Folder.of_file(no_file)
