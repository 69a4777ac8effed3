"""The data of one worker: its share of the training batches and of the validation utterances; and their names."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from jobs.training.resolve import ResolvedTraining
from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.data.store.snapshot import load_utterances
from pipeline.errors import InputError
from pipeline.metrics import Group
from pipeline.progress import counted

if TYPE_CHECKING:
    import torch

    from pipeline.data.loading.augment.composition import Augmenter
    from pipeline.data.loading.batches import Batch
    from pipeline.data.store.index import Index

MAX_NAMED = 5
"""At most so many utterances are named in a message."""

TRAINING_COPIES = 3
"""Tensors of the size of the trained weights, beside the weights themselves: gradients, and two moments of AdamW."""


class WorkerData:
    """The batches of one rank."""

    def __init__(self, training: ResolvedTraining, rank: int, world: int) -> None:
        from pipeline.data.loading.batches import TrainingBatches
        from pipeline.data.loading.frame_labels import load_partial_labels
        from pipeline.data.store.index import load_index, node_folder

        self._config = training.config
        self._store = training.store
        self._rank, self._world = rank, world
        has_frame_labels = training.config.training.loss.frame_weight > 0
        self._partial = load_partial_labels(training.store, training.snapshot) if has_frame_labels else None
        load_part = (training.store, training.snapshot, training.recipe)
        self._validation = load_index(*load_part, "validation", node_folder())
        self._training = TrainingBatches(
            training.store,
            load_index(*load_part, "train", node_folder()),
            training.config.batch,
            domains=training.recipe.domains,
            rank=rank,
            world=world,
            num_workers=training.config.loader_workers,
            augment=_augmenter(training),
            partial=self._partial,
        )
        check_validation_memory(training, self._validation, free_for_validation(training, world))
        self.group_of = _group_of(self._validation)
        """uid → corpus and attack, of the validation utterances."""

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
            partial=self._partial,
        )

    def log_odds(self) -> float | None:
        """Compute the natural log of the odds of bona fide in training: by draws, and by the weights in the loss.

        None for expected_accuracy, whose scores are not log odds: they start as those of another detector, with odds
        that are not known here, and accuracy moves them towards the likelier class as far as beta allows. None with a
        loss of frames, which has odds of its own.

        It depends on the index and on settings that a resumed training keeps, not on the epoch or the number of ranks.
        """
        from pipeline.data.loading.buckets import draw_log_odds

        batches, training = self._training, self._config.training
        if training.loss.name == "expected_accuracy" or training.loss.frame_weight:
            return None
        draws = draw_log_odds(batches.index, batches.config, batches.buckets)
        return draws + math.log(training.bonafide_weight / training.spoof_weight)

    def summary(self) -> str:
        """Describe the first epoch and what is drawn of the domains, in one line each."""
        epoch = self._training.plan(0).summary(self._world)
        frames = f"\n{self._describe_frames()}" if self._partial is not None else ""
        return (
            f"{epoch.used} training utterances, {epoch.audio_s / 3600:.1f} h, in {epoch.num_steps} batches for each "
            f"of {counted(self._world, 'worker')}, {epoch.padding:.1%} padding; "
            f"left out: {epoch.leftover} that fill no batch, {epoch.too_short} too short, {epoch.too_long} too long; "
            f"{len(self._validation.label)} validation utterances\n"
            f"{self._training.buckets.draws.describe()}{frames}"
        )

    def _describe_frames(self) -> str:
        """Say how much of the training utterances has labels of frames."""
        from pipeline.data.loading.frame_labels import count_labelled

        assert self._partial is not None
        number, seconds = count_labelled(self._partial, self._training.index)
        return (
            f"frame labels: {seconds / 3600:.1f} h in the regions of {counted(number, 'training utterance')}"
        )


def _augmenter(training: ResolvedTraining) -> Augmenter | None:
    """Combine the augmentations; without any, scipy is not imported, which takes more than a second."""
    steps = training.config.augment
    if not steps:
        return None
    from pipeline.data.loading.augment.composition import augmenter, sources_of
    from pipeline.data.loading.augment.library import load_recordings

    return augmenter(steps, load_recordings(training.store, training.recordings, sources_of(steps)))


def _group_of(index: Index) -> dict[str, Group]:
    """uid → corpus and attack, of an index whose domains are divided by attack."""
    groups = [
        Group(
            domain.corpus,
            domain.name.removeprefix(f"{domain.corpus}/") if domain.label == "spoof" else "",
        )
        for domain in index.domains
    ]
    return {
        f"{uid:016x}": groups[domain]
        for uid, domain in zip(index.uid.tolist(), index.domain.tolist(), strict=True)
    }


def free_for_validation(training: ResolvedTraining, world: int) -> float:
    """Measure the memory that this rank can use for a batch of a validation, before its training has allocated any."""
    import torch

    from pipeline.detector.lora import adapt
    from pipeline.detector.memory import SAFETY
    from pipeline.detector.memory_limit import free_bytes
    from pipeline.detector.network import Detector

    config = training.config
    with torch.device("meta"):
        detector = Detector(config.detector)
    adapt(detector, config.training.lora, config.training.seed)
    num_weights = sum(weight.numel() for weight in detector.parameters())
    num_trained = sum(weight.numel() for weight in detector.parameters() if weight.requires_grad)
    # A loss may need a frozen copy of all weights, and an average has a copy of those that are trained.
    num_copies = 1 + config.training.loss.has_reference
    num_trained_copies = TRAINING_COPIES + (config.training.ema.decay > 0)
    state_bytes = 4 * (num_copies * num_weights + num_trained_copies * num_trained)
    num_shards = world if config.training.strategy == "fsdp" else 1
    device = _device(training)
    # A GPU has one rank; the ranks of a machine share its memory.
    num_sharing = 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return SAFETY * free_bytes(device) / num_sharing - state_bytes / num_shards


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
    head = config.detector.head
    inference = Inference(front_end, device=device.type, has_fused_attention=is_fused, head=head)
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
