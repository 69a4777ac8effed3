"""The machine, and the lines of a benchmark."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version

SHOWN_VERSIONS = ("ray", "pyarrow", "soundfile", "soxr", "numpy", "torch")


@dataclass(frozen=True)
class Measured:
    """One line of the result."""

    name: str
    value: str
    against: str = ""


def show(lines: Iterable[Measured]) -> None:
    """Print the lines below each other once all are measured."""
    measured = list(lines)
    width = max(len(line.name) for line in measured)
    print()
    for line in measured:
        print(f"{line.name:<{width}}  {line.value:>22}  {line.against}")


def machine() -> str:
    """The processor, its cores, the memory, and the versions of what does the work."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = " ".join(f"{name} {version(name)}" for name in SHOWN_VERSIONS)
    load = os.getloadavg()[0]
    return (
        f"{platform.machine()} · {os.cpu_count()} cores · {memory:.0f} GiB · load {load:.1f} before the run\n"
        f"Python {platform.python_version()} · {versions}"
    )


def say(text: str) -> None:
    """One line about what is being measured."""
    print(f"… {text}", flush=True)


def timed(work: Callable[[], object]) -> float:
    """Seconds that a piece of work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
