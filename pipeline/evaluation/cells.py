"""Cells of tables with a value and its interval."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluation.formatting import number, percent
from pipeline.evaluation.measure import Measurement
from pipeline.metrics.intervals import Interval
from pipeline.report import Cell


def eer_cells(measurements: Sequence[Measurement | None], *, has_bar: bool = False) -> list[Cell]:
    """Show the EERs of several systems in percent, with intervals; the lowest is marked."""
    rates = [each.metrics["eer"] if each else None for each in measurements]
    lowest = min((rate for rate in rates if rate is not None), default=None)
    cells = []
    for each, rate in zip(measurements, rates, strict=True):
        if each is None:
            cells.append(Cell("–", "not scored"))
        elif rate is None:
            cells.append(Cell("–", _missing_class(each)))
        else:
            is_best = len(measurements) > 1 and rate == lowest
            cells.append(
                Cell(
                    percent(rate),
                    eer_span(each),
                    rate if has_bar else None,
                    is_best,
                    is_warning=bool(each.is_different),
                )
            )
    return cells


def _missing_class(measurement: Measurement) -> str:
    """Say why there is no EER."""
    miss, false_alarm = measurement.metrics["miss"], measurement.metrics["false_alarm"]
    if miss is not None:
        return f"no spoof, {percent(miss)} % misses"
    if false_alarm is not None:
        return f"no bona fide, {percent(false_alarm)} % false alarms"
    return "too few"


def eer_span(measurement: Measurement) -> str:
    """Format the interval of the EER, in percent; empty if it is unknown."""
    interval = measurement.intervals.get("eer")
    return "" if interval is None else percent_span(interval)


def percent_span(interval: Interval) -> str:
    """Format an interval in percent."""
    return f"{percent(interval.low)} – {percent(interval.high)}"


def metric_cell(measurement: Measurement, name: str) -> Cell:
    """Show the value of a metric with its interval."""
    interval = measurement.intervals.get(name)
    note = "" if interval is None else f"{number(name, interval.low)} – {number(name, interval.high)}"
    return Cell(number(name, measurement.metrics[name]), note)
