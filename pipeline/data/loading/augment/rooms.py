"""Rooms: speech convolved with a simulated or a recorded impulse response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import scipy.signal

from pipeline.data.audio.waveform import SAMPLE_RATE, Waveform
from pipeline.data.loading.augment.recordings import Recordings
from pipeline.data.loading.augment.step import Augmentation, RecordedAugmentation, level, ratio
from pipeline.fields import Range


@dataclass(frozen=True, kw_only=True)
class Reverberation(Augmentation):
    """Simulate a room: direct sound followed by exponentially decaying noise."""

    name: Literal["reverberation"] = "reverberation"
    rt60_s: Annotated[tuple[float, float], Range(0.01, 20)] = (0.1, 0.8)
    """Time in which the tail decays by 60 dB."""
    direct_to_tail_db: Annotated[tuple[float, float], Range(-60, 120)] = (-3.0, 12.0)
    predelay_s: Annotated[tuple[float, float], Range(0.0001, 1)] = (0.001, 0.01)

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the reverberated waveform at its original level, without the tail beyond its end."""
        rt60, direct_db, predelay = (
            rng.uniform(*interval) for interval in (self.rt60_s, self.direct_to_tail_db, self.predelay_s)
        )
        time = np.arange(int(rt60 * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
        tail = rng.standard_normal(len(time), dtype=np.float32) * np.exp(
            np.float32(-np.log(1000) / rt60) * time
        )
        tail *= ratio(-direct_db) / np.float32(level(tail))
        response = np.concatenate([np.zeros(int(predelay * SAMPLE_RATE), dtype=np.float32), tail])
        response[0] = 1
        return convolve(waveform, response)


@dataclass(frozen=True, kw_only=True)
class Room(RecordedAugmentation):
    """Convolve with a recorded or simulated impulse response."""

    kind = "rir"

    name: Literal["room"] = "room"

    def mix(self, waveform: Waveform, rng: np.random.Generator, recordings: Recordings) -> Waveform:
        """Return the waveform as it sounds in a random room, at its original level."""
        return convolve(waveform, recordings.draw_whole(rng))


def convolve(waveform: Waveform, response: Waveform) -> Waveform:
    """Convolve with an impulse response, aligned to its direct sound; the level and the length stay.

    The direct sound is the largest peak. What arrives before the beginning or after the end of the waveform is cut.
    """
    direct = int(np.abs(response).argmax())
    wet: Waveform = scipy.signal.oaconvolve(waveform, response)[direct : direct + len(waveform)]
    return wet * np.float32(level(waveform) / level(wet))
