"""What a training prints while the cluster has no room for it."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from jobs.training import waiting
from jobs.training.config import TrainConfig
from pipeline.fields import Bounds

ASKED = TrainConfig(store="store", out="out", num_workers=Bounds((2, 4)), cpus_per_worker=4)


@pytest.mark.parametrize(
    ("smallest", "cpus", "use_gpu", "words"),
    [
        (1, 1, False, "1 worker with 1 CPU"),
        (2, 4, False, "2 workers with 4 CPUs each"),
        (8, 8, True, "8 workers with 8 CPUs and 1 GPU each"),
    ],
)
def test_the_smallest_training_that_could_start_is_named(smallest: int, cpus: int, use_gpu: bool, words: str):
    asked = replace(ASKED, num_workers=Bounds((smallest, 8)), cpus_per_worker=cpus)
    assert waiting.needs(asked, use_gpu) == words


def test_lines_are_printed_until_there_is_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    num_lines = 0
    has_started = threading.Event()

    def cluster_use() -> str:
        nonlocal num_lines
        num_lines += 1
        return "in use on the cluster: 7 of 8 CPUs"

    def has_room() -> bool:
        if num_lines == 2:
            has_started.set()
        return num_lines == 2

    monkeypatch.setattr(waiting, "CHECK_S", 0.01)
    monkeypatch.setattr(waiting, "FIRST_S", 0.02)
    monkeypatch.setattr(waiting, "cluster_use", cluster_use)
    with waiting.explained(ASKED, False, has_room):
        assert has_started.wait(60)
        time.sleep(0.2)
    line = "waiting for room for 2 workers with 4 CPUs each · 0:00 elapsed"
    assert capsys.readouterr().out.splitlines() == [f"{line} · in use on the cluster: 7 of 8 CPUs"] * 2


def test_a_restart_is_not_taken_for_a_lack_of_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Every other check finds no room, four seconds after one that did."""
    answers = itertools.cycle([True, False])
    num_checks = itertools.count()
    is_checked = threading.Event()

    def has_room() -> bool:
        if next(num_checks) == 20:
            is_checked.set()
        return next(answers)

    clock = itertools.count(step=4)
    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(waiting, "CHECK_S", 0.001)
    monkeypatch.setattr(waiting, "FIRST_S", 5.0)
    with waiting.explained(ASKED, False, has_room):
        assert is_checked.wait(60)
    assert capsys.readouterr().out == ""
