"""Random numbers that are hashes of (seed, purpose, epoch, uid) instead of the output of a generator.

A hash is the same in every process, in any order and under any NumPy version; a generator's stream is not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MASK_64 = (1 << 64) - 1


def hash64(values: NDArray[np.uint64], *key: int) -> NDArray[np.uint64]:
    """Hash each value to 64 random bits; a different key gives independent bits."""
    hashes = values ^ np.uint64(_hash_key(key))
    hashes ^= hashes >> np.uint64(30)  # the finaliser of SplitMix64
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(27)
    hashes *= np.uint64(0x94D049BB133111EB)
    hashes ^= hashes >> np.uint64(31)
    return hashes


def hash_uniform(values: NDArray[np.uint64], *key: int) -> NDArray[np.float64]:
    """Hash each value to a uniform number in [0, 1), a multiple of 2⁻³²."""
    hashes = hash64(values, *key)
    hashes >>= np.uint64(32)
    return hashes.astype(np.float64) * 2.0**-32


def hash_order(values: NDArray[np.uint64], *key: int) -> NDArray[np.int64]:
    """Return a random permutation of the positions in `values`; equal values keep their order."""
    return np.argsort(hash64(values, *key), kind="stable")


def _hash_key(key: tuple[int, ...]) -> int:
    """Hash a few integers to one of 64 bits."""
    mixed = 0
    for part in key:
        mixed = (mixed ^ part) + 0x9E3779B97F4A7C15 & MASK_64
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & MASK_64
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & MASK_64
        mixed ^= mixed >> 31
    return mixed
