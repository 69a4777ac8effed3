"""Packet loss: frames of 20 ms that a network drops, alone or in bursts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.audio.waveform import SAMPLE_RATE, Waveform
from pipeline.data.loading.augment.step import Augmentation
from pipeline.errors import InputError
from pipeline.fields import Range

FRAME_SAMPLES = SAMPLE_RATE // 50
"""20 ms: one packet."""

MAX_LOSS = 0.9
"""Largest share of lost frames."""


@dataclass(frozen=True, kw_only=True)
class PacketLoss(Augmentation):
    """Lose frames as a channel with a good and a bad state does; in the bad state, every frame is lost."""

    name: Literal["packet_loss"] = "packet_loss"
    loss: Annotated[tuple[float, float], Range(0, MAX_LOSS)] = (0.01, 0.15)
    """Share of the frames that is lost on average."""
    burst_frames: Annotated[tuple[float, float], Range(1, 100)] = (1.0, 4.0)
    """Mean number of consecutive frames that are lost."""
    fill: tuple[Literal["zeros", "repeat"], ...] = ("zeros", "repeat")
    """What replaces a lost frame: zeros, or the last frame that arrived. One is drawn for each utterance."""

    def __post_init__(self) -> None:
        if self.loss[1] > self.burst_frames[0] / (1 + self.burst_frames[0]):
            raise InputError(
                f"a loss of {self.loss[1]:g} cannot come in bursts of {self.burst_frames[0]:g} frames on average: a "
                f"frame arrives between two bursts; give longer burst_frames"
            )

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform with gaps, or with repeated frames."""
        loss, burst = rng.uniform(*self.loss), rng.uniform(*self.burst_frames)
        repeats = self.fill[int(rng.integers(len(self.fill)))] == "repeat"
        num_frames = -(-len(waveform) // FRAME_SAMPLES)
        is_lost = draw_losses(num_frames, loss, burst, rng)
        frames = np.zeros((num_frames, FRAME_SAMPLES), np.float32)
        frames.reshape(-1)[: len(waveform)] = waveform
        if repeats:
            arrived = np.maximum.accumulate(np.where(is_lost, -1, np.arange(num_frames)))
            frames = frames[np.maximum(arrived, 0)]
            is_lost = arrived < 0
        frames[is_lost] = 0
        filled: Waveform = frames.reshape(-1)[: len(waveform)]
        return filled


def draw_losses(num_frames: int, loss: float, burst: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw which frames are lost: [num_frames].

    Args:
        num_frames: number of frames.
        loss: share of the frames that is lost on average.
        burst: mean number of consecutive lost frames.
        rng: the source of all randomness.
    """
    if loss <= 0:
        return np.zeros(num_frames, bool)
    mean_good = burst * (1 - loss) / loss
    # Runs of both states alternate. Each good run has at least one frame, so there are at most so many pairs.
    good = rng.geometric(min(1.0, 1 / mean_good), num_frames)
    bad = rng.geometric(1 / burst, num_frames)
    runs = np.stack([good, bad], axis=1)
    if rng.random() < loss:  # the utterance may begin within a burst
        runs[0, 0] = 0
    ends = np.cumsum(runs)
    is_lost: NDArray[np.bool_] = np.searchsorted(ends, np.arange(num_frames), side="right") % 2 == 1
    return is_lost
