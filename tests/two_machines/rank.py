"""One rank of two on two machines: `rank.py ADDRESS RANK ADDRESS_OF_RANK_0` adds up both ranks, counted from 1."""

from __future__ import annotations

import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from jobs.training.interface import connect_through

TIMEOUT_S = 200
PORT = 29500


def main(address: str, rank: int, first_address: str) -> None:
    connect_through(address)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://{first_address}:{PORT}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=TIMEOUT_S),
    )
    total = torch.tensor([rank + 1])
    dist.all_reduce(total)
    print("sum", int(total))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
