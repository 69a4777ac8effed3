"""Likelihood ratios are right on average, bounded by their evidence, and refused where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.tracing.likelihood import fit_likelihood


def test_ratios_of_overlapping_kinds_are_those_of_their_distributions() -> None:
    rng = np.random.default_rng(0)
    fitted = fit_likelihood(rng.normal(1, 1, 20_000), rng.normal(-1, 1, 20_000)).map
    assert fitted is not None
    # Two normal distributions of one variance: the logarithm of the ratio is 2 x.
    assert fitted.scale == pytest.approx(2, rel=0.05) and fitted.offset == pytest.approx(0, abs=0.05)


def test_no_ratio_is_larger_than_the_number_of_similarities_can_show() -> None:
    rng = np.random.default_rng(0)
    fitted = fit_likelihood(rng.normal(1, 1, 300), rng.normal(-1, 1, 50)).map
    assert fitted is not None
    assert fitted.apply([100.0, -100.0]).tolist() == [math.log(51), -math.log(51)]


def test_kinds_that_do_not_overlap_have_a_steep_and_finite_line() -> None:
    fitted = fit_likelihood(np.array([0.8, 0.9, 1.0]), np.array([0.2, 0.4])).map
    assert fitted is not None
    np.testing.assert_allclose(fitted.apply([0.8, 0.6, 0.4]), [math.log(3), 0, -math.log(3)], atol=1e-12)


def test_kinds_in_the_wrong_order_have_no_ratio_and_the_reason_is_told() -> None:
    rng = np.random.default_rng(0)
    assert fit_likelihood(rng.normal(-1, 1, 100), rng.normal(1, 1, 100)) == (
        None,
        "in the gallery, similarities do not tell them apart",
    )
