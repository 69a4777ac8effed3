"""Stacked bars of hours and of their shares, as several sections draw them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pipeline.card.formatting import COLOURS, LABELS_SHOWN, TITLES, by_size, hours_words, percent_words
from pipeline.report import Figure
from pipeline.report.charts import Bar, linear_axis, stacked_chart

Amounts = Mapping[tuple[str, str], float]
"""Hours by (row, series)."""

Series = Sequence[tuple[str, str, int]]
"""(key, title, colour) of each piece of a bar, from left to right."""

LABEL_SERIES: Series = [(label, TITLES[label], COLOURS[label]) for label in LABELS_SHOWN]


def hours_chart(title: str, amounts: Amounts, series: Series, *, order: Sequence[str] = ()) -> Figure:
    """Stacked hours, rows by size unless they come in an order of their own; minutes if they are few."""
    totals = totals_of(amounts)
    rows = _ordered(totals, order)
    longest = max(totals.values(), default=1.0)
    unit, factor = ("hours", 1) if longest >= 1 else ("minutes", 60)
    stacks = [
        (name, [_hours_bar(amounts.get((row, key), 0.0), factor) for row in rows], colour)
        for key, name, colour in series
    ]
    axis = linear_axis(unit, 0.0, factor * longest, num_ticks=4)
    return stacked_chart(title, rows, stacks, axis, [hours_words(totals[row]) for row in rows])


def shares_chart(title: str, amounts: Amounts, series: Series, *, order: Sequence[str] = ()) -> Figure:
    """Each row as a whole, whatever its hours."""
    totals = totals_of(amounts)
    rows = [row for row in _ordered(totals, order) if totals[row]]
    stacks = [
        (name, [_share_bar(amounts.get((row, key), 0.0), totals[row]) for row in rows], colour)
        for key, name, colour in series
    ]
    axis = linear_axis("% of the hours", 0.0, 100.0)
    return stacked_chart(title, rows, stacks, axis, [hours_words(totals[row]) for row in rows])


def totals_of(amounts: Amounts) -> dict[str, float]:
    """Hours of each row."""
    totals: dict[str, float] = defaultdict(float)
    for (row, _), hours in amounts.items():
        totals[row] += hours
    return dict(totals)


def _ordered(totals: Mapping[str, float], order: Sequence[str]) -> list[str]:
    """Rows in their given order, then the others by size."""
    return [name for name in order if name in totals] + [
        name for name in by_size(totals) if name not in order
    ]


def _hours_bar(hours: float, factor: int) -> Bar:
    return Bar(factor * hours, hours_words(hours))


def _share_bar(hours: float, total: float) -> Bar:
    return Bar(100 * hours / total, f"{percent_words(hours / total)}, {hours_words(hours)}")
