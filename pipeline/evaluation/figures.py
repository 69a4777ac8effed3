"""Figures of the scores of several systems on one corpus."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from pipeline.evaluation.formatting import percent
from pipeline.metrics import Trials, operating_points
from pipeline.metrics.calibration import ece_curve, reliability_curve
from pipeline.metrics.rates import det_curve_of
from pipeline.report import Figure
from pipeline.report.charts import Line, line_chart, linear_axis, probit_axis

LOG10_ODDS = np.linspace(-3, 3, 61)
"""Prior odds of the cross-entropy plot, log10."""

MOST_LOG10 = 4.0
"""Ratios above 10^4, or below its inverse, are not shown."""

NUM_QUANTILES = 200
"""Points of a cumulative curve."""

NOTHING_COLOUR = 8
"""Colour of the line of a detector that knows nothing."""


class Curve(NamedTuple):
    """One DET curve: the scores of a system on a corpus."""

    name: str
    colour: int
    trials: Trials
    eer: float


def det_plot(corpus: str, curves: Iterable[Curve]) -> Figure:
    """Draw DET curves on one corpus, each with its EER marked."""
    lines: list[Line] = []
    lowest = 0.01
    for name, colour, trials, eer in curves:
        lowest = min(lowest, 1 / trials.num_bonafide, 1 / trials.num_spoof)
        marks = [(eer, eer, f"{name}: EER {percent(eer)} %")]
        lines.append(
            Line(
                name,
                *det_curve_of(operating_points(trials)),
                colour,
                marks=marks,
                describe=_describe_rates,
            )
        )
    x, y = (probit_axis(f"{rate} %", max(lowest, 1e-4), 0.8) for rate in ("false alarm", "miss"))
    return line_chart(f"DET: {corpus}", lines, x, y, has_diagonal=True)


def _describe_rates(false_alarm: float, miss: float) -> str:
    return f"false alarm {percent(false_alarm)} %, miss {percent(miss)} %"


class Ratios(NamedTuple):
    """The log-likelihood ratios of a system on a corpus, natural logarithm."""

    name: str
    colour: int
    trials: Trials


def cross_entropy_plot(corpus: str, systems: Sequence[Ratios]) -> Figure:
    """Draw how much each prior leaves to learn once the ratios are known, beside the best map and knowing nothing."""
    curves = [(each, ece_curve(each.trials, LOG10_ODDS)) for each in systems]

    def describe(odds: float, bits: float) -> str:
        return f"{bits:.3f} bit at prior odds of 10^{odds:.1f}"

    lines = [
        line
        for each, curve in curves
        for line in (
            Line(each.name, LOG10_ODDS, curve.scores, each.colour, describe=describe),
            Line(f"{each.name}, best map", LOG10_ODDS, curve.best, each.colour, is_dashed=True),
        )
    ]
    nothing = curves[0][1].nothing
    lines.append(Line("knows nothing", LOG10_ODDS, nothing, NOTHING_COLOUR, describe=describe))
    highest = max(1.05, min(1.6, max(float(curve.scores.max()) for _, curve in curves)))
    x, y = linear_axis("log10 prior odds of bona fide", -3, 3), linear_axis("bits", 0, highest)
    return line_chart(f"Cross-entropy: {corpus}", lines, x, y)


def tippett_plot(corpus: str, systems: Sequence[Ratios]) -> Figure:
    """Draw the share of each class whose ratio is at least x."""
    shares = np.linspace(1, 0, NUM_QUANTILES)

    def describe(label: str, ratio: float, share: float) -> str:
        return f"{percent(share)} % of {label} have a ratio of 10^{ratio:.2f} or more"

    lines = []
    for each in systems:
        for label, scores in zip(("bona fide", "spoof"), each.trials.by_class, strict=True):
            ratios = np.quantile(scores, 1 - shares) / math.log(10)
            line = Line(each.name, ratios, shares, each.colour, describe=partial(describe, label))
            lines.append(replace(line, is_dashed=label == "spoof"))
    x = linear_axis("log10 likelihood ratio", *_ratio_range(systems))
    return line_chart(f"Tippett: {corpus}", lines, x, linear_axis("share at or above", 0, 1))


def reliability_plot(corpus: str, systems: Sequence[Ratios]) -> Figure:
    """Draw the ratio that the utterances support over the ratio that the system states."""

    def describe(stated: float, supported: float) -> str:
        return f"stated 10^{stated:.2f}, supported 10^{supported:.2f}"

    lines = []
    for each in systems:
        stated, supported = reliability_curve(operating_points(each.trials))
        # The curve is a staircase: its corners are the first and the last point of each step.
        is_corner = np.ones(supported.size, bool)
        is_corner[1:-1] = (np.diff(supported)[:-1] != 0) | (np.diff(supported)[1:] != 0)
        points = [values[is_corner] / math.log(10) for values in (stated, supported)]
        if points[0].size:
            lines.append(Line(each.name, points[0], points[1], each.colour, describe=describe))
    low, high = _ratio_range(systems)
    x, y = (linear_axis(f"log10 likelihood ratio, {kind}", low, high) for kind in ("stated", "supported"))
    return line_chart(f"Reliability: {corpus}", lines, x, y, has_diagonal=True)


def _ratio_range(systems: Sequence[Ratios]) -> tuple[float, float]:
    """The range of log10 ratios to show."""
    ends = np.array([np.quantile(each.trials.scores, (0.002, 0.998)) for each in systems]) / math.log(10)
    low, high = float(ends.min()), float(ends.max())
    return max(-MOST_LOG10, min(low, -1.0)), min(MOST_LOG10, max(high, 1.0))
