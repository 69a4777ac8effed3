"""Stacked bar charts of hours and of shares of hours, used by several sections."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pipeline.card.formatting import (
    LABEL_COLOURS,
    LABEL_ORDER,
    LABEL_TITLES,
    format_hours,
    format_percent,
    names_by_size,
)
from pipeline.report import Figure
from pipeline.report.charts import Bar, linear_axis, stacked_chart

Amounts = Mapping[tuple[str, str], float]
"""Hours by (row, series)."""

Series = Sequence[tuple[str, str, int]]
"""(key, title, colour) of each segment of a bar, from left to right."""

LABEL_SERIES: Series = [(label, LABEL_TITLES[label], LABEL_COLOURS[label]) for label in LABEL_ORDER]


def hours_chart(title: str, amounts: Amounts, series: Series, *, order: Sequence[str] = ()) -> Figure:
    """Draw one stacked bar of hours for each row, in minutes if every bar is shorter than an hour.

    Args:
        title: Title of the figure.
        amounts: Hours by (row, series).
        series: The segments of each bar.
        order: Rows to put first, in this order; the others follow by size.
    """
    totals = totals_of(amounts)
    rows = _ordered(totals, order)
    longest = max(totals.values(), default=1.0)
    unit, factor = ("hours", 1) if longest >= 1 else ("minutes", 60)
    stacks = [
        (name, [_hours_bar(amounts.get((row, key), 0.0), factor) for row in rows], colour)
        for key, name, colour in series
    ]
    axis = linear_axis(unit, 0.0, factor * longest, num_ticks=4)
    return stacked_chart(title, rows, stacks, axis, [format_hours(totals[row]) for row in rows])


def shares_chart(title: str, amounts: Amounts, series: Series, *, order: Sequence[str] = ()) -> Figure:
    """Draw one stacked bar of percentages for each row; the arguments are those of `hours_chart`."""
    totals = totals_of(amounts)
    rows = [row for row in _ordered(totals, order) if totals[row]]
    stacks = [
        (name, [_share_bar(amounts.get((row, key), 0.0), totals[row]) for row in rows], colour)
        for key, name, colour in series
    ]
    axis = linear_axis("% of the hours", 0.0, 100.0)
    return stacked_chart(title, rows, stacks, axis, [format_hours(totals[row]) for row in rows])


def totals_of(amounts: Amounts) -> dict[str, float]:
    """Sum the hours of each row over its series."""
    totals: dict[str, float] = defaultdict(float)
    for (row, _), hours in amounts.items():
        totals[row] += hours
    return dict(totals)


def _ordered(totals: Mapping[str, float], order: Sequence[str]) -> list[str]:
    """List the rows named in `order`, then the others by size."""
    return [name for name in order if name in totals] + [
        name for name in names_by_size(totals) if name not in order
    ]


def _hours_bar(hours: float, factor: int) -> Bar:
    return Bar(factor * hours, format_hours(hours))


def _share_bar(hours: float, total: float) -> Bar:
    return Bar(100 * hours / total, f"{format_percent(hours / total)}, {format_hours(hours)}")
