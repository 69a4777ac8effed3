"""The section about licences: the terms of each corpus, and the hours that exclude commercial use."""

from __future__ import annotations

from pipeline.card.bars import LABEL_SERIES, hours_chart
from pipeline.card.formatting import (
    LABEL_ORDER,
    corpora_by_role,
    format_hour_columns,
    format_list,
    format_percent,
)
from pipeline.data.corpora.manifest import UNKNOWN
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Block, Cell, Section, Table, Text, Value

COMMERCIAL_USE = {False: "allowed", True: "non-commercial only", None: "unknown"}
"""Titles of the values of `CorpusSnapshot.non_commercial`."""


def licences_section(snapshot: Snapshot) -> Section:
    """Show hours by permitted use, by licence and by corpus."""
    corpora = snapshot.corpora.values()
    blocks: list[Block] = []
    restricted = [corpus.name for corpus in corpora if corpus.non_commercial]
    if restricted:
        warning = f"Non-commercial use only: {format_list(restricted)}. Models trained on them may be restricted too."
        blocks.append(Text(warning, "warning"))
    unknown = [corpus.name for corpus in corpora if corpus.licence == UNKNOWN]
    if unknown:
        warning = (
            f"Unknown licence: {format_list(unknown)}. Ask the publishers before you redistribute anything."
        )
        blocks.append(Text(warning, "warning"))
    amounts = {
        (title, label): sum(
            corpus.hours.get(label, 0.0) for corpus in corpora if corpus.non_commercial is non_commercial
        )
        for non_commercial, title in COMMERCIAL_USE.items()
        for label in LABEL_ORDER
    }
    order = list(COMMERCIAL_USE.values())
    chart = hours_chart("Hours by commercial use", amounts, LABEL_SERIES, order=order)
    return Section("Licences", [*blocks, chart, _licences_table(snapshot), _corpora_table(snapshot)])


def _licences_table(snapshot: Snapshot) -> Table:
    hours: dict[tuple[str, bool | None], float] = {}
    names: dict[tuple[str, bool | None], list[str]] = {}
    for corpus in snapshot.corpora.values():
        key = (corpus.licence, corpus.non_commercial)
        hours[key] = hours.get(key, 0.0) + sum(corpus.hours.values())
        names.setdefault(key, []).append(corpus.name)
    total = sum(hours.values()) or 1.0
    rows: list[list[Value]] = [
        [
            licence,
            use_cell(non_commercial),
            hours[licence, non_commercial],
            Cell(format_percent(hours[licence, non_commercial] / total)),
            ", ".join(names[licence, non_commercial]),
        ]
        for licence, non_commercial in sorted(hours, key=lambda key: (-hours[key], key[0]))
    ]
    return Table(
        ["licence", "commercial use", "hours", "share", "corpora"], format_hour_columns(rows, 2), "By licence"
    )


def _corpora_table(snapshot: Snapshot) -> Table:
    rows: list[list[Value]] = [
        [
            corpus.name,
            corpus.role,
            corpus.licence,
            use_cell(corpus.non_commercial),
            *(corpus.hours.get(label, 0.0) for label in LABEL_ORDER),
        ]
        for corpora in corpora_by_role(snapshot).values()
        for corpus in corpora
    ]
    titles = ["corpus", "role", "licence", "commercial use", "bona fide h", "spoof h"]
    return Table(titles, format_hour_columns(rows, 4, 5), "By corpus")


def use_cell(non_commercial: bool | None) -> Cell:
    """Say whether a licence allows commercial use."""
    return Cell(COMMERCIAL_USE[non_commercial], is_warning=non_commercial is True, is_word=True)
