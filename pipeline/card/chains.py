"""Tables of file formats: by corpus and label, and by signal chain (codec, rate, channels, bit depth, decoder)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pipeline.card.formatting import (
    LABEL_ORDER,
    LABEL_TITLES,
    corpora_by_role,
    format_hour_columns,
    format_shares,
    format_value,
)
from pipeline.card.shortcut import SIGNAL_CHAIN
from pipeline.card.tally import Counts, Key, Tally
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Block, Table, Text, Value

NUM_CHAINS = 40
"""Maximum number of rows in a table of signal chains."""

FORMATS = (
    ("codec", "chain", "codec"),
    ("sample rate", "chain", "sample_rate"),
    ("channels", "chain", "num_channels"),
    ("bit rate", "bitrates", "bitrate_bin"),
    ("bandwidth", "bandwidths", "bandwidth"),
)
"""Columns of the table of formats: (title, field of `Tally`, column of its counts)."""


def formats_table(tally: Tally, snapshot: Snapshot) -> Table:
    """List the formats of both labels of each corpus next to each other."""
    amounts: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for title, field, column in FORMATS:
        counts: Counts = getattr(tally, field)
        for (corpus, label, value), count in counts.utterances("corpus", "label", column).items():
            by_value = amounts.setdefault((corpus, label), {}).setdefault(title, {})
            by_value[format_value(column, value)] = count
    rows: list[list[Value]] = [
        [
            corpus.name,
            LABEL_TITLES[label],
            *(format_shares(amounts[corpus.name, label][title]) for title, _, _ in FORMATS),
        ]
        for corpora in corpora_by_role(snapshot).values()
        for corpus in corpora
        for label in LABEL_ORDER
        if (corpus.name, label) in amounts
    ]
    titles = ["corpus", "label", *(title for title, _, _ in FORMATS)]
    return Table(titles, rows, "Formats by corpus and label, as shares of the utterances")


def chain_tables(chain: Counts, snapshot: Snapshot) -> list[Block]:
    """List the signal chains of the corpora of each role, the most frequent first."""
    blocks: list[Block] = []
    for role, corpora in corpora_by_role(snapshot).items():
        rows = _chain_rows(chain, {corpus.name for corpus in corpora})
        titles = ["codec", "encoding", "sample rate", "channels", "bit depth", "decoder"]
        columns = [*titles, *LABEL_TITLES.values(), "hours", "corpora"]
        if rows:
            formatted = format_hour_columns(rows[:NUM_CHAINS], columns.index("hours"))
            blocks.append(Table(columns, formatted, f"Signal chains of {role} corpora, in utterances"))
        if len(rows) > NUM_CHAINS:
            blocks.append(Text(f"{len(rows) - NUM_CHAINS} rarer signal chains are not shown."))
    return blocks


def _chain_rows(chain: Counts, names: set[str]) -> list[Sequence[Value]]:
    columns = ("corpus", "label", *SIGNAL_CHAIN)
    hours = chain.hours(*columns)
    utterances: dict[Key, dict[str, int]] = {}
    totals: dict[Key, float] = defaultdict(float)
    corpora: dict[Key, set[str]] = {}
    for (corpus, label, *rest), count in chain.utterances(*columns).items():
        if corpus in names:
            key = tuple(rest)
            utterances.setdefault(key, dict.fromkeys(LABEL_ORDER, 0))[label] += count
            totals[key] += hours[corpus, label, *rest]
            corpora.setdefault(key, set()).add(corpus)
    return [
        [
            *(format_value(column, value) for column, value in zip(SIGNAL_CHAIN, key, strict=True)),
            *utterances[key].values(),
            totals[key],
            len(corpora[key]),
        ]
        for key in sorted(utterances, key=lambda key: -sum(utterances[key].values()))
    ]
