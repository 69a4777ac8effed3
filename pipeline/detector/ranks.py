"""Processes of this machine that work as the ranks of one process group."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def run_ranks(
    work: Callable[..., None], arguments: tuple[Any, ...], num_ranks: int, device: str = "cpu"
) -> None:
    """Call a function of a module in so many new processes, each a rank, and wait until all have returned.

    device: cpu, where ranks share the threads of this process and talk by gloo; or cuda, where each has a GPU.
    Raises torch's ProcessRaisedException or ProcessExitedException when a rank fails; the others are ended.
    """
    num_threads = max(1, torch.get_num_threads() // num_ranks)
    with tempfile.TemporaryDirectory(prefix="bonafide-ranks-") as folder:
        # As daemons they end with this process, whatever ends it, and are not waited for then.
        words = (folder, num_ranks, device, num_threads, work, arguments)
        cast("Any", spawn)(_run_rank, words, nprocs=num_ranks, daemon=True)


def _run_rank(
    rank: int,
    folder: str,
    num_ranks: int,
    device: str,
    num_threads: int,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    if device == "cuda":
        torch.cuda.set_device(rank)
    torch.set_num_threads(num_threads)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/group", rank=rank, world_size=num_ranks)
    work(*arguments)
    # DDP holds on to the group, and is part of a cycle. Were it the last to let go, it would wait for the threads of
    # the group with the interpreter locked, and they for the lock to give back a tensor.
    gc.collect()
    dist.destroy_process_group()
