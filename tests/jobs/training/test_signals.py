"""Signals: the first asks for a stop, the second forces it."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from jobs.training.signals import StopSignals


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_the_work_to_stop(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = threading.Event()

    def work() -> int:
        send(number)
        assert asked.wait(60)
        return 7

    with pytest.raises(SystemExit) as ended, StopSignals("train") as signals:
        assert not signals.is_received
        assert signals.call(work, on_signal=asked.set) == 7
        assert signals.is_received
        signals.exit_resumable("at step 7")
    assert ended.value.code == 128 + number
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("bonafide")] == [  # Ray may print others
        f"bonafide train: stopped by {number.name} at step 7; run the same command again to resume"
    ]


def test_the_second_signal_does_not_wait(capfd: pytest.CaptureFixture[str]) -> None:
    ending = threading.Event()

    def work() -> None:
        send(signal.SIGINT)
        ending.wait(60)

    try:
        with pytest.raises(SystemExit) as ended, StopSignals("train") as signals:
            signals.call(work, on_signal=lambda: send(signal.SIGINT))
        assert ended.value.code == 130
        assert "stopped by SIGINT at once" in capfd.readouterr().err
    finally:
        ending.set()


def test_outside_of_a_call_a_signal_ends_the_process(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, StopSignals("train"):
        send(signal.SIGTERM)
    assert ended.value.code == 143


def test_an_exception_of_the_work_is_raised_and_the_previous_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def fail() -> None:
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"), StopSignals("train") as signals:
        signals.call(fail, lambda: None)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
