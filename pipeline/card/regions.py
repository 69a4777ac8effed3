"""The section about labelled regions: which corpora label parts of their utterances, and which labels do not fit."""

from __future__ import annotations

from pipeline.card.formatting import LABEL_TITLES, format_hour_columns
from pipeline.data.store.snapshot import Snapshot
from pipeline.metrics.timeline import REGION_LABELS
from pipeline.report import Block, Section, Table, Text, Value

TITLE = "Labelled regions"
"""Title of the section; the overview refers to it."""

TITLES = {**LABEL_TITLES, "non_speech": "non-speech"}
"""Titles of REGION_LABELS."""


def corpora_without_regions(snapshot: Snapshot) -> list[str]:
    """List the corpora whose manifest names files of regions, but of which no utterance has any."""
    corpora = snapshot.corpora.values()
    return [each.name for each in corpora if each.regions and not each.regions.num_utterances]


def regions_section(snapshot: Snapshot) -> list[Section]:
    """Show the hours of regions by label, and what does not fit; nothing if no corpus labels regions."""
    regions = {each.name: each.regions for each in snapshot.corpora.values() if each.regions}
    if not regions:
        return []
    by_label: list[list[Value]] = [
        [
            name,
            snapshot.corpora[name].written,
            each.num_utterances,
            *(each.seconds[label] / 3600 if label in each.seconds else None for label in REGION_LABELS),
        ]
        for name, each in regions.items()
    ]
    titles = ["corpus", "utterances", "with regions", *(f"{TITLES[label]} h" for label in REGION_LABELS)]
    blocks: list[Block] = [
        Text(
            "These corpora label parts of their utterances, for the metrics of partial spoofs. Either all regions of "
            "an utterance are stored, or none."
        ),
        Table(titles, format_hour_columns(by_label, 3, 4, 5), "Hours by label of the regions"),
    ]
    problems: list[list[Value]] = [
        [name, reason, each.problems[reason] or None, example]
        for name, each in regions.items()
        for reason, example in each.examples.items()
    ]
    if problems:
        titles = ["corpus", "reason", "count", "first"]
        blocks.append(Table(titles, problems, "Regions and utterances that do not fit"))
    return [Section(TITLE, blocks)]
