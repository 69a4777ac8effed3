"""Other ways to load training batches: a stream of tars, loose files, and our own plan and reader in a DataLoader."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pipeline.data.audio.waveform import SAMPLE_RATE

if TYPE_CHECKING:
    import torch

    from pipeline.data.loading.batches import TrainingBatches
    from pipeline.data.loading.reading import BatchReader, BatchRequest

Batches = Iterable[tuple["torch.Tensor", "torch.Tensor"]]
"""Waveforms [B, T] and lengths [B]."""

BATCH_SIZE = 16
"""Utterances of a batch, which hold about as much audio as one of our batches."""


def webdataset_batches(tars: list[str], num_workers: int) -> Batches:
    """Stream the tars and shuffle in a buffer, as WebDataset does."""
    import torch
    import webdataset

    stream = webdataset.WebDataset(tars, shardshuffle=100, seed=0).shuffle(1000).to_tuple("flac")
    return torch.utils.data.DataLoader(
        stream, batch_size=BATCH_SIZE, num_workers=num_workers, collate_fn=pad_members
    )


def loose_batches(paths: list[Path], num_workers: int) -> Batches:
    """Read loose files in random order."""
    import torch

    return torch.utils.data.DataLoader(
        cast("torch.utils.data.Dataset[Path]", paths),
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=num_workers,
        collate_fn=pad_files,
    )


def pad_members(members: list[tuple[bytes]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Collate members of tars."""
    return pad([data for (data,) in members])


def pad_files(paths: list[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    """Collate loose files."""
    return pad([path.read_bytes() for path in paths])


def pad(flacs: list[bytes]) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode, crop as our loader does, and pad: waveforms [B, T] and lengths [B]."""
    import soundfile
    import torch

    waveforms = []
    for data in flacs:
        waveform, _ = soundfile.read(io.BytesIO(data), dtype="float32")
        if len(waveform) > 13 * SAMPLE_RATE:
            num_samples = int(torch.randint(10 * SAMPLE_RATE, 13 * SAMPLE_RATE, ()))
            start = int(torch.randint(len(waveform) - num_samples, ()))
            waveform = waveform[start : start + num_samples]
        waveforms.append(torch.from_numpy(waveform))
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    return torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True), lengths


def planned_batches(training: TrainingBatches, num_workers: int) -> Batches:
    """Read our planned batches with our reader in torch's DataLoader instead of our own worker processes.

    The rank plans, as in our loader. Workers are no forks of this process, which would copy the locks of threads of
    torch and Ray.
    """
    import torch

    from pipeline.child_process import preload
    from pipeline.data.loading.reading import BatchReader

    preload((__name__, "torch"))
    requests = PlannedRequests(training)
    dataset = RequestDataset(BatchReader(training.folder, training.augment))
    return torch.utils.data.DataLoader(
        cast("torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]", dataset),
        sampler=cast("torch.utils.data.Sampler[BatchRequest]", requests),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=4,
        multiprocessing_context="forkserver",
    )


@dataclass(frozen=True)
class PlannedRequests:
    """A sampler whose items are the batch requests of epoch 0."""

    training: TrainingBatches

    def __iter__(self) -> Iterator[BatchRequest]:
        return self.training.requests(0)


@dataclass(frozen=True)
class RequestDataset:
    """A map-style dataset that reads a whole batch for each request."""

    reader: BatchReader

    def __getitem__(self, request: BatchRequest) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        waveform_BT = torch.empty(request.shape)
        num_samples_B = torch.empty(request.shape[0], dtype=torch.int64)
        self.reader.prefetch(request)
        self.reader.read(request, waveform_BT.numpy(), num_samples_B.numpy())
        return waveform_BT, num_samples_B
