"""Signals that stop a command: SIGTERM, SIGHUP of a closed terminal, and Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType, TracebackType
from typing import NoReturn, TypeVar

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

T = TypeVar("T")


class StopSignals:
    """A context that a signal ends with one line and SystemExit; during `call`, the first one asks the work to stop.

    The exit status is 128 plus the number of the signal, as in a shell. A further signal while the context ends kills
    the process at once. A signal that is ignored, as SIGHUP under nohup, stays ignored.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._received: signal.Signals | None = None
        self._is_calling = False
        self._is_ending = False
        self._wake = threading.Event()
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # no other thread can install handlers
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)  # type: ignore[arg-type]
        if self._received is not None and isinstance(error, KeyboardInterrupt):
            self.exit_resumable("at once")

    @property
    def is_received(self) -> bool:
        """Whether a signal has been received."""
        return self._received is not None

    def call(self, work: Callable[[], T], on_signal: Callable[[], None]) -> T:
        """Run long work in a thread, so that signals are handled at once; the first one calls `on_signal`."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
            self._wake.set()

        self._wake.clear()
        self._is_calling = True
        try:
            threading.Thread(target=run, name=self._command, daemon=True).start()
            self._wake.wait()
            if self.is_received and not future.done():
                on_signal()
            return future.result()
        finally:
            self._is_calling = False

    def exit_resumable(self, where: str) -> NoReturn:
        """Print how to continue, and exit with the status of the signal.

        Args:
            where: what the command has reached: `at step 7`.
        """
        assert self._received is not None
        cause = "Ctrl-C" if self._received == signal.SIGINT else self._received.name
        line = f"stopped by {cause} {where}; run the same command again to continue"
        with contextlib.suppress(OSError):  # the terminal may be closed
            os.write(2, f"{self._command}: {line}\n".encode())
        raise SystemExit(128 + self._received)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        is_first = self._received is None
        self._received = signal.Signals(number)
        if is_first and self._is_calling:
            self._wake.set()
        elif not self._is_ending:
            self._is_ending = True
            raise KeyboardInterrupt  # Ray passes on this exception, where it turns others into errors of its own
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
