"""The principal components of embeddings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# N: utterances, E: channels of an embedding, D: components.

NEGLIGIBLE = 1e-6
"""Components with less than this share of the variance of the first one are rounding errors of float16."""


class PrincipalComponents(NamedTuple):
    """The directions along which embeddings differ most, the largest variance first."""

    mean: NDArray[np.float64]
    """[E]"""
    directions: NDArray[np.float64]
    """[D, E] orthonormal; the largest entry of each is positive. None if all embeddings are equal."""
    variances: NDArray[np.float64]
    """[D] unbiased."""
    shares: NDArray[np.float64]
    """[D] of the variance along all directions."""

    def project(self, vectors_NE: NDArray[np.float32]) -> NDArray[np.float64]:
        """Where embeddings are along each direction, [N, D]; computed in float32, since they are stored in float16."""
        directions_ED = self.directions.T.astype(np.float32)
        projected_ND = (vectors_NE - self.mean.astype(np.float32)) @ directions_ED
        return np.asarray(projected_ND, np.float64)


def principal_components(vectors_NE: NDArray[np.float32], max_components: int) -> PrincipalComponents:
    """Find the first principal components of at least two embeddings, without those that are negligible."""
    num_rows, width = vectors_NE.shape
    mean_E = vectors_NE.mean(axis=0, dtype=np.float64)
    centred_NE = vectors_NE.astype(np.float64) - mean_E
    # The smaller of the two products has the same eigenvalues.
    is_wide = width > num_rows
    product = (centred_NE @ centred_NE.T if is_wide else centred_NE.T @ centred_NE) / (num_rows - 1)
    variances, vectors = np.linalg.eigh(product)
    order = np.argsort(-variances, kind="stable")[:max_components]
    order = order[variances[order] > NEGLIGIBLE * max(float(variances[-1]), 1e-30)]
    directions_DE = vectors[:, order].T
    if is_wide:
        directions_DE = directions_DE @ centred_NE
        directions_DE /= np.linalg.norm(directions_DE, axis=1, keepdims=True)
    # The sign of a direction is arbitrary; this makes it the same on every machine.
    largest = np.argmax(np.abs(directions_DE), axis=1)
    directions_DE *= np.sign(directions_DE[np.arange(order.size), largest])[:, None]
    shares_D = np.minimum(1.0, variances[order] / (np.trace(product) or 1.0))
    return PrincipalComponents(mean_E, directions_DE, variances[order], shares_D)
