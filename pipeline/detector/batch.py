"""What the detector asks of a batch, so that it needs nothing of what makes one."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Batch(Protocol):
    """Utterances of one step on one rank, normalised and padded with zeros."""

    @property
    def waveform(self) -> Tensor:
        """[B, T] float32 at 16 kHz."""

    @property
    def num_samples(self) -> Tensor:
        """[B] int64: how much of each row is audio."""

    @property
    def label(self) -> Tensor:
        """[B] int64: 0 spoof, 1 bona fide."""

    @property
    def uid(self) -> list[str]:
        """[B]"""
