"""Batches of waveforms for one rank, as tensors.

The rank plans each batch (`epoch`) and sends the request to a worker (`workers`), which reads it (`reading`). Workers
hold neither the index nor a plan, so their number does not change the contents of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.data.corpora.domains import DomainRule
from pipeline.data.loading.buckets import BatchConfig, Buckets, plan_buckets
from pipeline.data.loading.epoch import EpochPlan, PlannedBatch
from pipeline.data.loading.frame_labels import PartialLabels, label_crops
from pipeline.data.loading.padding import padded_length, plan_padded_batches
from pipeline.data.loading.reading import Augment, BatchReader, BatchRequest, length_tolerance
from pipeline.data.loading.workers import BatchLimits, FilledBatch, fill_batches
from pipeline.data.store.index import Index
from pipeline.storage import Folder

# B: utterances, T: samples at 16 kHz.


@dataclass(frozen=True)
class Batch:
    """The utterances that one rank processes in one step."""

    waveform: Tensor
    """[B, T] float32; each utterance has mean 0 and variance 1 over its own samples and is padded with zeros."""
    num_samples: Tensor
    """[B] int64."""
    label: Tensor
    """[B] int64: 0 spoof, 1 bona fide."""
    uid: list[str]
    frame_label: Tensor | None = None
    """[B, F] int8: 0 spoof, 1 bona fide, -1 no label; None if frames are not labelled."""

    def pin_memory(self) -> Batch:
        """Copy the batch to page-locked memory, from which copies to a GPU are asynchronous."""
        return Batch(
            self.waveform.pin_memory(),
            self.num_samples.pin_memory(),
            self.label.pin_memory(),
            self.uid,
            None if self.frame_label is None else self.frame_label.pin_memory(),
        )


class TrainingBatches:
    """One rank's batches of any epoch, starting at any batch."""

    def __init__(
        self,
        folder: Folder,
        index: Index,
        config: BatchConfig,
        *,
        domains: DomainRule | None = None,
        rank: int = 0,
        world: int = 1,
        num_workers: int = 0,
        augment: Augment | None = None,
        partial: PartialLabels | None = None,
    ):
        self.folder = folder
        self.index = index
        self.config = config
        self.rank = rank
        self.world = world
        self.num_workers = num_workers
        self.augment = augment
        self.partial = partial
        """With it, frames are labelled, and crops have the label of their part of the utterance."""
        self.buckets: Buckets = plan_buckets(index, config, domains)

    def plan(self, epoch: int) -> EpochPlan:
        """Plan an epoch; the plan is the same on every rank."""
        return EpochPlan(self.index, self.config, epoch, self.buckets)

    def requests(self, epoch: int, first_batch: int = 0) -> Iterator[BatchRequest]:
        """Request this rank's batches of an epoch, starting at the first batch that no rank has taken."""
        plan = self.plan(epoch)
        numbers = plan.batch_numbers(self.rank, self.world, first_batch)
        return (_make_request(self.index, plan[number], self.partial) for number in numbers)

    def __call__(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """Load this rank's batches of an epoch, starting at the first batch that no rank has taken."""
        sizes = self.buckets.batch_size
        limits = BatchLimits(int((sizes * self.buckets.padded_samples).max()), int(sizes.max()))
        reader = BatchReader(self.folder, self.augment)
        requests = self.requests(epoch, first_batch)
        return _to_tensors(fill_batches(reader, requests, self.num_workers, limits), self.num_workers)


def evaluation_batches(
    folder: Folder,
    index: Index,
    *,
    max_seconds: float = 100.0,
    crop_s: float = float("inf"),
    rank: int = 0,
    world: int = 1,
    num_workers: int = 0,
    partial: PartialLabels | None = None,
) -> Iterator[Batch]:
    """Load a rank's share of all utterances, longest first; shares differ by at most one batch.

    Only the first `crop_s` seconds of an utterance are loaded. With `partial`, frames are labelled, and the label
    of each utterance stays.
    """
    planned = plan_evaluation(index, max_seconds, crop_s)[rank::world]
    limits = BatchLimits(
        max((len(batch.rows) * batch.padded_samples for batch in planned), default=1),
        max((len(batch.rows) for batch in planned), default=1),
    )
    requests = (_make_request(index, batch, partial, is_training=False) for batch in planned)
    return _to_tensors(fill_batches(BatchReader(folder, None), requests, num_workers, limits), num_workers)


def plan_evaluation(index: Index, max_seconds: float, crop_s: float = float("inf")) -> list[PlannedBatch]:
    """Group all utterances by length into batches of at most `max_seconds` with padding, longest first.

    An utterance that is longer than that gets a batch of its own. Of each, the first `crop_s` seconds count.
    """
    num_samples = _stored_samples(np.minimum(index.seconds, np.float32(crop_s)))
    planned = []
    for rows in plan_padded_batches(num_samples, int(max_seconds * SAMPLE_RATE)):
        longest = max(1, int(num_samples[rows[0]]))
        zeros = np.zeros(len(rows))
        padded = padded_length(longest + length_tolerance(longest))
        planned.append(PlannedBatch(rows, num_samples[rows], zeros, zeros.astype(np.uint64), padded))
    return planned


def _stored_samples(seconds: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.rint(seconds.astype(np.float64) * SAMPLE_RATE).astype(np.int64)


def _make_request(
    index: Index, planned: PlannedBatch, partial: PartialLabels | None, *, is_training: bool = True
) -> BatchRequest:
    rows, label, frame_label = planned.rows, index.label[planned.rows], None
    stored_samples = _stored_samples(index.seconds[rows])
    crop_start = _crop_starts(planned, stored_samples)
    if partial is not None:
        # A longer utterance than its stored seconds say has a frame more at most, which has no label.
        num_samples = np.minimum(planned.num_samples, stored_samples)
        crops = label_crops(partial, index.uid[rows], label, crop_start, num_samples, planned.padded_samples)
        frame_label = crops.frame_label
        label = crops.label if is_training else label
    return BatchRequest(
        shards=[index.shards[shard] for shard in index.shard[rows]],
        offset=index.offset[rows].tolist(),
        num_bytes=index.num_bytes[rows].tolist(),
        uid=[f"{uid:016x}" for uid in index.uid[rows].tolist()],
        label=label,
        stored_samples=stored_samples.tolist(),
        num_samples=planned.num_samples.tolist(),
        crop_start=crop_start.tolist(),
        augment_seed=planned.augment_seed.tolist(),
        padded_samples=planned.padded_samples,
        frame_label=frame_label,
    )


def _crop_starts(planned: PlannedBatch, stored_samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first sample of each crop; 0 for an utterance that is not cropped."""
    tolerance = np.array([length_tolerance(stored) for stored in stored_samples.tolist()], np.int64)
    num_starts = stored_samples - tolerance - planned.num_samples + 1
    return np.where(
        planned.num_samples < stored_samples, (planned.crop_start * num_starts).astype(np.int64), 0
    )


def _to_tensors(filled: Iterator[FilledBatch], num_workers: int) -> Iterator[Batch]:
    """Convert batches to tensors, in page-locked memory if there is a GPU."""
    batches = map(_to_batch, filled)
    if torch.cuda.is_available():
        return _prefetch_one(batches, Batch.pin_memory)
    return _prefetch_one(batches, _identity) if num_workers else batches


def _identity(batch: Batch) -> Batch:
    return batch


def _to_batch(filled: FilledBatch) -> Batch:
    """Wrap the arrays without a copy; the tensor keeps the array, and so its slot of memory, alive."""
    frame_label = filled.request.frame_label
    return Batch(
        waveform=torch.from_numpy(filled.waveform),
        num_samples=torch.from_numpy(filled.num_samples),
        label=torch.from_numpy(filled.request.label.astype(np.int64)),
        uid=filled.request.uid,
        frame_label=None if frame_label is None else torch.from_numpy(frame_label),
    )


S = TypeVar("S")
T = TypeVar("T")


def _prefetch_one(source: Iterator[S], convert: Callable[[S], T]) -> Iterator[T]:
    """Get and convert each item in a thread while the item before it is in use.

    Otherwise every training step would wait half a millisecond for the planning of the next requests.
    """

    def take() -> list[T]:
        return [convert(item) for item in itertools.islice(source, 1)]

    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(take)
        while taken := pending.result():
            pending = thread.submit(take)
            yield taken[0]
