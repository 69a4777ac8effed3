"""The process group of a training: every worker connects through the interface with its machine's Ray address.

Ray's own address is known to work: without it, the machine would not be part of the cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig

from jobs.training.interface import connect_through


@dataclass
class ClusterTorchConfig(TorchConfig):
    """Ray Train's settings of the process group; workers choose their interface before they connect."""

    @property
    def backend_cls(self) -> Any:
        """The class that sets the process group up."""
        torch_backend: Any = super().backend_cls

        class ClusterTorchBackend(torch_backend):  # type: ignore[misc]
            def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
                worker_group.execute(_connect_through_ray_address)
                super().on_start(worker_group, backend_config)

        return ClusterTorchBackend


def _connect_through_ray_address() -> None:
    import ray.util

    connect_through(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
