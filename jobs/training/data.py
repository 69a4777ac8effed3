"""The data of one worker: its share of the training batches and of the validation utterances; and their names."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from jobs.training.resolve import ResolvedTraining
from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.data.store.snapshot import load_utterances
from pipeline.errors import InputError
from pipeline.progress import counted

if TYPE_CHECKING:
    import torch

    from pipeline.data.loading.augment import Augmentation
    from pipeline.data.loading.batches import Batch
    from pipeline.data.store.index import Index

MAX_NAMED = 5
"""At most so many utterances are named in a message."""

STATE_COPIES = 4
"""Tensors of the size of the weights in a training: weights, gradients, and two moments of AdamW. A loss with a
reference has one more."""


class WorkerData:
    """The batches of one rank."""

    def __init__(self, training: ResolvedTraining, rank: int, world: int) -> None:
        from pipeline.data.loading.batches import TrainingBatches
        from pipeline.data.store.index import load_index, node_folder

        self._config = training.config
        self._store = training.store
        self._rank, self._world = rank, world
        load_part = (training.store, training.snapshot, training.recipe)
        self._validation = load_index(*load_part, "validation", node_folder())
        self._training = TrainingBatches(
            training.store,
            load_index(*load_part, "train", node_folder()),
            training.config.batch,
            rank=rank,
            world=world,
            num_workers=training.config.loader_workers,
            augment=_augmentation(training.config.augment),
        )
        check_validation_memory(training, self._validation, free_for_validation(training, world))
        self.corpus_of = _corpus_of(self._validation)
        """uid → corpus, of the validation utterances."""

    def batches(self, epoch: int, first_batch: int) -> Iterator[Batch]:
        """Yield this rank's share of an epoch, starting at a batch."""
        return self._training(epoch, first_batch=first_batch)

    def validation_batches(self) -> Iterator[Batch]:
        """Yield this rank's share of the validation utterances."""
        from pipeline.data.loading.batches import evaluation_batches

        return evaluation_batches(
            self._store,
            self._validation,
            max_seconds=self._config.batch.max_seconds,
            crop_s=self._config.validation_crop_s or float("inf"),
            rank=self._rank,
            world=self._world,
            num_workers=self._config.loader_workers,
        )

    def log_odds(self) -> float | None:
        """Compute the natural log of the odds of bona fide in training: by draws, and by the weights in the loss.

        None for expected_accuracy, whose scores are not log odds: they start as those of another detector, with odds
        that are not known here, and accuracy moves them towards the likelier class as far as beta allows.

        It depends on the index and on settings that a resumed training keeps, not on the epoch or the number of ranks.
        """
        from pipeline.data.loading.buckets import draw_log_odds

        batches, training = self._training, self._config.training
        if training.loss.name == "expected_accuracy":
            return None
        draws = draw_log_odds(batches.index, batches.config, batches.buckets)
        return draws + math.log(training.bonafide_weight / training.spoof_weight)

    def summary(self) -> str:
        """Describe the first epoch in one line."""
        epoch = self._training.plan(0).summary(self._world)
        return (
            f"{epoch.used} training utterances, {epoch.audio_s / 3600:.1f} h, in {epoch.num_steps} batches for each "
            f"of {counted(self._world, 'worker')}, {epoch.padding:.1%} padding; "
            f"left out: {epoch.leftover} that fill no batch, {epoch.too_short} too short, {epoch.too_long} too long; "
            f"{len(self._validation.label)} validation utterances"
        )


def _augmentation(names: Sequence[str]) -> Augmentation | None:
    """Combine the named augmentations; without any, scipy is not imported, which takes more than a second."""
    if not names:
        return None
    from pipeline.data.loading.augment import augmentation

    return augmentation(names)


def _corpus_of(index: Index) -> dict[str, str]:
    """uid → corpus."""
    return {
        f"{uid:016x}": index.corpora[corpus]
        for uid, corpus in zip(index.uid.tolist(), index.corpus.tolist(), strict=True)
    }


def free_for_validation(training: ResolvedTraining, world: int) -> float:
    """Measure the memory that this rank can use for a batch of a validation, before its training has allocated any."""
    import torch

    from pipeline.detector.memory import SAFETY
    from pipeline.detector.memory_limit import free_bytes
    from pipeline.detector.network import Detector

    config = training.config
    with torch.device("meta"):
        num_weights = sum(weight.numel() for weight in Detector(config.detector).parameters())
    num_shards = world if config.training.strategy == "fsdp" else 1
    device = _device(training)
    # A GPU has one rank; the ranks of a machine share its memory.
    num_sharing = 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    num_copies = STATE_COPIES + config.training.loss.has_reference
    return SAFETY * free_bytes(device) / num_sharing - num_copies * num_weights * 4 / num_shards


def check_validation_memory(training: ResolvedTraining, validation: Index, free: float) -> None:
    """Refuse a validation whose longest utterance does not fit into memory, before it is tried.

    Args:
        training: the training.
        validation: its validation utterances.
        free: bytes that a batch may use.

    Raises:
        InputError: it does not fit.
    """
    from pipeline.detector.memory import GIB, Inference
    from pipeline.detector.scoring import has_fused_attention

    if not len(validation):
        return
    config, device = training.config, _device(training)
    front_end = config.detector.front_end
    is_fused = has_fused_attention(front_end, device, "fp32")
    inference = Inference(front_end, device=device.type, has_fused_attention=is_fused)
    longest = int(validation.seconds.argmax())
    seconds = min(float(validation.seconds[longest]), config.validation_crop_s or float("inf"))
    needed = inference.utterance_bytes(round(seconds * SAMPLE_RATE))
    if needed > free:
        [uid] = validation.uid[longest : longest + 1].tolist()
        raise InputError(
            f"validating with {name_utterances(training, [f'{uid:016x}'])} needs {needed / GIB:.2f} GiB for "
            f"{seconds:.1f} s, and a worker has {max(0.0, free) / GIB:.2f} GiB beside its training; validate with the "
            "first seconds of each utterance (--validation-crop-s 30), use fewer --num-workers per machine, or more "
            "memory"
        )


def _device(training: ResolvedTraining) -> torch.device:
    import torch

    is_cpu = training.config.device == "cpu" or not torch.cuda.is_available()
    return torch.device("cpu" if is_cpu else "cuda")


def name_utterances(training: ResolvedTraining, uids: Collection[str]) -> str:
    """Name utterances of the snapshot by corpus, id and duration, the longest first; a few of many."""
    if not uids:
        return ""
    columns = ["uid", "corpus", "id", "seconds"]
    table = load_utterances(training.store, training.snapshot, columns)
    chosen = table.filter(pc.is_in(table["uid"], pa.array(list(uids), pa.string())))
    rows = chosen.sort_by([("seconds", "descending"), ("id", "ascending")]).to_pylist()
    names = [f"{row['corpus']}/{row['id']} ({row['seconds']:.1f} s)" for row in rows[:MAX_NAMED]]
    return ", ".join(names) + (f" and {len(rows) - MAX_NAMED} more" if len(rows) > MAX_NAMED else "")
