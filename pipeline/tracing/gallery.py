"""Utterances of named systems, and what new utterances resemble among them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.tracing.space import Space

# N: new utterances, G: utterances of a gallery, D: components, K: systems.

BLOCK_ENTRIES = 2**22
"""Similarities that are held at once."""


class Resemblance(NamedTuple):
    """How similar utterances are to the systems of a space."""

    similarities: NDArray[np.float32]
    """[N, K] cosine of each utterance and the mean of each system, in the order of `Space.systems`."""
    votes: NDArray[np.float32]
    """[N, K] share of the nearest utterances of the gallery that are of each system."""


def resemblance(
    space: Space,
    units_ND: NDArray[np.float32],
    gallery_GD: NDArray[np.float32],
    systems: NDArray[np.int64],
    num_neighbours: int,
) -> Resemblance:
    """Compare utterances with systems, and with the utterances of a gallery.

    Args:
        space: whose systems are compared.
        units_ND: new utterances in that space.
        gallery_GD: utterances of the gallery in that space.
        systems: [G] the system of each of them; all are in the space.
        num_neighbours: how many utterances of the gallery vote; fewer if it has fewer.
    """
    columns = np.searchsorted(space.systems, systems)
    num_voting = min(num_neighbours, len(gallery_GD))
    votes = np.zeros((len(units_ND), len(space.systems)), np.float32)
    for rows in _blocks(len(units_ND), len(gallery_GD)):
        distances = -(units_ND[rows] @ gallery_GD.T)
        nearest = np.argpartition(distances, num_voting - 1, axis=1)[:, :num_voting]
        own = np.arange(rows.start, rows.start + len(nearest))
        np.add.at(votes, (own[:, None], columns[nearest]), np.float32(1 / num_voting))
    return Resemblance(units_ND @ space.centroids.T, votes)


def _blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    step = max(1, BLOCK_ENTRIES // max(num_columns, 1))
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))
