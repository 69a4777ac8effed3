"""The process group of a training: every worker connects through the interface with its machine's Ray address.

Ray's own address is known to work: without it, the machine would not be part of the cluster. Torch is imported by the
workers only: Ray Train's controller sets the group up without it, and starts two seconds sooner.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

from ray.train.backend import Backend, BackendConfig

from jobs.training.interface import connect_through

TIMEOUT_S = 1800
"""How long a rank waits for the others in one operation."""

LEAVE_TIMEOUT_S = 30
"""How long workers may take to leave the group. They are stopped afterwards in any case."""


@dataclass(frozen=True)
class ProcessGroupConfig(BackendConfig):
    """How the workers communicate: "nccl" on GPUs, "gloo" on CPUs."""

    library: str

    @property
    def backend_cls(self) -> type[Backend]:
        """The class that sets the process group up."""
        return ProcessGroup

    @property
    def train_func_context(self) -> Any:
        """What each worker enters before it trains: it chooses its GPU."""
        from ray.train.torch.config import TorchConfigContextManager

        return TorchConfigContextManager


class ProcessGroup(Backend):
    """Sets the process group up, in the controller of Ray Train."""

    share_cuda_visible_devices = True
    """NCCL connects GPUs of a machine directly only if its workers see all of them."""

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Connect all workers; rank 0 chooses the port."""
        import ray
        from ray.train._internal.utils import get_address_and_port

        assert isinstance(backend_config, ProcessGroupConfig)
        address, port = worker_group.execute_single(0, get_address_and_port)
        world = len(worker_group)
        setting = (backend_config.library, world, address, port)
        ray.get([worker_group.execute_single_async(rank, _join, rank, *setting) for rank in range(world)])

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:  # noqa: ARG002
        """Let all workers leave the group."""
        import ray

        try:
            ray.get(worker_group.execute_async(_leave, len(worker_group)), timeout=LEAVE_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError:
            print(f"a worker did not leave the process group in {LEAVE_TIMEOUT_S} s", file=sys.stderr)


def _join(rank: int, library: str, world: int, address: str, port: int) -> None:
    """Connect this worker to the others."""
    import ray.util
    from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group

    connect_through(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    _set_torch_distributed_env_vars()  # type: ignore[no-untyped-call]
    _setup_torch_process_group(library, rank, world, "env://", TIMEOUT_S)


def _leave(world: int) -> None:
    """Disconnect this worker, and free the memory of its GPU."""
    from ray.train.torch.config import _shutdown_torch

    _shutdown_torch(destroy_process_group=world > 1)  # type: ignore[no-untyped-call]
