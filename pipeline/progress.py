"""Progress lines of a long run: how much is done, how fast, and how much time is left."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO


@dataclass
class Progress:
    """Counts finished units of work and their audio; prints at most one line every `interval_s` seconds."""

    activity: str
    """The work, as a verb in -ing: `building`."""
    total: int | None
    """None while it is not known."""
    unit: str
    """What `total` counts, in the singular: `shard`."""
    interval_s: float = 2.0
    stream: TextIO = field(default_factory=lambda: sys.stderr)

    def __post_init__(self) -> None:
        self._start = self._printed = time.monotonic()
        self._printed_done = -1
        self.done = 0
        self.audio_s = 0.0
        self.num_rejected = 0

    def add(self, number: int = 1, *, audio_s: float = 0.0, num_rejected: int = 0) -> None:
        """Count finished work, and print the line if it is due."""
        self.done += number
        self.audio_s += audio_s
        self.num_rejected += num_rejected
        if time.monotonic() - self._printed >= self.interval_s:
            self._print()

    def finish(self) -> None:
        """Print the last line, unless it has been printed."""
        if self.done != self._printed_done:
            self._print()

    def _print(self) -> None:
        self._printed, self._printed_done = time.monotonic(), self.done
        print(self.line(self._printed - self._start), file=self.stream, flush=True)

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
