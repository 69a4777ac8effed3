"""The devices of this machine, as far as they are known before Ray starts."""

from __future__ import annotations

import os

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
