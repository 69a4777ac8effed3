"""Embeddings as points in a plane: principal components, and t-SNE.

Both start from embeddings of length 1, between which the squared distance is twice the cosine distance. Nothing is
random, and one thread does the arithmetic, so that the same embeddings give the same points whatever the number of
cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.components import principal_components

NUM_COMPONENTS = 50
"""Principal components that t-SNE starts from."""

MIN_POINTS = 10
"""There is no projection of fewer."""

START_SPREAD = 1e-4
"""Standard deviation of the points that t-SNE starts from, as is usual."""


class Components(NamedTuple):
    """The positions of embeddings along their principal components."""

    positions: NDArray[np.float64]
    """[N, C] along the components with the largest variance, the largest first."""
    shares: NDArray[np.float64]
    """[C] share of each component in the variance; 0 if all embeddings are equal."""


@contextmanager
def single_thread() -> Iterator[None]:
    """Let numerical libraries use one thread: how sums are divided among threads changes their last digits."""
    import sklearn.manifold  # noqa: F401  # a library that is loaded later would not be limited
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def along_components(vectors_NE: NDArray[np.float32]) -> Components:
    """Place embeddings along up to NUM_COMPONENTS principal components; at 0 if all embeddings are equal."""
    found = principal_components(vectors_NE, NUM_COMPONENTS)
    if not found.shares.size:
        return Components(np.zeros((len(vectors_NE), 1)), np.zeros(1))
    return Components(found.project(vectors_NE), found.shares)


def t_sne(components_NC: NDArray[np.float64], perplexity: float) -> NDArray[np.float64]:
    """Place points in a plane so that near ones stay near, by t-SNE that starts from the first two components.

    Args:
        components_NC: positions along principal components, at least MIN_POINTS.
        perplexity: about the number of neighbours of a point that are to stay near, less than the number of points.
    """
    from sklearn.manifold import TSNE

    start_N2 = np.zeros((len(components_NC), 2), np.float32)
    start_N2[:, : components_NC.shape[1]] = components_NC[:, :2]
    start_N2 *= START_SPREAD / (float(start_N2[:, 0].std()) or 1)
    projection = TSNE(2, perplexity=perplexity, init=start_N2, random_state=0)
    return np.asarray(projection.fit_transform(components_NC.astype(np.float32)), np.float64)


def usable_perplexity(wanted: float, num_points: int) -> float:
    """The perplexity for so many points: as wanted, or a third of the others if there are too few."""
    return min(wanted, (num_points - 1) / 3)
