"""Protocol of a training batch, so that the detector does not depend on the loader."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Batch(Protocol):
    """Utterances of one step on one rank: normalised waveforms, padded with zeros."""

    @property
    def waveform(self) -> Tensor:
        """[B, T] float32 at 16 kHz."""

    @property
    def num_samples(self) -> Tensor:
        """[B] int64: number of valid samples in each row."""

    @property
    def label(self) -> Tensor:
        """[B] int64: 0 spoof, 1 bona fide."""

    @property
    def uid(self) -> list[str]:
        """Identifiers of the utterances, [B]."""

    @property
    def frame_label(self) -> Tensor | None:
        """[B, F] int8 for each frame of the padded batch: 0 spoof, 1 bona fide, -1 no label; None without labels."""
