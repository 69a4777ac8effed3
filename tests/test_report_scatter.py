"""Scatter plots: drawn to scale, with one element per point, and few colours."""

import re

import numpy as np
import pytest

from pipeline.report.scatter import SIZE, Classification, Panel, Shapes, scatter_plot
from pipeline.report.style import NUM_COLOURS

SQUARE = np.array([[0.0, 0.0], [0.0, 4.0], [4.0, 4.0], [4.0, 0.0], [1.0, 2.0]])


def draw(
    positions, *, num_panels=1, num_columns=1, codes=None, is_triangle=None, classes=("one", "two")
) -> str:
    num = len(positions)
    codes = np.zeros(num, int) if codes is None else np.asarray(codes)
    shapes = Shapes(
        "dot", "triangle", np.zeros(num, bool) if is_triangle is None else np.asarray(is_triangle)
    )
    panels = [Panel(f"panel {number}", "below", positions * (number + 1)) for number in range(num_panels)]
    texts = [f"point {number}" for number in range(num)]
    classifications = [Classification("kind", classes, codes)]
    return scatter_plot("t", panels, texts, classifications, shapes, num_columns=num_columns).svg


def markers(svg: str) -> np.ndarray:
    points = re.search('<g class="points">.*</g>', svg)
    assert points is not None
    return np.array(re.findall(r'd="M(\d+) (\d+)', points[0]), int)


def test_points_are_drawn_to_the_same_scale_in_both_directions():
    x, y = markers(draw(SQUARE)).T
    side = x[2] - x[0]
    assert side > 0.7 * SIZE
    assert x == pytest.approx(x[0] + side * SQUARE[:, 0] / 4, abs=1)
    assert y == pytest.approx(y[0] - side * SQUARE[:, 1] / 4, abs=1)
    long = markers(draw(SQUARE * [100, 1]))
    assert np.ptp(long[:, 1]) == pytest.approx(np.ptp(long[:, 0]) / 100, abs=1)


def test_every_panel_fits_its_points_and_equal_points_can_be_drawn():
    svg = draw(SQUARE, num_panels=3)
    assert svg.count("<title>point 2</title>") == 1
    assert np.array_equal(markers(svg)[0::3], markers(svg)[2::3])
    assert (markers(draw(np.ones((4, 2)))) == markers(draw(np.zeros((1, 2))))).all()


def test_panels_are_placed_in_rows_and_below_each_other_on_narrow_screens():
    svg = draw(SQUARE, num_panels=4, num_columns=2)
    wide, narrow = svg.split("@media")
    assert f"path:nth-of-type(4){{transform:translate({SIZE}px,{SIZE}px)}}" in wide
    assert f"path:nth-of-type(4){{transform:translate(0px,{3 * SIZE}px)}}" in narrow
    assert (
        "width:50.0000%;margin-bottom:50.0000%" in wide
        and "width:100.0000%;margin-bottom:300.0000%" in narrow
    )


def test_the_smallest_classes_share_a_colour_and_every_class_is_counted():
    codes = np.repeat(np.arange(12), np.arange(12, 0, -1))
    svg = draw(
        np.random.default_rng(0).normal(size=(codes.size, 2)), codes=codes, classes=list("abcdefghijkl")
    )
    legend = re.findall(r"</i>([\w ]+) <small>(\d+)", svg)
    assert legend == [*zip("abcdefg", map(str, range(12, 5, -1)), strict=True), ("5 others", "15")]
    assert svg.count('<g class="a8"') == 15 and f'"a{NUM_COLOURS + 1}' not in svg


def test_a_class_has_another_shape():
    svg = draw(SQUARE, is_triangle=[True, False, False, True, False])
    assert (
        len(re.findall(r'<g class="a1 t"><title>point [03]</title><path d="M\d+ \d+l\d+ \d+h-\d+z"/>', svg))
        == 2
    )
    assert len(re.findall(r'<g class="a1"><title>point [124]</title><path d="M\d+ \d+h.01"/>', svg)) == 3
