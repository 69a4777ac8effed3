"""Augmentations for tests of the loader, in a module that workers import quickly."""

from __future__ import annotations

import os

import numpy as np

from pipeline.data.audio.waveform import Waveform


def add_noise(waveform: Waveform, label: str, rng: np.random.Generator) -> Waveform:
    """Add a little noise."""
    return waveform + 0.01 * rng.standard_normal(len(waveform), np.float32)


def fail(waveform: Waveform, label: str, rng: np.random.Generator) -> Waveform:
    """Raise an error, as a bug would."""
    raise ZeroDivisionError("division in an augmentation")


def die(waveform: Waveform, label: str, rng: np.random.Generator) -> Waveform:
    """Exit the process."""
    os._exit(7)
