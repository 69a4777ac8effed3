"""The books of a snapshot: found = written + rejected + excluded, and written hours against published ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.card.formatting import LABELS_SHOWN, TITLES, by_role, listed, with_hours
from pipeline.data.store.snapshot import HOURS_TOLERANCE, CorpusSnapshot, Snapshot
from pipeline.report import Block, Cell, Section, Table, Text, Value

TITLE = "Found and written"
"""Of the section, for those who point to it."""

EXPECTED = {**{label: TITLES[label] for label in LABELS_SHOWN}, "total": "both labels"}
"""What published hours are of."""


def unbalanced(snapshot: Snapshot) -> list[CorpusSnapshot]:
    """Corpora of which something was found that is neither written, nor rejected, nor excluded."""
    return [corpus for corpus in snapshot.corpora.values() if corpus.found != _accounted(corpus)]


def unexpected(snapshot: Snapshot) -> list[CorpusSnapshot]:
    """Corpora whose hours are not the published ones."""
    return [corpus for corpus in snapshot.corpora.values() if corpus.unexpected_hours]


def ledger_section(snapshot: Snapshot) -> Section:
    """Whether everything that was found is accounted for, and as much as was published."""
    blocks: list[Block] = [
        Text(
            "Everything found in a corpus is written, rejected with a reason, or excluded on purpose. Published hours "
            "are those of the manifest; the difference is that of the label that is farthest off, and more than "
            f"{100 * HOURS_TOLERANCE:g} % is warned of unless a part of the corpus was excluded."
        ),
        *(
            Text(f"{each.name}: {each.found:,} found, but {_accounted(each):,} accounted for", "warning")
            for each in unbalanced(snapshot)
        ),
    ]
    names = [corpus.name for corpus in unexpected(snapshot)]
    if names:
        blocks.append(Text(f"Not the published hours: {listed(names)}.", "warning"))
    return Section(TITLE, [*blocks, _books(snapshot)])


def _accounted(corpus: CorpusSnapshot) -> int:
    return corpus.written + sum(corpus.rejected.values()) + sum(corpus.excluded.values())


def _expectations(corpus: CorpusSnapshot) -> Iterator[tuple[str, float, float]]:
    """(label or total, written hours, published hours), where there are published ones."""
    written = corpus.hours | {"total": sum(corpus.hours.values())}
    for label in EXPECTED:
        if label in corpus.expected_hours:
            yield label, written.get(label, 0.0), corpus.expected_hours[label]


def _books(snapshot: Snapshot) -> Table:
    rows: list[list[Value]] = []
    sums: Counter[str] = Counter()
    for corpus in (corpus for corpora in by_role(snapshot).values() for corpus in corpora):
        counts = {
            "found": corpus.found,
            "written": corpus.written,
            "rejected": sum(corpus.rejected.values()),
            "excluded": sum(corpus.excluded.values()),
            "shards": len(corpus.shards),
        }
        sums.update(counts)
        hours = [corpus.hours.get(label, 0.0) for label in LABELS_SHOWN]
        rows.append([corpus.name, corpus.role, *counts.values(), *hours, *_published_cells(corpus)])
    hours = [
        sum(corpus.hours.get(label, 0.0) for corpus in snapshot.corpora.values()) for label in LABELS_SHOWN
    ]
    rows.append(["all", "", *sums.values(), *hours, None, None, ""])
    titles = ["corpus", "role", *sums, "bona fide h", "spoof h", "published h", "difference %", "of"]
    hours_columns = [titles.index(title) for title in titles if title.endswith(" h")]
    return Table(titles, with_hours(rows, *hours_columns), num_totals=1)


def _published_cells(corpus: CorpusSnapshot) -> list[Value]:
    """Published hours, the greatest difference of a label, and which label that is."""
    expectations = list(_expectations(corpus))
    if not expectations:
        return [None, None, ""]
    if len(expectations) > 1:  # a total says nothing that its parts do not say
        expectations = [each for each in expectations if each[0] != "total"]
    published = corpus.expected_hours.get("total", sum(expected for _, _, expected in expectations))
    label, most = max(
        ((label, _difference(written, expected)) for label, written, expected in expectations),
        key=lambda each: abs(each[1]),
    )
    is_warning = label in corpus.unexpected_hours
    return [published, Cell(f"{100 * most:+.2f}", is_warning=is_warning), EXPECTED[label]]


def _difference(written: float, expected: float) -> float:
    if expected == 0:
        return 0.0 if written == 0 else 1.0
    return written / expected - 1
