"""Projections of embeddings: principal components by law, and t-SNE that repeats."""

import os
import subprocess
import sys

import numpy as np
import pytest

from pipeline.evaluation.projection import along_components, t_sne, usable_perplexity

PROJECT = """
import hashlib, numpy as np
from pipeline.evaluation.projection import along_components, single_thread, t_sne
vectors = np.random.default_rng(0).normal(0, 1, (500, 300)).astype(np.float32)
with single_thread():
    components = along_components(vectors)
    print(hashlib.sha256(t_sne(components.positions, 20.0).tobytes() + components.positions.tobytes()).hexdigest())
"""


def groups(num: int = 60, width: int = 20):
    """Embeddings of three groups that are far apart, and their groups."""
    rng = np.random.default_rng(0)
    group = np.arange(num) % 3
    return (rng.normal(0, 0.1, (num, width)) + rng.normal(0, 1, (3, width))[group]).astype(np.float32), group


def test_components_keep_distances_and_come_in_order_of_their_variance():
    vectors = np.random.default_rng(0).normal(0, np.arange(1, 9), (100, 8)).astype(np.float32)
    positions, shares = along_components(vectors)
    assert shares.sum() == pytest.approx(1) and (np.diff(shares) <= 0).all()
    assert positions.var(axis=0) == pytest.approx(shares * vectors.var(axis=0).sum(), rel=1e-4)
    before, after = (np.linalg.norm(each[:, None] - each[None], axis=2) for each in (vectors, positions))
    assert after == pytest.approx(before, rel=1e-4, abs=1e-4)


def test_components_of_equal_embeddings_are_zero():
    positions, shares = along_components(np.ones((12, 4), np.float32))
    assert not positions.any() and not shares.any()
    assert np.isfinite(t_sne(positions, 3.0)).all()


def test_t_sne_keeps_groups_together():
    vectors, group = groups()
    points = t_sne(along_components(vectors).positions, 10.0)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert np.array_equal(group[distances.argmin(axis=1)], group)


def test_one_channel_can_be_projected():
    assert t_sne(along_components(groups(30, 1)[0]).positions, 5.0).shape == (30, 2)


def test_the_same_embeddings_give_the_same_bytes_with_any_number_of_threads():
    digests = {
        subprocess.run(
            [sys.executable, "-c", PROJECT],
            env=os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(digests) == 1


def test_the_perplexity_is_at_most_a_third_of_the_other_points():
    assert usable_perplexity(30, 1000) == 30
    assert usable_perplexity(30, 10) == 3
