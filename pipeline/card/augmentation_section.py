"""The section about recordings for augmentation: they change training utterances and are never utterances."""

from __future__ import annotations

from pipeline.card.formatting import format_hour_columns
from pipeline.card.licences import use_cell
from pipeline.card.tally import Tally
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Section, Table, Text, Value

TITLE = "Recordings for augmentation"

KIND_TITLES = {"noise": "noise", "music": "music", "speech": "speech, for babble", "rir": "impulse responses"}


def augmentation_section(tally: Tally, snapshot: Snapshot) -> Section:
    """Show the recordings of each augmentation corpus by kind, and the licence of each corpus.

    Args:
        tally: counts of the augmentation corpora.
        snapshot: has only these corpora.
    """
    hours = tally.content.hours("corpus", "label")
    counts = tally.content.utterances("corpus", "label")
    by_kind: list[list[Value]] = [
        [corpus, KIND_TITLES[kind], counts[corpus, kind], amount] for (corpus, kind), amount in hours.items()
    ]
    by_corpus: list[list[Value]] = [
        [
            corpus.name,
            corpus.found,
            corpus.written,
            sum(corpus.rejected.values()),
            corpus.licence,
            use_cell(corpus.non_commercial),
        ]
        for corpus in snapshot.corpora.values()
    ]
    explanation = (
        "These recordings change training utterances where a training asks for it. They have no label, and are never "
        "trained on, validated with or scored, so the other sections do not count them."
    )
    return Section(
        TITLE,
        [
            Text(explanation),
            Table(["corpus", "kind", "recordings", "hours"], format_hour_columns(by_kind, 3), "By kind"),
            Table(
                ["corpus", "found", "written", "rejected", "licence", "commercial use"],
                by_corpus,
                "Augmentation corpora",
            ),
        ],
    )
