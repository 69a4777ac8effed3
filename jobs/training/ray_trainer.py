"""Ray Train without its part for Ray Data: the workers of a training read their batches from the store themselves."""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


class StoreTrainer(DataParallelTrainer):
    """Starts no process for datasets, which would take two seconds of a CPU in each attempt, and do nothing."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, DatasetsCallback)]
