"""The space in which embeddings are compared: standardised principal components of the reference."""

# N: utterances, E: numbers of an embedding, D: components.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.metrics.components import principal_components

NUM_COMPONENTS = 64

BANDWIDTH_ROWS = 1000
"""Utterances whose pairs give the median distance."""


@dataclass(frozen=True)
class Space:
    """Principal components of some embeddings, each scaled to a standard deviation of 1."""

    mean: NDArray[np.float32]
    """[E]."""
    components: NDArray[np.float32]
    """[D, E] orthonormal, those with the most variance first."""
    scale: NDArray[np.float32]
    """[D] standard deviation of each component."""
    share: float
    """Share of the variance that the components have."""
    bandwidth: float
    """Median distance of two utterances in the space."""
    num_rows: int
    """Utterances that define the space."""

    @property
    def num_components(self) -> int:
        return int(self.scale.size)

    def project(self, vectors_NE: NDArray[np.float32]) -> NDArray[np.float32]:
        """The coordinates [N, D] of embeddings."""
        coordinates = ((vectors_NE - self.mean) @ self.components.T) / self.scale
        return coordinates.astype(np.float32, copy=False)


def fit_space(vectors_NE: NDArray[np.float32], where: str) -> Space:
    """Find the first components of some embeddings.

    Args:
        vectors_NE: at least two embeddings.
        where: their SCORES folder, for the message.

    Raises:
        InputError: an embedding is not finite, or all are equal.
    """
    if not np.isfinite(vectors_NE).all():
        raise InputError(f"{where}: some embeddings are not finite; score again, with --precision fp32")
    found = principal_components(vectors_NE, NUM_COMPONENTS)
    if not found.variances.size:
        raise InputError(f"{where}: all embeddings are equal, so they have no space")
    scale_D = np.sqrt(found.variances)
    coordinates = found.project(vectors_NE[:BANDWIDTH_ROWS]) / scale_D
    return Space(
        found.mean.astype(np.float32),
        found.directions.astype(np.float32),
        scale_D.astype(np.float32),
        min(1.0, float(found.shares.sum())),
        median_distance(coordinates.astype(np.float32)),
        len(vectors_NE),
    )


def median_distance(coordinates_ND: NDArray[np.float32]) -> float:
    """The median distance of two different rows."""
    squares = squared_distances(coordinates_ND, coordinates_ND)
    return float(np.sqrt(np.median(squares[np.triu_indices(len(squares), 1)])))


def squared_distances(first_ND: NDArray[np.float32], other_MD: NDArray[np.float32]) -> NDArray[np.float32]:
    """The squared distance [N, M] of each row of one matrix to each row of another."""
    products: NDArray[np.float32] = first_ND @ other_MD.T
    products *= -2
    products += np.einsum("nd,nd->n", first_ND, first_ND)[:, None]
    products += np.einsum("md,md->m", other_MD, other_MD)
    return np.maximum(products, 0, out=products)
