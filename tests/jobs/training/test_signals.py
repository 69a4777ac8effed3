"""Signals: the first asks, the second insists."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from jobs.training.signals import Interrupts


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_the_work_to_pause(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = threading.Event()

    def work() -> int:
        send(number)
        assert asked.wait(60)
        return 7

    with pytest.raises(SystemExit) as ended, Interrupts("train") as interrupts:
        assert not interrupts.is_asked
        assert interrupts.call(work, on_interrupt=asked.set) == 7
        assert interrupts.is_asked
        interrupts.leave("at step 7")
    assert ended.value.code == 128 + number
    expected = f"bonafide train: stopped by {number.name} at step 7; run the same command again to go on from there\n"
    assert capfd.readouterr().err == expected


def test_the_second_signal_does_not_wait(capfd: pytest.CaptureFixture[str]) -> None:
    ending = threading.Event()

    def work() -> None:
        send(signal.SIGINT)
        ending.wait(60)

    try:
        with pytest.raises(SystemExit) as ended, Interrupts("train") as interrupts:
            interrupts.call(work, on_interrupt=lambda: send(signal.SIGINT))
        assert ended.value.code == 130
        assert "stopped by SIGINT at once" in capfd.readouterr().err
    finally:
        ending.set()


def test_where_nothing_can_pause_a_signal_ends_the_process(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, Interrupts("train"):
        send(signal.SIGTERM)
    assert ended.value.code == 143


def test_what_the_work_raises_comes_out_and_the_handlers_are_those_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def fail() -> None:
        raise ValueError("no work")

    with pytest.raises(ValueError, match="no work"), Interrupts("train") as interrupts:
        interrupts.call(fail, lambda: None)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
