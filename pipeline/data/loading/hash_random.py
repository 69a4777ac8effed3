"""Random draws that depend only on what they are for: hashes of (seed, purpose, epoch, uid), not a stream.

A draw is the same in every process, order and NumPy version, which a generator's stream does not promise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORD = (1 << 64) - 1


def hash64(of: NDArray[np.uint64], *key: int) -> NDArray[np.uint64]:
    """A random 64-bit word for each element of `of`, under a key of whole numbers."""
    words = of ^ np.uint64(_fold(key))
    words ^= words >> np.uint64(30)  # the finaliser of SplitMix64
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def hash_uniform(of: NDArray[np.uint64], *key: int) -> NDArray[np.float64]:
    """A random number in [0, 1), a multiple of 2⁻³², for each element of `of`."""
    words = hash64(of, *key)
    words >>= np.uint64(32)
    return words.astype(np.float64) * 2.0**-32


def hash_order(of: NDArray[np.uint64], *key: int) -> NDArray[np.int64]:
    """A random permutation: the positions of `of`, shuffled; equal elements keep their order."""
    return np.argsort(hash64(of, *key), kind="stable")


def _fold(key: tuple[int, ...]) -> int:
    """One well-mixed word from a few numbers."""
    word = 0
    for part in key:
        word = (word ^ part) + 0x9E3779B97F4A7C15 & WORD
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & WORD
        word = (word ^ word >> 27) * 0x94D049BB133111EB & WORD
        word ^= word >> 31
    return word
