"""Scatter plots as SVG: the same points in several panels, coloured by one of several classifications.

A point is one element with a marker in each panel, so its text is stored once, and pointing at it marks it in all
panels. The reader chooses the colours with radio buttons, which need no script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.report.markup import Markup, element
from pipeline.report.page import Figure, colour
from pipeline.report.style import NARROW_PX, NUM_COLOURS

SIZE = 1000
"""Width and height of a panel in SVG units; coordinates are integers."""

MARGIN, TOP_MARGIN = 40, 130
"""Space around the points of a panel; its titles are at the top."""

MAX_TITLE = 40
"""Characters of a title that fit into a panel."""

MARKER_SIZES = (11, 20)
"""Smallest and largest width of a marker in SVG units."""

MARKER_COVERAGE = 650
"""Width of a marker times the square root of the number of points, within MARKER_SIZES."""


class Panel(NamedTuple):
    """One picture of the points."""

    title: str
    subtitle: str
    positions: NDArray[np.float64]
    """[N, 2]; both coordinates are drawn to the same scale."""


@dataclass(frozen=True, slots=True)
class Classification:
    """A class for each point, shown by colour."""

    name: str
    classes: Sequence[str]
    """Names of the classes, in the order of their colours."""
    codes: NDArray[np.int64]
    """[N] position in `classes`."""

    def reduced(self, num_classes: int) -> Classification:
        """Put the smallest classes together if there are more than so many."""
        if len(self.classes) <= num_classes:
            return self
        sizes = np.bincount(self.codes, minlength=len(self.classes))
        kept = np.sort(np.argsort(-sizes, kind="stable")[: num_classes - 1])
        new_codes = np.full(len(self.classes), num_classes - 1)
        new_codes[kept] = np.arange(num_classes - 1)
        names = [self.classes[code] for code in kept]
        others = f"{len(self.classes) - len(names)} others"
        return Classification(self.name, [*names, others], new_codes[self.codes])


class Shapes(NamedTuple):
    """Two classes that are shown by the shape of the marker, for readers who cannot tell colours apart."""

    dot: str
    triangle: str
    is_triangle: NDArray[np.bool_]
    """[N]"""


def scatter_plot(
    title: str,
    panels: Sequence[Panel],
    texts: Sequence[str],
    classifications: Sequence[Classification],
    shapes: Shapes,
    *,
    num_columns: int,
) -> Figure:
    """Draw points in panels.

    Args:
        title: shown above.
        panels: row by row.
        texts: [N] shown on hover. Points are drawn in this order, so it should not be that of their classes.
        classifications: the first one is shown at first; of more than NUM_COLOURS classes, the smallest share a colour.
        shapes: of the markers.
        num_columns: panels of a row; on narrow screens, a row has one.
    """
    name = f"scatter-{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}"
    shown = [each.reduced(NUM_COLOURS) for each in classifications]
    switches = (
        Markup(
            f'<input type="radio" name="{name}" id="{name}-{number}"{" checked" * (number == 0)}>'
            f'<label for="{name}-{number}">{escape(each.name)}</label>'
        )
        for number, each in enumerate(shown)
    )
    svg = element(
        "svg",
        element("style", _style(name, shown, len(panels), num_columns)),
        element("g", *_frames(panels), class_="frames"),
        element("g", *_points(panels, texts, shown, shapes), class_="points"),
        viewBox=f"0 0 {SIZE} {SIZE}",
        role="img",
        aria_label=title,
    )
    legends = [_legend(each) for each in shown]
    parts = [element("b", "colour"), *switches, _shape_legend(shapes), *legends, svg]
    return Figure(title, element("div", *parts, class_="scatter", id=name))


def _legend(classification: Classification) -> Markup:
    sizes = np.bincount(classification.codes, minlength=len(classification.classes))
    keys = (
        element(
            "span",
            element("i", style=f"background: {colour(number)}"),
            f"{name} ",
            element("small", f"{n:,}"),
        )
        for number, (name, n) in enumerate(zip(classification.classes, sizes.tolist(), strict=True), start=1)
    )
    return element("div", *keys, class_="legend")


def _shape_legend(shapes: Shapes) -> Markup:
    marks = ((shapes.dot, "M50 50h.01", "dot"), (shapes.triangle, _triangle(50, 50, 80), "triangle"))
    keys = (
        element("span", element("svg", element("path", d=d), viewBox="0 0 100 100", class_=kind), name)
        for name, d, kind in marks
    )
    return element("p", *keys, class_="shapes")


def _frames(panels: Sequence[Panel]) -> Iterator[Markup]:
    for panel in panels:
        frame = element("rect", x=6, y=6, width=SIZE - 12, height=SIZE - 12, rx=12)
        short = panel.title if len(panel.title) <= MAX_TITLE else f"{panel.title[: MAX_TITLE - 1]}…"
        title = element("text", element("title", panel.title), short, x=MARGIN, y=60, class_="value")
        yield element("g", frame, title, element("text", panel.subtitle, x=MARGIN, y=104))


def _points(
    panels: Sequence[Panel], texts: Sequence[str], classifications: Sequence[Classification], shapes: Shapes
) -> Iterator[Markup]:
    """Draw one element per point: its text, and a marker in each panel."""
    positions = np.stack([_to_units(panel.positions) for panel in panels], axis=1).tolist()
    letters = [_letter(number) for number in range(len(classifications))]
    codes = np.stack([each.codes for each in classifications], axis=1).tolist()
    size = _marker_size(len(texts))
    for text, places, classes, is_triangle in zip(
        texts, positions, codes, shapes.is_triangle.tolist(), strict=True
    ):
        names = [f"{letter}{code + 1}" for letter, code in zip(letters, classes, strict=True)]
        names += ["t"] * is_triangle
        markers = (_triangle(x, y, size) if is_triangle else f"M{x} {y}h.01" for x, y in places)
        paths = "".join(f'<path d="{marker}"/>' for marker in markers)
        yield Markup(f'<g class="{" ".join(names)}"><title>{escape(text)}</title>{paths}</g>')


def _marker_size(num_points: int) -> int:
    return int(np.clip(MARKER_COVERAGE / max(num_points, 1) ** 0.5, *MARKER_SIZES))


def _triangle(x: int, y: int, size: int) -> str:
    """A path around a triangle in the middle of a square of this size."""
    return f"M{x} {y - size // 2}l{size // 2} {size}h-{size // 2 * 2}z"


def _to_units(positions_N2: NDArray[np.float64]) -> NDArray[np.int64]:
    """Scale points to the space of a panel, with its middle in the middle."""
    low, high = positions_N2.min(axis=0), positions_N2.max(axis=0)
    space = np.array([SIZE - 2 * MARGIN, SIZE - TOP_MARGIN - MARGIN])
    middle = np.array([SIZE / 2, (SIZE + TOP_MARGIN - MARGIN) / 2])
    extent = np.where(high > low, high - low, 1)
    scale = float((space / extent).min())
    centred = (positions_N2 - (low + high) / 2) * scale * np.array([1, -1])
    return np.asarray(np.rint(centred + middle), np.int64)


def _letter(number: int) -> str:
    """The letter of the style classes and of the colour of a classification."""
    return "abcdefgh"[number]


def _style(name: str, classifications: Sequence[Classification], num_panels: int, num_columns: int) -> Markup:
    """Write the rules that depend on the classifications and on the number of panels."""
    rules = [f"#{name} .points{{stroke-width:{_marker_size(len(classifications[0].codes))}}}"]
    for number, classification in enumerate(classifications):
        letter = _letter(number)
        chosen = f"#{name}-{number}:checked~"
        legend = f"div:nth-of-type({number + 1})"
        rules.append(f"{chosen}{legend}{{display:flex}}")
        rules.append(f"{chosen}svg .points>g{{color:var(--{letter})}}")
        for code in range(1, len(classification.classes) + 1):
            rules.append(f"#{name} .{letter}{code}{{--{letter}:{colour(code)}}}")
            # Pointing at a class in the legend leaves little of the others.
            pointed = f"#{name}:has({legend} span:nth-of-type({code}):hover)"
            rules.append(f"{pointed} .points>g:not(.{letter}{code}){{opacity:.07}}")
    rules += _layout(name, num_panels, num_columns)
    rules.append(f"@media(max-width:{NARROW_PX}px){{{''.join(_layout(name, num_panels, 1))}}}")
    return Markup("".join(rules))


def _layout(name: str, num_panels: int, num_columns: int) -> Iterator[str]:
    """Place the panels in rows: the image has the size of the first one, and the others are drawn beside and below."""
    num_rows = -(-num_panels // num_columns)
    width = 100 / num_columns
    yield f"#{name}>svg{{width:{width:.4f}%;margin-bottom:{width * (num_rows - 1):.4f}%}}"
    for panel in range(num_panels):
        row, column = divmod(panel, num_columns)
        places = f"#{name} .frames>:nth-child({panel + 1}),#{name} .points path:nth-of-type({panel + 1})"
        yield f"{places}{{transform:translate({SIZE * column}px,{SIZE * row}px)}}"
