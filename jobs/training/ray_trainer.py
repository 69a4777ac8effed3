"""Ray Train as trainings use it: two processes less, and no delay after a loss. Ray has no public way for it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import ray
from ray._private import worker as ray_worker
from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator
from ray.exceptions import ActorUnavailableError, RayActorError, RayError
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from jobs.training.scaling import ScalingPolicy

OMITTED = (DatasetsCallback, PlacementGroupCleanerCallback)
"""One distributes datasets of Ray Data, which no training has. The other frees what a controller that died had
reserved, but only where Ray has a dashboard, which tells it of the death; `LeanTrainer.end_controller` does that."""

ANSWER_S = 10.0
"""How long to wait for the actor that counts machines. Without its answer, an elastic training starts later: up to 20 s
if a machine was lost, and up to three minutes if a controller died."""


class LeanTrainer(DataParallelTrainer):
    """Starts none of the `OMITTED`, each of which takes two to three seconds of a CPU in every attempt.

    An elastic training starts as many workers as there is room for (`jobs.training.scaling`).
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, OMITTED)]

    def _initialize_and_run_controller(self, **controller: Any) -> Any:
        policy = controller["scaling_policy"]
        if isinstance(policy, ElasticScalingPolicy):
            controller["scaling_policy"] = ScalingPolicy(policy.scaling_config)
        return super()._initialize_and_run_controller(**controller)

    def end_controller(self, error: RayActorError) -> None:
        """End what is left of an attempt whose controller died, or to which only the connection was lost.

        A controller that lives would train beside the next attempt, which would wait for what a dead one has reserved:
        for ever for its workers, and for three minutes for what an elastic training has announced.
        """
        if isinstance(error, ActorUnavailableError) and error.actor_id is not None:
            this_process: Any = ray_worker.global_worker  # its types are incomplete
            this_process.core_worker.kill_actor(ray.ActorID.from_hex(error.actor_id), True)
        for name, state in _reservations().items():
            if state != "REMOVED":
                remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(name)))
        _ask_coordinator("cancel_request", f"train-{self.train_run_context.run_id}")


def has_room() -> bool:
    """Whether the cluster has reserved what the workers of an attempt of this process need."""
    return "CREATED" in _reservations().values()


def _reservations() -> dict[str, str]:
    """The reservations of this job, which may have had other attempts: their ids, and their states."""
    job = ray.get_runtime_context().get_job_id()  # the id of each of its reservations ends with it
    reservations: Mapping[str, Any] = placement_group_table()
    return {name: each["state"] for name, each in reservations.items() if name.endswith(job)}


def refresh_machines() -> None:
    """Let Ray Train see which machines the cluster has now.

    It counts them every 20 s. In between, an elastic training would wait for workers on a machine that was just lost.
    """
    _ask_coordinator("get_reserved_resources", "", recompute=True)


def _ask_coordinator(method: str, *args: object, **kwargs: object) -> None:
    """Call the actor that shares the machines of a cluster among trainings."""
    with contextlib.suppress(RayError):
        coordinator: Any = default_autoscaling_coordinator.get_or_create_autoscaling_coordinator()  # type: ignore[no-untyped-call]
        ray.get(getattr(coordinator, method).remote(*args, **kwargs), timeout=ANSWER_S)
