"""The settings of `bonafide score`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config import Names
from pipeline.errors import InputError


@dataclass(frozen=True)
class ScoreConfig:
    """What to score, with which detector, and how."""

    checkpoint: str
    """Detector file or folder, local or s3://, in any layout that `bonafide train --init` accepts; or a registered
    detector: models:/NAME/VERSION or models:/NAME@best."""
    out: str
    """Folder or s3:// URI for the scores."""
    store: str = ""
    """Folder or s3:// URI that `bonafide ingest` wrote."""
    audio: str = ""
    """Instead of a store: folder or s3:// URI of audio files in any common format."""
    corpora: Names = Names()
    """Corpora of the store to score; default: all evaluation corpora of the snapshot."""
    snapshot: str = "latest"
    """Name of the store's snapshot."""
    system: str = ""
    """Name of this detector in tables; default: the name and step of the checkpoint."""
    variant: str = ""
    """Name of the front end, for a checkpoint that does not state it: xlsr_300m …"""
    window: str = "whole"
    """`whole` to score entire utterances, or `window:SECONDS:first|mean|max`. Scores depend on it, so --out holds
    scores of one window only."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic precision. Published EERs use fp32 or tf32. Scores depend on it, so --out holds scores of one
    precision only."""
    batch_seconds: float = 0.0
    """Audio per batch, including padding, in seconds; 0: 30 on a CPU, 200 on a GPU."""
    memory_gib: float = 0.0
    """Memory that each scoring process may use for a batch, in GiB; 0: its share of what is free. An utterance that
    needs more is not scored in one piece: it is rejected, unless --window cuts it."""
    part_seconds: float = 1800.0
    """Audio per part, in seconds. Utterances are batched by length within a part, and a run that was killed scores
    its unfinished parts again. With --audio, durations are estimated from file sizes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: GPUs if the cluster has any."""
    num_workers: int = 0
    """Scoring processes; 0: as many as fit on the GPUs of the cluster, or one per four cores without GPUs. They share
    the cores and the memory."""
    gpus_per_worker: float = 1.0
    """GPUs per process. With 0.5, two processes share a GPU, which keeps it busy when the detector is small."""
    tracking_uri: str = ""
    """MLflow tracking server or database; default: no tracking."""
    experiment: str = "bonafide"
    """MLflow experiment."""

    def __post_init__(self) -> None:
        if bool(self.store) == bool(self.audio):
            raise InputError(
                "give either --store, to score corpora of a store, or --audio, to score a folder"
            )
        if self.audio and (self.corpora or self.snapshot != "latest"):
            raise InputError(
                "--corpora and --snapshot select from a store; remove them, or replace --audio by --store"
            )
        if self.gpus_per_worker <= 0 or (self.gpus_per_worker > 1 and self.gpus_per_worker % 1):
            raise InputError(
                f"gpus_per_worker is {self.gpus_per_worker}; give a fraction below 1, or a whole number"
            )
        if self.num_workers < 0:
            raise InputError(
                f"num_workers is {self.num_workers}; give 0 for the default, or a positive number"
            )
        if not self.part_seconds > 0:
            raise InputError(f"part_seconds is {self.part_seconds}; it must be positive")
        for name in ("batch_seconds", "memory_gib"):
            if not getattr(self, name) >= 0:
                raise InputError(
                    f"{name} is {getattr(self, name)}; give 0 for the default, or a positive number"
                )
