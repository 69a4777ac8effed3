"""What was left out and why, with a few files behind each reason from the catalogs and the tables of rejects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import tables
from pipeline.card.formatting import percent_words
from pipeline.data.store.layout import rejects_name
from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot
from pipeline.report import Block, Cell, Figure, Section, Table, Text, Value
from pipeline.report.charts import Bar, linear_axis, stacked_chart
from pipeline.storage import Folder

NUM_EXAMPLES = 3

NUM_REASONS = 7
"""Reasons with a colour of their own; the others are one together."""

MAX_EXAMPLE = 240
"""Characters of examples that are shown."""

Examples = Mapping[tuple[str, str], list[tuple[str, str]]]
"""(path, detail) of some files by (corpus, reason)."""


def rejects_section(snapshot: Snapshot, examples: Examples) -> Section:
    """What was left out, why, and a few files to look at."""
    corpora = snapshot.corpora.values()
    blocks: list[Block] = []
    if any(corpus.rejected for corpus in corpora):
        blocks += [
            _rejects_chart("Rejects by corpus and reason", {each.name: each.rejected for each in corpora}),
            _reasons_table(corpora),
        ]
    else:
        blocks.append(Text("Nothing was rejected."))
    rows = [
        row
        for what, column in (("rejected", "rejected"), ("excluded", "excluded"))
        for corpus in corpora
        for row in _example_rows(corpus, what, getattr(corpus, column), examples)
    ]
    if rows:
        titles = ["corpus", "what", "reason", "number", "of all found", "for example"]
        blocks.append(Table(titles, rows, "By corpus and reason"))
    return Section("Rejects", blocks)


def find_examples(store: Folder, snapshot: Snapshot) -> Examples:
    """At most `NUM_EXAMPLES` files for every reason of every corpus; reads no more than it needs for that."""
    examples: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for corpus in snapshot.corpora.values():
        found: dict[str, list[tuple[str, str]]] = {}
        if corpus.rejected or corpus.excluded:
            for rows in _problems(store, corpus.catalog):
                _add(found, rows)
            _add_rejects(found, store, corpus)
        examples |= {(corpus.name, reason): each for reason, each in found.items()}
    return examples


def _problems(store: Folder, catalog: str) -> Iterator[pa.Table]:
    """The first rows with each problem, by row group; groups without problems are not read."""
    with store.open(catalog) as file:
        parquet = pq.ParquetFile(file)
        column = parquet.schema_arrow.get_field_index("problem")
        for group in range(parquet.num_row_groups):
            metadata = parquet.metadata.row_group(group)
            statistics = metadata.column(column).statistics
            if statistics is None or statistics.null_count < metadata.num_rows:
                rows = parquet.read_row_group(group, ["problem", "path", "detail"])
                rows = rows.filter(pc.is_valid(rows["problem"]))
                yield from _first_rows(rows.rename_columns(["reason", "path", "detail"]))


def _first_rows(rows: pa.Table) -> Iterator[pa.Table]:
    for reason in pc.unique(rows["reason"]):
        yield rows.filter(pc.equal(rows["reason"], reason)).slice(0, NUM_EXAMPLES)


def _add_rejects(found: dict[str, list[tuple[str, str]]], store: Folder, corpus: CorpusSnapshot) -> None:
    for shard in corpus.shards:
        if any(len(found.get(reason, [])) < NUM_EXAMPLES for reason in shard.rejected):
            name = rejects_name(corpus.name, shard.name)
            for rows in _first_rows(tables.read_table(store, name, ["reason", "path", "detail"])):
                _add(found, rows)


def _add(found: dict[str, list[tuple[str, str]]], rows: pa.Table) -> None:
    columns: Iterable[Iterable[str | None]] = (
        rows[name].to_pylist() for name in ("reason", "path", "detail")
    )
    for reason, path, detail in zip(*columns, strict=True):
        assert reason is not None
        examples = found.setdefault(reason, [])
        if len(examples) < NUM_EXAMPLES:
            examples.append((path or "", detail or ""))


def _rejects_chart(title: str, rejected: Mapping[str, Mapping[str, int]]) -> Figure:
    totals: Counter[str] = Counter()
    for reasons in rejected.values():
        totals.update(reasons)
    ranked = sorted(totals, key=lambda reason: (-totals[reason], reason))
    shown, others = ranked[:NUM_REASONS], ranked[NUM_REASONS:]
    rows = sorted(
        (corpus for corpus in rejected if rejected[corpus]),
        key=lambda name: (-sum(rejected[name].values()), name),
    )
    groups: list[tuple[str, tuple[str, ...]]] = [(reason, (reason,)) for reason in shown]
    if others:
        groups.append((f"{len(others)} other reasons", tuple(others)))
    series = [
        (title, [_count_bar(sum(rejected[row].get(each, 0) for each in reasons)) for row in rows], colour)
        for colour, (title, reasons) in enumerate(groups, start=1)
    ]
    sums = [sum(rejected[row].values()) for row in rows]
    axis = linear_axis("rejects", 0, max(sums), num_ticks=4)
    return stacked_chart(title, rows, series, axis, [f"{each:,}" for each in sums])


def _count_bar(count: int) -> Bar:
    return Bar(count, f"{count:,}")


def _reasons_table(corpora: Iterable[CorpusSnapshot]) -> Table:
    totals: Counter[str] = Counter()
    concerned: Counter[str] = Counter()
    for corpus in corpora:
        totals.update(corpus.rejected)
        concerned.update(corpus.rejected.keys())
    ranked = sorted(totals, key=lambda reason: (-totals[reason], reason))
    rows: list[list[Value]] = [[reason, totals[reason], concerned[reason]] for reason in ranked]
    rows.append(["all", sum(totals.values()), None])
    return Table(["reason", "rejects", "corpora"], rows, "By reason", num_totals=1)


def _example_rows(
    corpus: CorpusSnapshot, what: str, counts: Mapping[str, int], examples: Examples
) -> Iterator[list[Value]]:
    for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        words = _example_words(reason, examples.get((corpus.name, reason), []))
        yield [corpus.name, what, reason, count, Cell(percent_words(count / (corpus.found or 1))), words]


def _example_words(reason: str, found: Iterable[tuple[str, str]]) -> str:
    """What is wrong, and the files that share it."""
    paths: dict[str, list[str]] = {}
    for path, detail in found:
        # Details may begin with the file and its reason, both of which the row has.
        words = detail.removeprefix(f"{path}: ").removeprefix(f"{reason}: ")
        paths.setdefault(words, []).append(path)
    parts = (f"{words}: {', '.join(each)}" if words else ", ".join(each) for words, each in paths.items())
    words = " · ".join(parts)
    return words if len(words) <= MAX_EXAMPLE else f"{words[: MAX_EXAMPLE - 1]}…"
