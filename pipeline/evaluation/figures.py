"""Figures that the report and the validation page share."""

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.evaluation.formatting import percent
from pipeline.metrics import ClassScores, det_curve
from pipeline.report import Figure
from pipeline.report.charts import Line, line_chart, probit_axis


class Curve(NamedTuple):
    """One DET curve: the scores of a system on a corpus."""

    name: str
    colour: int
    scores: ClassScores
    eer: float


def det_plot(corpus: str, curves: Iterable[Curve]) -> Figure:
    """Draw DET curves on one corpus, each with its EER marked."""
    lines: list[Line] = []
    lowest = 0.01
    for name, colour, (bonafide, spoof), eer in curves:
        lowest = min(lowest, 1 / bonafide.size, 1 / spoof.size)
        marks = [(eer, eer, f"{name}: EER {percent(eer)} %")]
        lines.append(Line(name, *det_curve(bonafide, spoof), colour, marks=marks))
    x, y = (probit_axis(f"{rate} %", max(lowest, 1e-4), 0.8) for rate in ("false alarm", "miss"))
    return line_chart(f"DET: {corpus}", lines, x, y, has_diagonal=True)
