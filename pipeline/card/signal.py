"""The signal-chain check: codecs, rates, channels and durations by label, and which of them give a label away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pipeline.card.chains import chain_tables, formats_table
from pipeline.card.formatting import TITLES, by_role, key_words, listed, percent_words
from pipeline.card.shortcut import (
    ALMOST_A_LABEL,
    CORPUS,
    NUM_SHUFFLES,
    TRAITS,
    Shortcut,
    groups,
    together,
)
from pipeline.card.tally import Key, Tally
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Block, Cell, Figure, Section, Table, Text, Value
from pipeline.report.charts import Bar, bar_chart, linear_axis

SHOWN = ("codec", "sample rate", "channels", "bit depth", "bit rate")
"""Traits that get a chart."""

IN_ORDER = ("sample rate", "bandwidth", "channels", "bit depth", "bit rate", "duration")
"""Traits whose values are amounts: their bars stand in the order of the values, not of how many there are."""

TITLE = "Labels without listening"
"""Of the section, for those who point to it."""

NUM_VALUES = 10
"""Bars of the most frequent values of a trait; the others are one bar together."""

NUM_NAMED = 2

NUM_TELLING = 8
"""Charts of traits that are almost a label; the table has all of them."""


def telling_groups(shortcuts: Iterable[Shortcut]) -> dict[str, list[Shortcut]]:
    """What is almost a label, by the corpora where it is: the most telling group and trait first."""
    by_group: dict[str, list[Shortcut]] = {}
    for shortcut in sorted(shortcuts, key=lambda shortcut: shortcut.eer):
        if shortcut.is_almost_a_label:
            by_group.setdefault(shortcut.group, []).append(shortcut)
    return by_group


def signal_section(shortcuts: Sequence[Shortcut], tally: Tally, snapshot: Snapshot) -> Section:
    """What a detector could learn instead of listening."""
    telling = telling_groups(shortcuts)
    silent = sorted(set(snapshot.corpora) - {shortcut.group for shortcut in shortcuts})
    blocks: list[Block] = [
        Text(
            "Each number is the equal error rate, in %, of the best detector that sees nothing of an utterance but "
            "one trait of its file: 50 tells nothing, 0 is the label itself. Bandwidth is what is left at 16 kHz; "
            "signal chain is codec, encoding, sample rate, channels, bit depth and decoder together. A corpus in "
            "which a trait comes near 0 rewards a detector for not listening. Few utterances look telling by chance: "
            f"the last column is the lowest rate that {NUM_SHUFFLES} shuffles of the labels have on average."
        )
    ]
    if telling:
        words = (
            f"With an EER of {_percent(ALMOST_A_LABEL)} % or less almost a label: {listed(_told(telling))}."
        )
        blocks += [Text(words, "warning"), _telling_table(telling)]
    elif shortcuts:
        blocks.append(Text(f"No trait has an EER of {_percent(ALMOST_A_LABEL)} % or less."))
    if shortcuts:
        blocks.append(_shortcut_table(shortcuts, snapshot))
    if silent:
        blocks.append(Text(f"One label only, so nothing to compare within: {', '.join(silent)}."))
    blocks += _figures(shortcuts, telling, snapshot)
    if tally.chain.table.num_rows:
        blocks += [formats_table(tally, snapshot), *chain_tables(tally.chain, snapshot)]
    return Section(TITLE, blocks)


def _told(telling: Mapping[str, Sequence[Shortcut]]) -> list[str]:
    return [f"{_plainest(found).trait.title} in {group}" for group, found in telling.items()]


def _plainest(found: Sequence[Shortcut]) -> Shortcut:
    """The most telling trait, rather one of a single column than a combination."""
    return next((each for each in found if len(each.trait.columns) == 1), found[0])


def _telling_table(telling: Mapping[str, Sequence[Shortcut]]) -> Table:
    rows: list[list[Value]] = []
    for group, found in telling.items():
        told = _plainest(found)
        others = ", ".join(f"{each.trait.title} {_percent(each.eer)}" for each in found if each != told)
        bonafide, spoof = (_most_frequent(told, position) for position in (0, 1))
        rows.append([group, told.trait.title, _cell(told), bonafide, spoof, others])
    titles = ["corpus", "trait", "EER %", "bona fide is", "spoof is", "as telling"]
    return Table(titles, rows, "Almost a label without listening")


def _most_frequent(shortcut: Shortcut, position: int) -> str:
    total = sum(counts[position] for counts in shortcut.values.values())
    ranked = sorted(shortcut.values.items(), key=lambda item: -item[1][position])
    named = [
        f"{key_words(shortcut.trait.columns, key)} ({percent_words(counts[position] / total)})"
        for key, counts in ranked[:NUM_NAMED]
        if counts[position]
    ]
    return ", ".join(named)


def _shortcut_table(shortcuts: Sequence[Shortcut], snapshot: Snapshot) -> Table:
    found = {(shortcut.group, shortcut.trait.title): shortcut for shortcut in shortcuts}
    titles = [trait.title for trait in (*TRAITS, CORPUS)]
    rows: list[list[Value]] = []
    num_totals = 0
    for group, corpora in _in_order(snapshot).items():
        each = [found.get((group, title)) for title in titles]
        chances = [shortcut.chance for shortcut in each if shortcut]
        if chances:
            rows.append([group, *map(_cell, each), Cell(_percent(min(chances)))])
            num_totals += len(corpora) > 1
    return Table(["EER %", *titles, "by chance"], rows, "EER of each trait alone", num_totals)


def _in_order(snapshot: Snapshot) -> dict[str, tuple[str, ...]]:
    """Corpora that train, those that evaluate, then those of each role together."""
    found = groups(snapshot)
    alone = [corpus.name for corpora in by_role(snapshot).values() for corpus in corpora]
    names = [*alone, *(together(role) for role in by_role(snapshot))]
    return {name: found[name] for name in names if name in found}


def _cell(shortcut: Shortcut | None) -> Cell | None:
    if shortcut is None:
        return None
    return Cell(_percent(shortcut.eer), share=1 - 2 * shortcut.eer, is_warning=shortcut.is_almost_a_label)


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def _figures(
    shortcuts: Iterable[Shortcut], telling: Mapping[str, Sequence[Shortcut]], snapshot: Snapshot
) -> list[Figure]:
    """Each trait for the corpora of a role together, then the most telling trait of those where one is."""
    by_name = {(shortcut.trait.title, shortcut.group): shortcut for shortcut in shortcuts}
    whole = [together(role) if len(some) > 1 else some[0].name for role, some in by_role(snapshot).items()]
    shown = [(title, group) for title in SHOWN for group in whole]
    told = (_plainest(found) for found in telling.values())
    plain = [each for each in told if len(each.trait.columns) == 1 and each.trait != CORPUS]
    keys = [*shown, *((each.trait.title, each.group) for each in plain[:NUM_TELLING])]
    return [_figure(by_name[key]) for key in dict.fromkeys(keys) if key in by_name]


def _figure(shortcut: Shortcut) -> Figure:
    """The share of each label's utterances that have a value."""
    columns, values = shortcut.trait.columns, shortcut.values
    ranked = _frequent_first(values)
    num_shown = NUM_VALUES if len(ranked) > NUM_VALUES + 1 else len(ranked)
    kept = ranked[:num_shown]
    if shortcut.trait.title in IN_ORDER:
        kept = [item for item in values.items() if item in kept]  # a tally is in the order of the values
    shown = [(key_words(columns, key), counts) for key, counts in kept]
    rest = [counts for _, counts in ranked[num_shown:]]
    if rest:
        sums = sum(counts[0] for counts in rest), sum(counts[1] for counts in rest)
        shown.append((f"{len(rest)} others", sums))
    series = []
    for position, title in enumerate(TITLES.values()):
        total = sum(counts[position] for counts in values.values())
        shares = [100 * counts[position] / total for _, counts in shown]
        series.append((title, [Bar(share, percent_words(share / 100)) for share in shares]))
    title = f"{shortcut.trait.title} · {shortcut.group} · EER {_percent(shortcut.eer)} %"
    axis = linear_axis("% of a label's utterances", 0, 100)
    return bar_chart(title, [words for words, _ in shown], series, axis)


def _frequent_first(values: Mapping[Key, tuple[int, int]]) -> list[tuple[Key, tuple[int, int]]]:
    """By the mean of the shares in both labels, so that the rarer label counts as much."""
    bonafide, spoof = (sum(counts[position] for counts in values.values()) for position in (0, 1))
    return sorted(values.items(), key=lambda item: -(item[1][0] / bonafide + item[1][1] / spoof))
