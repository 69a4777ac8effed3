"""The weights of a detector, from this machine to the workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.detector.network import Detector, DetectorConfig


@dataclass(frozen=True)
class SharedDetector:
    """A detector in Ray's object store, which keeps one copy of the weights per machine."""

    config: DetectorConfig
    weights: Any
    """Ray reference to a dictionary: name → array."""


def put_detector(detector: Detector) -> SharedDetector:
    """Put a detector into Ray's object store."""
    import ray

    weights = {name: tensor.numpy() for name, tensor in detector.state_dict().items()}
    return SharedDetector(detector.config, ray.put(weights))


def get_detector(shared: SharedDetector) -> Detector:
    """Build a worker's own copy of a shared detector, in evaluation mode on the CPU."""
    import ray
    import torch

    from pipeline.detector.network import Detector

    weights: Mapping[str, Any] = ray.get(shared.weights)
    with torch.device("meta"):
        detector = Detector(shared.config)
    copies = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
    detector.load_state_dict(copies, strict=True, assign=True)
    return detector.eval()
