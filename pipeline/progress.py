"""One line every few seconds about a long run: how far, how fast, how much longer."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO


@dataclass
class Progress:
    """Counts units of work, and the audio in them; prints at most one line per `every_s`."""

    what: str
    """The work, as a verb in -ing: `building`."""
    total: int
    unit: str
    """Of `total`, in the plural: `shards`."""
    every_s: float = 2.0
    stream: TextIO = field(default_factory=lambda: sys.stderr)

    def __post_init__(self) -> None:
        self._start = self._printed = time.monotonic()
        self.done = 0
        self.audio_s = 0.0
        self.num_rejected = 0

    def add(self, count: int = 1, *, audio_s: float = 0.0, num_rejected: int = 0) -> None:
        """Count finished work, and say so if it is time."""
        self.done += count
        self.audio_s += audio_s
        self.num_rejected += num_rejected
        if time.monotonic() - self._printed >= self.every_s:
            self.print_now()

    def print_now(self) -> None:
        """Print the line now."""
        self._printed = time.monotonic()
        print(self.line(self._printed - self._start), file=self.stream, flush=True)

    def line(self, elapsed_s: float) -> str:
        """The line after `elapsed_s` seconds."""
        parts = [f"{self.what} {self.done}/{self.total} {self.unit}"]
        if self.audio_s:
            parts.append(f"{self.audio_s / 3600:.2f} h of audio")
            parts.append(f"{self.audio_s / max(elapsed_s, 1e-9):.0f}× real time")
        if self.num_rejected:
            parts.append(f"{self.num_rejected} rejected")
        parts.append(f"{clock(elapsed_s)} so far")
        if 0 < self.done < self.total:
            parts.append(f"{clock(elapsed_s / self.done * (self.total - self.done))} left")
        return " · ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
