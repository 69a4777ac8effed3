"""A page of sections of blocks, written as one HTML file without anything to fetch."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.report.markup import Markup, element, join
from pipeline.report.style import NUM_COLOURS, STYLE

NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Cell:
    """A number in a table that needs more than its digits, or words that are no plain ones."""

    text: str
    note: str = ""
    """Small and muted behind the text."""
    share: float | None = None
    """Underlines the cell with a bar, as a fraction of its width in [0, 1]."""
    is_best: bool = False
    is_warning: bool = False
    is_word: bool = False
    """Stands on the left, as a plain str does."""


Value = str | int | float | Cell | None
"""A str is a word and stands on the left; everything else, unless it says so, is a number and stands on the right."""


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str
    kind: Literal["plain", "warning"] = "plain"

    def to_html(self) -> Markup:
        return element("p", self.text, class_=None if self.kind == "plain" else self.kind)


@dataclass(frozen=True, slots=True)
class Facts:
    """A few headline values: (what it is, value, note)."""

    facts: Sequence[tuple[str, str, str]]

    def to_html(self) -> Markup:
        tiles = (
            element("div", element("dt", name), element("dd", value, element("small", note) if note else ""))
            for name, value, note in self.facts
        )
        return element("dl", *tiles, class_="facts")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column titles; the first column names its row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    caption: str = ""
    num_totals: int = 0
    """How many rows at the end sum up the others and are set apart."""

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
        # An empty note keeps the digits of its cell above and below those of the others.
        has_note = [any(_note(row[i]) for row in self.rows) for i in range(len(self.columns))]
        body = (
            element("tr", *_cells(row, has_note), class_="total" if i >= first_total else None)
            for i, row in enumerate(self.rows)
        )
        caption = element("caption", self.caption) if self.caption else ""
        table = element("table", caption, element("thead", head), element("tbody", *body))
        return element("div", table, class_="table", tabindex=0)


def _cells(row: Sequence[Value], has_note: Sequence[bool]) -> Iterator[Markup]:
    for i, value in enumerate(row):
        if i == 0:
            yield element("th", _text(value), scope="row")
        elif isinstance(value, Cell):
            kinds = {
                "number": not value.is_word,
                "bar": value.share is not None,
                "best": value.is_best,
                "alarm": value.is_warning,
            }
            style = None if value.share is None else f"--share: {min(1, max(0, value.share)):.3f}"
            note = element("small", value.note) if has_note[i] else ""
            classes = " ".join(kind for kind, is_so in kinds.items() if is_so) or None
            yield element("td", value.text, note, class_=classes, style=style)
        else:
            yield element("td", _text(value), class_=None if isinstance(value, str) else "number")


def _is_word(value: Value) -> bool:
    return value.is_word if isinstance(value, Cell) else isinstance(value, str)


def _note(value: Value) -> str:
    return value.note if isinstance(value, Cell) else ""


def _text(value: Value) -> str:
    match value:
        case None:
            return NOTHING
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
    """A drawing from pipeline.report.charts with its title and the names of its colours."""

    title: str
    svg: Markup
    legend: Sequence[tuple[str, int]] = ()
    """(name, colour), colours counted from 1."""

    def to_html(self) -> Markup:
        keys = (
            element("span", element("i", style=f"background: {colour(index)}"), name)
            for name, index in self.legend
        )
        legend = element("div", *keys, class_="legend") if self.legend else ""
        return element("figure", element("figcaption", self.title), legend, self.svg)


Block = Text | Facts | Table | Figure

ROWS: dict[type[Block], str] = {Figure: "figures", Table: "tables"}
"""Blocks that share a row, and the style class of that row."""


def colour(index: int) -> str:
    """The CSS colour of the index-th series, counted from 1."""
    return f"var(--c{(index - 1) % NUM_COLOURS + 1})"


@dataclass(frozen=True, slots=True)
class Section:
    """A headline, its link in the page's menu, and what stands below it."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    def to_html(self, anchor: str) -> Markup:
        parts: list[Markup] = []
        # Figures, and tables, that follow each other stand side by side where there is room.
        for kind, blocks in itertools.groupby(self.blocks, key=type):
            markup = [block.to_html() for block in blocks]
            row = ROWS.get(kind)
            parts += [element("div", *markup, class_=row)] if row else markup
        return element("section", element("h2", self.title), *parts, id=anchor)


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report; equal contents give equal bytes."""

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
        # Nothing may be fetched and no script may run, whatever a corpus calls its files.
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
