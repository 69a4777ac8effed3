"""Likelihood ratios of similarities: fitted, or where two kinds never overlap, as steep as their numbers justify."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import InputError
from pipeline.metrics.calibration import AffineMap, affine_calibration


class LikelihoodMap(NamedTuple):
    """Maps a similarity to a natural-log likelihood ratio: scale × similarity + offset, within a bound."""

    scale: float
    offset: float
    bound: float
    """The largest magnitude: what so many similarities can show."""

    def apply(self, similarities: ArrayLike) -> NDArray[np.float64]:
        """Map similarities of any shape."""
        return np.clip(AffineMap(self.scale, self.offset).apply(similarities), -self.bound, self.bound)


class Likelihood(NamedTuple):
    """How similarities become likelihood ratios."""

    map: LikelihoodMap | None
    problem: str
    """Why there is none; empty if there is one."""


def fit_likelihood(high: NDArray[np.float64], low: NDArray[np.float64]) -> Likelihood:
    """Fit the likelihood ratio of two kinds of similarities, of which the first are usually higher.

    No ratio is above the number of the rarer kind, plus 1: more, so many cannot show. If all of the first are above all
    of the second, any steep line would fit; then the nearest of each kind have that ratio, and their middle has 1.

    Args:
        high: similarities, at least one.
        low: similarities, at least one.
    """
    bound = math.log(1 + min(high.size, low.size))
    gap = float(high.min() - low.max())
    if gap > 0:
        scale = 2 * bound / gap
        return Likelihood(LikelihoodMap(scale, -scale * float(high.min() + low.max()) / 2, bound), "")
    try:
        return Likelihood(LikelihoodMap(*affine_calibration(high, low, prior=0.5), bound), "")
    except InputError:
        return Likelihood(None, "in the gallery, similarities do not tell them apart")
