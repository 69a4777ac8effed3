"""The folder of a user on a machine: nobody else can read it, and nobody else has made it."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.storage import user_folder

OTHER_USER = 54321


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the folder of this user, which does not exist yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"bonafide-{os.getuid()}"


def test_the_folder_of_a_user_is_closed_to_others_and_stays_the_same(folder: Path):
    indexes = user_folder("indexes")
    (indexes / "kept").touch()
    assert indexes == folder / "indexes"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, indexes)] == [0o700, 0o700]
    assert user_folder("checkpoints") == folder / "checkpoints"
    assert (user_folder("indexes") / "kept").exists()


def test_a_folder_that_others_could_read_is_closed_to_them(folder: Path):
    folder.mkdir()
    folder.chmod(0o755)
    user_folder("indexes")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_refused(folder: Path):
    folder.mkdir(mode=0o777)
    os.chown(folder, OTHER_USER, OTHER_USER)
    with pytest.raises(InputError, match=rf"^{folder}: another user owns .* {OTHER_USER}\); set TMPDIR to a"):
        user_folder("indexes")


def test_a_folder_that_others_can_write_to_is_refused(folder: Path):
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(InputError, match=r"other users can write to this folder; delete it, or set TMPDIR"):
        user_folder("indexes")


def test_a_link_in_the_place_of_the_folder_is_refused(folder: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"this is a link"):
        user_folder("indexes")
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_machine_without_a_folder_for_temporary_files_is_a_user_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc", "/sys"])
    with pytest.raises(InputError, match=r"^No usable temporary directory .*; make room .* set TMPDIR"):
        user_folder("indexes")
