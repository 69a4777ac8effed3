"""Under which terms the audio was published, and how many hours of it forbid commercial use."""

from __future__ import annotations

from pipeline.card.bars import LABEL_SERIES, hours_chart
from pipeline.card.formatting import LABELS_SHOWN, by_role, listed, percent_words, with_hours
from pipeline.data.corpora.manifest import UNKNOWN
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Block, Cell, Section, Table, Text, Value


def licences_section(snapshot: Snapshot) -> Section:
    """The terms by corpus and by licence."""
    corpora = snapshot.corpora.values()
    blocks: list[Block] = []
    bound = [corpus.name for corpus in corpora if corpus.non_commercial]
    if bound:
        words = f"Not for commercial use: {listed(bound)}. That may bind what is trained with them."
        blocks.append(Text(words, "warning"))
    unknown = [corpus.name for corpus in corpora if corpus.licence == UNKNOWN]
    if unknown:
        words = f"Of unknown licence: {listed(unknown)}. Ask the publishers before you pass anything on."
        blocks.append(Text(words, "warning"))
    amounts = {
        (_use_words(use), label): sum(
            corpus.hours.get(label, 0.0) for corpus in corpora if corpus.non_commercial is use
        )
        for use in (False, True, None)
        for label in LABELS_SHOWN
    }
    order = [_use_words(use) for use in (False, True, None)]
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
            key[0],
            _use_cell(key[1]),
            hours[key],
            Cell(percent_words(hours[key] / total)),
            ", ".join(names[key]),
        ]
        for key in sorted(hours, key=lambda key: (-hours[key], key[0]))
    ]
    return Table(
        ["licence", "commercial use", "hours", "share", "corpora"], with_hours(rows, 2), "By licence"
    )


def _corpora_table(snapshot: Snapshot) -> Table:
    rows: list[list[Value]] = [
        [
            corpus.name,
            corpus.role,
            corpus.licence,
            _use_cell(corpus.non_commercial),
            *(corpus.hours.get(label, 0.0) for label in LABELS_SHOWN),
        ]
        for corpora in by_role(snapshot).values()
        for corpus in corpora
    ]
    titles = ["corpus", "role", "licence", "commercial use", "bona fide h", "spoof h"]
    return Table(titles, with_hours(rows, 4, 5), "By corpus")


def _use_cell(non_commercial: bool | None) -> Cell:
    return Cell(_use_words(non_commercial), is_warning=non_commercial is True, is_word=True)


def _use_words(non_commercial: bool | None) -> str:
    return {True: "non-commercial only", False: "allowed", None: "unknown"}[non_commercial]
