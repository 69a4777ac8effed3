"""The tags of a run about its code: exact for a checkout that git reads, and none, with a warning, for any other."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.tracking import environment
from pipeline.tracking.environment import git_tags


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one commit and one file."""
    (tmp_path / "a.py").write_text("a = 1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "-c", "user.name=me", "-c", "user.email=me@host", "commit", "-qm", "first")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return done.stdout.strip()


def with_git(script: str, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a script in place of git."""
    folder = checkout / "bin"
    folder.mkdir()
    (folder / "git").write_bytes(script.encode("latin-1"))
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_run_names_its_commit_and_whether_files_have_changed(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook of another checkout
    with monkeypatch.context() as outside:
        outside.delenv("GIT_DIR")
        commit = git(checkout, "rev-parse", "HEAD")
    assert git_tags(checkout) == {"mlflow.source.git.commit": commit, "bonafide.git.dirty": "false"}
    (checkout / "a.py").write_text("a = 2")
    git_tags.cache_clear()
    assert git_tags(checkout) == {"mlflow.source.git.commit": commit, "bonafide.git.dirty": "true"}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("#!/bin/sh\nprintf 'not \xff UTF-8\\n' >&2; exit 128", "not \ufffd UTF-8"),
        ("#!/bin/sh\nprintf '\xff\\n'", "no commit"),
        ("#!/bin/sh\nprintf '# branch.oid (initial)\\n'", "no commit"),
        ("#!/bin/sh\nexit 3", "exit status 3"),
        ("#!/bin/sh\nexec sleep 60", "no answer in 0.05 s"),
        ("\0", "exec format error"),
    ],
)
def test_a_git_that_fails_costs_its_tags_and_one_line(
    script: str,
    reason: str,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with_git(script, checkout, monkeypatch)
    monkeypatch.setattr(environment, "GIT_TIMEOUT_S", 0.05 if "sleep" in script else 60.0)
    for _ in range(2):
        assert git_tags(checkout) == {}
    assert [record.getMessage() for record in caplog.records] == [
        f"git: {reason}; runs are tracked without their commit"
    ]


def test_a_checkout_of_another_user_costs_its_tags_and_one_line(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch, for its own tests
    assert git_tags(checkout) == {}
    assert "detected dubious ownership" in caplog.text


def test_a_folder_without_git_has_no_commit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert git_tags(tmp_path) == {}
    assert caplog.text == ""
