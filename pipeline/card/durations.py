"""The section about the durations of utterances, by label and corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from pipeline.card.formatting import LABEL_COLOURS, LABEL_ORDER, LABEL_TITLES, corpora_by_role, format_seconds
from pipeline.card.tally import DURATION_BINS_PER_OCTAVE, Tally, duration_bin_edge
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Cell, Figure, Section, Table, Text, Value
from pipeline.report.charts import log_axis, step_chart

_DURATIONS = ("corpus", "label", "duration_bin")


def durations_section(tally: Tally, snapshot: Snapshot) -> Section:
    """Show the distribution of durations for each label."""
    figures: list[Figure] = []
    for role, corpora in corpora_by_role(snapshot).items():
        names = {corpus.name for corpus in corpora}
        counts = {label: Counter[int]() for label in LABEL_ORDER}
        for (corpus, label, duration_bin), count in tally.durations.utterances(*_DURATIONS).items():
            if corpus in names:
                counts[label][duration_bin] += count
        if any(counts.values()):
            figures.append(_duration_figure(f"Durations in {role} corpora", counts))
    explanation = (
        f"Counts are of utterances, not hours, in bins of 1/{DURATION_BINS_PER_OCTAVE} octave. "
        "Percentiles are bin centres and are accurate to 5 %; the shortest and longest durations are bin edges."
    )
    return Section("Durations", [*figures, Text(explanation), _duration_table(tally)])


def _duration_figure(title: str, counts: Mapping[str, Mapping[int, int]]) -> Figure:
    bins = [duration_bin for label_counts in counts.values() for duration_bin in label_counts]
    first, last = min(bins), max(bins)
    edges = [duration_bin_edge(duration_bin) for duration_bin in range(first, last + 2)]
    series = []
    for label, label_counts in counts.items():
        if label_counts:
            total = sum(label_counts.values())
            shares = np.array(
                [100 * label_counts.get(number, 0) / total for number in range(first, last + 1)]
            )
            series.append((LABEL_TITLES[label], shares, LABEL_COLOURS[label]))
    return step_chart(
        title, edges, series, log_axis("seconds", edges[0], edges[-1]), "% of a label's utterances"
    )


def _duration_table(tally: Tally) -> Table:
    hours = tally.content.hours("corpus", "label")
    bins: dict[tuple[str, str], dict[int, int]] = {}
    for (corpus, label, duration_bin), count in tally.durations.utterances(*_DURATIONS).items():
        bins.setdefault((corpus, label), {})[duration_bin] = count
    rows: list[list[Value]] = []
    for (corpus, label), counts in bins.items():
        total = sum(counts.values())
        mean = Cell(format_seconds(3600 * hours[corpus, label] / total))
        percentiles = (
            Cell(format_seconds(_percentile(counts.items(), total, share))) for share in (0.05, 0.5, 0.95)
        )
        shortest, longest = (
            Cell(format_seconds(duration_bin_edge(edge))) for edge in (min(counts), max(counts) + 1)
        )
        rows.append([corpus, LABEL_TITLES[label], total, mean, shortest, *percentiles, longest])
    titles = ["corpus", "label", "utterances", "mean", "shortest", "5 %", "median", "95 %", "longest"]
    return Table(titles, rows, "Durations")


def _percentile(bins: Iterable[tuple[int, int]], total: int, share: float) -> float:
    """Find the centre in seconds of the bin that contains a percentile.

    Args:
        bins: (duration bin, number of utterances).
        total: Number of utterances in all bins.
        share: The percentile as a fraction.
    """
    num_seen = 0
    for duration_bin, count in sorted(bins):
        num_seen += count
        if num_seen >= share * total:
            return duration_bin_edge(duration_bin + 0.5)
    raise AssertionError("the bins do not add up to their total")
