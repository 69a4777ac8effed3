"""A strip over time: the score of each frame of an utterance as a line and as colours, above its true regions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.report.charts import Axis, linear_axis
from pipeline.report.markup import Markup, element, join
from pipeline.report.page import Figure, colour

WIDTH = 420.0
"""Narrower than a chart, so that its texts can be read on a phone."""
LEFT, RIGHT, TOP, BOTTOM = 66.0, 10.0, 8.0, 38.0
LINE_HEIGHT, BAND_HEIGHT, GAP = 92.0, 16.0, 10.0

SHADES = 6
"""Shades of each colour, the faintest for scores at the threshold."""
FAINTEST = 0.18
"""Opacity of the faintest shade."""

BONAFIDE, SPOOF = 1, 2
"""Their colours, as in histograms of scores."""

Region = tuple[float, float, str]
"""(start, end, label) of a part of an utterance, in seconds."""


def strip(
    title: str,
    scores: NDArray[np.float64],
    regions: Sequence[Region] = (),
    *,
    hop_s: float,
    duration_s: float,
    threshold: float,
    reach: float,
    max_s: float = 20.0,
) -> Figure:
    """Draw the scores of frames over time.

    Args:
        title: shown above the strip; it gets a remark if only the beginning is drawn.
        scores: [num_frames]; frame t lasts from t · hop_s to (t + 1) · hop_s, and the last one to the end.
        regions: the true ones; none if they are not known.
        hop_s: time between the starts of two frames.
        duration_s: of the utterance.
        threshold: scores below it count as spoofed; it is the middle of the vertical axis.
        reach: the scores this far from the threshold are at the ends of the axis, and so are those beyond.
        max_s: at most so much of the utterance is drawn.
    """
    end_s = min(duration_s, max_s)
    if duration_s > max_s:
        title = f"{title}; the first {max_s:g} of {duration_s:.1f} s"
    scores = scores[: int(np.ceil(end_s / hop_s - 1e-9))]
    edges = np.minimum(np.arange(scores.size + 1) * hop_s, end_s)
    edges[-1] = end_s
    axis = linear_axis("seconds", 0.0, end_s, num_ticks=5)
    # A nested svg clips at its borders, so no clip path with a unique id is needed.
    plot = {"x": LEFT, "width": WIDTH - LEFT - RIGHT, "overflow": "hidden"}
    band_top = TOP + LINE_HEIGHT + GAP
    parts = [
        *_axis_of_scores(threshold, reach),
        element("svg", *_line(scores, edges, axis, threshold, reach), y=TOP, height=LINE_HEIGHT, **plot),
        element("svg", *_band(scores, edges, axis, threshold, reach), y=band_top, height=BAND_HEIGHT, **plot),
        _row_label("decision", band_top),
    ]
    bottom = band_top + BAND_HEIGHT
    if regions:
        top = bottom + GAP
        bottom = top + BAND_HEIGHT
        drawn = (part for region in regions for part in _region(region, axis, end_s))
        parts += [element("svg", *drawn, y=top, height=BAND_HEIGHT, **plot), _row_label("truth", top)]
    parts = [*_axis_of_time(axis, bottom), *parts]
    share = float(np.diff(edges)[scores < threshold].sum()) / end_s
    label = f"{title}: {100 * share:.0f} % of the time below the threshold {threshold:.2f}"
    svg = element(
        "svg", join(*parts), viewBox=f"0 0 {WIDTH:g} {bottom + BOTTOM:g}", role="img", aria_label=label
    )
    return Figure(title, svg, [("bona fide", BONAFIDE), ("spoof", SPOOF)])


def _x(axis: Axis, second: float) -> float:
    return (WIDTH - LEFT - RIGHT) * axis.fraction(second)


def _axis_of_scores(threshold: float, reach: float) -> Iterator[Markup]:
    places = (
        (f"{threshold + reach:.1f}", 0.0),
        ("bona fide", 0.25),
        (f"{threshold:.2f}", 0.5),
        ("spoof", 0.75),
        (f"{threshold - reach:.1f}", 1.0),
    )
    for text, fraction in places:
        y = TOP + LINE_HEIGHT * fraction + 4
        yield element("text", text.replace("-", "−"), x=LEFT - 7, y=y, text_anchor="end")


def _axis_of_time(axis: Axis, bottom: float) -> Iterator[Markup]:
    for value, text in axis.ticks:
        x = LEFT + _x(axis, value)
        yield element("path", d=f"M{x:.1f} {TOP}V{bottom + 3:.1f}", class_="gridline")
        yield element("text", text, x=x, y=bottom + 15, text_anchor="middle")
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    yield element("text", axis.label, x=middle, y=bottom + 31, text_anchor="middle")


def _row_label(text: str, top: float) -> Markup:
    return element("text", text, x=LEFT - 7, y=top + BAND_HEIGHT / 2 + 4, text_anchor="end")


def _line(
    scores: NDArray[np.float64], edges: NDArray[np.float64], axis: Axis, threshold: float, reach: float
) -> Iterator[Markup]:
    """The scores as steps, and the threshold."""
    heights = LINE_HEIGHT * (0.5 - np.clip((scores - threshold) / reach, -1, 1) / 2)
    steps = (
        f"{_x(axis, start):.1f} {y:.1f}H{_x(axis, end):.1f}"
        for start, end, y in zip(edges[:-1].tolist(), edges[1:].tolist(), heights.tolist(), strict=True)
    )
    middle = element("title", f"threshold: {threshold:.3f}")
    yield element("path", middle, d=f"M0 {LINE_HEIGHT / 2:g}H{WIDTH:g}", class_="threshold")
    stroke = "fill: none; stroke: var(--ink); stroke-width: 1.4; stroke-linejoin: round"
    yield element("path", d=f"M{'L'.join(steps)}", style=stroke)


def _band(
    scores: NDArray[np.float64], edges: NDArray[np.float64], axis: Axis, threshold: float, reach: float
) -> Iterator[Markup]:
    """Runs of frames of one shade; spoofed ones are as high as the band, bona fide ones half as high."""
    distance = scores - threshold
    shades = np.minimum(np.abs(distance) / reach * SHADES, SHADES - 1).astype(np.int64)
    codes = np.where(distance < 0, -1 - shades, shades)
    first = np.concatenate(([0], np.flatnonzero(np.diff(codes)) + 1))
    last = np.append(first[1:], codes.size)
    for begin, end in zip(first.tolist(), last.tolist(), strict=True):
        shade, is_spoof = int(shades[begin]), bool(codes[begin] < 0)
        start_s, end_s = float(edges[begin]), float(edges[end])
        mean = float(scores[begin:end].mean())
        text = f"{start_s:.2f} to {end_s:.2f} s: {'spoof' if is_spoof else 'bona fide'}, score {mean:.2f}"
        opacity = FAINTEST + (1 - FAINTEST) * shade / (SHADES - 1)
        yield _box(axis, start_s, end_s, text, SPOOF if is_spoof else BONAFIDE, opacity)


def _region(region: Region, axis: Axis, limit_s: float) -> Iterator[Markup]:
    start_s, end_s, label = region[0], min(region[1], limit_s), region[2].replace("_", "-")
    if start_s >= end_s:
        return
    text = f"{start_s:.2f} to {end_s:.2f} s: {label}"
    match label:
        case "spoof":
            yield _box(axis, start_s, end_s, text, SPOOF, 1.0)
        case "bonafide":
            yield _box(axis, start_s, end_s, text, BONAFIDE, 1.0)
        case _:
            y = f"M{_x(axis, start_s):.1f} {BAND_HEIGHT - 1:g}H{_x(axis, end_s):.1f}"
            yield element("path", element("title", text), d=y, class_="guide")


def _box(axis: Axis, start_s: float, end_s: float, text: str, shade: int, opacity: float) -> Markup:
    """A box whose height tells the class as well as its colour: full for spoof, half for bona fide."""
    height = BAND_HEIGHT if shade == SPOOF else BAND_HEIGHT / 2
    return element(
        "rect",
        element("title", text),
        x=_x(axis, start_s),
        y=BAND_HEIGHT - height,
        width=_x(axis, end_s) - _x(axis, start_s),
        height=height,
        style=f"fill: {colour(shade)}; fill-opacity: {opacity:.2f}",
    )
