"""Measures memory in a process of its own, where nothing was allocated before."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

CLEAR_REFS = Path("/proc/self/clear_refs")

RETURNS_FREED_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": str(2**18)}
"""Environment in which glibc returns each freed block of 256 KiB and more, so that only what is in use is resident."""

needs_peaks = pytest.mark.skipif(
    not os.access(CLEAR_REFS, os.W_OK),
    reason="this system does not measure the peak memory of a process anew",
)


def printed_by(function: Callable[[], None], environment: Mapping[str, str] | None = None) -> list[int]:
    """Call a function of a module in a fresh process; returns the numbers that it prints.

    Args:
        function: needs no arguments.
        environment: variables beside those of this process.
    """
    module, name = function.__module__, function.__name__
    command = [sys.executable, "-c", f"from {module} import {name}; {name}()"]
    printed = subprocess.run(
        command, capture_output=True, check=True, text=True, env={**os.environ, **(environment or {})}
    ).stdout
    return [int(line) for line in printed.split()]


def resident_bytes() -> int:
    """The memory that this process holds."""
    return _status_bytes("VmRSS")


def peak_bytes() -> int:
    """The most memory that this process has held since `forget_peak`."""
    return _status_bytes("VmHWM")


def forget_peak() -> None:
    """Let the peak begin with what this process holds now."""
    CLEAR_REFS.write_text("5")


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(dict(line.split(":", 1) for line in lines)[name].split()[0])
