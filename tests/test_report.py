"""Report pages are well-formed, offline, safe, and drawn to scale."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from pipeline.report import Block, Cell, Facts, Page, Section, Table, Text
from pipeline.report.charts import (
    Bar,
    Line,
    bar_chart,
    histogram,
    line_chart,
    linear_axis,
    log_axis,
    probit_axis,
    stacked_chart,
)
from pipeline.report.scatter import Classification, Panel, Shapes, scatter_plot

HOSTILE = "<script>alert('x')</script>\" onload=\"x & </style>"
VOID_ELEMENTS = {"meta", "input"}


class Reader(HTMLParser):
    """Checks that elements are closed in order, and collects tags, attributes and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(html: str) -> Reader:
    parser = Reader()
    parser.feed(html)
    parser.close()
    return parser


def page_of(*blocks: Block) -> str:
    return Page("A report", "of things", [Section("First part", blocks)]).to_html()


def every_block(name: str) -> list[Block]:
    bars = [(name, [Bar(12.0, name, (10.0, 15.0)), None])]
    return [
        Text(name),
        Text(name, "warning"),
        Facts([(name, name, name)]),
        Table([name, "n"], [[name, 3], [name, Cell(name, name, 0.5, True)]], name, 1),
        line_chart(name, [Line(name, [0, 1], [0, 1], 1, marks=[(0.5, 0.5, name)])], *two_axes(name)),
        histogram(name, [(name, np.arange(9.0), 1), ("none", [], 2)], name),
        bar_chart(name, [name, "b"], bars, linear_axis(name, 0, 20)),
        stacked_chart(name, [name], [(name, [Bar(3.0, name)], 1)], linear_axis(name, 0, 20), [name]),
        scatter_plot(
            name,
            [Panel(name, name, np.eye(2))],
            [name, name],
            [Classification(name, [name, "b"], np.array([0, 1]))],
            Shapes(name, name, np.array([True, False])),
            num_columns=1,
        ),
    ]


def two_axes(name: str):
    return linear_axis(name, 0, 1), linear_axis(name, 0, 1)


def test_elements_are_closed_in_order():
    parser = read(page_of(*every_block("plain")))
    assert parser.open == []
    assert parser.tags.count("figure") == 5


def test_text_is_escaped_everywhere():
    parser = read(Page(HOSTILE, HOSTILE, [Section(HOSTILE, every_block(HOSTILE))]).to_html())
    assert parser.open == []
    assert "script" not in parser.tags
    assert "onload" not in dict(parser.attributes)
    assert parser.texts.count(HOSTILE) > 10


def test_page_fetches_nothing():
    parser = read(page_of(*every_block("plain")))
    assert not {"link", "img", "iframe", "script", "object"} & set(parser.tags)
    assert not {"src", "data", "action"} & {name for name, _ in parser.attributes}
    targets = [value for name, value in parser.attributes if name == "href"]
    assert targets == ["#first-part-0"]
    assert "url(" not in page_of() and "@import" not in page_of()
    assert "default-src 'none'" in page_of()


def test_the_menu_links_to_every_section_even_if_titles_repeat():
    parser = read(Page("p", "", [Section("A", []), Section("A", []), Section("·", [])]).to_html())
    links = [value for name, value in parser.attributes if name == "href"]
    anchors = [f"#{value}" for name, value in parser.attributes if name == "id"]
    assert links == anchors
    assert len(set(links)) == 3


def test_the_same_contents_give_the_same_bytes():
    assert page_of(*every_block("plain")) == page_of(*every_block("plain"))


def test_numbers_are_aligned_to_the_right_and_text_to_the_left():
    html = Table(["corpus", "hours", "licence"], [["mlaad", 1234, "CC"], ["itw", 5.678, "?"]]).to_html()
    assert '<td class="number">1,234</td>' in html
    assert '<td class="number">5.68</td>' in html
    assert "<td>CC</td>" in html
    assert '<th scope="col" class="number">hours</th>' in html
    assert '<th scope="col">licence</th>' in html


def test_missing_values_are_shown_as_a_dash():
    assert '<td class="number">–</td>' in Table(["a", "b"], [["x", None]]).to_html()


def test_a_ragged_table_is_rejected():
    with pytest.raises(AssertionError, match="ragged"):
        Table(["a", "b"], [["x"]]).to_html()


def test_a_cell_may_be_aligned_as_text_and_marked_as_a_warning():
    html = Table(["a", "b"], [["x", Cell("forbidden", is_warning=True, is_word=True)]]).to_html()
    assert '<th scope="col">b</th>' in html
    assert '<td class="alarm">forbidden</td>' in html


def test_the_titles_of_a_matrix_are_turned_and_its_cells_shaded():
    table = Table(["a", "b"], [["x", Cell("3", shade=0.25)]], is_matrix=True)
    assert '<table class="matrix">' in table.to_html()
    assert '<td class="number shade" style="--shade: 0.250">3</td>' in table.to_html()
    both = Table(["a", "b"], [["x", Cell("3", share=2, shade=-1)]]).to_html()
    assert 'class="number bar shade" style="--share: 1.000; --shade: 0.000"' in both


def test_the_last_rows_of_a_table_may_be_totals():
    html = Table(["a", "n"], [["x", 1], ["y", 2], ["sum", 3]], num_totals=1).to_html()
    assert re.findall(r'<tr class="total"><th scope="row">(\w+)', html) == ["sum"]


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0, 55, ["0", "10", "20", "30", "40", "50"]),
        (-7.7, 5.6, ["-7.5", "-5.0", "-2.5", "0.0", "2.5", "5.0"]),
        (0, 0.02, ["0.000", "0.005", "0.010", "0.015", "0.020"]),
        (0, 12_000, ["0", "2,000", "4,000", "6,000", "8,000", "10,000", "12,000"]),
        (3, 3, ["2.6", "2.8", "3.0", "3.2", "3.4"]),
    ],
)
def test_ticks_are_at_round_values_and_labelled_exactly(low, high, texts):
    axis = linear_axis("x", low, high)
    assert [text for _, text in axis.ticks] == texts
    assert [float(text.replace(",", "")) for text in texts] == pytest.approx(
        [value for value, _ in axis.ticks]
    )


def test_a_probit_axis_is_linear_in_standard_deviations():
    axis = probit_axis("miss", 0.0013499, 1 - 0.0013499)  # three standard deviations either way
    assert axis.fraction(0.5) == pytest.approx(0.5)
    assert axis.fraction(0.8413447) == pytest.approx(4 / 6, abs=1e-4)
    assert np.isfinite(axis.fraction(0.0)) and np.isfinite(axis.fraction(1.0))


def drawing(figure) -> ET.Element:
    return ET.fromstring(figure.svg)  # noqa: S314


def test_bar_lengths_are_proportional_to_values():
    bars = [("system", [Bar(10.0, "ten"), Bar(20.0, "twenty"), None])]
    figure = bar_chart("t", ["a", "b", "c"], bars, linear_axis("x", 0, 40))
    short, long = (float(bar.attrib["width"]) for bar in drawing(figure).iter("rect"))
    assert long == pytest.approx(2 * short, rel=0.01)


def test_a_line_is_drawn_to_the_scale_of_its_axes():
    figure = line_chart("t", [Line("up", [0, 1], [0, 1], 1)], *two_axes("x"))
    plot = next(iter(drawing(figure).iter("svg"))).find("svg")
    assert plot is not None
    path = plot.find("path")
    assert path is not None
    assert (
        path.attrib["d"] == f"M0.0 {float(plot.attrib['height']):.1f}L{float(plot.attrib['width']):.1f} 0.0"
    )


def test_a_histogram_counts_outliers_in_its_outermost_bins():
    values = np.concatenate((np.random.default_rng(0).normal(size=5000), [1e6]))
    figure = histogram("t", [("n", values, 1)], "score")
    ticks = [
        float(text.text or "0") for text in drawing(figure).iter("text") if (text.text or "a")[-1].isdigit()
    ]
    assert max(ticks) < 10


def test_a_histogram_of_one_repeated_value_can_be_drawn():
    assert drawing(histogram("t", [("n", np.ones(5), 1)], "score")) is not None


def test_stacked_pieces_are_adjacent_and_proportional_to_their_values():
    series = [("first", [Bar(10.0, "ten"), Bar(0.0, "none")], 1), ("second", [Bar(30.0, "thirty")] * 2, 2)]
    figure = stacked_chart("t", ["a", "b"], series, linear_axis("x", 0, 40), ["40", "30"])
    first, second, alone = (
        {key: float(bar.attrib[key]) for key in ("x", "y", "width")} for bar in drawing(figure).iter("rect")
    )
    assert first["x"] + first["width"] == pytest.approx(second["x"], abs=0.02)
    assert second["width"] == pytest.approx(3 * first["width"], rel=0.01)
    assert (first["y"], alone["x"]) == (second["y"], first["x"])


def test_a_log_axis_has_equal_lengths_for_equal_ratios():
    axis = log_axis("s", 0.5, 50.0)
    assert axis.fraction(5.0) == pytest.approx(0.5)
    assert [text for _, text in axis.ticks] == ["0.5", "1", "2", "5", "10", "20", "50"]
    assert [text for _, text in log_axis("s", 0.5, 5000.0).ticks] == ["1", "10", "100", "1,000"]
