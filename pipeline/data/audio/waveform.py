"""What every waveform of this package is: one channel at one rate."""

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Hz."""

Waveform = NDArray[np.float32]
"""Mono, 16 kHz, nominally within ±1, [num_samples]."""
