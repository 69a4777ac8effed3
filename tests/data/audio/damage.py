"""Damage to encoded files, and what becomes of it: refused, heard right, or accepted although it is wrong."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np

from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.load import load_audio
from pipeline.data.audio.waveform import SAMPLE_RATE
from tests.data.audio.formats import FORMATS, Samples, speech_like

Damage = Literal["flip", "zeros", "hole", "cut", "join", "tail"]
DAMAGES: tuple[Damage, ...] = ("flip", "zeros", "hole", "cut", "join", "tail")
Outcome = Literal["refused", "right", "wrong"]

SECONDS = 3.0
MAX_HOLE = 4096
"""Longest hole, run of zeros and tail, bytes."""
MIN_HOLE = 64


def damaged(data: bytes, damage: Damage, rng: np.random.Generator) -> bytes:
    """Return a copy of a file with one damage at a random place."""
    length = int(rng.integers(MIN_HOLE, MAX_HOLE))
    place = int(rng.integers(max(len(data) - length, 1)))
    match damage:
        case "flip":
            place = int(rng.integers(len(data)))
            return data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]
        case "zeros":
            return data[:place] + bytes(length) + data[place + length :]
        case "hole":
            return data[:place] + data[place + length :]
        case "cut":
            return data[: int(rng.integers(1, len(data)))]
        case "join":
            return data + data
        case "tail":
            return data + rng.bytes(length)


def outcome(data: bytes, damage: Damage, original: Samples) -> Outcome:
    """Tell what becomes of a damaged file.

    Args:
        data: the damaged file.
        damage: what was done to it.
        original: [num_samples] audio of the file before.
    """
    try:
        waveform = load_audio(data, "damaged").waveform
    except AudioError:
        return "refused"
    if damage == "join":
        # Lossy codecs may hear the second file from the state that the first one leaves.
        return "right" if abs(len(waveform) - 2 * len(original)) <= SAMPLE_RATE // 10 else "wrong"
    return "right" if np.array_equal(waveform, original) else "wrong"


def count_outcomes(name: str, damage: Damage, number: int) -> Counter[Outcome]:
    """Damage a file of a format again and again, from a fixed seed, and count what becomes of it."""
    data = FORMATS[name](speech_like(SECONDS, SAMPLE_RATE), SAMPLE_RATE)
    original = load_audio(data, name).waveform
    rng = np.random.default_rng([len(name), *name.encode(), DAMAGES.index(damage)])
    return Counter(outcome(damaged(data, damage, rng), damage, original) for _ in range(number))
