"""Augmentations for tests of the loader, in a module that a worker imports at once."""

from __future__ import annotations

import os

import numpy as np

from pipeline.data.audio.waveform import Waveform


def add_noise(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """Return the waveform with a little noise."""
    return waveform + 0.01 * rng.standard_normal(len(waveform), np.float32)


def fail(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """Have a bug."""
    raise ZeroDivisionError("an augmentation of mine")


def die(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """End the process."""
    os._exit(7)
