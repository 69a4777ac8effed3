"""The settings of `bonafide score`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pipeline import tracking
from pipeline.data.corpora.recipe import RecipeName
from pipeline.detector.details import HEAD, SPECTRUM
from pipeline.detector.variants import VariantName
from pipeline.detector.windows import WindowPolicy
from pipeline.errors import InputError
from pipeline.fields import Checkpoint, Location, Locations, Names, Range, Reader, one_of


def _windows(text: str) -> Names:
    policies = Names.parse(text)
    if list(policies) == ["whole"]:
        return policies
    return Names.parse(json.dumps([str(WindowPolicy.parse(policy)) for policy in policies]))


Windows = Annotated[Names, Reader(_windows, "window policies separated by commas, none repeated")]
"""Different window policies, each as `WindowPolicy` writes it."""


ALL, NONE = "all", "none"


def _sample(text: str) -> str:
    if text not in (ALL, NONE) and int(text) < 1:
        raise ValueError
    return text


Sample = Annotated[str, Reader(_sample, "a number of utterances, all or none", alone=ALL)]
"""How many utterances."""


def _layers(text: str) -> Names:
    layers = Names.parse(text)
    if layers != (ALL,) and not all(
        layer in (HEAD, SPECTRUM) or re.fullmatch("0|[1-9][0-9]*", layer) for layer in layers
    ):
        raise ValueError
    return layers


Layers = Annotated[
    Names,
    Reader(_layers, "head, spectrum or numbers of layers, separated by commas and none repeated; or all"),
]

Frames = Annotated[
    Literal["none", "float16", "float32"],
    Reader(one_of("precision of frames", (NONE, "float16", "float32")).read, "a precision", alone="float32"),
]


@dataclass(frozen=True)
class ScoreConfig:
    """What to score, with which detector, and how."""

    checkpoint: Checkpoint
    """Detector file or folder, local or s3://, in any layout that `bonafide train --init` accepts; or a registered
    detector: models:/NAME/VERSION or models:/NAME@best."""
    out: Location
    """Folder or s3:// URI for the scores."""
    store: Location = ""
    """Folder or s3:// URI that `bonafide ingest` wrote."""
    audio: Location = ""
    """Instead of a store: folder or s3:// URI of audio files in any common format."""
    corpora: Names = Names()
    """Corpora of the store to score; default: all evaluation corpora of the snapshot, or with --use validation those
    that the recipe covers."""
    snapshot: str = "latest"
    """Name of the store's snapshot."""
    use: Literal["evaluation", "validation"] = "evaluation"
    """evaluation: every utterance of the corpora; validation: those that the recipe holds out from a training, to
    calibrate its detector."""
    recipe: RecipeName = ""
    """With --use validation: name or TOML file of the recipe of the training; default: the validation splits of all
    training corpora."""
    system: str = ""
    """Name of this detector in tables; default: the name and step of the checkpoint."""
    variant: VariantName = ""
    """Name of the front end, for a checkpoint that does not state it: xlsr_300m …"""
    window: Windows = Names(["whole"])
    """`whole` to score entire utterances, or `window:SECONDS:first|mean|max`. Scores depend on it. With several,
    separated by commas, an utterance is decoded once and scored under each, and --out has a folder for each."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic precision. Published EERs use fp32 or tf32. Scores depend on it, so --out holds scores of one
    precision only."""
    calibration: Locations = Names()
    """File that `bonafide calibrate` wrote, or one for each window, separated by commas; default: what is stored with
    the detector for the window and precision, except for --use validation."""
    embeddings: Sample = NONE
    """Write embeddings beside the scores, of all utterances, or of at most so many of each corpus, label and attack."""
    layer: Layers = Names([HEAD])
    """With --embeddings: head, what the head of the detector classifies; the number of a hidden state, whose mean over
    frames is taken: 0 is the input of the first layer, 4 the output of layer 4; or spectrum, statistics of the spectrum
    of the waveform, to trace systems. Several, separated by commas, or all."""
    frames: Frames = "none"
    """Write the score of every 20 ms beside the score of the utterance, in this precision."""
    batch_seconds: Annotated[float, Range(0, 1e6)] = 0.0
    """Audio per batch, including padding, in seconds; 0: 10 on a CPU, 200 on a GPU."""
    memory_gib: Annotated[float, Range(0, 1e6)] = 0.0
    """Memory that each scoring process may use for a batch, in GiB; 0: its share of the free memory. A longer
    utterance is rejected, unless --window cuts it into windows that fit."""
    part_seconds: Annotated[float, Range(1, 1e6)] = 1800.0
    """Audio per part, in seconds. Utterances are batched by length within a part, and a run that was killed scores
    its unfinished parts again. With --audio, durations are estimated from file sizes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: GPUs if the cluster has any."""
    num_workers: Annotated[int, Range(0, 10_000)] = 0
    """Scoring processes; 0: as many as fit on the GPUs of the cluster, or one per four cores without GPUs. They share
    the cores and the memory."""
    gpus_per_worker: Annotated[float, Range(0.01, 100)] = 1.0
    """GPUs per process. With 0.5, two processes share a GPU, which keeps it busy when the detector is small."""
    tracking_uri: tracking.TrackingUri = ""
    """MLflow tracking server or database; default: no tracking."""
    experiment: str = tracking.EXPERIMENT
    """MLflow experiment."""

    def __post_init__(self) -> None:
        if bool(self.store) == bool(self.audio):
            raise InputError(
                "give either --store, to score corpora of a store, or --audio, to score a folder"
            )
        if self.audio and (self.corpora or self.snapshot != "latest" or self.use != "evaluation"):
            raise InputError(
                "--corpora, --snapshot and --use select from a store; remove them, or replace --audio by --store"
            )
        if self.recipe and self.use != "validation":
            raise InputError("--recipe decides what validates a training; add --use validation, or remove it")
        if self.embeddings == NONE and self.layer != ScoreConfig.layer:
            raise InputError("--layer chooses among embeddings; add --embeddings, or remove it")
        if self.out in (self.store, self.audio):
            raise InputError(f"--out {self.out} is the input as well; give the scores a folder of their own")
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise InputError(
                f"--gpus-per-worker {self.gpus_per_worker}: give a fraction below 1, or a whole number"
            )
        if self.device == "cpu" and self.gpus_per_worker != ScoreConfig.gpus_per_worker:
            raise InputError("--gpus-per-worker needs GPUs; leave out --device cpu")
        tracking.check_flags(self.tracking_uri, self.experiment)
