"""Choose samples by hash: the same utterances in every process, in any order and for every detector."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def hash_texts(texts: pa.Array | pa.ChunkedArray, purpose: str = "") -> NDArray[np.uint64]:
    """Hash each text to 64 bits that look random; equal texts have equal hashes on every machine.

    Args:
        texts: without nulls.
        purpose: at most 16 characters; another purpose gives independent hashes.
    """
    person = purpose.encode()
    digests = (
        hashlib.blake2b(text.encode(), digest_size=8, person=person).digest() for text in texts.to_pylist()
    )
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def rank_in_group(
    groups: NDArray[np.int64], hashes: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rank each row by hash among those of its group.

    Args:
        groups: [N] number of the group of each row, from 0.
        hashes: [N]

    Returns:
        The rank of each row, from 0, and the size of its group.
    """
    sizes = np.bincount(groups)
    order = np.lexsort((hashes, groups))
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(groups.size, np.int64)
    rank[order] = np.arange(groups.size) - starts[groups[order]]
    return rank, sizes[groups]
