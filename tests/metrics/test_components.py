"""Principal components are the same from either product of the embeddings."""

import numpy as np
import pytest

from pipeline.metrics.components import principal_components


@pytest.mark.parametrize(("num_rows", "width"), [(200, 12), (20, 60)])
def test_components_are_orthonormal_and_have_the_variances_of_a_singular_value_decomposition(num_rows, width):
    vectors = (
        np.random.default_rng(0).normal(1, np.linspace(1, 3, width), (num_rows, width)).astype(np.float32)
    )
    found = principal_components(vectors, 5)
    centred = vectors - vectors.mean(axis=0)
    expected = np.linalg.svd(centred, compute_uv=False) ** 2 / (num_rows - 1)
    np.testing.assert_allclose(found.variances, expected[:5], rtol=1e-4)
    np.testing.assert_allclose(found.shares, expected[:5] / expected.sum(), rtol=1e-4)
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(5), atol=1e-6)
    np.testing.assert_allclose((centred @ found.directions.T).var(axis=0, ddof=1), expected[:5], rtol=1e-4)
    largest = np.abs(found.directions).argmax(axis=1)
    assert (found.directions[np.arange(5), largest] > 0).all()


def test_directions_without_variance_are_left_out():
    vectors = np.random.default_rng(0).normal(size=(30, 2)) @ np.ones((2, 8))
    assert len(principal_components(vectors.astype(np.float32), 5).variances) == 1
    assert not len(principal_components(np.ones((30, 8), np.float32), 5).variances)
