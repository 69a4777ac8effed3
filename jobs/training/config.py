"""The settings of `bonafide train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pipeline import tracking
from pipeline.data.audio.waveform import ChunkSeconds
from pipeline.data.corpora.recipe import RecipeName
from pipeline.data.loading.buckets import BatchConfig
from pipeline.detector.config import TrainingConfig
from pipeline.detector.variants import FRAME_HEADS, VARIANTS, DetectorConfig, HeadConfig, VariantName
from pipeline.errors import InputError
from pipeline.fields import (
    Bounds,
    Checkpoint,
    Count,
    CountOrZero,
    Location,
    Names,
    PositiveOrZero,
    Range,
    Text,
)
from pipeline.settings import array_of_tables

if TYPE_CHECKING:
    from pipeline.data.loading.augment.step import Step


def _read_steps(tables: Sequence[Any]) -> tuple[Step, ...]:
    from pipeline.data.loading.augment.composition import read_steps  # scipy takes a moment to import

    return read_steps(tables)


Augmentations = Annotated[tuple[Any, ...], array_of_tables(_read_steps)]


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on which data, and where to write it."""

    store: Location
    """Folder or s3:// URI of the shards and snapshots that `bonafide ingest` wrote."""
    out: Location
    """Folder or s3:// URI for checkpoints and the trained detector."""
    snapshot: str = "latest"
    """Name of the snapshot; a resumed training keeps the snapshot it started with."""
    recipe: RecipeName = ""
    """Name or TOML file of a recipe: which utterances train, which validate, how often each is drawn, and which
    artifacts count as spoof. By default everything but the validation splits trains, and every artifact is spoof."""
    corpora: Names = Names()
    """Corpora to train on and to validate with; by default those of the recipe, or all training corpora."""
    variant: VariantName = "xlsr_300m"
    """Name of the front end: w2v_small, xlsr_300m, xlsr_1b, mms_1b, hubert_xl …"""
    head: HeadConfig = field(default_factory=HeadConfig)
    init: Checkpoint = ""
    """Checkpoint to start from, a self-supervised model or a detector: file or folder, local or s3://, or a registered
    detector, models:/NAME/VERSION or models:/NAME@best. Random weights by default."""
    num_workers: Annotated[Bounds, Range(1, 10_000)] = Bounds((1, 1))
    """Workers (ranks), each with one GPU if the cluster has any. Two numbers (4,16) are a minimum and a maximum:
    the training grows and shrinks with the cluster."""
    cpus_per_worker: Annotated[int, Range(1, 1000)] = 1
    loader_workers: Annotated[int, Range(0, 1000)] = 0
    """Processes that read and decode for each worker; 0 decodes in the worker itself."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: GPUs if the cluster has any."""
    max_failures: CountOrZero = 3
    """How many failed attempts in a row, without a new checkpoint in between, are retried; the next one ends the
    training."""
    keep_checkpoints: Count = 2
    """How many of the newest checkpoints to keep; the best weights are kept separately."""
    augment: Augmentations = ()
    """Augmentations of training utterances, applied in this order: rawboost1 … rawboost8, colour, reverberation … A
    TOML file gives their settings in tables, [[augment]]."""
    chunk_s: ChunkSeconds = 0.0
    """Crop longer training utterances to a random window of exactly this many seconds, instead of
    batch.crop_min_s to batch.crop_max_s. AntiDeepfake fine-tunes on Deepfake-Eval-2024 with 4, 10, 13, 30 and 50 s; an
    ingest with the same --chunk-s cuts its validation and test files. 0: use the crop range of batch."""
    validation_crop_s: PositiveOrZero = 0.0
    """Validate with only the first so many seconds of each utterance; 0: with whole utterances. Needed if the longest
    does not fit into memory, which is checked before the first step."""
    find_batch_seconds: bool = False
    """Find the largest batch.max_seconds that fits into the memory of a GPU, once, when the training starts."""
    batch: BatchConfig = field(default_factory=BatchConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tracking_uri: tracking.TrackingUri = ""
    """MLflow tracking server or database; without it nothing is tracked."""
    experiment: str = tracking.EXPERIMENT
    """MLflow experiment."""
    register: Text = "bonafide-{variant}"
    """Name under which the detector is registered in MLflow, for `bonafide score --checkpoint models:/NAME@best`.
    Empty: do not register it."""

    def __post_init__(self) -> None:
        if self.register:
            tracking.check_name(self.registered_name)
        tracking.check_flags(self.tracking_uri, self.experiment)
        if self.store == self.out:
            raise InputError(f"--store and --out are both {self.out}; give the training a folder of its own")
        if self.chunk_s > self.batch.max_seconds:
            raise InputError(
                f"--chunk-s {self.chunk_s:g} is longer than a batch of --batch.max-seconds "
                f"{self.batch.max_seconds:g}; raise that, or shorten the chunks"
            )
        self.training.lora.check_fits(VARIANTS[self.variant])
        if self.training.loss.name == "oc_softmax" and self.head.name != "mean_linear":
            raise InputError(
                f"oc_softmax starts from a direction that a {self.head.name} head does not have; "
                "choose another --training.loss.name or --head.name"
            )
        if self.training.loss.frame_weight and self.head.name not in FRAME_HEADS:
            raise InputError(
                f"--training.loss.frame-weight needs logits of frames, which a {self.head.name} head does not have; "
                f"leave it out, or choose --head.name {' or '.join(FRAME_HEADS)}"
            )
        if self.training.select_by == "frames" and not self.training.loss.frame_weight:
            raise InputError(
                "--training.select-by frames needs labels of frames; set --training.loss.frame-weight as well, or "
                "select by pooled"
            )
        if self.find_batch_seconds and self.device == "cpu":
            raise InputError("--find-batch-seconds measures the memory of a GPU; leave out --device cpu")

    @property
    def detector(self) -> DetectorConfig:
        """Front end and head."""
        return DetectorConfig(VARIANTS[self.variant], self.head)

    @property
    def registered_name(self) -> str:
        """Name in the registry; empty if the detector is not registered."""
        return self.register.replace("{variant}", self.variant)
