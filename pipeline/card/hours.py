"""The section about hours by corpus, label, artifact, language and split."""

from __future__ import annotations

from collections import defaultdict

from pipeline.card.bars import LABEL_SERIES, Amounts, Series, hours_chart, shares_chart, totals_of
from pipeline.card.formatting import (
    LABEL_ORDER,
    LABEL_TITLES,
    NOT_STATED,
    corpora_by_role,
    format_hour_columns,
    format_percent,
    format_shares,
    names_by_size,
)
from pipeline.card.tally import Tally
from pipeline.data.corpora.utterance import ARTIFACTS, SPLITS
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Block, Cell, Section, Table, Value

NUM_LANGUAGES = 20
"""How many languages get a bar of their own; the rest share one bar."""


def hours_section(tally: Tally, snapshot: Snapshot) -> Section:
    """Show the hours of a snapshot in charts and two tables."""
    by_corpus = _hours_by(tally, "corpus", "label")
    by_artifact = {
        (corpus, artifact or NOT_STATED): hours
        for (corpus, artifact, label), hours in tally.content.hours("corpus", "artifact", "label").items()
        if label == "spoof"
    }
    languages = _top_languages(_hours_by(tally, "language", "label"))
    blocks: list[Block] = [
        hours_chart("Hours by corpus", by_corpus, LABEL_SERIES),
        shares_chart("Labels within each corpus", by_corpus, LABEL_SERIES),
        hours_chart("Hours by artifact", _hours_by_artifact(tally), LABEL_SERIES),
        hours_chart("Hours by split", _hours_by(tally, "split", "label"), LABEL_SERIES, order=SPLITS),
        shares_chart(
            "Artifacts within the spoofs of each corpus", by_artifact, _artifact_series(by_artifact)
        ),
        shares_chart(
            "Splits within each corpus",
            _hours_by(tally, "corpus", "split"),
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


def _hours_by(tally: Tally, row: str, series: str) -> dict[tuple[str, str], float]:
    return {
        (first or NOT_STATED, second or NOT_STATED): hours
        for (first, second), hours in tally.content.hours(row, series).items()
    }


def _hours_by_artifact(tally: Tally) -> dict[tuple[str, str], float]:
    return {
        (LABEL_TITLES["bonafide"] if label == "bonafide" else artifact or NOT_STATED, label): hours
        for (artifact, label), hours in tally.content.hours("artifact", "label").items()
    }


def _artifact_series(by_artifact: Amounts) -> Series:
    """List the artifact families that occur, each in its fixed colour."""
    occurring = {artifact for _, artifact in by_artifact}
    names = (*ARTIFACTS, NOT_STATED)
    return [(name, name, i) for i, name in enumerate(names, start=1) if name in occurring]


def _top_languages(languages: Amounts) -> dict[tuple[str, str], float]:
    """Keep the languages with the most hours and sum the rest under "N others"."""
    totals = totals_of(languages)
    ranked = [name for name in names_by_size(totals) if name != NOT_STATED]
    rest = ranked[NUM_LANGUAGES:] if len(ranked) > NUM_LANGUAGES + 1 else []
    names = {name: f"{len(rest)} others" for name in rest}
    order = [*(name for name in ranked if name not in names), f"{len(rest)} others", NOT_STATED]
    summed: dict[tuple[str, str], float] = defaultdict(float)
    for (language, label), hours in languages.items():
        summed[names.get(language, language), label] += hours
    return {key: summed[key] for key in sorted(summed, key=lambda key: (order.index(key[0]), key[1]))}


def _content_table(tally: Tally, snapshot: Snapshot) -> Table:
    """List utterances, hours and languages by corpus, label, artifact and split."""
    keys = ("corpus", "label", "artifact", "split")
    hours, counts = tally.content.hours(*keys), tally.content.utterances(*keys)
    languages: dict[tuple[object, ...], dict[str, float]] = {}
    for (*key, language), amount in tally.content.hours(*keys, "language").items():
        languages.setdefault(tuple(key), defaultdict(float))[language or NOT_STATED] += amount
    names = (corpus.name for corpora in corpora_by_role(snapshot).values() for corpus in corpora)
    corpus_order = {name: position for position, name in enumerate(names)}
    rows: list[list[Value]] = [
        [
            corpus,
            LABEL_TITLES[label],
            artifact or ("" if label == "bonafide" else NOT_STATED),
            split or NOT_STATED,
            counts[corpus, label, artifact, split],
            amount,
            format_shares(languages[corpus, label, artifact, split]),
        ]
        for (corpus, label, artifact, split), amount in sorted(
            hours.items(), key=lambda item: corpus_order[item[0][0]]
        )
    ]
    rows.append(["all", "", "", "", sum(counts.values()), sum(hours.values()), ""])
    titles = ["corpus", "label", "artifact", "split", "utterances", "hours", "languages, by hours"]
    return Table(titles, format_hour_columns(rows, 5), "By corpus, label, artifact and split", num_totals=1)


def _language_table(tally: Tally) -> Table:
    amounts = _hours_by(tally, "language", "label")
    corpora: dict[str, dict[str, float]] = {}
    for (language, corpus), hours in _hours_by(tally, "language", "corpus").items():
        corpora.setdefault(language, {})[corpus] = hours
    rows: list[list[Value]] = []
    for language in names_by_size(totals_of(amounts)):
        bonafide, spoof = (amounts.get((language, label)) for label in LABEL_ORDER)
        share = Cell(format_percent((spoof or 0.0) / ((bonafide or 0.0) + (spoof or 0.0) or 1)))
        rows.append(
            [language, bonafide, spoof, share, len(corpora[language]), format_shares(corpora[language])]
        )
    titles = ["language", "bona fide h", "spoof h", "spoof share", "corpora", "corpora, by hours"]
    return Table(titles, format_hour_columns(rows, 1, 2), "By language")
