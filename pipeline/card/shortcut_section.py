"""The section about label shortcuts: which traits of a file predict its label, and the formats by label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pipeline.card.chains import chain_tables, formats_table
from pipeline.card.formatting import LABEL_TITLES, corpora_by_role, format_key, format_list, format_percent
from pipeline.card.shortcut import (
    CORPUS,
    NUM_SHUFFLES,
    PREDICTIVE_EER,
    TRAITS,
    Shortcut,
    corpus_groups,
    role_group,
)
from pipeline.card.tally import Key, Tally
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Block, Cell, Figure, Section, Table, Text, Value
from pipeline.report.charts import Bar, bar_chart, linear_axis

CHARTED_TRAITS = ("codec", "sample rate", "bandwidth", "channels", "bit depth", "bit rate")
"""Traits that get a chart for all corpora of a role."""

ORDERED_TRAITS = ("sample rate", "bandwidth", "channels", "bit depth", "bit rate", "duration")
"""Traits with numeric values: their bars are sorted by value, those of other traits by frequency."""

TITLE = "Label shortcuts"
"""Title of the section; the overview refers to it."""

NUM_VALUES = 10
"""How many values of a trait get a bar of their own; the rest share one bar."""

NUM_FREQUENT = 2
"""How many of the most frequent values the table of predictive traits lists for each label."""

MAX_PREDICTIVE_CHARTS = 8
"""Maximum number of charts of predictive traits; the table lists all of them."""


def predictive_by_group(shortcuts: Iterable[Shortcut]) -> dict[str, list[Shortcut]]:
    """Group the predictive traits by group of corpora; groups and traits with the lowest EER come first."""
    by_group: dict[str, list[Shortcut]] = {}
    for shortcut in sorted(shortcuts, key=lambda shortcut: shortcut.eer):
        if shortcut.is_predictive:
            by_group.setdefault(shortcut.group, []).append(shortcut)
    return by_group


def shortcut_section(shortcuts: Sequence[Shortcut], tally: Tally, snapshot: Snapshot) -> Section:
    """Show what a detector could learn instead of listening."""
    predictive = predictive_by_group(shortcuts)
    written = {corpus.name for corpus in snapshot.corpora.values() if corpus.written}
    single_label = sorted(written - {shortcut.group for shortcut in shortcuts})
    blocks: list[Block] = [
        Text(
            "Each number is the equal error rate (EER) in % of the best classifier that sees only one trait of a file "
            "and not the speech: at 50 the trait says nothing about the label, at 0 it determines the label. If an EER "
            "is near 0, a detector can do well on that corpus without listening. Bandwidth is the highest frequency "
            "with energy in the decoded audio, at most 8 kHz, whatever the header says. Signal chain combines codec, "
            "encoding, sample rate, channels, bit depth and decoder. With few utterances an EER can be low by chance: "
            f"the last column is the lowest mean EER of any trait over {NUM_SHUFFLES} shuffles of the labels."
        )
    ]
    if predictive:
        names = [f"{_simplest(members).trait.title} in {group}" for group, members in predictive.items()]
        warning = f"Traits with an EER of {_percent(PREDICTIVE_EER)} % or less: {format_list(names)}."
        blocks += [Text(warning, "warning"), _predictive_table(predictive)]
    elif shortcuts:
        blocks.append(Text(f"No trait has an EER of {_percent(PREDICTIVE_EER)} % or less, beyond chance."))
    if shortcuts:
        blocks.append(_shortcut_table(shortcuts, snapshot))
    if single_label:
        blocks.append(
            Text(f"Not measured, because the corpus has only one label: {', '.join(single_label)}.")
        )
    unmeasured = _without_bandwidth(tally)
    if unmeasured:
        blocks.append(
            Text(
                f"Without a measured bandwidth, and left out of that column: {format_list(unmeasured)}. These "
                "utterances are shorter than 0.1 s, or an earlier version has built their shards."
            )
        )
    blocks += _figures(shortcuts, predictive, snapshot)
    if tally.chain.table.num_rows:
        blocks += [formats_table(tally, snapshot), *chain_tables(tally.chain, snapshot)]
    return Section(TITLE, blocks)


def _without_bandwidth(tally: Tally) -> list[str]:
    """The corpora with utterances of unmeasured bandwidth, each with their number."""
    totals = tally.bandwidths.utterances("corpus")
    return [
        f"{corpus} ({'all' if count == totals[corpus,] else f'{count:,} of {totals[corpus,]:,}'} utterances)"
        for (corpus, bandwidth), count in tally.bandwidths.utterances("corpus", "bandwidth").items()
        if bandwidth is None
    ]


def _simplest(shortcuts: Sequence[Shortcut]) -> Shortcut:
    """The first trait of a single column, or else the first trait."""
    return next((shortcut for shortcut in shortcuts if len(shortcut.trait.columns) == 1), shortcuts[0])


def _predictive_table(predictive: Mapping[str, Sequence[Shortcut]]) -> Table:
    rows: list[list[Value]] = []
    for group, shortcuts in predictive.items():
        first = _simplest(shortcuts)
        others = ", ".join(
            f"{shortcut.trait.title} {_percent(shortcut.eer)}" for shortcut in shortcuts if shortcut != first
        )
        bonafide, spoof = (_most_frequent(first, position) for position in (0, 1))
        rows.append([group, first.trait.title, _cell(first), bonafide, spoof, others])
    titles = ["corpus", "trait", "EER %", "bona fide mostly", "spoof mostly", "other predictive traits"]
    return Table(titles, rows, "Traits that predict the label")


def _most_frequent(shortcut: Shortcut, position: int) -> str:
    """Format the most frequent values of the label at a position of the counts: 0 bona fide, 1 spoof."""
    total = sum(counts[position] for counts in shortcut.values.values())
    ranked = sorted(shortcut.values.items(), key=lambda item: -item[1][position])
    parts = [
        f"{format_key(shortcut.trait.columns, key)} ({format_percent(counts[position] / total)})"
        for key, counts in ranked[:NUM_FREQUENT]
        if counts[position]
    ]
    return ", ".join(parts)


def _shortcut_table(shortcuts: Sequence[Shortcut], snapshot: Snapshot) -> Table:
    by_name = {(shortcut.group, shortcut.trait.title): shortcut for shortcut in shortcuts}
    titles = [trait.title for trait in (*TRAITS, CORPUS)]
    rows: list[list[Value]] = []
    num_totals = 0
    for group, corpora in _ordered_groups(snapshot).items():
        measured = [by_name.get((group, title)) for title in titles]
        chances = [shortcut.chance for shortcut in measured if shortcut]
        if chances:
            rows.append([group, *map(_cell, measured), Cell(_percent(min(chances)))])
            num_totals += len(corpora) > 1
    return Table(["corpus", *titles, "by chance"], rows, "EER of each trait, in %", num_totals)


def _ordered_groups(snapshot: Snapshot) -> dict[str, tuple[str, ...]]:
    """Sort the groups: training corpora, evaluation corpora, then all corpora of each role."""
    groups = corpus_groups(snapshot)
    single = [corpus.name for corpora in corpora_by_role(snapshot).values() for corpus in corpora]
    names = [*single, *(role_group(role) for role in corpora_by_role(snapshot))]
    return {name: groups[name] for name in names if name in groups}


def _cell(shortcut: Shortcut | None) -> Cell | None:
    if shortcut is None:
        return None
    return Cell(_percent(shortcut.eer), share=1 - 2 * shortcut.eer, is_warning=shortcut.is_predictive)


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def _figures(
    shortcuts: Iterable[Shortcut], predictive: Mapping[str, Sequence[Shortcut]], snapshot: Snapshot
) -> list[Figure]:
    """Draw the charted traits for each role, then the most predictive trait of each group that has one."""
    by_name = {(shortcut.trait.title, shortcut.group): shortcut for shortcut in shortcuts}
    role_groups = [
        role_group(role) if len(corpora) > 1 else corpora[0].name
        for role, corpora in corpora_by_role(snapshot).items()
    ]
    simplest = (_simplest(members) for members in predictive.values())
    drawable = [
        shortcut for shortcut in simplest if len(shortcut.trait.columns) == 1 and shortcut.trait != CORPUS
    ]
    keys = [
        *((title, group) for title in CHARTED_TRAITS for group in role_groups),
        *((shortcut.trait.title, shortcut.group) for shortcut in drawable[:MAX_PREDICTIVE_CHARTS]),
    ]
    return [_figure(by_name[key]) for key in dict.fromkeys(keys) if key in by_name]


def _figure(shortcut: Shortcut) -> Figure:
    """Draw the share of each label's utterances that have each value."""
    columns, values = shortcut.trait.columns, shortcut.values
    ranked = _frequent_first(values)
    num_bars = NUM_VALUES if len(ranked) > NUM_VALUES + 1 else len(ranked)
    kept = ranked[:num_bars]
    if shortcut.trait.title in ORDERED_TRAITS:
        kept = [item for item in values.items() if item in kept]  # the counts of a tally are sorted by value
    bars = [(format_key(columns, key), counts) for key, counts in kept]
    rest = [counts for _, counts in ranked[num_bars:]]
    if rest:
        sums = sum(counts[0] for counts in rest), sum(counts[1] for counts in rest)
        bars.append((f"{len(rest)} others", sums))
    series = []
    for position, label in enumerate(LABEL_TITLES.values()):
        total = sum(counts[position] for counts in values.values())
        shares = [100 * counts[position] / total for _, counts in bars]
        series.append((label, [Bar(share, format_percent(share / 100)) for share in shares]))
    title = f"{shortcut.trait.title} · {shortcut.group} · EER {_percent(shortcut.eer)} %"
    axis = linear_axis("% of a label's utterances", 0, 100)
    return bar_chart(title, [name for name, _ in bars], series, axis)


def _frequent_first(values: Mapping[Key, tuple[int, int]]) -> list[tuple[Key, tuple[int, int]]]:
    """Sort values by their mean share over the labels, so that the rarer label has the same influence."""
    bonafide, spoof = (sum(counts[position] for counts in values.values()) for position in (0, 1))
    return sorted(values.items(), key=lambda item: -(item[1][0] / bonafide + item[1][1] / spoof))
