"""The format of every waveform in this package: mono, 16 kHz."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from pipeline.fields import Range

SAMPLE_RATE = 16_000
"""Hz."""

MIN_SAMPLES = 400
"""25 ms: what a wav2vec 2.0 front end needs for its first frame."""

MAX_SECONDS = 4 * 3600.0
"""Longer audio is refused, because a whole utterance is held in memory."""

ChunkSeconds = Annotated[float, Range(MIN_SAMPLES / SAMPLE_RATE, MAX_SECONDS, also=0)]
"""Type of a flag: the length of a chunk in seconds; 0 has a meaning of its own."""

PCM16_SCALE = 32_768
"""PCM16 samples per unit of a float waveform."""

Waveform = NDArray[np.float32]
"""[num_samples] mono, 16 kHz, nominally within ±1."""

Pcm = NDArray[np.int16]
"""[num_samples] mono, 16 kHz."""
