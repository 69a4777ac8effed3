"""Finds how many seconds of audio fit into a batch, by trying on a GPU of the cluster."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jobs.ray_session import num_devices
from jobs.training.config import TrainConfig

if TYPE_CHECKING:
    from pipeline.detector.config import TrainingConfig
    from pipeline.detector.variants import DetectorConfig


def find_on_cluster(config: TrainConfig) -> float:
    """Find the largest `batch.max_seconds` on a machine where a worker of this training would run.

    Raises:
        InputError: there is no GPU, or not even one utterance fits.
    """
    import ray

    _, num_gpus = num_devices()
    has_gpu = config.device == "cuda" or (config.device == "auto" and num_gpus > 0)
    longest_s = (
        config.batch.crop_max_s if math.isfinite(config.batch.crop_max_s) else config.batch.max_seconds
    )
    task = ray.remote(_find).options(
        num_cpus=config.cpus_per_worker, num_gpus=1 if has_gpu else 0, max_retries=0
    )
    max_seconds: float = ray.get(task.remote(config.detector, config.training, longest_s))
    print(f"batches of {max_seconds:.0f} s fit into memory: batch.max_seconds is {max_seconds:g}", flush=True)
    return max_seconds


def _find(config: DetectorConfig, training: TrainingConfig, utterance_s: float) -> float:
    """Find `batch.max_seconds` with random weights, because memory does not depend on their values."""
    import torch

    from pipeline.detector.batch_size import find_batch_seconds
    from pipeline.detector.network import Detector

    detector = Detector(config)
    if torch.cuda.is_available():
        detector.cuda()
    return find_batch_seconds(detector, training, utterance_s=utterance_s)
