"""The part of the section about rejects that tells which classes of a corpus lost utterances."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.card.formatting import LABEL_TITLES, format_list, format_percent
from pipeline.data.store.losses import (
    MIN_LOST,
    UNKNOWN,
    ClassCounts,
    format_reasons,
    loss_warning,
    lost_share,
    severe_losses,
    sum_labels,
)
from pipeline.data.store.snapshot import CorpusSnapshot
from pipeline.report import Block, Cell, Table, Text, Value

NUM_CLASSES = 12
"""Classes of a corpus, other than its labels, that the table lists; the rest are only counted."""


def loss_blocks(corpora: Iterable[CorpusSnapshot], max_loss: float) -> list[Block]:
    """Warn of classes that lost too much, and list the losses of all classes; nothing if nothing was lost."""
    corpora = list(corpora)
    warnings = (loss_warning(corpus.name, corpus.losses, max_loss) for corpus in corpora)
    blocks: list[Block] = [Text(f"{warning}.", "warning") for warning in warnings if warning]
    rows = [row for corpus in corpora for row in _rows(corpus, max_loss)]
    if rows:
        blocks.append(
            Text(
                "Utterances that could not be written, by label, attack, language and tool (container and codec). "
                "The share is that of the utterances in the class that no recipe excluded, or of all if it is unknown. "
                f"Marked are classes that lost everything, or more than {100 * max_loss:g} % and at least {MIN_LOST} "
                "utterances."
            )
        )
        titles = ["corpus", "class", "found", "written", "lost", "share lost", "main reasons"]
        blocks.append(Table(titles, rows, "Losses by class"))
    num_hidden = sum(max(0, len(_others(corpus, max_loss)) - NUM_CLASSES) for corpus in corpora)
    if num_hidden:
        blocks.append(Text(f"{num_hidden:,} other classes with smaller losses are not shown."))
    unrecorded = [corpus.name for corpus in corpora if corpus.rejected and not corpus.losses]
    if unrecorded:
        blocks.append(
            Text(
                f"Losses by class are not recorded for {format_list(unrecorded)}; the next ingest will count them."
            )
        )
    return blocks


def _rows(corpus: CorpusSnapshot, max_loss: float) -> list[list[Value]]:
    """The labels of a corpus that lost something, and its other classes with the largest losses."""
    total = sum_labels(corpus.losses)
    if not total.lost:
        return []
    labels = [counts for counts in corpus.losses if counts.dimension == "label"]
    severe = severe_losses(corpus.losses, max_loss)
    shares = [
        (counts, lost_share(counts, total)) for counts in (*labels, *_others(corpus, max_loss)[:NUM_CLASSES])
    ]
    return [
        [
            corpus.name,
            _title(counts),
            counts.found,
            counts.written,
            counts.lost,
            Cell(format_percent(share), share=share, is_warning=counts in severe),
            format_reasons(counts.reasons) if counts.reasons else "",
        ]
        for counts, share in shares
    ]


def _others(corpus: CorpusSnapshot, max_loss: float) -> list[ClassCounts]:
    """Attacks, languages and tools that lost something: those that lost too much, then by share."""
    severe = severe_losses(corpus.losses, max_loss)
    total = sum_labels(corpus.losses)
    return sorted(
        (counts for counts in corpus.losses if counts.lost and counts.dimension != "label"),
        key=lambda counts: (counts not in severe, -lost_share(counts, total), -counts.lost),
    )


def _title(counts: ClassCounts) -> str:
    if counts.name == UNKNOWN:
        return f"{counts.dimension} unknown"
    return (
        LABEL_TITLES.get(counts.name, counts.name)
        if counts.dimension == "label"
        else f"{counts.dimension} {counts.name}"
    )
