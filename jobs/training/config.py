"""The settings of `bonafide train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline import tracking
from pipeline.config import Bounds, Names
from pipeline.data.loading.buckets import BatchConfig
from pipeline.detector.config import TrainingConfig
from pipeline.detector.variants import VARIANTS, DetectorConfig, HeadConfig
from pipeline.errors import InputError, did_you_mean


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on which data, and where to write it."""

    store: str
    """Folder or s3:// URI of the shards and snapshots that `bonafide ingest` wrote."""
    out: str
    """Folder or s3:// URI for checkpoints and the trained detector."""
    snapshot: str = "latest"
    """Name of the snapshot; a resumed training keeps the snapshot it started with."""
    recipe: str = ""
    """Name or TOML file of a recipe: which utterances train, which validate, how often each is drawn, and which
    artifacts count as spoof. By default everything but the validation splits trains, and every artifact is spoof."""
    corpora: Names = Names()
    """Corpora to train on and to validate with; by default those of the recipe, or all training corpora."""
    variant: str = "xlsr_300m"
    """Name of the front end: w2v_small, xlsr_300m, xlsr_1b, mms_1b, hubert_xl …"""
    head: HeadConfig = field(default_factory=HeadConfig)
    init: str = ""
    """Checkpoint to start from, a local file or folder: a self-supervised model or a detector. Random weights by
    default."""
    num_workers: Bounds = Bounds((1, 1))
    """Workers (ranks), each with one GPU if the cluster has any. Two numbers (4,16) are a minimum and a maximum:
    the training grows and shrinks with the cluster."""
    cpus_per_worker: int = 1
    loader_workers: int = 0
    """Processes that read and decode for each worker; 0 decodes in the worker itself."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: GPUs if the cluster has any."""
    max_failures: int = 3
    """How many failed attempts in a row, without a new checkpoint in between, are retried; the next one ends the
    training."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints to keep; the best weights are kept separately."""
    augment: Names = Names()
    """Augmentations of training utterances, applied in this order: rawboost1 … rawboost8, noise, reverberation …"""
    chunk_s: float = 0.0
    """Crop longer training utterances to a random window of exactly this many seconds, instead of
    batch.crop_min_s to batch.crop_max_s. AntiDeepfake fine-tunes on Deepfake-Eval-2024 with 4, 10, 13, 30 and 50 s; an
    ingest with the same --chunk-s cuts its validation and test files. 0: use the crop range of batch."""
    validation_crop_s: float = 0.0
    """Validate with only the first so many seconds of each utterance; 0: with whole utterances. Needed if the longest
    does not fit into memory, which is checked before the first step."""
    find_batch_seconds: bool = False
    """Find the largest batch.max_seconds that fits into the memory of a GPU, once, when the training starts."""
    batch: BatchConfig = field(default_factory=BatchConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tracking_uri: str = ""
    """MLflow tracking server or database; without it nothing is tracked."""
    experiment: str = "bonafide"
    """MLflow experiment."""
    register: str = "bonafide-{variant}"
    """Name under which the detector is registered in MLflow, for `bonafide score --checkpoint models:/NAME@best`.
    Empty: do not register it."""

    def __post_init__(self) -> None:
        if self.register:
            tracking.check_name(self.registered_name)
        if self.variant not in VARIANTS:
            raise InputError(f"unknown variant {self.variant!r}{did_you_mean(self.variant, VARIANTS)}")
        if self.augment:
            from pipeline.data.loading.augment import augmentation  # scipy takes a moment to import

            augmentation(self.augment)
        if not self.validation_crop_s >= 0:
            raise InputError(
                f"validation_crop_s is {self.validation_crop_s}; give 0 for whole utterances, or a positive number"
            )
        if self.chunk_s < 0:
            raise InputError(
                f"chunk_s is {self.chunk_s}; it must be positive, or 0 for the crop range of batch"
            )
        for name in ("cpus_per_worker", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("loader_workers", "max_failures"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        smallest, largest = self.num_workers
        if not 1 <= smallest <= largest:
            raise InputError(
                f"num_workers is {smallest},{largest}; the minimum must be at least 1 and not above the maximum"
            )

    @property
    def detector(self) -> DetectorConfig:
        """Front end and head."""
        return DetectorConfig(VARIANTS[self.variant], self.head)

    @property
    def registered_name(self) -> str:
        """Name in the registry; empty if the detector is not registered."""
        return self.register.replace("{variant}", self.variant)
