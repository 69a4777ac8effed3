"""How long utterances are, by label and corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from pipeline.card.formatting import COLOURS, LABELS_SHOWN, TITLES, by_role, seconds_words
from pipeline.card.tally import DURATION_CLASSES_PER_OCTAVE, Tally, duration_edge
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Cell, Figure, Section, Table, Text, Value
from pipeline.report.charts import log_axis, step_chart

_DURATIONS = ("corpus", "label", "duration_class")


def durations_section(tally: Tally, snapshot: Snapshot) -> Section:
    """How long utterances are, by label."""
    figures: list[Figure] = []
    for role, corpora in by_role(snapshot).items():
        names = {corpus.name for corpus in corpora}
        counts = {label: Counter[int]() for label in LABELS_SHOWN}
        for (corpus, label, duration), count in tally.durations.utterances(*_DURATIONS).items():
            if corpus in names:
                counts[label][duration] += count
        if any(counts.values()):
            figures.append(_duration_figure(f"Durations in {role} corpora", counts))
    words = (
        f"Utterances, not hours, in classes of 1/{DURATION_CLASSES_PER_OCTAVE} octave. "
        "Percentiles are middles of classes: within 5 %."
    )
    return Section("Durations", [*figures, Text(words), _duration_table(tally)])


def _duration_figure(title: str, counts: Mapping[str, Mapping[int, int]]) -> Figure:
    occurring = [duration for each in counts.values() for duration in each]
    first, last = min(occurring), max(occurring)
    edges = [duration_edge(duration) for duration in range(first, last + 2)]
    series = []
    for label, each in counts.items():
        if each:
            total = sum(each.values())
            shares = np.array([100 * each.get(duration, 0) / total for duration in range(first, last + 1)])
            series.append((TITLES[label], shares, COLOURS[label]))
    return step_chart(
        title, edges, series, log_axis("seconds", edges[0], edges[-1]), "% of a label's utterances"
    )


def _duration_table(tally: Tally) -> Table:
    hours = tally.content.hours("corpus", "label")
    classes: dict[tuple[str, str], dict[int, int]] = {}
    for (corpus, label, duration), count in tally.durations.utterances(*_DURATIONS).items():
        classes.setdefault((corpus, label), {})[duration] = count
    rows: list[list[Value]] = []
    for (corpus, label), each in classes.items():
        total = sum(each.values())
        mean = Cell(seconds_words(3600 * hours[corpus, label] / total))
        points = (Cell(seconds_words(_percentile(each.items(), total, share))) for share in (0.05, 0.5, 0.95))
        shortest, longest = (Cell(seconds_words(duration_edge(edge))) for edge in (min(each), max(each) + 1))
        rows.append([corpus, TITLES[label], total, mean, shortest, *points, longest])
    titles = ["corpus", "label", "utterances", "mean", "none below", "5 %", "median", "95 %", "none above"]
    return Table(titles, rows, "Durations")


def _percentile(classes: Iterable[tuple[int, int]], total: int, share: float) -> float:
    """The middle of the class in which a share of all utterances is reached."""
    seen = 0
    for duration, count in sorted(classes):
        seen += count
        if seen >= share * total:
            return duration_edge(duration + 0.5)
    raise AssertionError("classes do not add up to their total")
