"""The section about rejected and excluded files: which classes lost them, how many, why, and a few examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import tables
from pipeline.card.formatting import format_not_audio, format_percent, names_by_size
from pipeline.card.losses import loss_blocks
from pipeline.data.store.layout import rejects_name
from pipeline.data.store.losses import MAX_LOSS
from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot
from pipeline.report import Block, Cell, Figure, Section, Table, Text, Value
from pipeline.report.charts import Bar, linear_axis, stacked_chart
from pipeline.storage import Folder

TITLE = "Rejects"
"""Title of the section; the overview refers to it."""

NUM_EXAMPLES = 3
"""Files named for each reason of each corpus."""

NUM_REASONS = 7
"""How many reasons get a colour of their own; the rest share one."""

MAX_EXAMPLE_CHARACTERS = 240

Examples = Mapping[tuple[str, str], list[tuple[str, str]]]
"""(path, detail) of up to `NUM_EXAMPLES` files by (corpus, reason)."""


def rejects_section(snapshot: Snapshot, examples: Examples, max_loss: float = MAX_LOSS) -> Section:
    """Show the losses of each class, and the counts of rejected and excluded files by reason, with examples.

    Args:
        snapshot: the snapshot.
        examples: see `find_examples`.
        max_loss: see `severe_losses`.
    """
    corpora = snapshot.corpora.values()
    blocks: list[Block] = [*loss_blocks(corpora, max_loss)]
    if any(corpus.rejected for corpus in corpora):
        blocks += [
            _rejects_chart("Rejects by corpus and reason", {each.name: each.rejected for each in corpora}),
            _reasons_table(corpora),
        ]
    else:
        blocks.append(Text("Nothing was rejected."))
    rows = [
        row
        for status in ("rejected", "excluded")
        for corpus in corpora
        for row in _example_rows(corpus, status, getattr(corpus, status), examples)
    ]
    if rows:
        titles = ["corpus", "status", "reason", "count", "share of found", "examples"]
        blocks.append(Table(titles, rows, "By corpus and reason"))
    blocks += [
        Text(f"{corpus.name}: {format_not_audio(corpus.not_audio)}.")
        for corpus in corpora
        if corpus.not_audio
    ]
    return Section(TITLE, blocks)


def find_examples(store: Folder, snapshot: Snapshot) -> Examples:
    """Find up to `NUM_EXAMPLES` files for each reason of each corpus, reading no more than necessary."""
    examples: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for corpus in snapshot.corpora.values():
        by_reason: dict[str, list[tuple[str, str]]] = {}
        if corpus.rejected or corpus.excluded:
            for rows in _catalog_problems(store, corpus.catalog):
                _add(by_reason, rows)
            _add_rejects(by_reason, store, corpus)
        examples |= {(corpus.name, reason): files for reason, files in by_reason.items()}
    return examples


def _catalog_problems(store: Folder, catalog: str) -> Iterator[pa.Table]:
    """Yield the first rows of each problem in a catalog; row groups without problems are not read."""
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


def _add_rejects(by_reason: dict[str, list[tuple[str, str]]], store: Folder, corpus: CorpusSnapshot) -> None:
    for shard in corpus.shards:
        if any(len(by_reason.get(reason, [])) < NUM_EXAMPLES for reason in shard.rejected):
            name = rejects_name(corpus.name, shard.name)
            for rows in _first_rows(tables.read_table(store, name, ["reason", "path", "detail"])):
                _add(by_reason, rows)


def _add(by_reason: dict[str, list[tuple[str, str]]], rows: pa.Table) -> None:
    columns: Iterable[Iterable[str | None]] = (
        rows[name].to_pylist() for name in ("reason", "path", "detail")
    )
    for reason, path, detail in zip(*columns, strict=True):
        assert reason is not None
        files = by_reason.setdefault(reason, [])
        if len(files) < NUM_EXAMPLES:
            files.append((path or "", detail or ""))


def _rejects_chart(title: str, rejected: Mapping[str, Mapping[str, int]]) -> Figure:
    totals: Counter[str] = Counter()
    for reasons in rejected.values():
        totals.update(reasons)
    ranked = names_by_size(totals)
    others = ranked[NUM_REASONS:]
    rows = names_by_size({corpus: sum(reasons.values()) for corpus, reasons in rejected.items() if reasons})
    groups: list[tuple[str, tuple[str, ...]]] = [(reason, (reason,)) for reason in ranked[:NUM_REASONS]]
    if others:
        groups.append((f"{len(others)} other reasons", tuple(others)))
    series = [
        (name, [_count_bar(sum(rejected[row].get(reason, 0) for reason in reasons)) for row in rows], colour)
        for colour, (name, reasons) in enumerate(groups, start=1)
    ]
    sums = [sum(rejected[row].values()) for row in rows]
    axis = linear_axis("rejects", 0, max(sums), num_ticks=4)
    return stacked_chart(title, rows, series, axis, [f"{total:,}" for total in sums])


def _count_bar(count: int) -> Bar:
    return Bar(count, f"{count:,}")


def _reasons_table(corpora: Iterable[CorpusSnapshot]) -> Table:
    totals: Counter[str] = Counter()
    num_corpora: Counter[str] = Counter()
    for corpus in corpora:
        totals.update(corpus.rejected)
        num_corpora.update(corpus.rejected.keys())
    rows: list[list[Value]] = [
        [reason, totals[reason], num_corpora[reason]] for reason in names_by_size(totals)
    ]
    rows.append(["all", sum(totals.values()), None])
    return Table(["reason", "rejects", "corpora"], rows, "By reason", num_totals=1)


def _example_rows(
    corpus: CorpusSnapshot, status: str, counts: Mapping[str, int], examples: Examples
) -> Iterator[list[Value]]:
    for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        share = Cell(format_percent(count / (corpus.found or 1)))
        files = examples.get((corpus.name, reason), [])
        yield [corpus.name, status, reason, count, share, _format_examples(reason, files)]


def _format_examples(reason: str, files: Iterable[tuple[str, str]]) -> str:
    """Format examples as "detail: path, path · detail: path"."""
    paths: dict[str, list[str]] = {}
    for path, detail in files:
        # A detail may repeat the path and the reason, which the row already shows.
        detail = detail.removeprefix(f"{path}: ").removeprefix(f"{reason}: ")
        paths.setdefault(detail, []).append(path)
    parts = (
        f"{detail}: {', '.join(members)}" if detail else ", ".join(members)
        for detail, members in paths.items()
    )
    text = " · ".join(parts)
    if len(text) <= MAX_EXAMPLE_CHARACTERS:
        return text
    return f"{text[: MAX_EXAMPLE_CHARACTERS - 1]}…"
