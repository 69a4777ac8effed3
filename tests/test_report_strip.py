"""A strip over time is drawn to scale, tells classes without colour, and fetches nothing."""

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from pipeline.report import Figure, Page, Section
from pipeline.report.strip import LEFT, LINE_HEIGHT, RIGHT, WIDTH, Region, strip

PLOT = WIDTH - LEFT - RIGHT


def draw(
    scores: list[float], regions: list[Region] | None = None, title: str = "an utterance", **changes: float
) -> Figure:
    settings = {"hop_s": 0.5, "duration_s": 0.5 * len(scores), "threshold": 1.0, "reach": 2.0} | changes
    return strip(title, np.array(scores), regions or [], **settings)


def drawing(figure: Figure) -> ET.Element:
    return ET.fromstring(figure.svg)  # noqa: S314


def rows_of(figure: Figure) -> list[ET.Element]:
    """The line, the decisions, and the true regions if there are any."""
    return [part for part in drawing(figure) if part.tag == "svg"]


def boxes(row: ET.Element) -> list[tuple[float, float, float, str]]:
    """(start, end as fractions of the axis, height, text) of each box."""
    found = []
    for box in row.iter("rect"):
        x, width, height = (float(box.attrib[name]) for name in ("x", "width", "height"))
        found.append((x / PLOT, (x + width) / PLOT, height, "".join(box.itertext())))
    return found


def test_decisions_are_boxes_to_scale_that_are_high_where_spoofed():
    figure = draw([3.0, 3.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0], duration_s=4.0)
    _, decisions = rows_of(figure)
    spans = boxes(decisions)
    assert [span[:2] for span in spans] == [
        pytest.approx(each) for each in ((0, 0.25), (0.25, 0.625), (0.625, 1))
    ]
    assert [span[2] for span in spans] == [8, 16, 8]
    # A score at the threshold is not below it.
    assert [span[3].split(": ")[1] for span in spans] == [
        "bona fide, score 3.00",
        "spoof, score -1.00",
        "bona fide, score 1.00",
    ]
    opacity = [float(each) for each in re.findall(r"fill-opacity: ([\d.]+)", figure.svg)]
    assert opacity == [1.0, 1.0, 0.18]


def test_the_line_shows_each_score_between_the_ends_of_the_axis():
    line, _ = rows_of(draw([1.0, 3.0, -1.0, 0.0, 9.0]))
    path = line.findall("path")[1].attrib["d"]
    heights = [float(each) for each in re.findall(r"[ML][\d.]+ ([\d.]+)H", path)]
    assert heights == pytest.approx([LINE_HEIGHT * each for each in (0.5, 0, 1, 0.75, 0)])
    ends = [float(each) for each in re.findall(r"H([\d.]+)", path)]
    assert ends == pytest.approx([PLOT * each / 5 for each in (1, 2, 3, 4, 5)], abs=0.1)


def test_true_regions_are_a_row_of_their_own():
    regions = [(0.0, 1.0, "bonafide"), (1.0, 1.5, "non_speech"), (1.5, 2.02, "spoof")]
    _, _, truth = rows_of(draw([0.0] * 4, regions))
    assert [each[:3] for each in boxes(truth)] == [pytest.approx((0, 0.5, 8)), pytest.approx((0.75, 1, 16))]
    assert "1.00 to 1.50 s: non-speech" in "".join(truth.itertext())
    assert ">truth<" in draw([0.0] * 4, regions).svg
    assert ">truth<" not in draw([0.0] * 4).svg


def test_a_long_utterance_is_drawn_up_to_a_limit_that_the_title_names():
    figure = draw([0.0] * 20 + [5.0] * 20, [(0.0, 3.0, "spoof"), (3.0, 20.0, "bonafide")], max_s=4.0)
    assert figure.title == "an utterance; the first 4 of 20.0 s"
    _, decisions, truth = rows_of(figure)
    assert [each[:2] for each in boxes(decisions)] == [pytest.approx((0, 1))]
    assert [each[:2] for each in boxes(truth)] == [pytest.approx((0, 0.75)), pytest.approx((0.75, 1))]
    assert "100 % of the time below the threshold 1.00" in figure.svg


def test_a_strip_has_axes_in_words_and_runs_no_script():
    figure = draw([0.0, 2.0], title="<script>alert(1)</script>")
    texts = ["".join(text.itertext()) for text in drawing(figure).iter("text")]
    assert {"seconds", "bona fide", "spoof", "decision", "3.0", "1.00", "−1.0", "0.0", "0.2"} <= set(texts)
    page = Page("A report", "", [Section("Strips", [figure])]).to_html()
    assert "<script" not in page
    assert not re.search(r"(?:src=|url\(|href=\"[^#])", page)
