"""One bad entry of a folder is one file with a problem, and one bad file fails alone; the others are read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from pipeline.errors import InputError, UnavailableError, UnreadableError
from pipeline.lease import held
from pipeline.storage import STAGED_SUFFIX, Folder, local_reading
from tests.faults import (
    LACKING,
    Lacking,
    create_files,
    die_while_creating,
    file_system_without,
    ordinary_permissions,
)
from tests.s3 import Gate, gated_s3


def problems(folder: Folder) -> dict[str, str]:
    return {info.name: info.problem for info in folder.find()}


def make_faults(root: Path) -> dict[str, str]:
    """Write good files and every kind of bad entry; return the problem of each name that a listing must have."""
    for name in ("a.wav", "deep/er/b.wav", "z.wav"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "closed/below").mkdir(parents=True)
    (root / "closed/below/c.wav").write_bytes(b"x")
    (root / "unsearchable").mkdir()
    (root / "unsearchable/d.wav").write_bytes(b"x")
    (root / "loop.wav").symlink_to("loop.wav")
    (root / "there.wav").symlink_to("back.wav")
    (root / "back.wav").symlink_to("there.wav")
    (root / "deep/up").symlink_to(root, target_is_directory=True)
    (root / "deep/er/here").symlink_to(".", target_is_directory=True)
    (root / "deep/er/out").symlink_to(root.parent, target_is_directory=True)
    (root / "dangling.wav").symlink_to("nowhere.wav")
    (root / "zeros.wav").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe.wav")
    (root / "to-pipe.wav").symlink_to("pipe.wav")
    with contextlib.chdir(root), socket.socket(socket.AF_UNIX) as listener:  # the path of a socket is short
        listener.bind("socket.wav")
    (root / "closed").chmod(0)
    (root / "unsearchable").chmod(0o444)
    return {
        "a.wav": "",
        "back.wav": "link-loop",
        "closed": "unreadable",
        "dangling.wav": "",
        "deep/er/b.wav": "",
        "deep/er/here": "link-loop",
        "deep/er/out": "link-loop",
        "deep/up": "link-loop",
        "loop.wav": "link-loop",
        "pipe.wav": "special",
        "socket.wav": "special",
        "there.wav": "link-loop",
        "to-pipe.wav": "special",
        "unsearchable/d.wav": "unreadable",
        "z.wav": "",
        "zeros.wav": "special",
    }


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[tuple[Folder, dict[str, str]]]:
    root = tmp_path / "root"
    root.mkdir()
    expected = make_faults(root)
    with ordinary_permissions():
        yield Folder(str(root)), expected
    (root / "closed").chmod(0o755)
    (root / "unsearchable").chmod(0o755)


def test_a_bad_entry_is_listed_with_its_problem_and_the_others_without(
    faulty: tuple[Folder, dict[str, str]],
):
    folder, expected = faulty
    assert problems(folder) == expected
    assert [info.name for info in folder.find()] == sorted(expected)


def test_what_a_listing_says_must_not_be_opened_cannot_be_read(faulty: tuple[Folder, dict[str, str]]):
    folder, expected = faulty
    for name, problem in expected.items():
        if not problem and name != "dangling.wav":
            assert folder.read(name) == b"x"
        else:
            with pytest.raises(UnreadableError if problem else FileNotFoundError):
                folder.read(name)
            with pytest.raises(UnreadableError if problem else FileNotFoundError):
                folder.open(name)


def test_a_root_that_cannot_be_listed_is_an_error(tmp_path: Path):
    (tmp_path / "closed/below").mkdir(parents=True)
    (tmp_path / "closed/below").chmod(0)
    with ordinary_permissions():
        with pytest.raises(InputError, match="closed/below: permission denied") as raised:
            list(Folder(str(tmp_path / "closed/below")).find())
        assert not isinstance(raised.value, UnreadableError)
        with pytest.raises(UnreadableError, match="closed/below: permission denied"):
            list(Folder(str(tmp_path / "closed")).find("below"))
    with pytest.raises(FileNotFoundError):
        list(Folder(str(tmp_path / "nowhere")).find())


def test_two_links_to_one_folder_are_both_followed(tmp_path: Path):
    (tmp_path / "elsewhere/x").mkdir(parents=True)
    (tmp_path / "elsewhere/x/a.wav").write_bytes(b"x")
    for name in ("one", "two", "elsewhere-2"):
        (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root" / name / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert problems(Folder(str(tmp_path / "root"))) == {
        "elsewhere-2/link/x/a.wav": "",
        "one/link/x/a.wav": "",
        "two/link/x/a.wav": "",
    }


def test_links_between_two_folders_are_followed_once(tmp_path: Path):
    for name, other in (("root/one", "root/two"), ("root/two", "root/one")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.wav").write_bytes(b"x")
        (tmp_path / name / "other").symlink_to(tmp_path / other, target_is_directory=True)
    assert problems(Folder(str(tmp_path / "root"))) == {
        "one/a.wav": "",
        "one/other/a.wav": "",
        "one/other/other": "link-loop",
        "two/a.wav": "",
        "two/other/a.wav": "",
        "two/other/other": "link-loop",
    }


def test_folders_nested_deeper_than_calls_of_python_are_listed(tmp_path: Path):
    depth = 1200
    parent = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=parent)
        parent, above = os.open("d", os.O_RDONLY, dir_fd=parent), parent
        os.close(above)
    os.close(os.open("a.wav", os.O_CREAT | os.O_WRONLY, dir_fd=parent))
    os.close(parent)
    try:
        assert problems(Folder(str(tmp_path))) == {f"{'d/' * depth}a.wav": ""}
    finally:  # nor can rmtree, by which pytest cleans up
        (tmp_path / f"{'d/' * depth}a.wav").unlink()
        for level in range(depth, 0, -1):
            (tmp_path / ("d/" * level)).rmdir()


def test_a_folder_whose_path_is_too_long_is_one_entry(tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(b"x")
    parent = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):  # 20 × 240 letters are more than a path may have
        os.mkdir("d" * 240, dir_fd=parent)
        parent, above = os.open("d" * 240, os.O_RDONLY, dir_fd=parent), parent
        os.close(above)
    os.close(parent)
    listed = problems(Folder(str(tmp_path)))
    assert list(listed.values()) == ["", "unreadable"]
    assert set("".join(listed)) == set("a.wav" + "d/")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/proc/self/mem", "Input/output error"),  # answers a read as a bad sector does
        ("loop.wav", "symbolic links"),
        ("folder", "Is a directory"),
        ("pipe", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_file_that_cannot_be_read_fails_with_its_name(target: str, reason: str, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    name = "loop.wav" if len(target) < 300 else target
    with contextlib.suppress(OSError):
        (tmp_path / name).symlink_to(target)
    folder = Folder(str(tmp_path))
    with pytest.raises(UnreadableError, match=rf"/{name}: .*{reason}"):
        folder.read(name)
    with pytest.raises(UnreadableError, match=rf"/{name}: .*{reason}"), folder.open(name) as file:
        file.read(10)


def test_a_file_without_permission_fails_alone(tmp_path: Path):
    folder = Folder(str(tmp_path))
    for name in ("a.wav", "closed.wav"):
        folder.commit(name, b"x")
    (tmp_path / "closed.wav").chmod(0)
    with ordinary_permissions():
        assert [info.problem for info in folder.find()] == ["", ""]
        assert folder.read("a.wav") == b"x"
        with pytest.raises(UnreadableError, match=r"closed\.wav: permission denied"):
            folder.read("closed.wav")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *((number, UnreadableError) for number in (errno.EIO, errno.ESTALE, errno.ENXIO, errno.EUCLEAN)),
        *((number, UnavailableError) for number in (errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT)),
        *((number, OSError) for number in (errno.EMFILE, errno.ENOMEM)),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else "",
)
def test_only_an_error_of_the_file_itself_is_its_own(
    number: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = Folder(str(tmp_path))
    folder.commit("below/a.wav", b"x")
    scan = os.scandir

    def fail(path: str, _flags: int = 0) -> int:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(local_reading, "_open_regular", fail)
    with pytest.raises(kind) as raised:
        folder.read("below/a.wav")
    assert type(raised.value) is kind or kind is OSError
    monkeypatch.setattr(os, "scandir", lambda path: scan(path) if path == folder.uri else fail(path))
    if kind is UnreadableError:
        assert problems(folder) == {"below": "unreadable"}
    else:
        with pytest.raises(kind):
            list(folder.find())
    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(InputError if kind is UnreadableError else kind) as raised:
        list(folder.find())
    assert not isinstance(raised.value, UnreadableError), "the root is not one file of many"


def test_a_name_with_backslashes_is_a_name(tmp_path: Path):
    folder = Folder(str(tmp_path))
    folder.commit("q\\r/..\\a\\b.wav", b"x")
    assert problems(folder) == {"q\\r/..\\a\\b.wav": ""}
    assert folder.read("q\\r/..\\a\\b.wav") == b"x"


def test_the_version_changes_with_the_bytes_even_if_the_time_is_restored(tmp_path: Path):
    folder = Folder(str(tmp_path))
    folder.commit("a.wav", b"old")
    before = folder.info("a.wav")
    times = (tmp_path / "a.wav").stat()
    (tmp_path / "a.wav").write_bytes(b"new")
    os.utime(tmp_path / "a.wav", ns=(times.st_atime_ns, times.st_mtime_ns))
    after = folder.info("a.wav")
    assert (before.size, before.modified) == (after.size, after.modified)
    assert before.version != after.version
    assert list(folder.find()) == [after]


@pytest.fixture
def gate(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    with gated_s3(monkeypatch) as gate:
        yield gate


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("403 Forbidden", "AccessDenied"),
        ("403 Forbidden", "InvalidObjectState"),
        ("400 Bad Request", "KMS.DisabledException"),
        ("400 Bad Request", "InvalidRequest"),
    ],
)
def test_an_object_that_cannot_be_read_fails_alone(status: str, code: str, bucket: str, gate: Gate):
    folder = Folder(bucket)
    for name in ("a.wav", "bad.wav"):
        folder.commit(name, b"x")
    gate.refuse = lambda kind, path: (
        (status, code) if path.endswith("/bad.wav") and kind in ("GET", "HEAD") else None
    )
    assert [info.name for info in folder.find()] == ["a.wav", "bad.wav"]
    assert folder.read("a.wav") == b"x"
    with pytest.raises(UnreadableError, match=rf"bad\.wav: {code}"):
        folder.read("bad.wav")
    with pytest.raises(UnreadableError, match=rf"bad\.wav: {code}"):
        folder.open("bad.wav")
    with pytest.raises(UnreadableError, match=rf"bad\.wav: {code}"):
        folder.open("bad.wav", 1).read()


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_credentials_are_not_the_fault_of_an_object(code: str, bucket: str, gate: Gate):
    folder = Folder(bucket)
    folder.commit("a.wav", b"x")
    gate.refuse_always("403 Forbidden", code)
    for work in (lambda: folder.read("a.wav"), lambda: folder.open("a.wav"), lambda: list(folder.find())):
        with pytest.raises(InputError, match="check the AWS credentials") as raised:
            work()
        assert not isinstance(raised.value, UnreadableError)


@pytest.mark.parametrize("prefix", ["", "lease"])
def test_a_listing_that_is_denied_is_not_the_fault_of_an_object(prefix: str, bucket: str, gate: Gate):
    gate.refuse_always("403 Forbidden", "AccessDenied", "LIST")
    with pytest.raises(InputError, match="check the AWS credentials") as raised:
        list(Folder(f"{bucket}/root").find(prefix))
    assert not isinstance(raised.value, UnreadableError)


def test_an_object_that_became_shorter_fails_alone(bucket: str):
    folder = Folder(bucket)
    folder.commit("a.wav", b"x" * 10)
    file = folder.open("a.wav")
    folder.commit("a.wav", b"x")
    file.seek(5)
    with pytest.raises(UnreadableError, match=r"a\.wav: InvalidRange"):
        file.read()


def test_a_size_that_the_caller_knows_saves_a_request(bucket: str, gate: Gate):
    folder = Folder(bucket)
    folder.commit("a.wav", b"0123456789")
    gate.seen.clear()
    with folder.open("a.wav", 10) as file:
        assert file.read() == b"0123456789"
    assert [kind for kind, _ in gate.seen] == ["GET"]


ODD_KEYS = {
    "a//b.wav": "",
    "a/./c.wav": "",
    "a/../d.wav": "unreadable",  # no file of a folder may lead out of it
    "/e.wav": "",
    "f\x01\x7f.wav": "",
    "folder.wav/": "",
    "q?versionId=1.wav": "unreadable",  # s3fs would read q
    ".": "",
}


def test_a_key_that_is_no_path_is_read_right_or_listed_with_a_problem(bucket: str):
    import s3fs

    for key in ODD_KEYS:
        s3fs.S3FileSystem().call_s3(
            "put_object", Bucket=bucket.removeprefix("s3://"), Key=f"root/{key}", Body=key.encode()
        )
    folder = Folder(f"{bucket}/root")
    assert problems(folder) == ODD_KEYS
    for name, problem in ODD_KEYS.items():
        if not problem:
            assert folder.read(name) == name.encode()
            assert folder.open(name).read() == name.encode()


def test_doubled_slashes_are_part_of_a_key(bucket: str):
    folder = Folder(bucket)
    for name in ("a/x.wav", "a//x.wav", "a//b//y.wav"):
        folder.commit(name, name.encode())
    assert [info.name for info in Folder(f"{bucket}/a").find()] == ["/b//y.wav", "/x.wav", "x.wav"]
    assert Folder(f"{bucket}/a").read("/x.wav") == b"a//x.wav"
    assert [info.name for info in Folder(f"{bucket}/a//b").find()] == ["/y.wav"]
    assert folder.folder("a").exists("/b")


def test_a_doubled_slash_that_is_a_mistake_is_named(bucket: str):
    Folder(bucket).commit("a/b/x.wav", b"x")
    for wrong in (f"{bucket}//a/b", f"{bucket}/a//b"):
        for work in (lambda: list(Folder(wrong).find()), lambda: Folder(wrong).exists()):  # noqa: B023
            with pytest.raises(InputError, match=rf"^{wrong}: .*; did you mean {bucket}/a/b\?$"):
                work()
    assert not Folder(f"{bucket}//new").exists()


def test_an_object_beside_a_folder_of_its_name_is_read(bucket: str):
    import s3fs

    folder = Folder(bucket)
    folder.commit("run/weights.bin", b"x")
    folder.commit("run/weights.bin/more", b"y")
    s3fs.S3FileSystem().call_s3(
        "put_object", Bucket=bucket.removeprefix("s3://"), Key="run/weights.bin/", Body=b""
    )
    assert folder.exists("run/weights.bin")
    assert folder.read("run/weights.bin") == b"x"
    assert folder.info("run/weights.bin").size == 1
    assert [info.name for info in folder.find("run/weights.bin")] == ["run/weights.bin/more"]


def test_an_object_in_cold_storage_is_named_with_the_remedy(bucket: str, gate: Gate):
    folder = Folder(bucket)
    folder.commit("a.wav", b"x")
    gate.refuse_always("403 Forbidden", "InvalidObjectState", "GET")
    for work in (lambda: folder.read("a.wav"), lambda: folder.open("a.wav").read()):
        with pytest.raises(UnreadableError, match=rf"^{bucket}/a\.wav: .* in cold storage; restore it"):
            work()


def test_a_listing_of_more_than_one_page_is_complete(bucket: str):
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    server = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]  # in this process, and quicker than requests
    names = [f"{number:04}.wav" for number in range(1001)]
    for name in names:
        server.put_object(bucket.removeprefix("s3://"), f"root/{name}", b"x")
    assert [info.name for info in Folder(f"{bucket}/root").find()] == names


@pytest.mark.parametrize("lacking", LACKING)
def test_create_does_not_need_hard_links(lacking: Lacking, tmp_path: Path):
    folder = Folder(str(tmp_path))
    with file_system_without(lacking):
        assert folder.create("lock.json", b"first")
        assert not folder.create("lock.json", b"second")
        assert folder.create("deep/lock.json", b"other")
        with held(folder), pytest.raises(InputError, match="is using"), held(folder):
            pass
    assert folder.read("lock.json") == b"first"
    assert folder.read("deep/lock.json") == b"other"
    unfinished = [info.name for info in folder.find() if info.name.endswith(STAGED_SUFFIX)]
    assert {name.rpartition("/")[2] for name in unfinished} <= {".lock.staged"}


def test_a_file_system_that_cannot_exclude_other_writers_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        file_system_without("links and renames"),
        pytest.raises(InputError, match=r"lock\.json: .* neither hard links nor locks"),
    ):
        Folder(str(tmp_path)).create("lock.json", b"x")


def test_one_of_several_processes_creates_a_file_without_hard_links(tmp_path: Path):
    contents = [bytes([number]) * 10_000 for number in range(3)]
    with ProcessPoolExecutor(len(contents), multiprocessing.get_context("spawn")) as pool:
        for lacking in LACKING:
            folder = tmp_path / lacking
            created = list(pool.map(partial(create_files, str(folder), 30, lacking), contents))
            assert [sum(column) for column in zip(*created, strict=True)] == [1] * 30
            for number, column in enumerate(zip(*created, strict=True)):
                assert (folder / f"{number}.json").read_bytes() == contents[column.index(True)]


@pytest.mark.parametrize("lacking", LACKING)
def test_a_writer_that_is_killed_leaves_the_name_free(lacking: Lacking, tmp_path: Path):
    child = multiprocessing.get_context("spawn").Process(
        target=die_while_creating, args=(str(tmp_path), "lock.json", lacking)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert [path for path in tmp_path.iterdir() if path.suffix != STAGED_SUFFIX] == []
    with file_system_without(lacking):
        assert Folder(str(tmp_path)).create("lock.json", b"second")
