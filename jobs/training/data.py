"""The data of one worker: its share of the training batches and of the validation utterances."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jobs.training.resolve import ResolvedTraining
from pipeline.progress import counted

if TYPE_CHECKING:
    from pipeline.data.loading.batches import Batch
    from pipeline.data.store.index import Index


class WorkerData:
    """The batches of one rank."""

    def __init__(self, training: ResolvedTraining, rank: int, world: int) -> None:
        from pipeline.data.loading.augment import augmentation
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
            augment=augmentation(training.config.augment),
        )
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
            rank=self._rank,
            world=self._world,
            num_workers=self._config.loader_workers,
        )

    def summary(self) -> str:
        """Describe the first epoch in one line."""
        epoch = self._training.plan(0).summary(self._world)
        return (
            f"{epoch.used} training utterances, {epoch.audio_s / 3600:.1f} h, in {epoch.num_steps} batches for each "
            f"of {counted(self._world, 'worker')}, {epoch.padding:.1%} padding; "
            f"left out: {epoch.leftover} that fill no batch, {epoch.too_short} too short, {epoch.too_long} too long; "
            f"{len(self._validation.label)} validation utterances"
        )


def _corpus_of(index: Index) -> dict[str, str]:
    """uid → corpus."""
    return {
        f"{uid:016x}": index.corpora[corpus]
        for uid, corpus in zip(index.uid.tolist(), index.corpus.tolist(), strict=True)
    }
