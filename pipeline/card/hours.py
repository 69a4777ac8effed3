"""Hours by corpus, label, artifact, language and split."""

from __future__ import annotations

from collections import defaultdict

from pipeline.card.bars import LABEL_SERIES, Amounts, Series, hours_chart, shares_chart, totals_of
from pipeline.card.formatting import (
    LABELS_SHOWN,
    NOT_STATED,
    TITLES,
    by_role,
    by_size,
    named_shares,
    percent_words,
    with_hours,
)
from pipeline.card.tally import Tally
from pipeline.data.corpora.utterance import ARTIFACTS, SPLITS
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Block, Cell, Section, Table, Value

NUM_LANGUAGES = 20
"""Bars of the languages with the most hours; the others are one bar together."""


def hours_section(tally: Tally, snapshot: Snapshot) -> Section:
    """Where the hours are."""
    by_corpus = _pairs(tally, "corpus", "label")
    by_artifact = {
        (corpus, artifact or NOT_STATED): hours
        for (corpus, artifact, label), hours in tally.content.hours("corpus", "artifact", "label").items()
        if label == "spoof"
    }
    languages = _top(_pairs(tally, "language", "label"))
    blocks: list[Block] = [
        hours_chart("Hours by corpus", by_corpus, LABEL_SERIES),
        shares_chart("Labels within each corpus", by_corpus, LABEL_SERIES),
        hours_chart("Hours by artifact", _artifacts(tally), LABEL_SERIES),
        hours_chart("Hours by split", _pairs(tally, "split", "label"), LABEL_SERIES, order=SPLITS),
        shares_chart("Artifacts within the spoofs of each corpus", by_artifact, _families(by_artifact)),
        shares_chart(
            "Splits within each corpus",
            _pairs(tally, "corpus", "split"),
            [(name, name, i) for i, name in enumerate([*SPLITS, NOT_STATED], start=1)],
        ),
        hours_chart("Hours by language", languages, LABEL_SERIES, order=list(totals_of(languages))),
        shares_chart(
            "Labels within each language", languages, LABEL_SERIES, order=list(totals_of(languages))
        ),
        _content_table(tally, snapshot),
        _language_table(tally),
    ]
    return Section("Hours", blocks)


def _pairs(tally: Tally, row: str, series: str) -> dict[tuple[str, str], float]:
    return {
        (first or NOT_STATED, second or NOT_STATED): hours
        for (first, second), hours in tally.content.hours(row, series).items()
    }


def _artifacts(tally: Tally) -> dict[tuple[str, str], float]:
    return {
        (TITLES["bonafide"] if label == "bonafide" else artifact or NOT_STATED, label): hours
        for (artifact, label), hours in tally.content.hours("artifact", "label").items()
    }


def _families(by_artifact: Amounts) -> Series:
    """Families that occur, each in the colour that it has on every card."""
    occurring = {artifact for _, artifact in by_artifact}
    names = (*ARTIFACTS, NOT_STATED)
    return [(name, name, i) for i, name in enumerate(names, start=1) if name in occurring]


def _top(languages: Amounts) -> dict[tuple[str, str], float]:
    """The languages with the most hours, and the sum of the others under the name of their number."""
    totals = totals_of(languages)
    ranked = [name for name in by_size(totals) if name != NOT_STATED]
    rest = ranked[NUM_LANGUAGES:] if len(ranked) > NUM_LANGUAGES + 1 else []
    names = {name: f"{len(rest)} others" for name in rest}
    order = [*(name for name in ranked if name not in names), f"{len(rest)} others", NOT_STATED]
    summed: dict[tuple[str, str], float] = defaultdict(float)
    for (language, label), hours in languages.items():
        summed[names.get(language, language), label] += hours
    return {key: summed[key] for key in sorted(summed, key=lambda key: (order.index(key[0]), key[1]))}


def _content_table(tally: Tally, snapshot: Snapshot) -> Table:
    """Everything by corpus, label, artifact and split, with the languages of each row in words."""
    keys = ("corpus", "label", "artifact", "split")
    hours, counts = tally.content.hours(*keys), tally.content.utterances(*keys)
    languages: dict[tuple[object, ...], dict[str, float]] = {}
    for (*key, language), amount in tally.content.hours(*keys, "language").items():
        languages.setdefault(tuple(key), defaultdict(float))[language or NOT_STATED] += amount
    names = (corpus.name for corpora in by_role(snapshot).values() for corpus in corpora)
    place = {name: position for position, name in enumerate(names)}
    rows: list[list[Value]] = [
        [
            corpus,
            TITLES[label],
            artifact or ("" if label == "bonafide" else NOT_STATED),
            split or NOT_STATED,
            counts[corpus, label, artifact, split],
            amount,
            named_shares(languages[corpus, label, artifact, split]),
        ]
        for (corpus, label, artifact, split), amount in sorted(
            hours.items(), key=lambda item: place[item[0][0]]
        )
    ]
    rows.append(["all", "", "", "", sum(counts.values()), sum(hours.values()), ""])
    titles = ["corpus", "label", "artifact", "split", "utterances", "hours", "languages, by hours"]
    return Table(titles, with_hours(rows, 5), "By corpus, label, artifact and split", num_totals=1)


def _language_table(tally: Tally) -> Table:
    amounts = _pairs(tally, "language", "label")
    corpora: dict[str, dict[str, float]] = {}
    for (language, corpus), hours in _pairs(tally, "language", "corpus").items():
        corpora.setdefault(language, {})[corpus] = hours
    rows: list[list[Value]] = []
    for language in by_size(totals_of(amounts)):
        each = [amounts.get((language, label)) for label in LABELS_SHOWN]
        share = Cell(percent_words((each[1] or 0.0) / (sum(filter(None, each)) or 1)))
        rows.append([language, *each, share, len(corpora[language]), named_shares(corpora[language])])
    titles = ["language", "bona fide h", "spoof h", "spoof", "corpora", "which, by hours"]
    return Table(titles, with_hours(rows, 1, 2), "By language")
