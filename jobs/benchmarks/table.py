"""Describe the machine and print the results of a benchmark."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

SHOWN_VERSIONS = ("ray", "pyarrow", "soundfile", "soxr", "numpy", "torch")


@dataclass(frozen=True)
class Measured:
    """One line of the results."""

    name: str
    value: str
    """The measured value, with its unit."""
    against: str = ""
    """A comparison or another remark."""


def show(lines: Iterable[Measured]) -> None:
    """Print the results as a table once all are measured."""
    measured = list(lines)
    width = max(len(line.name) for line in measured)
    print()
    for line in measured:
        print(f"{line.name:<{width}}  {line.value:>22}  {line.against}")


def machine() -> str:
    """The processor, cores, memory and load of the machine, and the versions of the libraries."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = " ".join(f"{name} {version(name)}" for name in SHOWN_VERSIONS)
    load = os.getloadavg()[0]
    return (
        f"{platform.machine()} · {os.cpu_count()} cores · {memory:.0f} GiB · load {load:.1f} before the run\n"
        f"Python {platform.python_version()} · {versions}"
    )


def print_now(text: str) -> None:
    """Print which measurement is running."""
    print(f"… {text}", flush=True)


def timed(work: Callable[[], object]) -> float:
    """Duration of a call, seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_mib(process: Path = Path("/proc/self")) -> float:
    """Peak resident memory of a process, by its folder in /proc, MiB; getrusage would include that of its parent."""
    status = (process / "status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
