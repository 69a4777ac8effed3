"""Batches of waveforms for a rank: from a plan, through workers, into tensors.

A rank's own process plans (see `epoch`) and sends each worker what to read (see `reading`), so workers hold neither
the index nor a plan, and how many there are changes nothing about what a batch holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.data.loading.buckets import BatchConfig, Buckets, plan_buckets
from pipeline.data.loading.epoch import EpochPlan, PlannedBatch
from pipeline.data.loading.reading import Augment, BatchReader, Reads, rounding
from pipeline.data.loading.workers import Filled, fill_batches
from pipeline.data.store.index import Index
from pipeline.storage import Folder

# B: utterances, T: samples at 16 kHz.


@dataclass(frozen=True)
class Batch:
    """What one rank sees in one step."""

    waveform: Tensor
    """[B, T] float32; each utterance has mean 0 and variance 1 over its own samples, then zeros."""
    num_samples: Tensor
    """[B] int64."""
    label: Tensor
    """[B] int64: 0 spoof, 1 bona fide."""
    uid: list[str]

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, from which copies to a GPU are asynchronous."""
        return Batch(
            self.waveform.pin_memory(), self.num_samples.pin_memory(), self.label.pin_memory(), self.uid
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on a device."""
        return Batch(
            self.waveform.to(device, non_blocking=non_blocking),
            self.num_samples.to(device, non_blocking=non_blocking),
            self.label.to(device, non_blocking=non_blocking),
            self.uid,
        )


class TrainingBatches:
    """A rank's batches of any epoch, from any position on."""

    def __init__(
        self,
        folder: Folder,
        index: Index,
        config: BatchConfig,
        *,
        rank: int = 0,
        world: int = 1,
        num_workers: int = 0,
        augment: Augment | None = None,
    ):
        self.folder = folder
        self.index = index
        self.config = config
        self.rank = rank
        self.world = world
        self.num_workers = num_workers
        self.augment = augment
        self.buckets: Buckets = plan_buckets(index, config)

    def plan(self, epoch: int) -> EpochPlan:
        """The plan of an epoch, the same on every rank."""
        return EpochPlan(self.index, self.config, epoch, self.buckets)

    def __call__(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the first one that no rank has taken yet."""
        plan = self.plan(epoch)
        numbers = plan.batch_numbers(self.rank, self.world, first_batch)
        reads = (_plan_reads(self.index, plan[number]) for number in numbers)
        sizes = self.buckets.batch_size
        largest = int((sizes * self.buckets.padded_samples).max()), int(sizes.max())
        reader = BatchReader(self.folder, self.augment)
        return _tensors(fill_batches(reader, reads, self.num_workers, largest), self.num_workers)


def evaluation_batches(
    folder: Folder,
    index: Index,
    *,
    max_seconds: float = 100.0,
    rank: int = 0,
    world: int = 1,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """A rank's share of all utterances, whole, the longest first; ranks may differ by one batch."""
    planned = plan_evaluation(index, max_seconds)[rank::world]
    largest = (
        max((len(batch.rows) * batch.padded_samples for batch in planned), default=1),
        max((len(batch.rows) for batch in planned), default=1),
    )
    reads = (_plan_reads(index, batch) for batch in planned)
    return _tensors(fill_batches(BatchReader(folder, None), reads, num_workers, largest), num_workers)


def plan_evaluation(index: Index, max_seconds: float) -> list[PlannedBatch]:
    """Cut all utterances, sorted by length, into batches of at most `max_seconds` with their padding.

    An utterance that is longer than that has a batch of its own.
    """
    num_samples = np.rint(index.seconds.astype(np.float64) * SAMPLE_RATE).astype(np.int64)
    order = np.argsort(-num_samples, kind="stable")
    planned = []
    begin = 0
    while begin < len(order):
        longest = max(1, int(num_samples[order[begin]]))
        rows = order[begin : begin + max(1, int(max_seconds * SAMPLE_RATE) // longest)]
        none = np.zeros(len(rows))
        padded = longest + rounding(longest)
        planned.append(PlannedBatch(rows, num_samples[rows], none, none.astype(np.uint64), padded))
        begin += len(rows)
    return planned


def _plan_reads(index: Index, planned: PlannedBatch) -> Reads:
    rows = planned.rows
    stored = np.rint(index.seconds[rows].astype(np.float64) * SAMPLE_RATE).astype(np.int64)
    return Reads(
        shards=[index.shards[shard] for shard in index.shard[rows]],
        offset=index.offset[rows].tolist(),
        num_bytes=index.num_bytes[rows].tolist(),
        uid=[f"{uid:016x}" for uid in index.uid[rows].tolist()],
        label=index.label[rows],
        stored_samples=stored.tolist(),
        num_samples=planned.num_samples.tolist(),
        crop_start=planned.crop_start.tolist(),
        augment_seed=planned.augment_seed.tolist(),
        padded_samples=planned.padded_samples,
    )


def _tensors(filled: Iterator[Filled], num_workers: int) -> Iterator[Batch]:
    """Batches as tensors, in page-locked memory where there is a GPU."""
    batches = map(_batch, filled)
    if torch.cuda.is_available():
        return _one_ahead(batches, Batch.pin_memory)
    return _one_ahead(batches, _unchanged) if num_workers else batches


def _unchanged(batch: Batch) -> Batch:
    return batch


def _batch(filled: Filled) -> Batch:
    """The tensor holds on to the array, and with it to the memory that it lies in."""
    return Batch(
        waveform=torch.from_numpy(filled.waveform),
        num_samples=torch.from_numpy(filled.num_samples),
        label=torch.from_numpy(filled.reads.label.astype(np.int64)),
        uid=filled.reads.uid,
    )


S = TypeVar("S")
T = TypeVar("T")


def _one_ahead(source: Iterator[S], change: Callable[[S], T]) -> Iterator[T]:
    """Get and change each item in a thread, while the one before it is in use.

    Planning what workers do next takes half a millisecond, for which the training would else wait in every step.
    """

    def take() -> list[T]:
        return [change(item) for item in itertools.islice(source, 1)]

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(take)
        while taken := coming.result():
            coming = thread.submit(take)
            yield taken[0]
