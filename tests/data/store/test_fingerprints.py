"""Fingerprints name shards, so they stay as they are; digests see every byte."""

from __future__ import annotations

import io

import numpy as np
import pytest

from pipeline.data.store.fingerprints import (
    COVERED_BYTES,
    DIGESTED_BYTES,
    SAMPLED_BYTES,
    fingerprint,
    fingerprint_and_digest,
    source_digest,
)

SIZES = (0, 1, COVERED_BYTES - 1, COVERED_BYTES, COVERED_BYTES + 1, COVERED_BYTES + DIGESTED_BYTES + 1)


def content(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def both(data: bytes) -> tuple[str, str]:
    return fingerprint_and_digest(io.BytesIO(data), len(data))


@pytest.mark.parametrize("size", SIZES)
def test_one_pass_gives_what_two_passes_give(size: int):
    data = content(size)
    file = io.BytesIO(data)
    assert both(data) == (fingerprint(file, size), source_digest(file, size))


def test_fingerprints_are_those_of_earlier_stores():
    assert [fingerprint(io.BytesIO(content(size)), size) for size in SIZES[:-1]] == [
        "e3b0c44298fc1c14",
        "a8100ae6aa1940d0",
        "eafcfafaa61f645f",
        "a61d3f269e14da12",
        "aeaaa59aec0f9cad",
    ]


@pytest.mark.parametrize("size", SIZES[1:])
def test_the_digest_changes_with_any_byte(size: int):
    data = content(size)
    places = {0, size // 2, size - 1, SAMPLED_BYTES - 1, SAMPLED_BYTES, size - SAMPLED_BYTES}
    changed = [
        data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] for place in places if 0 <= place < size
    ]
    digests = [both(other)[1] for other in [data, *changed, data + b"\0", data[:-1]]]
    assert len(set(digests)) == len(digests)


def test_the_fingerprint_of_a_long_file_covers_its_ends_and_its_size():
    size = COVERED_BYTES + 2
    data = content(size)
    middle = bytearray(data)
    middle[size // 2] ^= 1
    assert both(bytes(middle))[0] == both(data)[0]
    ends = [bytes([data[0] ^ 1]) + data[1:], data[:-1] + bytes([data[-1] ^ 1]), data[:100] + data]
    assert len({both(other)[0] for other in [data, *ends]}) == 4
