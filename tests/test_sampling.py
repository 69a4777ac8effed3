"""Samples by hash do not depend on the order of rows, or on the machine."""

import numpy as np
import pyarrow as pa

from pipeline.sampling import hash_texts, rank_in_group


def test_hashes_are_the_same_on_every_machine_and_independent_for_each_purpose():
    texts = pa.array([f"text {number}" for number in range(2_000)])
    hashes, others = hash_texts(texts), hash_texts(texts, "another")
    b2sum = (
        "a6bde4390c5e21eb",
        "bcda0a8474f20b86",
    )  # of `printf 'text 0' | b2sum --length 64`, and of text 1
    assert hashes[:2].tolist() == [int.from_bytes(bytes.fromhex(digest), "little") for digest in b2sum]
    assert len(set(hashes.tolist()) | set(others.tolist())) == 4_000
    assert abs(np.corrcoef(hashes.astype(float), others.astype(float))[0, 1]) < 0.1
    assert hash_texts(pa.chunked_array([texts[:5], texts[5:]])).tolist() == hashes.tolist()


def test_ranks_count_from_0_in_each_group_in_the_order_of_the_hashes():
    groups = np.array([1, 0, 1, 1, 0])
    hashes = np.array([30, 5, 10, 20, 1], np.uint64)
    rank, size = rank_in_group(groups, hashes)
    assert rank.tolist() == [2, 1, 0, 1, 0]
    assert size.tolist() == [3, 2, 3, 3, 2]
