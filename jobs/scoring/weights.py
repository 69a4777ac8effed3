"""The weights of a detector, from the process of the command to those that score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError

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


def load_again(file: Path, variant: str | None, digest: str) -> Detector:
    """Load a checkpoint that another process of this machine has loaded.

    Args:
        file: as for `load_detector`.
        variant: as for `load_detector`.
        digest: of the weights that the other process has loaded.

    Raises:
        InputError: the file has been replaced in between.
    """
    from pipeline.detector.checkpoint import load_detector

    loaded = load_detector(file, variant)
    if loaded.digest != digest:
        raise InputError(f"{file}: was replaced while it was read; run the same command again")
    return loaded.detector
