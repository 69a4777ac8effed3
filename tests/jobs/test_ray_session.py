"""Where a local Ray puts its files, which clusters cannot be joined, and how much of one is in use."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import ray

from jobs import ray_session
from jobs.ray_session import MAX_TEMPORARY_LENGTH, join_cluster, temporary_folders
from pipeline.errors import InputError, UnavailableError
from pipeline.signals import StopSignals


def use_temporary_folder(patch: pytest.MonkeyPatch, folder: str) -> None:
    patch.delenv("RAY_TMPDIR", raising=False)
    patch.setenv("TMPDIR", folder)


def test_a_short_temporary_folder_is_left_to_ray(monkeypatch: pytest.MonkeyPatch):
    use_temporary_folder(monkeypatch, "/" + (MAX_TEMPORARY_LENGTH - 1) * "t")
    assert temporary_folders() == {}


def test_in_a_long_temporary_folder_are_only_objects_without_room_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(ray_session, "SHARED_FOLDER", tmp_path)
    long = "/" + MAX_TEMPORARY_LENGTH * "t"
    use_temporary_folder(monkeypatch, long)
    short = tmp_path / f"bonafide-{os.getuid()}"
    for _ in range(2):
        assert temporary_folders() == {"_temp_dir": str(short / "ray"), "object_spilling_directory": long}
    assert short.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_write_to_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(ray_session, "SHARED_FOLDER", tmp_path)
    use_temporary_folder(monkeypatch, "/" + MAX_TEMPORARY_LENGTH * "t")
    folder = tmp_path / f"bonafide-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(
        InputError, match=r"other users can write to .*, or set RAY_TMPDIR to a folder of your own"
    ):
        temporary_folders()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "head.invalid:6379"])
def test_an_address_without_a_cluster_is_named(address: str):
    with pytest.raises(UnavailableError, match=f"^RAY_ADDRESS={address}: no cluster answers there"):
        join_cluster(address)


@pytest.mark.parametrize(
    ("address", "message"),
    [("head", "expected HOST:PORT"), ("http://127.0.0.1:8265", "this address is for `ray job submit`")],
)
def test_an_address_of_another_form_is_refused(address: str, message: str):
    with pytest.raises(InputError, match=message):
        join_cluster(address)


def test_sigterm_while_ray_starts_stops_the_command():
    with (
        pytest.raises(SystemExit) as ended,
        StopSignals("bonafide ingest"),
        ray_session.keep_signal_handlers(),
    ):
        signal.signal(signal.SIGTERM, lambda *_: exit(1))  # as Ray does
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("total", "free", "words"),
    [
        ({"CPU": 8.0, "GPU": 1.0}, {"GPU": 0.5}, "in use on the cluster: 8 of 8 CPUs, 0.5 of 1 GPU"),
        ({"CPU": 4.0, "memory": 1e9}, {"CPU": 4.0}, "in use on the cluster: 0 of 4 CPUs"),
        ({"memory": 1e9}, {}, "no machine with a CPU or a GPU has joined the cluster"),
    ],
)
def test_what_a_cluster_uses_is_told(
    monkeypatch: pytest.MonkeyPatch, total: dict[str, float], free: dict[str, float], words: str
):
    monkeypatch.setattr(ray, "cluster_resources", lambda: total)
    monkeypatch.setattr(ray, "available_resources", lambda: free)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert ray_session.cluster_use() == ""
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert ray_session.cluster_use() == words
