"""How many workers an elastic training starts: as many as there is room for beside the other jobs of the cluster.

Ray Train counts all CPUs and GPUs of the cluster, whoever uses them. Beside another job, it would try for ever to start
more workers than there is room for, or stop a training to let it grow.
"""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, ResizeDecision
from ray.train.v2.api.config import ScalingConfig

Resources = dict[str, dict[str, float]]
"""Machine → CPUs, GPUs and other resources."""


class ScalingPolicy(ElasticScalingPolicy):
    """Counts all resources for the first start, because those of an earlier attempt may not be free yet.

    If that start fails, and for every later decision, it counts only what is free.
    """

    def __init__(self, scaling_config: ScalingConfig) -> None:
        super().__init__(scaling_config)
        self._num_running = 0
        self._counts_free = False

    def make_decision_for_non_running_worker_group(self) -> Any:
        """Choose a number for a start; after another start, which must have failed, only from what is free."""
        self._num_running = 0
        decision = super().make_decision_for_non_running_worker_group()
        self._counts_free |= isinstance(decision, ResizeDecision)
        return decision

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> Any:
        """Choose whether to stop for a start with another number of workers."""
        self._num_running = worker_group_state.num_workers
        self._counts_free = True
        return super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        possible = super()._count_possible_workers(reserved_resources)
        if not self._counts_free:
            return possible
        return min(possible, self._num_running + super()._count_possible_workers(free_resources()))


def free_resources() -> Resources:
    """What no job uses at this moment."""
    from ray._private import state

    cluster: Any = state  # its functions have no types
    free: Resources = cluster.available_resources_per_node()
    return free
