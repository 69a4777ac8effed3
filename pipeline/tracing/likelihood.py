"""Likelihood ratios of similarities: fitted, or where two kinds never overlap, as steep as their numbers justify."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.metrics.calibration import AffineMap, affine_calibration


class Likelihood(NamedTuple):
    """How similarities become likelihood ratios."""

    map: AffineMap | None
    problem: str
    """Why there is none; empty if there is one."""


def fit_likelihood(high: NDArray[np.float64], low: NDArray[np.float64]) -> Likelihood:
    """Fit the likelihood ratio of two kinds of similarities, of which the first are usually higher.

    If all of the first are above all of the second, any steep line would fit. Then the ratio is 1 in the middle between
    them, and at the nearest of each kind it is the number of the rarer kind: more, so many cannot show.

    Args:
        high: similarities, at least one.
        low: similarities, at least one.
    """
    gap = float(high.min() - low.max())
    if gap > 0:
        scale = 2 * math.log(1 + min(high.size, low.size)) / gap
        return Likelihood(AffineMap(scale, -scale * float(high.min() + low.max()) / 2), "")
    try:
        return Likelihood(affine_calibration(high, low, prior=0.5), "")
    except InputError:
        return Likelihood(None, "in the gallery, similarities do not tell them apart")
