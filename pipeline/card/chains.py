"""What signals went through before they came here, in tables: by corpus and label, and chain by chain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pipeline.card.formatting import (
    LABELS_SHOWN,
    TITLES,
    by_role,
    named_shares,
    value_words,
    with_hours,
)
from pipeline.card.shortcut import SIGNAL_CHAIN
from pipeline.card.tally import Cells, Key, Tally
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Block, Table, Text, Value

NUM_CHAINS = 40
"""Rows of a table of signal chains."""

FORMATS = (
    ("codec", "chain", "codec"),
    ("sample rate", "chain", "sample_rate"),
    ("channels", "chain", "num_channels"),
    ("bit rate", "bitrates", "bitrate_class"),
)
"""Columns of the table of formats: title, counts of a `Tally`, column of the counts."""


def formats_table(tally: Tally, snapshot: Snapshot) -> Table:
    """The codecs and rates of each label of each corpus, so that the two can be compared."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for title, cells, column in FORMATS:
        counts: Cells = getattr(tally, cells)
        for (corpus, label, value), count in counts.utterances("corpus", "label", column).items():
            shares = found.setdefault((corpus, label), {}).setdefault(title, {})
            shares[value_words(column, value)] = count
    rows: list[list[Value]] = [
        [
            corpus.name,
            TITLES[label],
            *(named_shares(found[corpus.name, label][title]) for title, _, _ in FORMATS),
        ]
        for corpora in by_role(snapshot).values()
        for corpus in corpora
        for label in LABELS_SHOWN
        if (corpus.name, label) in found
    ]
    titles = ["corpus", "label", *(title for title, _, _ in FORMATS)]
    return Table(titles, rows, "Formats by corpus and label, as shares of the utterances")


def chain_tables(chain: Cells, snapshot: Snapshot) -> list[Block]:
    """The signal chains that occur, the most frequent first, for the corpora of each role."""
    blocks: list[Block] = []
    for role, corpora in by_role(snapshot).items():
        rows = _chain_rows(chain, {corpus.name for corpus in corpora})
        titles = ["codec", "encoding", "sample rate", "channels", "bit depth", "decoder"]
        columns = [*titles, *TITLES.values(), "hours", "corpora"]
        if rows:
            hours = columns.index("hours")
            shown = with_hours(rows[:NUM_CHAINS], hours)
            blocks.append(Table(columns, shown, f"Signal chains of {role} corpora, in utterances"))
        if len(rows) > NUM_CHAINS:
            blocks.append(Text(f"{len(rows) - NUM_CHAINS} rarer signal chains are not shown."))
    return blocks


def _chain_rows(chain: Cells, names: set[str]) -> list[Sequence[Value]]:
    columns = ("corpus", "label", *SIGNAL_CHAIN)
    hours = chain.hours(*columns)
    utterances: dict[Key, dict[str, int]] = {}
    totals: dict[Key, float] = defaultdict(float)
    corpora: dict[Key, set[str]] = {}
    for (corpus, label, *rest), count in chain.utterances(*columns).items():
        if corpus in names:
            key = tuple(rest)
            utterances.setdefault(key, dict.fromkeys(LABELS_SHOWN, 0))[label] += count
            totals[key] += hours[corpus, label, *rest]
            corpora.setdefault(key, set()).add(corpus)
    return [
        [
            *(value_words(column, value) for column, value in zip(SIGNAL_CHAIN, key, strict=True)),
            *utterances[key].values(),
            totals[key],
            len(corpora[key]),
        ]
        for key in sorted(utterances, key=lambda key: -sum(utterances[key].values()))
    ]
