"""Utterances with the same audio, sample by sample: where they lie, and where that does harm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline import tables
from pipeline.card.formatting import NOT_STATED, hours_words
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Block, Facts, Section, Table, Text, Value
from pipeline.storage import Folder

TITLE = "Duplicates"
"""Of the section, for those who point to it."""

NUM_PLACES = 60
"""Rows of the table of places."""

NUM_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Copy:
    """One of several utterances with the same audio."""

    id: str
    corpus: str
    split: str | None
    label: str
    seconds: float

    @property
    def place(self) -> str:
        """Corpus and split."""
        return f"{self.corpus}/{self.split or NOT_STATED}"


Copies = Sequence[Sequence[Copy]]
"""The utterances of each piece of audio that occurs more than once."""


def read_copies(store: Folder, snapshot: Snapshot) -> Copies:
    """What the snapshot records, as far as its corpora go."""
    if snapshot.duplicates is None:
        return []
    columns = ("id", "corpus", "split", "label", "seconds")
    table = tables.read_table(store, snapshot.duplicates, ["group", *columns])
    copies: dict[int, list[Copy]] = {}
    values = zip(*(table[column].to_pylist() for column in columns), strict=True)
    for group, row in zip(table["group"].to_pylist(), values, strict=True):
        copy = Copy(*row)
        if copy.corpus in snapshot.corpora:
            copies.setdefault(group, []).append(copy)
    return [each for each in copies.values() if len(each) > 1]


def duplicate_warnings(copies: Copies, snapshot: Snapshot) -> dict[str, str]:
    """What to say of each kind of harm that copies do."""
    kinds = {
        "under both labels": [each for each in copies if len({copy.label for copy in each}) > 1],
        "in training and in evaluation": [
            each for each in copies if len({snapshot.corpora[copy.corpus].role for copy in each}) > 1
        ],
        "in several splits of a corpus": [each for each in copies if _crosses_splits(each)],
    }
    return {
        kind: f"{len(found):,} pieces of audio occur {kind}, for example {_examples(found)}."
        for kind, found in kinds.items()
        if found
    }


def duplicates_section(copies: Copies, snapshot: Snapshot) -> Section:
    """Which corpora and splits share audio."""
    if not copies:
        return Section(TITLE, [Text("No two utterances have the same audio, sample by sample.")])
    extra = [copy for each in copies for copy in each[1:]]
    facts = Facts(
        [
            ("pieces of audio", f"{len(copies):,}", "that occur more than once"),
            ("utterances", f"{sum(map(len, copies)):,}", "with one of them"),
            (
                "more than once",
                hours_words(sum(copy.seconds for copy in extra) / 3600),
                f"{len(extra):,} utterances beyond the first of each",
            ),
        ]
    )
    warnings = duplicate_warnings(copies, snapshot).values()
    blocks: list[Block] = [facts, *(Text(warning, "warning") for warning in warnings)]
    places = Counter(" + ".join(sorted({copy.place for copy in each})) for each in copies)
    ranked = sorted(places, key=lambda place: (-places[place], place))
    rows: list[list[Value]] = [[place, places[place]] for place in ranked[:NUM_PLACES]]
    blocks.append(Table(["corpus/split", "pieces of audio"], rows, "Where the same audio occurs"))
    if len(ranked) > NUM_PLACES:
        blocks.append(Text(f"{len(ranked) - NUM_PLACES} rarer combinations are not shown."))
    return Section(TITLE, blocks)


def _crosses_splits(copies: Iterable[Copy]) -> bool:
    splits: dict[str, set[str | None]] = {}
    for copy in copies:
        splits.setdefault(copy.corpus, set()).add(copy.split)
    return any(len(each) > 1 for each in splits.values())


def _examples(found: Copies) -> str:
    return "; ".join(" = ".join(copy.id for copy in each[:NUM_EXAMPLES]) for each in found[:NUM_EXAMPLES])
