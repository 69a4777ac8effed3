"""Signals: the first asks for a stop, the second forces it, a further one kills the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pipeline.signals import SIGNALS, StopSignals


@pytest.fixture(autouse=True)
def not_ignored() -> Iterator[None]:
    """Signals as in a foreground shell: in the background, or under nohup, some are ignored."""
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def status_of(number: signal.Signals) -> int:
    return 128 + number


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_the_work_to_stop(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = threading.Event()

    def work() -> int:
        send(number)
        assert asked.wait(60)
        return 7

    with pytest.raises(SystemExit) as ended, StopSignals("bonafide train") as signals:
        assert not signals.is_received
        assert signals.call(work, on_signal=asked.set) == 7
        assert signals.is_received
        signals.exit_resumable("at step 7")
    assert ended.value.code == status_of(number)
    cause = "Ctrl-C" if number == signal.SIGINT else number.name
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("bonafide")] == [  # Ray may print others
        f"bonafide train: stopped by {cause} at step 7; run the same command again to continue"
    ]


def test_the_second_signal_does_not_wait(capfd: pytest.CaptureFixture[str]) -> None:
    ending = threading.Event()

    def work() -> None:
        send(signal.SIGINT)
        ending.wait(60)

    try:
        with pytest.raises(SystemExit) as ended, StopSignals("bonafide train") as signals:
            signals.call(work, on_signal=lambda: send(signal.SIGINT))
        assert ended.value.code == status_of(signal.SIGINT)
        assert "stopped by Ctrl-C at once" in capfd.readouterr().err
    finally:
        ending.set()


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_of_a_call_a_signal_ends_the_command_and_its_contexts(number: signal.Signals) -> None:
    is_closed = False
    with pytest.raises(SystemExit) as ended, StopSignals("bonafide score"):
        try:
            send(number)
        finally:
            is_closed = True
    assert is_closed
    assert ended.value.code == status_of(number)


def test_a_signal_while_the_command_is_ending_kills_it() -> None:
    program = (
        "import os, signal, time\n"
        "from pipeline.signals import StopSignals\n"
        "with StopSignals('bonafide score'):\n"
        "    try: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, b"")


def test_an_ignored_signal_stays_ignored_as_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals("bonafide score") as signals:
            send(signal.SIGHUP)
            assert not signals.is_received
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_exception_of_the_work_is_raised_and_the_previous_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    def fail() -> None:
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"), StopSignals("bonafide train") as signals:
        signals.call(fail, lambda: None)
    assert [signal.getsignal(number) for number in SIGNALS] == before
