"""What a training prints while the cluster has no room for it."""

from __future__ import annotations

import threading
from dataclasses import replace

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
    monkeypatch.setattr(waiting, "FIRST_S", 0.01)
    monkeypatch.setattr(waiting, "cluster_use", lambda: "in use on the cluster: 7 of 8 CPUs")
    answers = [False, False, True, True]
    has_started = threading.Event()

    def has_room() -> bool:
        if len(answers) == 1:
            has_started.set()
        return answers.pop(0) if len(answers) > 1 else answers[0]

    with waiting.explained(ASKED, False, has_room):
        assert has_started.wait(60)
    line = (
        "waiting for room for 2 workers with 4 CPUs each · 0:00 elapsed · in use on the cluster: 7 of 8 CPUs"
    )
    assert capsys.readouterr().out.splitlines() == [line, line]


def test_a_training_that_starts_at_once_waits_for_nothing(capsys: pytest.CaptureFixture[str]):
    with waiting.explained(ASKED, False, lambda: False):
        pass
    assert capsys.readouterr().out == ""
