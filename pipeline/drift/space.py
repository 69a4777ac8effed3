"""The space in which embeddings are compared: standardised principal components of the reference."""

# N: utterances, E: numbers of an embedding, D: components.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

NUM_COMPONENTS = 64

NEGLIGIBLE = 1e-6
"""Components with less than this share of the variance of the first one are rounding errors of float16."""

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
    num_rows, width = vectors_NE.shape
    mean_E = vectors_NE.mean(axis=0, dtype=np.float64)
    centred = vectors_NE.astype(np.float64) - mean_E
    # The smaller of the two products has the same eigenvalues.
    is_wide = width > num_rows
    product = (centred @ centred.T if is_wide else centred.T @ centred) / (num_rows - 1)
    values, vectors = np.linalg.eigh(product)
    order = np.argsort(values)[::-1][:NUM_COMPONENTS]
    order = order[values[order] > NEGLIGIBLE * max(values[-1], 1e-30)]
    if values[-1] <= 0 or not order.size:
        raise InputError(f"{where}: all embeddings are equal, so they have no space")
    components_DE = vectors[:, order].T
    if is_wide:
        components_DE = components_DE @ centred
        components_DE /= np.linalg.norm(components_DE, axis=1, keepdims=True)
    # The sign of a component is arbitrary; this makes it the same on every machine.
    largest = np.argmax(np.abs(components_DE), axis=1)
    components_DE *= np.sign(components_DE[np.arange(order.size), largest])[:, None]
    scale_D = np.sqrt(values[order])
    coordinates = (centred[:BANDWIDTH_ROWS] @ components_DE.T) / scale_D
    return Space(
        mean_E.astype(np.float32),
        components_DE.astype(np.float32),
        scale_D.astype(np.float32),
        min(1.0, float(values[order].sum() / np.trace(product))),
        median_distance(coordinates.astype(np.float32)),
        num_rows,
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
