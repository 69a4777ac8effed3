"""The section about completeness: found = written + rejected + excluded, and written against published hours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.card.formatting import (
    LABEL_ORDER,
    LABEL_TITLES,
    corpora_by_role,
    format_hour_columns,
    format_list,
)
from pipeline.data.store.snapshot import HOURS_TOLERANCE, CorpusSnapshot, Snapshot
from pipeline.report import Block, Cell, Section, Table, Text, Value

TITLE = "Completeness"
"""Title of the section; the overview refers to it."""

EXPECTED_TITLES = {**{label: LABEL_TITLES[label] for label in LABEL_ORDER}, "total": "both labels"}
"""Titles of the keys of `CorpusSnapshot.expected_hours`."""


def incomplete_corpora(snapshot: Snapshot) -> list[CorpusSnapshot]:
    """List the corpora whose written, rejected and excluded utterances do not add up to those found."""
    return [corpus for corpus in snapshot.corpora.values() if corpus.found != _num_accounted_for(corpus)]


def corpora_with_unexpected_hours(snapshot: Snapshot) -> list[CorpusSnapshot]:
    """List the corpora whose hours differ from the published hours."""
    return [corpus for corpus in snapshot.corpora.values() if corpus.unexpected_hours]


def completeness_section(snapshot: Snapshot) -> Section:
    """Show whether all found utterances are accounted for, and whether hours match the published hours."""
    blocks: list[Block] = [
        Text(
            "Every utterance found in a corpus is either written, rejected with a reason, or excluded by a recipe. "
            "Published hours come from the manifest. The difference is that of the label that deviates most; more than "
            f"{100 * HOURS_TOLERANCE:g} % is marked, unless part of the corpus was excluded."
        ),
        *(
            Text(
                f"{corpus.name}: {corpus.found:,} found, but {_num_accounted_for(corpus):,} accounted for.",
                "warning",
            )
            for corpus in incomplete_corpora(snapshot)
        ),
    ]
    names = [corpus.name for corpus in corpora_with_unexpected_hours(snapshot)]
    if names:
        blocks.append(Text(f"Hours differ from the published hours: {format_list(names)}.", "warning"))
    return Section(TITLE, [*blocks, _completeness_table(snapshot)])


def _num_accounted_for(corpus: CorpusSnapshot) -> int:
    return corpus.written + sum(corpus.rejected.values()) + sum(corpus.excluded.values())


def _expectations(corpus: CorpusSnapshot) -> Iterator[tuple[str, float, float]]:
    """Yield (label or "total", written hours, published hours) for each published figure."""
    written = corpus.hours | {"total": sum(corpus.hours.values())}
    for label in EXPECTED_TITLES:
        if label in corpus.expected_hours:
            yield label, written.get(label, 0.0), corpus.expected_hours[label]


def _completeness_table(snapshot: Snapshot) -> Table:
    rows: list[list[Value]] = []
    sums: Counter[str] = Counter()
    for corpus in (corpus for corpora in corpora_by_role(snapshot).values() for corpus in corpora):
        counts = {
            "found": corpus.found,
            "written": corpus.written,
            "rejected": sum(corpus.rejected.values()),
            "excluded": sum(corpus.excluded.values()),
            "shards": len(corpus.shards),
        }
        sums.update(counts)
        hours = [corpus.hours.get(label, 0.0) for label in LABEL_ORDER]
        rows.append([corpus.name, corpus.role, *counts.values(), *hours, *_published_cells(corpus)])
    hours = [
        sum(corpus.hours.get(label, 0.0) for corpus in snapshot.corpora.values()) for label in LABEL_ORDER
    ]
    rows.append(["all", "", *sums.values(), *hours, None, None, ""])
    titles = ["corpus", "role", *sums, "bona fide h", "spoof h", "published h", "difference %", "of"]
    hours_columns = [titles.index(title) for title in titles if title.endswith(" h")]
    return Table(titles, format_hour_columns(rows, *hours_columns), num_totals=1)


def _published_cells(corpus: CorpusSnapshot) -> list[Value]:
    """Make the cells for published hours, the largest relative difference and the label that has it."""
    expectations = list(_expectations(corpus))
    if not expectations:
        return [None, None, ""]
    if len(expectations) > 1:  # the total is implied by the labels
        expectations = [expectation for expectation in expectations if expectation[0] != "total"]
    published = corpus.expected_hours.get("total", sum(expected for _, _, expected in expectations))
    label, largest = max(
        ((label, _relative_difference(written, expected)) for label, written, expected in expectations),
        key=lambda item: abs(item[1]),
    )
    is_warning = label in corpus.unexpected_hours
    return [published, Cell(f"{100 * largest:+.2f}", is_warning=is_warning), EXPECTED_TITLES[label]]


def _relative_difference(written: float, expected: float) -> float:
    if expected == 0:
        return 0.0 if written == 0 else 1.0
    return written / expected - 1
