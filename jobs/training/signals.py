"""SIGTERM and Ctrl-C: the first asks a running training to pause, the second ends the process now."""

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


class Interrupts:
    """A block in which signals end the process through its exceptions; `call` lets a training pause first.

    The exit status is the shell's: 128 and the number of the signal.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._asked: signal.Signals | None = None
        self._is_calling = False
        self._woken = threading.Event()
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupts:
        self.install()
        return self

    def install(self) -> None:
        """Take the signals, from Ray too, which takes SIGTERM when it starts. Only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.signal(number, self._take)
                self._before.setdefault(number, before)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]

    @property
    def is_asked(self) -> bool:
        """Whether the first signal has come."""
        return self._asked is not None

    def call(self, work: Callable[[], T], on_interrupt: Callable[[], None]) -> T:
        """Do some long work in a thread, so that a signal is heard at once; the first one calls `on_interrupt`."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
            self._woken.set()

        self._woken.clear()
        self._is_calling = True
        try:
            threading.Thread(target=run, name=self._command, daemon=True).start()
            self._woken.wait()
            if self.is_asked and not future.done():
                on_interrupt()
            return future.result()
        finally:
            self._is_calling = False

    def leave(self, where: str) -> NoReturn:
        """End the process as the signal wants, and say how to go on."""
        assert self._asked is not None
        words = f"stopped by {self._asked.name} {where}; run the same command again to go on from there"
        os.write(2, f"bonafide {self._command}: {words}\n".encode())
        raise SystemExit(128 + self._asked)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        is_first = self._asked is None
        self._asked = signal.Signals(number)
        if is_first and self._is_calling:
            self._woken.set()
        else:
            self.leave("at once")
