"""The devices of this machine, as far as they are known before Ray starts."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import InputError


def check_gpus(device: str, num_needed: int) -> None:
    """Refuse `--device cuda` on a machine with too few GPUs. A cluster, which RAY_ADDRESS names, may have more.

    Raises:
        InputError: this machine has too few GPUs.
    """
    if device != "cuda" or os.environ.get("RAY_ADDRESS"):
        return
    import torch

    num_gpus = torch.cuda.device_count()
    if num_gpus < num_needed:
        raise InputError(
            f"--device cuda needs a GPU for each worker, {num_needed} in total, and this machine has {num_gpus}; "
            "leave it out, lower --num-workers, or name a cluster in RAY_ADDRESS"
        )


def usable_cpus(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """The number of CPUs that this process may use: those of the machine, within its affinity and its container.

    Args:
        cgroups: where control groups are mounted; in a container, its root has the limits of the container.
    """
    allowed = len(os.sched_getaffinity(0))
    for quota_and_period in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        files = [cgroups / name for name in quota_and_period]
        if all(file.exists() for file in files):
            quota, period = " ".join(file.read_text().strip() for file in files).split()
            if quota not in ("max", "-1"):
                allowed = min(allowed, max(1, int(quota) // int(period)))
    return allowed
