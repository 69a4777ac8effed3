"""What others load training batches with: a stream of tars, and loose files in random order."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import torch

Batches = Iterable[tuple["torch.Tensor", "torch.Tensor"]]
"""Waveforms [B, T] and lengths [B]."""

BATCH_SIZE = 16
"""About as much audio as a batch of ours."""


def webdataset_batches(tars: list[str], num_workers: int) -> Batches:
    """The tars as a stream, shuffled in a buffer."""
    import torch
    import webdataset

    stream = webdataset.WebDataset(tars, shardshuffle=100, seed=0).shuffle(1000).to_tuple("flac")
    return torch.utils.data.DataLoader(
        stream, batch_size=BATCH_SIZE, num_workers=num_workers, collate_fn=pad_members
    )


def loose_batches(paths: list[Path], num_workers: int) -> Batches:
    """Loose files in random order."""
    import torch

    return torch.utils.data.DataLoader(
        cast("torch.utils.data.Dataset[Path]", paths),
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=num_workers,
        collate_fn=pad_files,
    )


def pad_members(members: list[tuple[bytes]]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of what a stream of tars gives."""
    return pad([data for (data,) in members])


def pad_files(paths: list[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of loose files."""
    return pad([path.read_bytes() for path in paths])


def pad(flacs: list[bytes]) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode, cut as our loader does, and pad: waveforms [B, T] and lengths [B]."""
    import soundfile
    import torch

    waveforms = []
    for data in flacs:
        waveform, _ = soundfile.read(io.BytesIO(data), dtype="float32")
        if len(waveform) > 13 * 16_000:
            wanted = int(torch.randint(10 * 16_000, 13 * 16_000, ()))
            begin = int(torch.randint(len(waveform) - wanted, ()))
            waveform = waveform[begin : begin + wanted]
        waveforms.append(torch.from_numpy(waveform))
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    return torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True), lengths
