"""Measures the memory that a process may still use, on its machine and on its GPU."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import torch

RAY_MARGIN = 0.05
"""Ray kills processes of a machine whose memory is filled to 95 %."""

PAGE_BYTES = resource.getpagesize()

_UNLIMITED = 2**60
"""cgroup v1 states a number of this order where there is no limit."""


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU, else of this machine within the limits of this process."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free_host_bytes()


def free_host_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that this process may still use: of the machine, its control groups, and its address space.

    Args:
        proc: where the kernel describes processes.
        cgroups: where control groups are mounted.
    """
    limits = [_free_on_machine(proc), *_left_in_control_groups(proc, cgroups), *_left_of_address_space(proc)]
    return max(0, min(limits))


def _free_on_machine(proc: Path) -> int:
    kib = {}
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        kib[name] = int(value.split()[0])
    return int((kib["MemAvailable"] - RAY_MARGIN * kib["MemTotal"]) * 1024)


def _left_of_address_space(proc: Path) -> Iterator[int]:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        yield limit - int((proc / "self/statm").read_text().split()[0]) * PAGE_BYTES


def _left_in_control_groups(proc: Path, cgroups: Path) -> Iterator[int]:
    """What is left of the limit of each group that this process is in, from the innermost out."""
    for line in (proc / "self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = root / path.strip("/")
        # In a container the path may be that of the host: then only the root is visible.
        for folder in [group, *group.parents]:
            if folder == root.parent:
                break
            yield from _left_in(folder, *names)


def _left_in(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> Iterator[int]:
    try:
        limit = (folder / limit_name).read_text().strip()
        usage = int((folder / usage_name).read_text())
        statistics = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
    except FileNotFoundError:
        return
    if limit != "max" and int(limit) < _UNLIMITED:
        # The kernel drops unused pages of files before it kills.
        yield int(limit) - usage + int(statistics.get(cache_name, 0))
