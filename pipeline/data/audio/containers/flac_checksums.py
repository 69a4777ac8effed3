"""The two checksums of FLAC frames: 8 bits over the header, 16 over the whole frame."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL_8, _POLYNOMIAL_16 = 0x07, 0x8005
_GROUP = 64  # states of a checksum that are combined at once
_ROWS = np.arange(_GROUP) * 512

Crc16 = NDArray[np.uint16]


def crc8(data: bytes) -> int:
    """Return the checksum of the header of a frame, which is 0 if it includes its own."""
    table, state = _crc8_table(), 0
    for byte in data:
        state = table[state ^ byte]
    return state


def crc16(data: bytes) -> int:
    """Return the checksum of a frame, which is 0 if it includes its own: groups of states are combined at once."""
    states = crc16_table()[np.frombuffer(data, np.uint8)]
    level = 0
    while len(states) > 1:
        num_groups = -(-len(states) // _GROUP)
        groups = np.zeros((num_groups, _GROUP), np.uint16)  # zeros in front change nothing
        groups.reshape(-1)[-len(states) :] = states
        states = np.bitwise_xor.reduce(_after_zeros(groups, level), axis=1)
        level += 1
    return int(states[0])


def _after_zeros(groups: Crc16, level: int) -> Crc16:
    """Return each state after as many zeros as there are bytes behind it in its group: _GROUP ** level for a member."""
    table = _zeros_table(level)
    return table[_ROWS + (groups & 0xFF)] ^ table[_ROWS + 256 + (groups >> 8)]


@lru_cache
def _crc8_table() -> list[int]:
    return [_shifted(byte, 8, _POLYNOMIAL_8) for byte in range(256)]


@lru_cache
def crc16_table() -> Crc16:
    """Return the state after each byte, from state 0."""
    return np.array([_shifted(byte << 8, 16, _POLYNOMIAL_16) for byte in range(256)], np.uint16)


@lru_cache
def _zeros_table(level: int) -> Crc16:
    """Return what `_after_zeros` adds up: for each place in a group, the two halves of a state, 256 values each."""
    rows = [np.concatenate([np.arange(256, dtype=np.uint16), np.arange(256, dtype=np.uint16) << 8])]
    for _ in range(_GROUP - 1):
        rows.insert(0, _after_more_zeros(rows[0], level))
    return np.concatenate(rows)


def _after_more_zeros(states: Crc16, level: int) -> Crc16:
    """Return the states after _GROUP ** level zeros."""
    if level == 0:
        after: Crc16 = states << np.uint16(8) ^ crc16_table()[states >> np.uint16(8)]
        return after
    table = _zeros_table(level - 1)
    return _after_more_zeros(table[states & 0xFF] ^ table[256 + (states >> 8)], level - 1)


def _shifted(state: int, num_bits: int, polynomial: int) -> int:
    """Return the state of a checksum after eight more bits."""
    for _ in range(8):
        state = state << 1 ^ (polynomial if state >> num_bits - 1 else 0)
        state &= (1 << num_bits) - 1
    return state
