"""SIGTERM and Ctrl-C: the first asks a training to stop at a checkpoint, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType, TracebackType
from typing import NoReturn, TypeVar

SIGNALS = (signal.SIGTERM, signal.SIGINT)

T = TypeVar("T")


class StopSignals:
    """A context in which a signal raises SystemExit; during `call`, the first one asks the work to stop instead.

    The exit status is 128 plus the number of the signal, as in a shell.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._received: signal.Signals | None = None
        self._is_calling = False
        self._wake = threading.Event()
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        self.install()
        return self

    def install(self) -> None:
        """Install the handlers, also over those that Ray installs when it starts. Only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                previous = signal.signal(number, self._receive)
                self._previous.setdefault(number, previous)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)  # type: ignore[arg-type]

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
        """Print how to resume, and exit with the status of the signal."""
        assert self._received is not None
        line = f"stopped by {self._received.name} {where}; run the same command again to resume"
        os.write(2, f"bonafide {self._command}: {line}\n".encode())
        raise SystemExit(128 + self._received)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        is_first = self._received is None
        self._received = signal.Signals(number)
        if is_first and self._is_calling:
            self._wake.set()
        else:
            self.exit_resumable("at once")
