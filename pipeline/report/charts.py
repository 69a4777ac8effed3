"""Line charts, histograms, bar charts and stacked bar charts as SVG in the page's light or dark colours."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.report.markup import Markup, element, join
from pipeline.report.page import Figure, colour

WIDTH, HEIGHT, LOW_HEIGHT = 560.0, 360.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 12.0, 12.0, 44.0
HOVER_DISTANCE = 14.0
"""Distance of the points of a curve that tell their values on hover, in SVG units."""
CHARACTER_WIDTH = 6.2
"""Average width of a character of a label, in SVG units."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from `low` to `high`; `position` maps values to a scale on which the axis is linear."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    position: Callable[[float], float] = float

    def fraction(self, value: float) -> float:
        """Position of a value on the axis: 0 at its low end, 1 at its high end."""
        start, end = self.position(self.low), self.position(self.high)
        return (self.position(value) - start) / (end - start)


def linear_axis(label: str, low: float, high: float, *, num_ticks: int = 6) -> Axis:
    """A linear axis from low to high, with about num_ticks ticks at round values."""
    if not high > low:
        low, high = low - 0.5, low + 0.5
    rough = (high - low) / num_ticks
    exponent = math.floor(math.log10(rough))
    factor = next(factor for factor in (1, 2, 2.5, 5, 10) if factor * 10.0**exponent >= rough * 0.999)
    step = factor * 10.0**exponent
    decimals = max(0, {2.5: 1, 10: -1}.get(factor, 0) - exponent)
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return Axis(label, low, high, [(i * step, f"{i * step:,.{decimals}f}") for i in numbers])


def log_axis(label: str, low: float, high: float) -> Axis:
    """A logarithmic axis, 0 < low < high, with ticks at 1, 2, 5 times powers of ten, or at powers of ten alone."""
    factors = (1, 2, 5) if high < 1000 * low else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = (factor * 10.0**exponent for exponent in exponents for factor in factors)
    return Axis(
        label, low, high, [(value, f"{value:,g}") for value in values if low <= value <= high], math.log10
    )


def probit_axis(label: str, low: float, high: float) -> Axis:
    """The axis of a DET plot: rates in (0, 1), shown in percent; Gaussian scores give a straight line."""
    rates = (0.00001, 0.0001, 0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98, 0.999)
    ticks = [(rate, f"{100 * rate:g}") for rate in rates if low <= rate <= high]
    return Axis(label, low, high, ticks, _probit)


def _probit(rate: float) -> float:
    return NormalDist().inv_cdf(min(max(rate, 1e-7), 1 - 1e-7))


@dataclass(frozen=True, slots=True)
class Line:
    """A curve through x and y, both [num_points]; colours count from 1."""

    name: str
    x: ArrayLike
    y: ArrayLike
    colour: int
    is_filled: bool = False
    """Whether the area down to the x axis is filled."""
    is_dashed: bool = False
    """A dashed line belongs to a solid one of the same colour, and is not in the legend."""
    marks: Sequence[tuple[float, float, str]] = ()
    """Points to mark with a dot: (x, y, text shown on hover)."""
    describe: Callable[[float, float], str] | None = None
    """Text shown on hover at a point of the curve; None: only the name is shown."""


def line_chart(
    title: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    has_diagonal: bool = False,
    verticals: Sequence[tuple[float, str]] = (),
    total_height: float = HEIGHT,
) -> Figure:
    """Draw curves over two axes; parts outside of the axes are clipped.

    Args:
        title: shown above the chart.
        lines: the curves.
        x: horizontal axis.
        y: vertical axis.
        has_diagonal: whether a guide leads from the lower left to the upper right corner.
        verticals: (x, text shown on hover) of vertical guides, such as a threshold.
        total_height: of the chart, in SVG units.
    """
    width, height = WIDTH - LEFT - RIGHT, total_height - TOP - BOTTOM
    guide = [element("path", d=f"M0 {height}L{width} 0", class_="guide")] if has_diagonal else []
    for value, text in verticals:
        line = f"M{width * x.fraction(value):.1f} 0V{height}"
        guide.append(element("path", element("title", text), d=line, class_="threshold"))
    curves = [part for line in lines for part in _curve(line, x, y, width, height)]
    # A nested svg clips at its borders, so charts need no clip path with a unique id.
    plot = element("svg", *guide, *curves, x=LEFT, y=TOP, width=width, height=height, overflow="hidden")
    svg = _svg(title, total_height, [*_axes(x, y, width, height), plot])
    return Figure(title, svg, [(line.name, line.colour) for line in lines if not line.is_dashed])


def _curve(line: Line, x: Axis, y: Axis, width: float, height: float) -> Iterator[Markup]:
    points = [
        (width * x.fraction(float(u)), height * (1 - y.fraction(float(v))))
        for u, v in zip(np.asarray(line.x), np.asarray(line.y), strict=True)
    ]
    path = "M" + "L".join(f"{u:.1f} {v:.1f}" for u, v in points)
    shade = colour(line.colour)
    if line.is_filled:
        area = f"{path}L{points[-1][0]:.1f} {height}L{points[0][0]:.1f} {height}Z"
        yield element("path", d=area, style=f"fill: {shade}; opacity: .22")
    dashes = "; stroke-dasharray: 5 4" if line.is_dashed else ""
    stroke = f"fill: none; stroke: {shade}; stroke-width: 1.8; stroke-linejoin: round{dashes}"
    yield element("path", element("title", line.name), d=path, style=stroke)
    if line.describe is not None:
        yield from _hover_points(line, points, width, height)
    for u, v, text in line.marks:
        dot = f"fill: {shade}; stroke: var(--surface); stroke-width: 1.5"
        u, v = width * x.fraction(u), height * (1 - y.fraction(v))
        yield element("circle", element("title", text), cx=u, cy=v, r=4, style=dot)


def _hover_points(
    line: Line, points: Sequence[tuple[float, float]], width: float, height: float
) -> Iterator[Markup]:
    """Put invisible dots along the visible part of a curve, each of which tells its values."""
    assert line.describe is not None
    x, y = np.asarray(line.x), np.asarray(line.y)
    last = (math.inf, math.inf)
    for (u, v), one, other in zip(points, x.tolist(), y.tolist(), strict=True):
        if not (0 <= u <= width and 0 <= v <= height) or math.dist((u, v), last) < HOVER_DISTANCE:
            continue
        last = (u, v)
        text = f"{line.name}: {line.describe(one, other)}"
        yield element("circle", element("title", text), cx=u, cy=v, r=HOVER_DISTANCE / 2, class_="hover")


def _axes(x: Axis, y: Axis, width: float, height: float) -> list[Markup]:
    parts: list[Markup] = []
    for value, text in x.ticks:
        u = LEFT + width * x.fraction(value)
        parts.append(element("path", d=f"M{u:.1f} {TOP}V{TOP + height}", class_="gridline"))
        parts.append(element("text", text, x=u, y=TOP + height + 16, text_anchor="middle"))
    for value, text in y.ticks:
        v = TOP + height * (1 - y.fraction(value))
        parts.append(element("path", d=f"M{LEFT} {v:.1f}H{LEFT + width}", class_="gridline"))
        parts.append(element("text", text, x=LEFT - 7, y=v + 4, text_anchor="end"))
    parts.append(element("path", d=f"M{LEFT} {TOP}V{TOP + height}H{LEFT + width}", class_="frame"))
    parts.append(element("text", x.label, x=LEFT + width / 2, y=TOP + height + 36, text_anchor="middle"))
    turned = f"translate(13 {TOP + height / 2:.1f}) rotate(-90)"
    parts.append(element("text", y.label, transform=turned, text_anchor="middle"))
    return parts


def histogram(
    title: str,
    series: Sequence[tuple[str, ArrayLike, int]],
    x_label: str,
    verticals: Sequence[tuple[float, str]] = (),
) -> Figure:
    """Draw the densities of several series (name, values, colour) over common bins, and vertical guides."""
    arrays = [np.asarray(values, dtype=np.float64) for _, values, _ in series]
    edges = _bin_edges(arrays)
    densities = []
    for values in arrays:
        counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
        densities.append(counts / (max(values.size, 1) * np.diff(edges)))
    steps = [(name, density, index) for (name, _, index), density in zip(series, densities, strict=True)]
    x = linear_axis(x_label, float(edges[0]), float(edges[-1]))
    return step_chart(title, edges, steps, x, "density", verticals)


def step_chart(
    title: str,
    edges: ArrayLike,
    series: Sequence[tuple[str, ArrayLike, int]],
    x: Axis,
    y_label: str,
    verticals: Sequence[tuple[float, str]] = (),
) -> Figure:
    """Draw series (name, heights [num_bins], colour) as filled steps over bins between edges [num_bins + 1]."""
    steps_x = np.repeat(np.asarray(edges, dtype=np.float64), 2)

    def describe(value: float, height: float) -> str:
        return f"{y_label} {height:.3g} at {x.label} {value:.3g}"

    lines = [
        Line(
            name,
            steps_x,
            np.concatenate(([0.0], np.repeat(heights, 2), [0.0])),
            index,
            is_filled=True,
            describe=describe,
        )
        for name, heights, index in series
    ]
    highest = max((float(np.max(np.asarray(line.y))) for line in lines), default=1.0)
    y = linear_axis(y_label, 0.0, highest * 1.06, num_ticks=3)
    return line_chart(title, lines, x, y, verticals=verticals, total_height=LOW_HEIGHT)


def _bin_edges(arrays: Sequence[NDArray[np.float64]], num_bins: int = 60) -> NDArray[np.float64]:
    values = np.concatenate(arrays)
    # A few outliers would squeeze all other values into one bin; they are counted in the outermost bins instead.
    low, high = np.quantile(values, (0.001, 0.999)) if values.size else (0.0, 1.0)
    margin = 0.02 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, num_bins + 1)


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a bar chart, with an optional interval drawn as a whisker."""

    value: float
    text: str
    """Shown at the end of the bar and on hover."""
    interval: tuple[float, float] | None = None


def bar_chart(
    title: str, labels: Sequence[str], series: Sequence[tuple[str, Sequence[Bar | None]]], axis: Axis
) -> Figure:
    """Draw horizontal bars: for each label, one bar of each series (name, [num_labels] bars or None)."""
    thickness, gap = (16.0, 14.0) if len(series) == 1 else (12.0, 16.0)
    rows = _Rows(labels, gap + len(series) * (thickness + 2), gap, axis)
    parts = rows.frame()
    for row, label in enumerate(labels):
        for index, (name, bars) in enumerate(series):
            bar = bars[row]
            if bar is not None:
                top = rows.top(row) + index * (thickness + 2)
                parts += _bar(
                    bar, f"{label} · {name}", axis, index + 1, rows.left, top, rows.width, thickness
                )
    svg = _svg(title, rows.bottom + BOTTOM, parts)
    return Figure(title, svg, [(name, index + 1) for index, (name, _) in enumerate(series)])


def stacked_chart(
    title: str,
    labels: Sequence[str],
    series: Sequence[tuple[str, Sequence[Bar], int]],
    axis: Axis,
    ends: Sequence[str],
) -> Figure:
    """Draw horizontal bars, each stacked from one piece of every series.

    Args:
        title: shown above the chart.
        labels: [num_labels] names of the bars.
        series: (name, [num_labels] pieces, colour), stacked from left to right; the text of a piece is shown on hover.
        axis: must start at 0.
        ends: [num_labels] text at the end of each bar.
    """
    thickness, gap = 15.0, 9.0
    rows = _Rows(labels, gap + thickness, gap, axis)
    parts = rows.frame()
    for row, (label, end_text) in enumerate(zip(labels, ends, strict=True)):
        value, end = 0.0, rows.left
        for name, pieces, index in series:
            piece = pieces[row]
            value += piece.value
            start, end = end, rows.left + rows.width * min(1.0, axis.fraction(value))
            if piece.value > 0:
                hover = element("title", f"{label} · {name}: {piece.text}")
                box = {"x": start, "y": rows.top(row), "width": max(end - start, 0.5), "height": thickness}
                parts.append(element("rect", hover, **box, style=f"fill: {colour(index)}"))
        parts.append(
            element("text", end_text, x=end + 7, y=rows.top(row) + thickness / 2 + 4, class_="value")
        )
    return Figure(
        title, _svg(title, rows.bottom + BOTTOM, parts), [(name, index) for name, _, index in series]
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """The layout of a bar chart: labels on the left, one below the other, and bars beside them."""

    labels: Sequence[str]
    height: float
    """Height of a row, including the gap to the next."""
    gap: float
    axis: Axis

    @property
    def left(self) -> float:
        return min(190.0, 16 + CHARACTER_WIDTH * max((len(label) for label in self.labels), default=0))

    @property
    def width(self) -> float:
        return WIDTH - self.left - 92

    @property
    def bottom(self) -> float:
        return TOP + self.height * len(self.labels)

    def top(self, row: int) -> float:
        """The y coordinate of the first bar of a row."""
        return TOP + row * self.height + self.gap / 2

    def frame(self) -> list[Markup]:
        """Draw labels, axis and grid."""
        left, bottom = self.left, self.bottom
        parts: list[Markup] = []
        for value, text in self.axis.ticks:
            u = left + self.width * self.axis.fraction(value)
            parts.append(element("path", d=f"M{u:.1f} {TOP}V{bottom:.1f}", class_="gridline"))
            parts.append(element("text", text, x=u, y=bottom + 16, text_anchor="middle"))
        for row, label in enumerate(self.labels):
            short = (
                label
                if len(label) * CHARACTER_WIDTH < left
                else label[: int(left / CHARACTER_WIDTH) - 2] + "…"
            )
            position = {"x": left - 8, "y": self.top(row) + (self.height - self.gap) / 2 + 4}
            hover = element("title", label)
            parts.append(element("text", short, hover, **position, text_anchor="end", class_="value"))
        parts.append(element("path", d=f"M{left} {TOP}V{bottom:.1f}", class_="frame"))
        middle = left + self.width / 2
        parts.append(element("text", self.axis.label, x=middle, y=bottom + 34, text_anchor="middle"))
        return parts


def _bar(
    bar: Bar, name: str, axis: Axis, index: int, left: float, top: float, width: float, thickness: float
) -> Iterator[Markup]:
    end = left + width * min(1.0, axis.fraction(bar.value))
    hover = element("title", f"{name}: {bar.text}")
    style = f"fill: {colour(index)}"
    yield element(
        "rect", hover, x=left, y=top, width=max(end - left, 1.0), height=thickness, rx=2, style=style
    )
    if bar.interval is not None:
        low, high = (left + width * min(1.0, axis.fraction(value)) for value in bar.interval)
        middle = top + thickness / 2
        ends = f"M{low:.1f} {middle - 3}v6M{high:.1f} {middle - 3}v6"
        yield element("path", d=f"M{low:.1f} {middle}H{high:.1f}{ends}", class_="whisker")
        end = max(end, high)
    yield element("text", bar.text, x=end + 7, y=top + thickness / 2 + 4, class_="value")


def _svg(title: str, height: float, parts: Sequence[Markup]) -> Markup:
    return element("svg", join(*parts), viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", aria_label=title)
