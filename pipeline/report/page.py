"""A page made of sections, made of blocks, written as one HTML file that fetches nothing."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.report.markup import Markup, element, join
from pipeline.report.style import NUM_COLOURS, STYLE

MISSING = "–"


@dataclass(frozen=True, slots=True)
class Cell:
    """A table cell with more than plain text or a plain number."""

    text: str
    note: str = ""
    """Shown small and muted after the text."""
    share: float | None = None
    """Length of a bar below the text, as a fraction of the cell's width in [0, 1]."""
    is_best: bool = False
    is_warning: bool = False
    is_word: bool = False
    """Align to the left, like a plain str; otherwise to the right, like a number."""
    shade: float | None = None
    """How strongly the whole cell is shaded, in [0, 1]."""


Value = str | int | float | Cell | None
"""What a table cell may hold: a str is aligned to the left, a number to the right; None is shown as a dash."""


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str
    kind: Literal["plain", "warning"] = "plain"

    def to_html(self) -> Markup:
        return element("p", self.text, class_=None if self.kind == "plain" else self.kind)


@dataclass(frozen=True, slots=True)
class Facts:
    """A few headline values: (name, value, note)."""

    facts: Sequence[tuple[str, str, str]]

    def to_html(self) -> Markup:
        tiles = (
            element("div", element("dt", name), element("dd", value, element("small", note) if note else ""))
            for name, value, note in self.facts
        )
        return element("dl", *tiles, class_="facts")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column titles; the first column names the row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    caption: str = ""
    num_totals: int = 0
    """Number of rows at the end that are totals and are set apart."""
    is_matrix: bool = False
    """Whether to turn the titles of all columns but the first, so that many columns of short numbers fit."""

    def to_html(self) -> Markup:
        assert all(len(row) == len(self.columns) for row in self.rows), f"ragged table {self.caption!r}"
        is_word = [any(_is_word(row[i]) for row in self.rows) for i in range(len(self.columns))]
        head = element(
            "tr",
            *(
                element("th", column, scope="col", class_=None if word or i == 0 else "number")
                for i, (column, word) in enumerate(zip(self.columns, is_word, strict=True))
            ),
        )
        first_total = len(self.rows) - self.num_totals
        # If any cell of a column has a note, all get one, possibly empty, so that their digits stay aligned.
        has_note = [any(_note(row[i]) for row in self.rows) for i in range(len(self.columns))]
        body = (
            element("tr", *_cells(row, has_note), class_="total" if i >= first_total else None)
            for i, row in enumerate(self.rows)
        )
        caption = element("caption", self.caption) if self.caption else ""
        class_ = "matrix" if self.is_matrix else None
        table = element("table", caption, element("thead", head), element("tbody", *body), class_=class_)
        return element("div", table, class_="table", tabindex=0)


def _cells(row: Sequence[Value], has_note: Sequence[bool]) -> Iterator[Markup]:
    for i, value in enumerate(row):
        if i == 0:
            yield element("th", _text(value), scope="row")
        elif isinstance(value, Cell):
            classes = {
                "number": not value.is_word,
                "bar": value.share is not None,
                "shade": value.shade is not None,
                "best": value.is_best,
                "alarm": value.is_warning,
            }
            lengths = {"share": value.share, "shade": value.shade}
            style = "; ".join(
                f"--{name}: {min(1, max(0, length)):.3f}"
                for name, length in lengths.items()
                if length is not None
            )
            note = element("small", value.note) if has_note[i] else ""
            class_ = " ".join(name for name, applies in classes.items() if applies) or None
            yield element("td", value.text, note, class_=class_, style=style or None)
        else:
            yield element("td", _text(value), class_=None if isinstance(value, str) else "number")


def _is_word(value: Value) -> bool:
    return value.is_word if isinstance(value, Cell) else isinstance(value, str)


def _note(value: Value) -> str:
    return value.note if isinstance(value, Cell) else ""


def _text(value: Value) -> str:
    match value:
        case None:
            return MISSING
        case Cell():
            return value.text
        case str():
            return value
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.2f}"


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing from pipeline.report.charts with a title and a legend."""

    title: str
    svg: Markup
    legend: Sequence[tuple[str, int]] = ()
    """(name, colour) of each series; colours count from 1."""

    def to_html(self) -> Markup:
        keys = (
            element("span", element("i", style=f"background: {colour(index)}"), name)
            for name, index in self.legend
        )
        legend = element("div", *keys, class_="legend") if self.legend else ""
        return element("figure", element("figcaption", self.title), legend, self.svg)


Block = Text | Facts | Table | Figure

ROWS: dict[type[Block], str] = {Figure: "figures", Table: "tables"}
"""Consecutive blocks of these types share a row; the style class of that row."""


def colour(index: int) -> str:
    """The CSS colour of a series; indices count from 1."""
    return f"var(--c{(index - 1) % NUM_COLOURS + 1})"


@dataclass(frozen=True, slots=True)
class Section:
    """A headline, linked from the page's menu, and the blocks below it."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    def to_html(self, anchor: str) -> Markup:
        parts: list[Markup] = []
        # Consecutive figures, and consecutive tables, are placed side by side if there is room.
        for kind, blocks in itertools.groupby(self.blocks, key=type):
            markup = [block.to_html() for block in blocks]
            row = ROWS.get(kind)
            parts += [element("div", *markup, class_=row)] if row else markup
        return element("section", element("h2", self.title), *parts, id=anchor)


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report; the same contents give the same bytes."""

    title: str
    summary: str
    sections: Sequence[Section]

    def to_html(self) -> str:
        anchors = [f"{section.anchor}-{i}" for i, section in enumerate(self.sections)]
        links = (
            element("a", section.title, href=f"#{anchor}")
            for section, anchor in zip(self.sections, anchors, strict=True)
        )
        sections = (section.to_html(anchor) for section, anchor in zip(self.sections, anchors, strict=True))
        # Forbid requests and scripts, whatever the names of a corpus's files contain.
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        head = join(
            Markup('<meta charset="utf-8">'),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            element("title", self.title),
            element("style", Markup(STYLE)),
        )
        body = join(
            element("header", element("b", "bonafide"), element("nav", *links)),
            element("main", element("h1", self.title), element("p", self.summary), *sections),
        )
        return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'
