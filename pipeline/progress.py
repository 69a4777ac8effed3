"""Progress lines of a long run: how much is done, how fast, and how much time is left."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TextIO

ANSWER_S = 5.0
"""How long the end of a run waits for a reason that is being asked for: a cluster that was lost gives none."""


@dataclass
class Progress:
    """Counts finished units of work and their audio; a context in which lines about them are printed.

    There is at most one line every `interval_s` seconds, and one every `silence_s` seconds while nothing is finished.
    The end of the context prints the last line, unless an exception ends it.
    """

    activity: str
    """The work, as a verb in -ing: `building`."""
    total: int | None
    """None while it is not known."""
    unit: str
    """What `total` counts, in the singular: `shard`."""
    reason: Callable[[], str] = str
    """Says why nothing may be finished for a while; empty if it is not known. Called in another thread."""
    interval_s: float = 2.0
    silence_s: float = 30.0
    stream: TextIO = field(default_factory=lambda: sys.stderr)

    def __post_init__(self) -> None:
        self._start = self._printed = time.monotonic()
        self._printed_done = -1
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self.done = 0
        self.audio_s = 0.0
        self.num_rejected = 0

    def __enter__(self) -> Progress:
        self._thread = threading.Thread(target=self._break_silence, name=self.activity, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join(ANSWER_S)
        if kind is None and self.done != self._printed_done:
            self._print()

    def add(self, number: int = 1, *, audio_s: float = 0.0, num_rejected: int = 0) -> None:
        """Count finished work, and print the line if it is due."""
        with self._lock:
            self.done += number
            self.audio_s += audio_s
            self.num_rejected += num_rejected
            if time.monotonic() - self._printed >= self.interval_s:
                self._print()

    def _break_silence(self) -> None:
        """Print the line, and the reason, whenever none was printed for `silence_s`."""
        while not self._is_over.wait(self._printed + self.silence_s - time.monotonic()):
            reason = self.reason()
            with self._lock:
                if time.monotonic() - self._printed >= self.silence_s and not self._is_over.is_set():
                    self._print(reason)

    def _print(self, reason: str = "") -> None:
        self._printed, self._printed_done = time.monotonic(), self.done
        line = self.line(self._printed - self._start)
        print(f"{line} · {reason}" if reason else line, file=self.stream, flush=True)

    def line(self, elapsed_s: float) -> str:
        """Format the line after `elapsed_s` seconds of work."""
        amount = (
            counted(self.done, self.unit)
            if self.total is None
            else f"{self.done}/{counted(self.total, self.unit)}"
        )
        parts = [f"{self.activity} {amount}"]
        if self.audio_s:
            parts.append(f"{self.audio_s / 3600:.2f} h of audio")
            parts.append(f"{self.audio_s / max(elapsed_s, 1e-9):.0f}× real time")
        if self.num_rejected:
            parts.append(f"{self.num_rejected} rejected")
        parts.append(f"{clock(elapsed_s)} elapsed")
        if self.total is not None and 0 < self.done < self.total:
            parts.append(f"{clock(elapsed_s / self.done * (self.total - self.done))} left")
        return " · ".join(parts)


def counted(number: int, noun: str) -> str:
    """Format a number of things: `1 shard`, `2 shards`; the plural of the noun has an s."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def clock(seconds: float) -> str:
    """Format seconds as h:mm:ss or m:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
