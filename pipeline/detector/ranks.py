"""Runs a function in several processes of this machine, which form one process group."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from pipeline.child_process import preload


def run_ranks(
    work: Callable[..., None], arguments: tuple[Any, ...], num_ranks: int, device: str = "cpu"
) -> None:
    """Call a function in new processes, one per rank, and wait until all have returned.

    Args:
        work: a module-level function.
        arguments: its arguments.
        num_ranks: number of processes.
        device: cpu (gloo; ranks divide the threads of this process) or cuda (nccl; one GPU per rank).

    Raises:
        ProcessRaisedException: a rank raised an exception; the other ranks are terminated.
        ProcessExitedException: a rank died; the other ranks are terminated.
    """
    num_threads = max(1, torch.get_num_threads() // num_ranks)
    with tempfile.TemporaryDirectory(prefix="bonafide-ranks-") as folder:
        # Daemons are terminated when this process exits for any reason.
        rank_arguments = (folder, num_ranks, device, num_threads, work, arguments)
        preload((work.__module__,))  # all ranks share its imports, above all that of torch
        start: Any = start_processes  # it has no types
        start(_run_rank, rank_arguments, nprocs=num_ranks, daemon=True, start_method="forkserver")


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
    # DDP is part of a reference cycle and keeps the group alive. If the garbage collector destroyed the group later,
    # it would deadlock: it would hold the GIL while it joins the group's threads, which need the GIL to free tensors.
    gc.collect()
    dist.destroy_process_group()
